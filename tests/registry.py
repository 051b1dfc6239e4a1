"""Every model at a tiny size, for the contract tests. A new model adds a line to `MODELS`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.models.classical import (
    binary_factor_analysis,
    factor_analysis,
    mixture_of_bernoullis,
)
from genjax_models.models.energy import rbm
from genjax_models.models.fully_observed import nade
from genjax_models.models.latent import (
    DecisionProcess,
    auto_encoder,
    auxiliary_vae,
    categorical,
    categorical_vae,
    condition,
    darn,
    deep_latent_gaussian_model,
    gaussian_belief_net,
    hamiltonian_vae,
    information_bottleneck,
    ladder_vae,
    lossy_vae,
    posteriors,
    priors,
    sigmoid_belief_net,
    skip_deep_generative_model,
    vae,
    vamp_prior_vae,
    variational_mdp,
)
from genjax_models.models.latent.autoregressive import inverse_autoregressive
from genjax_models.models.markov_chain import as_latent_variable_model, diffusion, from_variances
from genjax_models.models.transformation import (
    density,
    generator,
    logit_transformed,
    multi_scale_flow,
    real_nvp,
)
from genjax_models.networks import (
    attention_encoder,
    convolutional_decoder,
    convolutional_encoder,
    mlp,
    recurrent_encoder,
    time_mlp,
)
from tests import oracles


class Case(NamedTuple):
    """A model at a tiny size.

    Attributes:
        model: of any of the shapes of `interfaces`.
        xs: three examples.
        supports: which values of x the model allows.
        estimator: of the gradient, for a latent-variable model.
        kernel: `kernel(params, key, x) -> x` that leaves an energy model invariant.
    """

    model: Any
    xs: Any
    supports: Callable[[np.ndarray], np.ndarray]
    estimator: str = "pathwise"
    kernel: Callable[..., Any] | None = None


def levels(num_levels: int) -> Callable[[np.ndarray], np.ndarray]:
    """Whether values are k / (num_levels - 1)."""
    steps = num_levels - 1
    return lambda x: (x >= 0) & (x <= 1) & (np.abs(x * steps - np.round(x * steps)) < 1e-4)


def grid(num_levels: int, num_dims: int) -> jax.Array:
    """Three examples of such values."""
    values = jnp.arange(3 * num_dims).reshape(3, num_dims) * 7 % num_levels
    return values / (num_levels - 1)


def _convolutional_vae() -> Case:
    model = vae(
        num_dims=12,
        latent_dim=2,
        likelihood="discretized_logistic",
        num_levels=256,
        encoder=convolutional_encoder((2, 3, 2), 4, features=(2,)),
        decoder=convolutional_decoder(2, (2, 3, 2), num_outputs_per_dim=2, features=(2,)),
    )
    return Case(model, grid(256, 12), levels(256))


def _vae(values: int, **settings: Any) -> Case:
    supports = np.isfinite if settings.get("likelihood") == "gaussian" else levels(values)
    model = vae(num_dims=4, latent_dim=2, hidden=(3,), **settings)
    return Case(model, grid(values, 4), supports)


def _hierarchy(factory: Callable[..., Any], **settings: Any) -> Case:
    model = factory(num_dims=4, latent_dims=(3, 2), hidden=(4, 3), num_hidden_layers=1, **settings)
    return Case(model, grid(2, 4), levels(2))


def _pytrees() -> Case:
    xs = {"pair": grid(5, 2), "last": jnp.array([-1.0, 0.3, 2.0])}
    return Case(oracles.structured_linear_gaussian(), xs, np.isfinite)


def _diffusion() -> Case:
    model = diffusion(
        time_mlp(4, num_units=4, num_blocks=1, num_time_features=4),
        from_variances([0.4, 0.6]),
        num_dims=4,
        likelihood="discretized_gaussian",
        num_levels=17,
        clip=False,
    )
    return Case(as_latent_variable_model(model), grid(17, 4), levels(17))


def _flow_of_images() -> Case:
    flow = multi_scale_flow(
        image_shape=(4, 2), num_scales=2, num_couplings=2, num_features=2, num_blocks=0
    )
    model = logit_transformed(density(flow), alpha=0.05)
    return Case(model, grid(5, 8), lambda y: (y > -1 / 18) & (y < 19 / 18))


def _auto_encoder(encoder: Any = None, **settings: Any) -> Case:
    """With the encoder of images of 4 x 2, where one is given."""
    settings = {"num_dims": 8, "code_dim": 2, "hidden": (3,)} | settings
    return Case(auto_encoder(encoder=encoder, **settings), grid(17, 8), np.isfinite)


def _iaf() -> Case:
    posterior = inverse_autoregressive(
        functools.partial(mlp, 4, (3,)), 2, num_flows=2, hidden=(4,), context_dim=2
    )
    return _vae(2, posterior=posterior)


def _vamp_prior() -> Case:
    model = vamp_prior_vae(num_dims=4, latent_dim=2, hidden=(3,), num_pseudo_inputs=3)
    return Case(model, grid(2, 4), levels(2))


def _lossy() -> Case:
    model = lossy_vae(
        image_shape=(1, 4), radius=1, latent_dim=2, hidden=(3,), num_features=2, pixel_hidden=(3,)
    )
    return Case(model, grid(2, 4), levels(2))


def _flow(family: Callable[..., Any], **settings: Any) -> Case:
    return _vae(2, posterior=family(functools.partial(mlp, 4, (3,)), 2, **settings))


def _auxiliary(factory: Callable[..., Any], latent_dims: Any, auxiliary_dims: Any) -> Case:
    model = factory(num_dims=4, latent_dims=latent_dims, auxiliary_dims=auxiliary_dims, hidden=(4,))
    return Case(model, grid(2, 4), levels(2))


def _hamiltonian() -> Case:
    model = hamiltonian_vae(
        num_dims=4, latent_dim=2, hidden=(3,), num_steps=2, num_iterations=2, likelihood="gaussian"
    )
    return Case(model, grid(5, 4), np.isfinite)


def _categorical(**settings: Any) -> Case:
    model = categorical_vae(num_dims=4, num_variables=2, num_categories=3, hidden=(4,), **settings)
    return Case(model, grid(2, 4), levels(2), "rloo")


def _decisions() -> Case:
    transitions = np.eye(3)[np.array([[1, 2], [0, 2], [2, 1]])]
    process = DecisionProcess(transitions, np.array([[0.0, 0.3], [0.1, 0.2], [0.5, 0.4]]))
    model = variational_mdp(process, start=0, num_steps=3, prior="learned")
    return Case(model, jnp.array([1.0, 0.0, 1.0]), levels(2), "rloo")


def _binary_net(factory: Callable[..., Any], **settings: Any) -> Case:
    return Case(factory(num_dims=4, **settings), grid(2, 4), levels(2), "rloo")


def _labels_through_a_code() -> Case:
    model = information_bottleneck(num_dims=4, num_classes=3, latent_dim=2, hidden=(5,))
    of_label = condition(model, jnp.array([0.3, -1.2, 0.7, 0.4]))
    return Case(of_label, jnp.eye(3), levels(2))


MODELS: dict[str, Callable[[], Case]] = {
    "vae, bernoulli": lambda: _vae(2),
    "vae, gaussian": lambda: _vae(5, likelihood="gaussian"),
    "vae, discretized logistic": lambda: _vae(17, likelihood="discretized_logistic", num_levels=17),
    "vae, convolutional": _convolutional_vae,
    "information bottleneck": _labels_through_a_code,
    "vae, mixtures of logistics and of Gaussians": lambda: _vae(
        5,
        likelihood="discretized_logistic_mixture",
        num_levels=5,
        prior=priors.gaussian_mixture(2, 3),
    ),
    "vae, categorical, autoregressive prior": lambda: _vae(
        5,
        likelihood="categorical",
        num_levels=5,
        prior=priors.autoregressive_flow(2, num_flows=2, hidden=(3,)),
    ),
    "full covariance posterior": lambda: _flow(posteriors.full_covariance),
    "planar posterior": lambda: _flow(posteriors.planar, num_flows=2),
    "radial posterior, shared": lambda: _flow(posteriors.radial, num_flows=2, amortized=False),
    "sylvester posterior": lambda: _flow(posteriors.sylvester, num_flows=2),
    "inverse autoregressive posterior": _iaf,
    "hamiltonian": _hamiltonian,
    "auxiliary": lambda: _auxiliary(auxiliary_vae, (3, 2), (2, 1)),
    "skip deep generative": lambda: _auxiliary(skip_deep_generative_model, (2,), (1,)),
    "vamp prior": _vamp_prior,
    "categorical": lambda: _categorical(prior=categorical.independent(2, 3)),
    "categorical, autoregressive prior": lambda: _categorical(
        prior=categorical.autoregressive(2, 3)
    ),
    "lossy auto-encoder": _lossy,
    "belief net": lambda: _hierarchy(gaussian_belief_net),
    "belief net, skips": lambda: _hierarchy(gaussian_belief_net, skip=True),
    "ladder": lambda: _hierarchy(ladder_vae),
    "deep latent Gaussian": lambda: _hierarchy(deep_latent_gaussian_model),
    "sigmoid belief net": lambda: _binary_net(sigmoid_belief_net, latent_dims=(3, 2), hidden=(4,)),
    "sigmoid belief net, nade": lambda: _binary_net(
        sigmoid_belief_net, latent_dims=(3,), generative="nade", recognition="nade", nade_dim=3
    ),
    "deep autoregressive network": lambda: _binary_net(darn, latent_dims=(3,)),
    "linear-Gaussian, pytrees": _pytrees,
    "discrete, by hand": lambda: Case(oracles.discrete(), grid(2, 3), levels(2), "rloo"),
    "variational MDP": _decisions,
    "nade": lambda: Case(
        nade(num_dims=9, hidden_dim=3, ordering=[4, 0, 8, 2, 7, 1, 3, 6, 5]), grid(2, 9), levels(2)
    ),
    "factor analysis": lambda: Case(
        factor_analysis.factor_analysis(num_dims=5, latent_dim=2), grid(7, 5), np.isfinite
    ),
    "binary factor analysis": lambda: Case(
        # A posterior after more updates is so near the exact one that the variance of the
        # importance weights is rounding alone.
        binary_factor_analysis.binary_factor_analysis(num_dims=12, latent_dim=2, num_updates=1),
        grid(2, 12),
        levels(2),
    ),
    "mixture of Bernoullis": lambda: Case(
        mixture_of_bernoullis.mixture_of_bernoullis(num_dims=5, num_components=3),
        grid(2, 5),
        levels(2),
    ),
    "rbm": lambda: Case(
        rbm.rbm(num_dims=4, num_hidden=3), grid(2, 4), levels(2), kernel=rbm.gibbs_kernel
    ),
    "diffusion": _diffusion,
    "real_nvp": lambda: Case(
        real_nvp(num_dims=3, num_couplings=3, hidden=(4,)), grid(5, 3), np.isfinite
    ),
    "real_nvp, several scales, logits": _flow_of_images,
    "generator": lambda: Case(
        generator(num_dims=4, noise_dim=3, hidden=(5,), output="sigmoid"),
        grid(17, 4),
        lambda x: (x > 0) & (x < 1),
    ),
    "auto-encoder, linear": lambda: _auto_encoder(hidden=()),
    "auto-encoder, recurrent": lambda: _auto_encoder(recurrent_encoder((4, 2), 2, num_units=3)),
    "auto-encoder, attention": lambda: _auto_encoder(
        attention_encoder((4, 2), 2, num_features=4, num_heads=2), code="sigmoid"
    ),
}
