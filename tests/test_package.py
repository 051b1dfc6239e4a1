"""What holds for the package as a whole: documentation, import cost, versions, experiments."""

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import genjax_models
from experiments.__main__ import names as experiment_names

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["genjax_models"] + [
    m.name for m in pkgutil.walk_packages(genjax_models.__path__, "genjax_models.")
]


def reached_by_users(module: ModuleType, name: str) -> bool:
    """Whether `name` is more than a helper between modules: its package exports it or `module`."""
    package, _, leaf = module.__name__.rpartition(".")
    exported = getattr(sys.modules.get(package), "__all__", None)
    return exported is None or name in exported or leaf in exported


def lacking(module: ModuleType) -> list[str]:
    """What the docstrings of the public names that `module` defines leave out."""
    lacks = [] if module.__doc__ else ["the module: a docstring"]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if not callable(value):
            continue
        doc = inspect.getdoc(value) or ""
        if not doc or doc.startswith(f"{name}("):  # what a named tuple has without one
            lacks.append(f"{name}: a docstring")
        elif reached_by_users(module, name):
            lacks += [f"{name}: {part}" for part in sections(value) if part not in doc]
    return lacks


def sections(value: Callable) -> list[str]:
    """The sections that the docstring of a function or a named tuple must have."""
    if inspect.isclass(value):
        return ["Attributes:"] if getattr(value, "_fields", ()) else []
    signature = inspect.signature(value)
    returns = signature.return_annotation not in (None, "None")
    return ["Args:"] * bool(signature.parameters) + ["Returns:"] * returns


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name: str) -> None:
    assert lacking(importlib.import_module(name)) == []


def test_the_documentation_check_finds_what_is_missing() -> None:
    class Undocumented(NamedTuple):
        field: int

    def no_sections(x: int) -> int:
        """Says nothing of x."""
        return x

    def _private() -> None: ...

    module = ModuleType("module")
    for value in (Undocumented, no_sections, _private):
        value.__module__ = "module"
        setattr(module, value.__name__, value)
    assert lacking(module) == [
        "the module: a docstring",
        "Undocumented: a docstring",
        "no_sections: Args:",
        "no_sections: Returns:",
    ]


def test_import_loads_nothing_heavy() -> None:
    """`import genjax_models` costs little more than `import jax`."""
    code = (
        "import sys, genjax_models\n"
        "heavy = ['distrax', 'experiments', 'flax', 'optax', 'tensorflow_probability']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output.strip() == "[]"


def test_every_module_is_reachable_from_the_package() -> None:
    """`genjax_models.learning` works after `import genjax_models` alone, and is listed by dir()."""
    top = {name.split(".")[1] for name in MODULES if name.count(".") == 1}
    assert top <= set(dir(genjax_models))
    assert all(isinstance(getattr(genjax_models, name), ModuleType) for name in top)


def test_versions_agree() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"(?m)^version: (.*)$", citation) == [genjax_models.__version__]
    assert importlib.metadata.version("genjax-models") == genjax_models.__version__


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_has_settings_and_main(name: str) -> None:
    module = importlib.import_module(f"experiments.{name}")
    assert callable(module.main)
    assert dataclasses.is_dataclass(module.Settings)
    assert module.Settings.__dataclass_params__.frozen
    module.Settings()  # every setting has a default


def test_the_console_command_names_the_experiments() -> None:
    command = [sys.executable, "-m", "experiments"]
    shown = subprocess.run([*command, "--help"], cwd=ROOT, text=True, capture_output=True)
    assert shown.returncode == 0
    assert "{" + ",".join(experiment_names()) + "}" in shown.stdout
    unknown = subprocess.run([*command, "vea"], cwd=ROOT, text=True, capture_output=True)
    assert unknown.returncode == 2
    assert "vea" in unknown.stderr and "vae" in unknown.stderr
