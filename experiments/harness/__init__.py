"""Everything impure: settings, data, the loop, checkpoints, metrics, pictures, the run's folder."""

from experiments.harness.data import Dataset, load
from experiments.harness.evaluate import map_examples, metric
from experiments.harness.experiment import data_shape, finish_run, open_run, prepare
from experiments.harness.latent import Evaluator
from experiments.harness.loop import train
from experiments.harness.report import print_result
from experiments.harness.run import Run, load_run
from experiments.harness.settings import Settings, check_positive, command_line

__all__ = [
    "Dataset",
    "Evaluator",
    "Run",
    "Settings",
    "check_positive",
    "command_line",
    "data_shape",
    "finish_run",
    "load",
    "load_run",
    "map_examples",
    "metric",
    "open_run",
    "prepare",
    "print_result",
    "train",
]
