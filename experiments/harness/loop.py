"""The training loop: compiled dispatches of many steps, with checkpoints and metrics between."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness import checkpoints
from experiments.harness.data import Dataset
from experiments.harness.mesh import place, replicated, sharded, to_host
from experiments.harness.report import progress_bar
from experiments.harness.run import Run
from experiments.harness.settings import Settings
from genjax_models.interfaces import Algorithm, Array, Key, Metrics

# Fixed for an experiment, so that a resumed run dispatches the programs of an uninterrupted one.
STEPS_PER_DISPATCH = 100
# A training set up to this size lies on every device; a larger one is sent batch by batch.
MAX_BYTES_ON_DEVICE = 2**30
_NUM_MONITORED = 40

Dispatch = Callable[[Any, Array, Array, Array], tuple[Any, Metrics]]


class TrainingDivergedError(RuntimeError):
    """The loss or the parameters became NaN or infinite; the message names the step."""


class Seconds(NamedTuple):
    """Where the time of a run went."""

    compile: float
    train: float


def batch_indices(
    num_examples: int, batch_size: int, seed: int, begin: int, end: int
) -> np.ndarray:
    """The examples of steps begin..end-1, shape [end - begin, batch_size], int32.

    Every epoch is a permutation drawn from (seed, epoch), less what fills no whole batch: the
    batch of any step is known without the steps before it, so that a resumed run sees the same.
    """
    steps_per_epoch = num_examples // batch_size
    first, last = begin // steps_per_epoch, (end - 1) // steps_per_epoch
    permutations = [
        np.random.default_rng((seed, epoch)).permutation(num_examples)
        for epoch in range(first, last + 1)
    ]
    used = steps_per_epoch * batch_size
    batches = np.stack(permutations)[:, :used].reshape(-1, batch_size).astype(np.int32)
    return batches[begin - first * steps_per_epoch : end - first * steps_per_epoch]


def train(
    run: Run,
    algorithm: Algorithm,
    dataset: Dataset,
    settings: Settings,
    *,
    num_steps: int,
    mesh: Mesh,
    monitor: Callable[[Any], dict[str, Any]],
    steps_per_dispatch: int = STEPS_PER_DISPATCH,
) -> tuple[Any, Seconds]:
    """Train to the last step, from the run's last checkpoint if it has one.

    Args:
        run: the run's folder.
        algorithm: what is trained; its metrics have an entry "loss".
        dataset: its training split is used.
        settings: batch size, seed and time between checkpoints.
        num_steps: steps in all.
        mesh: the devices; the batch is sharded over them.
        monitor: `monitor(state) -> metrics`, called now and then for the learning curves.
        steps_per_dispatch: steps of one compiled program; records and checkpoints come between.

    Returns:
        The final state, and the seconds spent, those before a resumption included.

    Raises:
        TrainingDivergedError: a loss or a parameter is NaN or infinite.
        CheckpointError: the last checkpoint is damaged.
    """
    init_key, training_key = jax.random.split(jax.random.key(settings.seed))
    state = jax.jit(algorithm.init, out_shardings=replicated(mesh))(init_key)
    start = checkpoints.latest_step(run.checkpoints) or 0
    if start:
        state = checkpoints.restore(run.checkpoints, start, state)
    run.rewind(start)
    spent = _seconds_before(run)
    data, make_batches, take = _feed(dataset, settings, mesh)
    dispatches = _Dispatches(_dispatch(algorithm, dataset, take, training_key), mesh)
    monitored = np.unique(np.linspace(0, num_steps, _NUM_MONITORED + 1)[1:] // steps_per_dispatch)
    saved_at = time.perf_counter()

    with progress_bar(num_steps, start) as show_progress:
        for begin, end in _grid(start, num_steps, steps_per_dispatch):
            steps = place(np.arange(begin, end, dtype=np.int32), replicated(mesh))
            arguments = (state, data, make_batches(begin, end), steps)
            compiled, compile_seconds = dispatches.compiled(arguments)
            started = time.perf_counter()
            state, metrics = compiled(*arguments)
            metrics = to_host(metrics)
            train_seconds = time.perf_counter() - started
            _check_losses(metrics["loss"], begin, run)
            spent = Seconds(spent.compile + compile_seconds, spent.train + train_seconds)
            record: dict[str, Any] = {
                name: float(np.mean(values)) for name, values in metrics.items()
            }
            last = end == num_steps
            if last or end // steps_per_dispatch in monitored:
                _check_state(state, end, run)
                record |= monitor(state)
            record |= {f"seconds_{name}": value for name, value in spent._asdict().items()}
            run.log(end, record)
            show_progress(end, record)
            if last or time.perf_counter() - saved_at >= settings.checkpoint_seconds:
                _check_state(state, end, run)
                checkpoints.save(run.checkpoints, end, state)
                saved_at = time.perf_counter()
    return state, spent


def _grid(start: int, num_steps: int, steps_per_dispatch: int) -> Iterator[tuple[int, int]]:
    for begin in range(start, num_steps, steps_per_dispatch):
        yield begin, min(begin + steps_per_dispatch, num_steps)


def _seconds_before(run: Run) -> Seconds:
    records = run.records()
    last = records[-1] if records else {}
    return Seconds(*(last.get(f"seconds_{name}", 0.0) for name in Seconds._fields))


def _feed(
    dataset: Dataset, settings: Settings, mesh: Mesh
) -> tuple[jax.Array, Callable[[int, int], jax.Array], Callable[[Array, Array], Array]]:
    """The training set on the devices, batches of begin..end-1, and how a step takes its batch."""
    examples = dataset.train.x
    batch_size = settings.batch_size or len(examples)
    fits = examples.nbytes <= MAX_BYTES_ON_DEVICE

    def make_batches(begin: int, end: int) -> jax.Array:
        indices = batch_indices(len(examples), batch_size, settings.seed, begin, end)
        return place(indices if fits else examples[indices], sharded(mesh, axis=1))

    data = place(examples if fits else examples[:0], replicated(mesh))
    return data, make_batches, (lambda data, batch: data[batch]) if fits else lambda _, batch: batch


def _dispatch(
    algorithm: Algorithm, dataset: Dataset, take: Callable[[Array, Array], Array], key: Key
) -> Dispatch:
    """Many steps as one scan: (state, data, batches, steps) -> (state, metrics of every step)."""

    def one_step(data: Array, state: Any, batch_and_step: tuple[Array, Array]) -> tuple[Any, Any]:
        batch, step = batch_and_step
        prepare_key, step_key = jax.random.split(jax.random.fold_in(key, step))
        raw = take(data, batch)
        x = jax.vmap(dataset.prepare)(jax.random.split(prepare_key, raw.shape[0]), raw)
        return algorithm.step(state, step_key, x)

    def dispatch(state: Any, data: Array, batches: Array, steps: Array) -> tuple[Any, Metrics]:
        return jax.lax.scan(lambda s, xs: one_step(data, s, xs), state, (batches, steps))

    return dispatch


class _Dispatches:
    """The compiled dispatches by their number of steps: at most a full one and a last one."""

    def __init__(self, dispatch: Dispatch, mesh: Mesh) -> None:
        # Chains or whatever else a state holds may come out of a step sharded as its batch is.
        whole = replicated(mesh)
        self._jitted = jax.jit(dispatch, donate_argnums=0, out_shardings=whole)
        self._compiled: dict[int, Any] = {}

    def compiled(self, arguments: tuple[Any, Array, Array, Array]) -> tuple[Dispatch, float]:
        """The program for these arguments, and the seconds that compiling it took just now."""
        num_steps = arguments[-1].shape[0]
        started = time.perf_counter()
        if num_steps not in self._compiled:
            self._compiled[num_steps] = self._jitted.lower(*arguments).compile()
        return self._compiled[num_steps], time.perf_counter() - started


def _check_losses(losses: np.ndarray, begin: int, run: Run) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise _diverged(f"the loss is {losses[bad[0]]} at step {begin + bad[0]}", run)


def _check_state(state: Any, end: int, run: Run) -> None:
    # The loss of a step is computed before its update: a bad update must not reach a checkpoint.
    for path, leaf in jax.tree.leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.all(jnp.isfinite(leaf))):
            name = jax.tree_util.keystr(path)
            raise _diverged(f"{name} is NaN or infinite after step {end - 1}", run)


def _diverged(what: str, run: Run) -> TrainingDivergedError:
    step = checkpoints.latest_step(run.checkpoints)
    kept = f"the checkpoint of step {step} is kept" if step else "there is no checkpoint yet"
    return TrainingDivergedError(f"{what}; {kept} in {run.checkpoints}")
