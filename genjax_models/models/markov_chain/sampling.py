"""Other ways to run a diffusion model than `Diffusion.sample`: the whole chain, and fewer steps."""

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.interfaces import Array, Key, Params
from genjax_models.models.markov_chain.diffusion import Diffusion
from genjax_models.models.markov_chain.schedules import NoiseSchedule


def sample_chain(model: Diffusion, params: Params, key: Key) -> Array:
    """Draw a whole reverse chain: what `model.sample(params, key)` passes through.

    Args:
        model: a diffusion model of T steps.
        params: its parameters.
        key: PRNG key.

    Returns:
        Entry t is x_t, [T + 1, num_dims], on the line: `model.observation.unscale` of entry 0 is
        the sample.
    """
    last_key, chain_key = jax.random.split(key)

    def step(x_t: Array, t: Array) -> tuple[Array, Array]:
        x = model.reverse_step(params, jax.random.fold_in(chain_key, t), x_t, t)
        return x, x

    x_T = jax.random.normal(last_key, (model.num_dims,))
    steps = jnp.arange(model.schedule.num_steps, 0, -1)
    _, chain = jax.lax.scan(step, x_T, steps)
    return jnp.concatenate([chain[::-1], x_T[None]])


def sample_ddim(
    model: Diffusion,
    params: Params,
    key: Key,
    *,
    num_steps: int | None = None,
    eta: float = 0.0,
    x_T: Array | None = None,
) -> Array:
    """Draw in fewer steps, or as a deterministic map of x_T, from the same trained network.

        x_s = sqrt(alpha_bar_s) x_0(x_t) + sqrt(1 - alpha_bar_s - sigma^2) noise(x_t) + sigma z,
        sigma^2 = eta^2 (1 - alpha_bar_s) / (1 - alpha_bar_t) (1 - alpha_bar_t / alpha_bar_s)

    from t to s < t over a subsequence of the steps; z is standard normal. With eta = 0 nothing is
    drawn but x_T. With eta = 1 and every step it is the reverse chain whose variance is
    `reverse_variance="posterior"`, but for the last step, which gives the mean.

    Args:
        model: a diffusion model of T steps.
        params: its parameters.
        key: PRNG key.
        num_steps: network evaluations, 1..T, as evenly spread as integers can be; T by default.
        eta: share of the noise, 0..1.
        x_T: where to start; drawn from N(0, I) by default.

    Returns:
        x, [num_dims]; grey levels are rounded.

    Raises:
        ValueError: a number of steps that is not in 1..T, an eta outside [0, 1], or an x_T of
            another shape.

    Source: Song et al. 2021 (Denoising diffusion implicit models), equations 12 and 16.
    """
    num_steps = model.schedule.num_steps if num_steps is None else num_steps
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    steps = ddim_steps(model.schedule, num_steps)
    last_key, chain_key = jax.random.split(key)
    if x_T is None:
        x_T = jax.random.normal(last_key, (model.num_dims,))
    elif jnp.shape(x_T) != (model.num_dims,):
        raise ValueError(f"x_T must have shape ({model.num_dims},), got {jnp.shape(x_T)}")

    def step(x_t: Array, row: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        t, signal, direction, scale = row
        predicted = model.denoise(params, x_t, t)
        x = signal * predicted.x_0 + direction * predicted.noise
        if eta > 0:
            x = x + scale * jax.random.normal(jax.random.fold_in(chain_key, t), x.shape)
        return x, None

    rows = (jnp.asarray(steps[:0:-1]), *_coefficients(model.schedule, steps, eta))
    x_0, _ = jax.lax.scan(step, jnp.asarray(x_T), rows)
    return model.observation.unscale(model.observation.nearest(x_0))


def ddim_steps(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """0 = s_0 < s_1 < ... < s_S = T, as evenly spread as integers can be.

    Raises:
        ValueError: S is not in 1..T.
    """
    last = schedule.num_steps
    if not hasattr(num_steps, "__index__") or not 1 <= num_steps <= last:
        raise ValueError(f"num_steps must be an integer in 1..{last}, got {num_steps!r}")
    return np.rint(np.arange(num_steps + 1) * (last / num_steps)).astype(np.int32)


def _coefficients(
    schedule: NoiseSchedule, steps: np.ndarray, eta: float
) -> tuple[Array, Array, Array]:
    """Of x_0, of the predicted noise and of new noise, in every step from the last to the first."""
    t, s = steps[:0:-1], steps[-2::-1]
    noise_t, noise_s = schedule.noise_variance[t], schedule.noise_variance[s]
    # 1 - alpha_bar_t / alpha_bar_s, the variance of q(x_t | x_s).
    between = (noise_t - noise_s) / schedule.alpha_bar[s]
    variance = eta**2 * noise_s / noise_t * between
    # Where s = 0 both are zero, which rounding must not make negative.
    direction = np.sqrt(np.maximum(noise_s - variance, 0))
    columns = (schedule.signal[s], direction, np.sqrt(variance))
    signal, direction_, scale = (jnp.asarray(column, float) for column in columns)
    return signal, direction_, scale
