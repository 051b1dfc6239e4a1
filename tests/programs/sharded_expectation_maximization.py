"""Fits by EM on one device and on all of them, and prints as JSON how the two differ."""

import json
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from experiments.harness.mesh import make_mesh, place, replicated, sharded, to_host
from genjax_models.models.classical import factor_analysis, mixture_of_bernoullis
from genjax_models.training import expectation_maximization
from tests.programs.data_parallel import collectives, largest_difference

NUM_STEPS = 5


def fit(module: Any, model: Any, xs: np.ndarray, mesh: Mesh) -> tuple[Any, Any, list[str]]:
    """The parameters before the first step and after the last, and what devices exchange."""
    algorithm = expectation_maximization(module.expected_statistics, module.maximize, model.init)
    state = jax.jit(algorithm.init, out_shardings=replicated(mesh))(jax.random.key(0))
    initial = to_host(state.params)
    key = place(np.asarray(jax.random.key_data(jax.random.key(1))), replicated(mesh))
    arguments = (jax.random.wrap_key_data(key), place(xs, sharded(mesh, 0)))
    compiled = jax.jit(algorithm.step).lower(state, *arguments).compile()
    for _ in range(NUM_STEPS):
        state, _ = compiled(state, *arguments)
    return initial, to_host(state.params), [name for name, _ in collectives(compiled.as_text())]


def main() -> None:
    everywhere = make_mesh()
    alone = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
    rng = np.random.default_rng(0)
    real = rng.normal(size=(40, 7)) @ rng.normal(size=(7, 7))
    cases = [
        (factor_analysis, factor_analysis.factor_analysis(num_dims=7, latent_dim=2), real),
        (
            mixture_of_bernoullis,
            mixture_of_bernoullis.mixture_of_bernoullis(num_dims=7, num_components=3),
            (real > 0).astype(float),
        ),
    ]
    differences, moves, names = [], [], []
    for module, model, xs in cases:
        initial, many, exchanged = fit(module, model, xs, everywhere)
        _, one, _ = fit(module, model, xs, alone)
        differences.append(largest_difference(many, one))
        moves.append(largest_difference(many, initial))
        names += exchanged
    report = {
        "num_devices": everywhere.size,
        "difference": max(differences),
        "moved": min(moves),
        "collectives": names,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
