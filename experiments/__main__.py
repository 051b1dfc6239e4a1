"""The command line `genjax_models NAME ...`: the same as `python -m experiments.NAME ...`."""

import argparse
import importlib
import pkgutil
import sys

import experiments


def names() -> list[str]:
    """The names of the experiments: every module of this package that is not private."""
    modules = pkgutil.iter_modules(experiments.__path__)
    return sorted(m.name for m in modules if not m.ispkg and not m.name.startswith("_"))


def main() -> None:
    """Runs the experiment that the first argument names; the rest are its settings."""
    parser = argparse.ArgumentParser(
        prog="genjax_models", epilog="`genjax_models NAME --help` lists an experiment's settings."
    )
    parser.add_argument("name", choices=names(), help="the experiment to run")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="its settings")
    arguments = parser.parse_args()
    sys.argv = [f"{parser.prog} {arguments.name}", *arguments.settings]
    importlib.import_module(f"experiments.{arguments.name}").main()


if __name__ == "__main__":
    main()
