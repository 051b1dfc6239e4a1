"""Bad input ends in one line that says what to do, before anything is compiled or written."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import harness, vae
from experiments.harness.checkpoints import CheckpointError
from experiments.harness.loop import TrainingDivergedError
from experiments.harness.tfds import CacheError
from tests import programs


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of arrays, bad ones and good ones."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    binary = generator.integers(0, 2, (40, 5))
    arrays = {
        "empty": np.zeros((0, 5)),
        "flat": np.zeros(5),
        "nan": np.where(np.eye(40, 5) > 0, np.nan, 0.3),
        "real": generator.normal(size=(40, 5)),
        "grey": generator.integers(0, 256, (40, 5)).astype(np.uint8),
        "binary": binary,
        "few": binary[:12],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "damaged.npy").write_bytes((folder / "binary.npy").read_bytes()[:200])
    return folder


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys, files) -> Callable[[str], str]:
    """`refusal(options)`: what the command ends with; an error if it wrote anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")

    def run(options: str) -> str:
        arguments = options.replace("FILES", str(files)).split()
        monkeypatch.setattr(sys, "argv", ["vae", *arguments])
        with pytest.raises(SystemExit) as ended:
            vae.main()
        assert not list(tmp_path.iterdir()), "something was written"
        if ended.value.code != 2:
            return str(ended.value.code)
        # What the settings refuse, tyro prints in a frame.
        framed = capsys.readouterr().err.splitlines()
        return next(line for line in framed if "Error parsing" in line)

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data digit", "unknown data set 'digit': did you mean digits"),
        ("--data FILES/none.npy", "no such file: .*none.npy"),
        ("--data FILES/damaged.npy", "cannot read .*damaged.npy"),
        ("--data FILES/empty.npy", r"empty.npy must have .* at least one example.*shape \(0, 5\)"),
        ("--data FILES/flat.npy", r"flat.npy must have shape \[N, ...\].*got shape \(5,\)"),
        ("--data FILES/nan.npy --likelihood gaussian", r"must be finite.*got nan at \(0, 0\)"),
        ("--data FILES/real.npy", "'bernoulli' does not fit the real values of real.npy"),
        ("--data FILES/grey.npy", "a Bernoulli is not a likelihood of the grey levels of grey.npy"),
        ("--data FILES/binary.npy --likelihood discretized_logistic", "does not fit the binary"),
        ("--data FILES/binary.npy --batch-size 33", "number of training examples, 32, got 33"),
        ("--data FILES/few.npy --batch-size 1", "test split of few.npy needs at least 2 examples"),
        ("--protocol grey", "protocol='grey' does not fit likelihood='bernoulli'"),
        ("--protocol statik", "protocol"),
        ("--num-samples 0", "num_samples must be an integer >= 1, got 0"),
        ("--estimator rloo", "num_samples must be an integer >= 2, got 1"),
        ("--bound iwae --kl analytic", 'kl="analytic" is for bound=bounds.elbo'),
        ("--bound iwae --estimator vimco_geometric", "num_samples must be an integer >= 2, got 1"),
        ("--bound iwae --estimator sticking_the_landing", 'use estimator="dreg"'),
        ("--bound vr_max --estimator dreg", 'use estimator="pathwise"'),
        ("--estimator reweighted_wake_sleep", "bound=bounds.iwae"),
        ("--bound miwae --num-groups 2 --num-samples 3", "num_groups must divide num_samples, 3"),
        ("--bound piwae --estimator nvil", 'a SplitBound is not for estimator "nvil"'),
        ("--bound tvo --betas 0 0.5", "betas must rise from 0 to 1"),
        ("--bound jackknife", "order must be an integer from 0 to num_samples - 1 = 0"),
        ("--num-samples 4 --chunk-size 3", "chunk_size must divide num_samples, 4, got 3"),
        ("--estimator nvil --microbatch-size 10", 'microbatch_size is not for estimator "nvil"'),
        ("--bound renyi --alpha nan", "alpha must be a number below .*, got nan"),
        ("--batch-size 0", "batch_size must be .*got 0"),
        ("--batch-size 2000", "number of training examples, 1437, got 2000"),
        ("--num-epochs 0", "num_epochs must be above zero, got 0"),
        ("--warm-up-epochs -1", "warm_up_epochs must not be negative, got -1"),
        ("--learning-rate 0", "learning_rate must be above zero, got 0"),
        ("--evaluation-samples 0", "evaluation_samples must be above zero, got 0"),
        ("--latent-dim 0", "latent_dim must be at least 1, got"),
        ("--hidden 10 0", "hidden must be at least 1, got"),
        ("--seed -1", "seed must be in"),
        ("--data FILES/binary.npy --batch-size 5 --network convolutional", "image_shape must be"),
        ("--resume", "--resume needs --out"),
        ("--resume --out nowhere", "--resume: there is no run in nowhere"),
    ],
)
def test_bad_input_is_refused(refusal, options, message):
    refused = refusal(options)
    assert re.search(message, refused)
    assert "\n" not in refused


def test_a_data_set_that_is_not_there_is_refused_with_the_commands_that_prepare_it(refusal):
    refused = refusal("--data mnist --data-dir FILES")
    assert re.match(r"error: no prepared mnist in .*files.*\n  pip install tensorflow\n", refused)
    assert "download_and_prepare()" in refused


def test_the_command_itself_ends_with_one_line_and_no_traceback(tmp_path):
    process = programs.start("-m", "experiments", "vae", "--data", "digit", "--out", tmp_path / "x")
    output, errors = process.communicate(timeout=programs.TIMEOUT)
    assert process.returncode == 1
    assert output == ""
    assert re.fullmatch(r"error: unknown data set 'digit'.*\n", errors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [CheckpointError("a"), CacheError("a"), TrainingDivergedError("a"), OSError("a")]
)
def test_what_stops_a_run_later_is_one_line_too(monkeypatch, error):
    def run(settings: vae.Settings) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["vae"])
    with pytest.raises(SystemExit, match=r"^error: a$"):
        harness.command_line(run, vae.Settings, "vae")()
