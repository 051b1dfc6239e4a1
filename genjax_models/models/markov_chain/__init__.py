"""A learned chain of many small steps from noise towards the data."""

from genjax_models.models.markov_chain.diffusion import Diffusion, diffusion
from genjax_models.models.markov_chain.latent_chain import as_latent_variable_model
from genjax_models.models.markov_chain.noising import (
    Prediction,
    from_noise,
    from_v,
    from_x_0,
    marginal,
    posterior,
    transition,
)
from genjax_models.models.markov_chain.sampling import sample_chain, sample_ddim
from genjax_models.models.markov_chain.schedules import (
    NoiseSchedule,
    cosine_schedule,
    from_variances,
    linear_schedule,
    log_snr_schedule,
    schedule_by_name,
)

__all__ = [
    "Diffusion",
    "NoiseSchedule",
    "Prediction",
    "as_latent_variable_model",
    "cosine_schedule",
    "diffusion",
    "from_noise",
    "from_v",
    "from_variances",
    "from_x_0",
    "linear_schedule",
    "log_snr_schedule",
    "marginal",
    "posterior",
    "sample_chain",
    "sample_ddim",
    "schedule_by_name",
    "transition",
]
