"""The mixture of Bernoullis: clusters of binary vectors.

The model is `mixture_of_bernoullis`; its posterior (`responsibilities`) and what expectation
maximisation wants of it (`expected_statistics`, `maximize`, `model_statistics`) stand beside it.
"""

import math

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from genjax_models.checks import check_sizes
from genjax_models.distributions import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event, softplus
from genjax_models.interfaces import Array, DensityModel, Key, Params

# Probabilities stay 3e-7 away from zero and one, where float32 ends and a logarithm diverges.
_MAX_LOGIT = 15.0
# A component below this weight has no data of its own.
_MIN_WEIGHT = 1e-20

Statistics = dict[str, Array]
"""Means over examples: "weight" E[r] [K], "on" E[r x'] [K, D], with r the responsibilities."""


def mixture_of_bernoullis(*, num_dims: int = 784, num_components: int = 500) -> DensityModel:
    """A mixture of K products of Bernoullis.

        p(x) = sum_k pi_k prod_d Bernoulli(x_d; sigma(l_kd))

    Its parameters are "logits" [K], with pi their softmax, and "component_logits" l [K, D].

    Args:
        num_dims: D, the size of the vector x of zeros and ones.
        num_components: K.

    Returns:
        The model. `init` draws l from N(0, 1), with equal weights; `examples_as_components`
        starts from data.

    Raises:
        ValueError: a size below one.

    Source: Everitt & Hand 1981 (Finite mixture distributions); Bishop 2006 (PRML), section 9.3.3.
    """
    check_sizes(num_dims=num_dims, num_components=num_components)

    def init(key: Key) -> Params:
        component_logits = jax.random.normal(key, (num_components, num_dims))
        return {"logits": jnp.zeros(num_components), "component_logits": component_logits}

    def log_prob(params: Params, x: Array) -> Array:
        return logsumexp(_log_joint(params, x))

    def sample(params: Params, key: Key) -> Array:
        component_key, x_key = jax.random.split(key)
        component = jax.random.categorical(component_key, at_least_float32(params["logits"]))
        return Bernoulli(params["component_logits"][component]).sample(seed=x_key)

    return DensityModel(init, log_prob, sample)


def responsibilities(params: Params, x: Array) -> Array:
    """The posterior over components, by Bayes' rule.

        r_k = pi_k p(x | k) / sum_j pi_j p(x | j)

    Args:
        params: of `mixture_of_bernoullis`.
        x: one example, [D].

    Returns:
        Probabilities, [K].
    """
    return jax.nn.softmax(_log_joint(params, x))


def expected_statistics(params: Params, batch: Array) -> tuple[Array, Statistics]:
    """The E-step: log-likelihood and expected sufficient statistics, as means over a batch.

        E[r_k],  E[r_k x_d],  with r the responsibilities

    A function of the batch, since its sums are matrix products, O(N K D), with [N, K] held; a
    vmapped function of one example would hold [N, K, D].

    Args:
        params: of `mixture_of_bernoullis`.
        batch: examples, [N, D], zeros and ones.

    Returns:
        The mean of log p(x) in nats, and the statistics.

    Raises:
        ValueError: the batch is not [N, D] with N >= 1.

    Source: Bishop 2006, equations 9.56 to 9.58.
    """
    num_dims = params["component_logits"].shape[1]
    if jnp.ndim(batch) != 2 or batch.shape[0] < 1 or batch.shape[1] != num_dims:
        raise ValueError(f"batch must be [N, {num_dims}] with N >= 1, got {jnp.shape(batch)}")
    log_joint = jax.vmap(_log_joint, (None, 0))(params, batch)
    log_probs = logsumexp(log_joint, axis=1)
    shares = jnp.exp(log_joint - log_probs[:, None])
    with jax.default_matmul_precision("highest"):
        on = shares.T @ at_least_float32(batch) / batch.shape[0]
    return jnp.mean(log_probs), {"weight": jnp.mean(shares, axis=0), "on": on}


def maximize(statistics: Statistics, params: Params, *, smoothing: float = 0.0) -> Params:
    """The M-step: the parameters under which the expected statistics are likeliest.

        pi_k = E[r_k],  sigma(l_kd) = (E[r_k x_d] + a) / (E[r_k] + 2 a)

    a > 0 is the prior Beta(1 + n, 1 + n) on every probability, with a = n / (number of training
    examples): as if each component had seen n more ones and n more zeros at each pixel. Without
    it a pixel that no example of a component turns on gets probability zero (here 3e-7), and
    a test example that does is lost.

    Args:
        statistics: of `expected_statistics`, or running averages of them.
        params: what a component without any data (of weight below 1e-20) keeps.
        smoothing: a >= 0.

    Returns:
        The parameters.

    Raises:
        ValueError: negative smoothing.

    Source: Bishop 2006, equations 9.59 and 9.60.
    """
    if smoothing < 0:
        raise ValueError(f"smoothing must not be negative, got {smoothing}")
    weight, on = statistics["weight"], statistics["on"]
    has_data = weight[:, None] > _MIN_WEIGHT
    # Rounding may leave `on` a little above `weight`; the double where keeps 0 / 0 out.
    off = jnp.where(has_data, jnp.maximum(weight[:, None] - on, 0), 1)
    on = jnp.where(has_data, on, 1)
    logits = jnp.log(on + smoothing) - jnp.log(off + smoothing)
    kept = at_least_float32(params["component_logits"])
    return {
        "logits": jnp.log(jnp.maximum(weight, _MIN_WEIGHT)),
        "component_logits": jnp.where(has_data, jnp.clip(logits, -_MAX_LOGIT, _MAX_LOGIT), kept),
    }


def model_statistics(params: Params) -> Statistics:
    """The expected statistics of data that the model itself draws: `maximize` gives it back.

    Args:
        params: of `mixture_of_bernoullis`.

    Returns:
        What `expected_statistics` tends to on samples of the model.
    """
    weight = jax.nn.softmax(at_least_float32(params["logits"]))
    probabilities = jax.nn.sigmoid(at_least_float32(params["component_logits"]))
    return {"weight": weight, "on": weight[:, None] * probabilities}


def examples_as_components(key: Key, xs: Array, *, num_components: int) -> Params:
    """A start from data: components that favour the pixels of K examples, 3 to 1.

    Equal components would stay equal, and nearly equal ones part slowly.

    Args:
        key: PRNG key.
        xs: examples, [N, D], zeros and ones.
        num_components: K.

    Returns:
        Parameters of `mixture_of_bernoullis`.

    Raises:
        ValueError: K below one or above N.
    """
    if jnp.ndim(xs) != 2 or not 1 <= num_components <= len(xs):
        raise ValueError(
            f"num_components must be in 1..N for xs of shape [N, D], got {num_components} for"
            f" {jnp.shape(xs)}"
        )
    chosen = jax.random.choice(key, len(xs), (num_components,), replace=False)
    signs = 2 * at_least_float32(jnp.asarray(xs)[chosen]) - 1
    return {"logits": jnp.zeros(num_components), "component_logits": signs * math.log(3)}


def _log_joint(params: Params, x: Array) -> Array:
    """log pi_k + log p(x | k), [K].

    Two products of terms that are all negative: x . l - sum softplus(l) needs one, and loses all
    precision where the logits are large.
    """
    logits = at_least_float32(params["component_logits"])
    x = at_least_float32(check_event(x, logits[0]))
    with jax.default_matmul_precision("highest"):
        log_likelihood = -(softplus(-logits) @ x + softplus(logits) @ (1 - x))
    return jax.nn.log_softmax(at_least_float32(params["logits"])) + log_likelihood
