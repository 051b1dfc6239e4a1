"""The deep autoregressive network, DARN (Gregor et al. 2014)."""

from collections.abc import Sequence

from genjax_models.interfaces import LatentVariableModel
from genjax_models.models.latent.sigmoid_belief_net import LayerName, sigmoid_belief_net


def darn(
    *,
    num_dims: int = 784,
    latent_dims: Sequence[int] = (500,),
    hidden: Sequence[int] = (),
    recognition: LayerName = "autoregressive",
) -> LatentVariableModel:
    """An auto-encoder with autoregressive binary prior, posterior and decoder.

        p(h) = prod_j Bernoulli(h_j; sigmoid(a_j + A_j h_<j))
        p(x | h) = prod_i Bernoulli(x_i; sigmoid(b_i + B_i h + C_i x_<i))
        q(h | x) = prod_j Bernoulli(h_j; sigmoid(c_j + D_j x + E_j h_<j))

    E_q[log q(h | x) - log p(h) - log p(x | h)] is the description length of x in nats: of sending
    h, then x given h, less what the choice of h gives back.

    Args:
        num_dims: size of the vector x, of zeros and ones.
        latent_dims: sizes of the layers h, from the data upwards; each further one stands between.
        hidden: units of the hidden tanh layers between any two layers.
        recognition: "sigmoid" leaves out E: faster, since a draw of h then is one product.

    Returns:
        The model; z is the tuple of layers, the top one in front.

    Raises:
        ValueError: a size below one, no layer, or an unknown kind of recognition.

    Source: Gregor et al. 2014 (Deep autoregressive networks), sections 2 and 3.
    """
    return sigmoid_belief_net(
        num_dims=num_dims,
        latent_dims=latent_dims,
        hidden=hidden,
        generative="autoregressive",
        recognition=recognition,
    )
