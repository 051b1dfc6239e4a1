"""What the documentation shows as code runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests import registry, test_contracts

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding_a_model.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def namespace() -> dict[str, Any]:
    """The names that the page's module and its test define."""
    module, test, _ = blocks()
    names: dict[str, Any] = {}
    exec(compile(module, "module", "exec"), names)
    exec(compile(test, "test", "exec"), names)
    return names


def test_the_tests_of_the_seventh_model_pass(namespace: dict[str, Any]) -> None:
    tests = [found for name, found in namespace.items() if name.startswith("test_")]
    assert len(tests) == 2
    for found in tests:
        found()


CONTRACTS = [
    found
    for name, found in vars(test_contracts).items()
    if name.startswith("test_") and name != "test_our_distributions_cross_jit_and_vmap"
]


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_the_seventh_model_is_a_line_of_the_registry(
    namespace: dict[str, Any], contract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, make),) = eval("{" + blocks()[2] + "}", vars(registry) | namespace).items()
    monkeypatch.setitem(registry.MODELS, name, make)
    contract(name)
