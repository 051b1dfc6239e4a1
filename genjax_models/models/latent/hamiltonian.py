"""Hamiltonian variational inference (Salimans, Kingma & Welling 2015)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from genjax_models.checks import check_sizes
from genjax_models.distributions import (
    DiagonalGaussian,
    is_reparameterized,
    sample_and_log_prob,
)
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Network,
    Params,
    PyTree,
)
from genjax_models.kernels import leapfrog
from genjax_models.models import likelihoods
from genjax_models.models.latent import parts
from genjax_models.networks import mlp


class MarkovChainPosterior(NamedTuple):
    """z_T after T steps of a chain, whose past is weighed by a reverse model.

    Its log-probability is that of the whole draw,

        log q(z_0) + sum_t [log q(z_t, u_t | z_(t-1)) - log r(z_(t-1), u_t | z_t)],

    with u_t whatever else a step draws: on average an upper bound on log q(z_T), so that a bound
    on log p(x) stays one. There is no `log_prob`.

    Attributes:
        initial: q(z_0).
        step: `step(theta_t, key, z) -> (z_t, the bracket)`, with z_t differentiable in z and in
            its parameters; a function, or a `jax.tree_util.Partial`.
        params: theta_1, ..., theta_T, each leaf with a leading axis [T].

    Source: Salimans et al. 2015, the bound of a Markov chain with reverse models.
    """

    initial: Distribution
    step: Callable[[Params, Key, PyTree], tuple[PyTree, Array]]
    params: Params

    @property
    def reparameterized(self) -> bool:
        """As of the initial distribution."""
        return is_reparameterized(self.initial)

    def sample(self, *, seed: Key) -> PyTree:
        """z_T."""
        return self.sample_and_log_prob(seed=seed)[0]

    def sample_and_log_prob(self, *, seed: Key) -> tuple[PyTree, Array]:
        """z_T, and the log-probability of the whole draw in nats."""
        initial_key, steps_key = jax.random.split(seed)

        def move(
            state: tuple[PyTree, Array], step: tuple[Array, Params]
        ) -> tuple[tuple[PyTree, Array], None]:
            (z, log_prob), (index, params) = state, step
            z, log_ratio = self.step(params, jax.random.fold_in(steps_key, index), z)
            return (z, log_prob + log_ratio), None

        num_steps = len(jax.tree.leaves(self.params)[0])
        start = sample_and_log_prob(self.initial, seed=initial_key)
        return jax.lax.scan(move, start, (jnp.arange(num_steps), self.params))[0]


def hamiltonian_vae(
    *,
    num_dims: int = 784,
    latent_dim: int = 32,
    hidden: Sequence[int] = (300, 300),
    num_steps: int = 4,
    num_iterations: int = 1,
    initial_step_size: float = 0.1,
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
    reverse: Network | None = None,
    prior: parts.Prior | None = None,
) -> LatentVariableModel:
    """A variational auto-encoder whose posterior follows the dynamics of the model's own density.

        p(z) = N(0, I),   p(x | z) = likelihood(decoder(z))
        z_0 ~ N(m(x), diag s(x)^2),   M = diag of what the encoder gives
        for t = 1, ..., T:
            v_t ~ N(0, M)
            (z_t, w_t) = num_steps leapfrog steps from (z_(t-1), v_t) in log p(x, z)
            r(w_t | x, z_t) = N(w_t; M^1/2 a_t(x, z_t), M diag b_t(x, z_t)^2)
        log q(z_T | x) = log q(z_0 | x) + sum_t [log N(v_t; 0, M) - log r(w_t | x, z_t)]

    The steps preserve volume, so that no determinant appears. Step sizes e_t = exp(.) and the
    networks (a_t, log b_t) are learned, one for each t; a gradient reaches the decoder through the
    leapfrog steps too.

    Args:
        num_dims: size of the vector x.
        latent_dim: size of the vector z.
        hidden: units of the hidden tanh layers of encoder and reverse networks; the decoder has
            them in reverse.
        num_steps: leapfrog steps of an iteration.
        num_iterations: T, how often the momentum is drawn anew.
        initial_step_size: e_t at the start.
        likelihood: as of `latent.vae`.
        num_levels: as of `latent.vae`.
        encoder: replaces the encoder: any pair from [num_dims] to [3 * latent_dim], for m, log s
            and log M.
        decoder: as of `latent.vae`.
        reverse: replaces the reverse networks: any pair from [num_dims + latent_dim] to
            [2 * latent_dim], for (a, log b).
        prior: replaces p(z).

    Returns:
        The model; x and z are vectors. The posterior's parameters are {"encoder",
        "log_step_size", "reverse"}, the last two with a leading axis [T].

    Raises:
        ValueError: a size, `num_steps` or `num_iterations` below one, a step size that is not
            positive, an unknown likelihood, or a network of the wrong output shape (found when
            `init` runs).

    Source: Salimans et al. 2015 (Markov chain Monte Carlo and variational inference: bridging the
    gap), Hamiltonian variational inference.
    """
    check_sizes(num_dims=num_dims, latent_dim=latent_dim, hidden=tuple(hidden))
    check_sizes(num_steps=num_steps, num_iterations=num_iterations)
    if not 0 < initial_step_size < float("inf"):
        raise ValueError(f"initial_step_size must be above zero, got {initial_step_size}")
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)
    num_outputs = observation.num_outputs_per_dim * num_dims
    encoder = encoder or mlp(num_dims, hidden, 3 * latent_dim)
    decoder = decoder or mlp(latent_dim, hidden[::-1], num_outputs)
    reverse = reverse or mlp(num_dims + latent_dim, hidden, 2 * latent_dim)
    encoder = parts.checked("encoder", encoder, num_dims, 3 * latent_dim)
    decoder = parts.checked("decoder", decoder, latent_dim, num_outputs)
    prior = prior or parts.standard_normal(latent_dim)
    conditional = parts.decoder(decoder, observation)
    reverse = parts.checked("reverse", reverse, num_dims + latent_dim, 2 * latent_dim)

    def init(key: Key) -> Params:
        prior_key, likelihood_key, encoder_key, reverse_key = jax.random.split(key, 4)
        posterior = {
            "encoder": encoder.init(encoder_key),
            "log_step_size": jnp.full(num_iterations, math.log(initial_step_size), float),
            "reverse": jax.vmap(reverse.init)(jax.random.split(reverse_key, num_iterations)),
        }
        return {
            "prior": prior.init(prior_key),
            "likelihood": conditional.init(likelihood_key),
            "posterior": posterior,
        }

    def prior_of(params: Params) -> Distribution:
        return prior.distribution(params["prior"])

    def likelihood_of(params: Params, z: Array) -> Distribution:
        return conditional.distribution(params["likelihood"], z)

    def log_joint(params: Params, x: Array, z: Array) -> Array:
        return prior_of(params).log_prob(z) + likelihood_of(params, z).log_prob(x)

    def iterate(
        params: Params, x: Array, log_mass: Array, iteration: Params, key: Key, z: Array
    ) -> tuple[Array, Array]:
        momentum = DiagonalGaussian(jnp.zeros_like(log_mass), 0.5 * log_mass)
        v, log_prob = momentum.sample_and_log_prob(seed=key)
        z, v = leapfrog(
            lambda z: log_joint(params, x, z),
            z,
            v,
            step_size=jnp.exp(iteration["log_step_size"]),
            mass=jnp.exp(log_mass),
            num_steps=num_steps,
        )
        outputs = reverse.apply(iteration["reverse"], jnp.concatenate([x, z]))
        loc, log_scale = jnp.split(outputs, 2)
        backwards = DiagonalGaussian(jnp.exp(0.5 * log_mass) * loc, 0.5 * log_mass + log_scale)
        return z, log_prob - backwards.log_prob(v)

    def posterior(params: Params, x: Array) -> MarkovChainPosterior:
        own = params["posterior"]
        loc, log_scale, log_mass = jnp.split(encoder.apply(own["encoder"], x), 3)
        iterations = {name: own[name] for name in ("log_step_size", "reverse")}
        model_params = {name: params[name] for name in ("prior", "likelihood")}
        step = Partial(iterate, model_params, x, log_mass)
        return MarkovChainPosterior(DiagonalGaussian(loc, log_scale), step, iterations)

    return LatentVariableModel(init, prior_of, likelihood_of, posterior)
