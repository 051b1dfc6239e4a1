"""Deep generative models as pure functions on JAX, and the bounds and estimators that train them.

The subpackages load on first use: `import genjax_models` costs little more than `import jax`.

- `interfaces`: the shapes that everything else is made of.
- `distributions`: the few that distrax lacks or is slow at, and what an estimator must know of one.
- `networks`: neural networks as (init, apply) pairs.
- `kernels`: small transition kernels, and what runs them.
- `models`: what is assumed of the data.
- `learning`: bounds and objectives.
- `evaluation`: log-likelihoods with their error bars.
- `inference`: how the hidden is found, and normalisers estimated.
- `training`: objective + optax optimizer -> algorithm.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_SUBMODULES = (
    "distributions",
    "evaluation",
    "inference",
    "interfaces",
    "kernels",
    "learning",
    "models",
    "networks",
    "training",
)


def __getattr__(name: str) -> ModuleType:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
