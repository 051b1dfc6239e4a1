"""Examples in float32, parameters in float64: no loop changes the dtype of its state."""

import os
import subprocess
import sys
from pathlib import Path

# A process of its own: jax keeps what it traced when float64 was off.
PROGRAM = """
import jax, jax.numpy as jnp
from tests.registry import MODELS
from tests.test_contracts import OURS, draws, case

for name in OURS:
    params = jax.eval_shape(case(name).model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float64), params)
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.float32), case(name).xs)
    run = lambda params, x: draws(name, params, jax.random.key(0), x)
    try:
        loss = jax.eval_shape(run, params, x)[1]
    except Exception as error:
        raise SystemExit(f"{name}: {error}")
    assert loss.shape == (), name
print("ok")
"""


def test_parameters_may_be_wider_than_examples() -> None:
    environment = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "ok", done.stderr[-2000:]
