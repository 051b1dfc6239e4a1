"""Everything impure: settings, data, the loop, checkpoints, metrics, pictures, the run's folder."""

from experiments.harness.auto_encoder import AutoEncoderEvaluator
from experiments.harness.data import Dataset, load
from experiments.harness.density import DensityEvaluator, draw_samples
from experiments.harness.evaluate import bits_per_dim, map_examples, measurement, metric
from experiments.harness.experiment import (
    Evaluator,
    data_shape,
    finish_run,
    open_run,
    prepare,
    run_experiment,
    steps_per_epoch,
)
from experiments.harness.implicit import ImplicitEvaluator
from experiments.harness.latent import LatentEvaluator
from experiments.harness.loop import train
from experiments.harness.report import print_result
from experiments.harness.run import Run, load_run
from experiments.harness.settings import (
    Settings,
    check_distinct,
    check_positive,
    check_unused,
    command_line,
)
from experiments.harness.variational import VariationalSettings, num_levels, run_variational

__all__ = [
    "AutoEncoderEvaluator",
    "Dataset",
    "DensityEvaluator",
    "Evaluator",
    "ImplicitEvaluator",
    "LatentEvaluator",
    "Run",
    "Settings",
    "VariationalSettings",
    "bits_per_dim",
    "check_distinct",
    "check_positive",
    "check_unused",
    "command_line",
    "data_shape",
    "draw_samples",
    "finish_run",
    "load",
    "load_run",
    "map_examples",
    "measurement",
    "metric",
    "num_levels",
    "open_run",
    "prepare",
    "print_result",
    "run_experiment",
    "run_variational",
    "steps_per_epoch",
    "train",
]
