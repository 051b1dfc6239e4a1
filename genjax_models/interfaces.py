"""The few shapes that the library is made of: named tuples of pure functions.

A factory binds what is static (sizes, networks) and returns one of these; parameters are a pytree
that the caller holds. Every function takes **one** example and returns one number or one example:
`jax.vmap` makes the batch. The order of arguments is `(params, key, x)`, so that `jax.grad` of a
function differentiates its parameters as it stands. Log-probabilities are in nats.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Key = jax.Array
"""A typed PRNG key, as `jax.random.key` makes it."""
Params = Any
"""A pytree of arrays."""
PyTree = Any
Metrics = dict[str, Array]
"""Named scalars, e.g. `{"bound": -95.2}`."""


class Posterior(Protocol):
    """A distribution over one event (an array or a pytree) that knows what its own draws weigh.

    Where there is no density in closed form, as of most flows and of what has auxiliary variables,
    other values have no log-probability; what needs one says so with a `TypeError`.

    A class that is neither distrax's nor TFP's declares whether its samples are differentiable
    functions of its parameters by an attribute `reparameterized: bool`.
    """

    def sample(self, *, seed: Key) -> PyTree:
        """Draw one event."""
        ...

    def sample_and_log_prob(self, *, seed: Key) -> tuple[PyTree, Array]:
        """Draw one event and its log-probability, often cheaper than the two apart."""
        ...


class Distribution(Posterior, Protocol):
    """A distribution over one event, with distrax's methods.

    distrax's and TFP's distributions have this shape, and so may any class of the user's, in which
    `sample_and_log_prob` may be missing. The event is everything: `log_prob` gives a scalar (a
    batch of n independent distributions becomes one in
    `distrax.Independent(..., reinterpreted_batch_ndims=1)`).
    """

    def log_prob(self, value: PyTree) -> Array:
        """Log-density or log-mass of one event, shape [], in nats."""
        ...


class Network(NamedTuple):
    """A neural network as a pair of pure functions.

    Attributes:
        init: `init(key) -> params`.
        apply: `apply(params, inputs) -> outputs`, for one example.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Array]


class ConditionalNetwork(NamedTuple):
    """A neural network with a second input, e.g. the time of a diffusion model.

    Attributes:
        init: `init(key) -> params`.
        apply: `apply(params, inputs, context) -> outputs`, for one example.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array, Array], Array]


class DensityModel(NamedTuple):
    """A model whose density is computed exactly, e.g. an autoregressive network or a flow.

    Attributes:
        init: `init(key) -> params`.
        log_prob: `log_prob(params, x) -> []`, log p(x) of one example in nats.
        sample: `sample(params, key) -> x`, one exact draw.
    """

    init: Callable[[Key], Params]
    log_prob: Callable[[Params, PyTree], Array]
    sample: Callable[[Params, Key], PyTree]


class EnergyModel(NamedTuple):
    """An unnormalised density p(x) = exp(-energy(x)) / Z, e.g. a Boltzmann machine.

    The kernels that leave p(x) invariant are functions beside the model's factory.

    Attributes:
        init: `init(key) -> params`.
        energy: `energy(params, x) -> []`, of one example in nats.
    """

    init: Callable[[Key], Params]
    energy: Callable[[Params, PyTree], Array]


class AnnealingPath(NamedTuple):
    """Unnormalised densities f_beta(x), 0 <= beta <= 1, from one that is known to one that is not.

    Attributes:
        sample: `sample(key) -> x`, one exact draw from f_0 / Z_0.
        log_normalizer: log Z_0, a scalar in nats.
        energy: `energy(x, beta) -> []`, -log f_beta(x) in nats.
        kernel: `kernel(key, x, beta) -> x`, which leaves f_beta invariant.
    """

    sample: Callable[[Key], PyTree]
    log_normalizer: Array
    energy: Callable[[PyTree, Array], Array]
    kernel: Callable[[Key, PyTree, Array], PyTree]


class LatentVariableModel(NamedTuple):
    """A joint density p(x, z) = p(z) p(x | z) with an approximate posterior q(z | x).

    x and z may be pytrees. Everything in `learning` and `evaluation` that takes a latent-variable
    model takes one that is written by hand from any distributions as well as the library's own.

    Attributes:
        init: `init(key) -> params`, for model and posterior together.
        prior: `prior(params) -> p(z)`.
        likelihood: `likelihood(params, z) -> p(x | z)`.
        posterior: `posterior(params, x) -> q(z | x)`.
    """

    init: Callable[[Key], Params]
    prior: Callable[[Params], Distribution]
    likelihood: Callable[[Params, PyTree], Distribution]
    posterior: Callable[[Params, PyTree], Posterior]


class ImplicitModel(NamedTuple):
    """A model that can be sampled but has no density, e.g. the generator of a GAN.

    Attributes:
        init: `init(key) -> params`.
        sample: `sample(params, key) -> x`, one draw.
    """

    init: Callable[[Key], Params]
    sample: Callable[[Params, Key], PyTree]


class AutoEncoder(NamedTuple):
    """A code of x and a distribution over x for each code, without a prior over codes.

    Attributes:
        init: `init(key) -> params`.
        encode: `encode(params, x) -> code`, deterministic.
        decode: `decode(params, code) -> p(x | code)`.
    """

    init: Callable[[Key], Params]
    encode: Callable[[Params, PyTree], PyTree]
    decode: Callable[[Params, PyTree], Distribution]


class Algorithm(NamedTuple):
    """A training algorithm: a state and a step that moves it. Both functions may be jit-compiled.

    Attributes:
        init: `init(key) -> state`; `state.params` is what the model's functions take.
        step: `step(state, key, batch) -> (state, metrics)`; every leaf of `batch` has a leading
            axis [batch_size], and the metrics are means over it.
    """

    init: Callable[[Key], Any]
    step: Callable[[Any, Key, PyTree], tuple[Any, Metrics]]


Objective = Callable[..., tuple[Array, Metrics]]
"""`objective(params, key, x, **scheduled) -> (loss, metrics)`: loss [] in nats, to be minimised."""

StatefulObjective = Callable[..., tuple[Array, tuple[PyTree, Metrics]]]
"""`objective(params, state, key, batch, **scheduled) -> (loss, (state, metrics))`, of a batch."""
