"""The loop: what each step sees, what a resumed run repeats, and what stops it."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import harness
from experiments.harness import checkpoints, loop
from experiments.harness.arrays import Split
from experiments.harness.data import Dataset
from experiments.harness.loop import TrainingDivergedError, batch_indices
from experiments.harness.mesh import make_mesh
from experiments.harness.run import Run
from genjax_models.interfaces import Algorithm

NUM_EXAMPLES, BATCH_SIZE, NUM_STEPS = 23, 4, 450  # epochs of five steps, three examples left out
SETTINGS = harness.Settings(batch_size=BATCH_SIZE, seed=3, checkpoint_seconds=0.0)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(23, 4), (20, 20), (7, 1)])
def test_an_epoch_shows_no_example_twice_and_the_next_one_has_another_order(
    num_examples, batch_size
):
    steps_per_epoch = num_examples // batch_size
    batches = batch_indices(num_examples, batch_size, seed=0, begin=0, end=6 * steps_per_epoch)
    assert batches.shape == (6 * steps_per_epoch, batch_size)
    assert batches.dtype == np.int32
    epochs = batches.reshape(6, -1)
    for epoch in epochs:
        assert len(set(epoch)) == steps_per_epoch * batch_size
        assert set(epoch) <= set(range(num_examples))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_what_an_epoch_leaves_out_another_one_shows():
    batches = batch_indices(NUM_EXAMPLES, BATCH_SIZE, seed=0, begin=0, end=500)
    shown = np.bincount(batches.ravel(), minlength=NUM_EXAMPLES)
    # Each is shown in 20 of 23 of the 100 epochs: 87 times, with a standard deviation of 3.4.
    assert shown.min() > 87 - 5 * 3.4
    assert shown.max() <= 100


def test_any_steps_see_the_batches_of_the_whole_run():
    whole = batch_indices(NUM_EXAMPLES, BATCH_SIZE, seed=1, begin=0, end=33)
    for begin in range(33):
        for end in range(begin + 1, 34):
            part = batch_indices(NUM_EXAMPLES, BATCH_SIZE, seed=1, begin=begin, end=end)
            np.testing.assert_array_equal(part, whole[begin:end])
    other = batch_indices(NUM_EXAMPLES, BATCH_SIZE, seed=2, begin=0, end=33)
    assert (other != whole).any()


class Diary(NamedTuple):
    """The state of an algorithm that only writes down what it sees."""

    step: jax.Array
    params: dict[str, jax.Array]
    seen: jax.Array
    keys: jax.Array


class Trained(NamedTuple):
    """A run of the diary."""

    state: Diary
    seconds: loop.Seconds
    records: list[dict[str, Any]]
    traced: int


class KilledError(Exception):
    """Stands for a kill: the loop does not know it."""


def make_dataset(protocol: str = "real", num_levels: int | None = None) -> Dataset:
    """Example i is the vector [i]."""
    x = np.arange(NUM_EXAMPLES, dtype=np.float32)[:, None]
    split = Split(x if num_levels is None else x.astype(np.uint8), None)
    return Dataset("ids", protocol, (1,), num_levels, split, split, split, "none")


def train(
    path: Path,
    *,
    bad_step: int | None = None,
    bad: str = "loss",
    value: float = float("nan"),
    killed_at: int | None = None,
    dataset: Dataset | None = None,
    **changed: Any,
) -> Trained:
    """Keeps the diary in `path`; step `bad_step` gives the loss or a parameter a bad value."""
    settings = dataclasses.replace(SETTINGS, **changed)
    traced = 0

    def init(key: jax.Array) -> Diary:
        seen = jnp.full((NUM_STEPS, BATCH_SIZE), -1.0)
        keys = jnp.zeros((NUM_STEPS, 2), jnp.uint32)
        return Diary(jnp.int32(0), {"w": jax.random.normal(key)}, seen, keys)

    def step(state: Diary, key: jax.Array, batch: jax.Array) -> tuple[Diary, dict]:
        nonlocal traced
        traced += 1
        is_bad = state.step == (-1 if bad_step is None else bad_step)
        change = jnp.where(is_bad & (bad == "w"), value, jnp.mean(batch))
        loss = jnp.where(is_bad & (bad == "loss"), value, jnp.mean(batch))
        state = Diary(
            state.step + 1,
            {"w": 0.99 * state.params["w"] + 0.01 * change},
            state.seen.at[state.step].set(batch[:, 0]),
            state.keys.at[state.step].set(jax.random.key_data(key)),
        )
        return state, {"loss": loss}

    def monitor(state: Diary) -> dict[str, float]:
        if killed_at is not None and int(state.step) >= killed_at:
            raise KilledError
        return {"w": float(state.params["w"])}

    with Run.open(str(path), experiment="diary", settings=settings, resume=path.exists()) as run:
        state, seconds = loop.train(
            run,
            Algorithm(init, step),
            dataset or make_dataset(),
            settings,
            num_steps=NUM_STEPS,
            mesh=make_mesh(),
            monitor=monitor,
        )
        return Trained(state, seconds, run.records(), traced)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Trained:
    return train(tmp_path_factory.mktemp("runs") / "whole")


def without_seconds(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in record.items() if not name.startswith("seconds")}
        for record in records
    ]


def assert_same(left: Diary, right: Diary) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_each_step_sees_its_batch_under_a_key_of_its_own(whole):
    expected = batch_indices(NUM_EXAMPLES, BATCH_SIZE, SETTINGS.seed, 0, NUM_STEPS)
    np.testing.assert_array_equal(whole.state.seen, expected)
    assert len({tuple(key) for key in np.asarray(whole.state.keys)}) == NUM_STEPS


def test_the_records_are_means_over_the_steps_between(whole):
    assert [record["step"] for record in whole.records] == [100, 200, 300, 400, 450]
    means = np.asarray(whole.state.seen).mean(axis=1)
    for record, begin in zip(whole.records, range(0, NUM_STEPS, 100), strict=True):
        assert record["loss"] == pytest.approx(means[begin : record["step"]].mean(), rel=1e-5)
    assert whole.records[-1]["w"] == whole.state.params["w"]


def test_each_number_of_steps_is_compiled_once(whole):
    # 100 steps and the last 50; the step itself is never traced again.
    assert whole.traced == 2
    compiling = [record["seconds_compile"] for record in whole.records]
    training = [record["seconds_train"] for record in whole.records]
    assert compiling == sorted(compiling) and training == sorted(training)
    assert whole.seconds == (compiling[-1], training[-1])


def test_data_that_do_not_fit_on_the_device_are_sent_and_nothing_else_changes(
    tmp_path, monkeypatch, whole
):
    monkeypatch.setattr(loop, "MAX_BYTES_ON_DEVICE", 0)
    sent = train(tmp_path / "sent")
    assert_same(sent.state, whole.state)
    assert without_seconds(sent.records) == without_seconds(whole.records)
    assert sent.traced == 2


def test_a_dynamic_binarisation_is_drawn_anew_each_time(tmp_path):
    dataset = make_dataset("dynamic", NUM_EXAMPLES)
    seen = np.asarray(train(tmp_path / "dynamic", dataset=dataset).state.seen)
    assert set(seen.ravel()) == {0.0, 1.0}
    batches = batch_indices(NUM_EXAMPLES, BATCH_SIZE, SETTINGS.seed, 0, NUM_STEPS)
    for level in range(NUM_EXAMPLES):
        draws = seen[batches == level]
        probability = level / (NUM_EXAMPLES - 1)
        error = np.sqrt(probability * (1 - probability) / len(draws))
        assert abs(draws.mean() - probability) <= 5 * error


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_resumed_run_repeats_what_it_lost(tmp_path, whole, checkpoint_seconds):
    path = tmp_path / "run"
    for killed_at in (250, 350):
        with pytest.raises(KilledError):
            train(path, killed_at=killed_at, checkpoint_seconds=checkpoint_seconds)
    last = 300 if checkpoint_seconds == 0 else None
    assert checkpoints.latest_step(path / "checkpoints") == last
    resumed = train(path, checkpoint_seconds=checkpoint_seconds)
    assert_same(resumed.state, whole.state)
    assert without_seconds(resumed.records) == without_seconds(whole.records)
    # A resumed run compiles again; its time is added to that of the run before.
    assert resumed.seconds == (
        resumed.records[-1]["seconds_compile"],
        resumed.records[-1]["seconds_train"],
    )


def test_a_run_killed_after_its_last_checkpoint_trains_no_more(tmp_path, whole):
    first = train(tmp_path / "run")
    again = train(tmp_path / "run")
    assert_same(again.state, whole.state)
    assert (again.records, again.seconds, again.traced) == (first.records, first.seconds, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_loss_stops_the_run_by_its_step_and_the_last_good_checkpoint_is_kept(
    tmp_path, whole, value
):
    path = tmp_path / "run"
    with pytest.raises(
        TrainingDivergedError,
        match=rf"the loss is {value} at step 250; the checkpoint of step 200 is kept in .*run",
    ):
        train(path, bad_step=250, value=value)
    assert checkpoints.latest_step(path / "checkpoints") == 200
    kept = checkpoints.restore(path / "checkpoints", 200, whole.state)
    assert int(kept.step) == 200
    np.testing.assert_array_equal(kept.seen[:200], whole.state.seen[:200])
    records = list(map(json.loads, (path / "metrics.jsonl").read_text().splitlines()))
    assert without_seconds(records) == without_seconds(whole.records[:2])


def test_a_bad_loss_before_any_checkpoint_says_that_there_is_none(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"at step 7; there is no checkpoint yet"):
        train(tmp_path / "run", bad_step=7)
    assert checkpoints.latest_step(tmp_path / "run" / "checkpoints") is None


@pytest.mark.parametrize("bad_step", [199, 449])
def test_parameters_that_turn_bad_under_a_good_loss_never_reach_a_checkpoint(tmp_path, bad_step):
    path = tmp_path / "run"
    last = bad_step // 100 * 100
    with pytest.raises(
        TrainingDivergedError,
        match=rf"params\['w'\] is NaN or infinite after step {bad_step}; "
        rf"the checkpoint of step {last} is kept",
    ):
        train(path, bad_step=bad_step, bad="w")
    assert checkpoints.latest_step(path / "checkpoints") == last
