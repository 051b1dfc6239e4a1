"""Trains on one device and on all of them, and prints as JSON how the two differ.

With --distributed, "all" are those of every process that the environment's variables name.
"""

import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh

from experiments.harness.mesh import (
    join_processes,
    make_mesh,
    place,
    replicated,
    sharded,
    to_host,
)
from genjax_models import learning
from genjax_models.models import latent
from genjax_models.training import gradient_descent

NUM_STEPS = 20
BATCH_SIZE = 16
NUM_DIMS = 24


def train(mesh: Mesh) -> tuple[Any, Any, str]:
    """The parameters before the first step and after the last, and the compiled step as HLO."""
    model = latent.vae(num_dims=NUM_DIMS, latent_dim=3, hidden=(17, 13))
    objective = learning.variational(model, bound=learning.bounds.iwae, num_samples=3)

    def init(key: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init(key))

    algorithm = gradient_descent(objective, optax.adam(1e-2), init)

    def step(state: Any, number: jax.Array, batch: jax.Array) -> Any:
        return algorithm.step(state, jax.random.fold_in(jax.random.key(1), number), batch)

    state = jax.jit(algorithm.init, out_shardings=replicated(mesh))(jax.random.key(0))
    initial = jax.tree.map(np.copy, to_host(state.params))  # the buffers are donated
    batches = np.random.default_rng(0).integers(0, 2, (NUM_STEPS, BATCH_SIZE, NUM_DIMS))
    arguments = [
        (place(np.int32(number), replicated(mesh)), place(batch.astype(float), sharded(mesh, 0)))
        for number, batch in enumerate(batches)
    ]
    compiled = jax.jit(step, donate_argnums=0).lower(state, *arguments[0]).compile()
    for number, batch in arguments:
        state, _ = compiled(state, number, batch)
    return initial, to_host(state.params), compiled.as_text()


def collectives(hlo: str) -> list[tuple[str, list[str]]]:
    """The name and the types of every operation through which devices speak to each other."""
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-[a-z]+"
    found = re.findall(rf"= (.*) ({names})(?:-start)?\(", hlo)
    return [(name, re.findall(r"\w+\[[\d,]*\]", types)) for types, name in found]


def largest_difference(left: Any, right: Any) -> float:
    differences = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), left, right)
    return float(max(jax.tree.leaves(differences)))


def main() -> None:
    if "--distributed" in sys.argv:
        join_processes()
    everywhere = make_mesh()
    alone = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.local_devices()[:1])
    initial, many, hlo = train(everywhere)
    _, one, _ = train(alone)
    report = {
        "num_devices": everywhere.size,
        "difference": largest_difference(many, one),
        "moved": largest_difference(many, initial),
        "collectives": collectives(hlo),
        "parameters": [
            f"f64[{','.join(map(str, leaf.shape))}]" for leaf in jax.tree.leaves(initial)
        ],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
