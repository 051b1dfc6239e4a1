"""Data sets: a fixed split, and a protocol with a name that says what the examples are.

| protocol  | training examples                            | validation and test examples   |
|-----------|----------------------------------------------|--------------------------------|
| dynamic   | 1 with probability level / (num_levels - 1), | drawn so once, with a key that |
|           | drawn anew each time one is shown            | is the same for everyone       |
| static    | drawn so once, or binary as they were found  | likewise                       |
| threshold | 1 where level / (num_levels - 1) > 1/2       | likewise                       |
| grey      | level / (num_levels - 1)                     | likewise                       |
| real      | as they were found                           | likewise                       |
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import arrays, dsprites, nltcs, points, tfds
from experiments.harness.arrays import SPLITS, Source, Split

_NUM_LEVELS: dict[str, int | None] = {
    "digits": 17,
    "mnist": 256,
    "fashion_mnist": 256,
    "binarized_mnist": 2,
    "dsprites": 2,
    "nltcs": 2,
    "half_moons": None,
    "ring": None,
}
# What the values are -> the likelihoods that fit them -> their protocols, the default one first.
_PROTOCOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "binary": {"bernoulli": ("static",)},
    "grey": {
        "bernoulli": ("dynamic", "static", "threshold"),
        "discretized_logistic": ("grey",),
        "discretized_logistic_mixture": ("grey",),
        "categorical": ("grey",),
        "discretized_gaussian": ("grey",),
        "dequantized": ("grey",),
        "gaussian": ("grey",),
    },
    "real": {"gaussian": ("real",)},
}
_LIKELIHOODS = ("none", *_PROTOCOLS["grey"])
# What has no likelihood takes the values as they are.
_AS_FOUND = {"binary": "static", "grey": "grey", "real": "real"}
# Any number does, but it may never change: it decides what the test sets are.
_BINARISATION_SEED = 1600


class Dataset(NamedTuple):
    """Examples under one protocol (the table above).

    `train.x` is stored raw and goes through `prepare`; `validation.x` and `test.x` are ready to
    use: uint8 where they are binary, float32 elsewhere.

    Attributes:
      name: "digits", "mnist", ..., or the name of the user's file.
      protocol: "dynamic", "static", "threshold", "grey" or "real".
      example_shape: the shape of one example before it was made flat.
      num_levels: of the stored training examples; 2 where they are binary, None where real-valued.
      train: to learn from.
      validation: to choose settings by.
      test: to measure on.
      split: in words, how the three were made.
    """

    name: str
    protocol: str
    example_shape: tuple[int, ...]
    num_levels: int | None
    train: Split
    validation: Split
    test: Split
    split: str

    def prepare(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Returns one row of `train.x` as a float32 example [num_dims]; pure, so jit and vmap it.

        Args:
          key: what a dynamic binarisation is drawn from; the other protocols ignore it.
          x: the row as it is stored, [num_dims].
        """
        x = jnp.asarray(x, jnp.float32)
        if self.num_levels is None or self.protocol not in ("dynamic", "grey"):
            return x
        x = x / (self.num_levels - 1)
        return x if self.protocol == "grey" else jax.random.bernoulli(key, x).astype(jnp.float32)

    def describe(self) -> dict[str, Any]:
        """Returns what a result must say of its data, ready for JSON."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "split": self.split,
            "num_examples": {split: len(getattr(self, split).x) for split in SPLITS},
        }


def load(
    name: str,
    *,
    likelihood: str,
    protocol: str | None = None,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Loads a data set, checks that the likelihood fits its values, and applies the protocol.

    A file ending in .npy or .npz holds the user's own examples [N, ...]: a single array, which is
    split 80/10/10 at random; or `x` and `labels` [N], split stratified; or `train`, `validation`
    and `test`, each with its `..._labels` or without. Its values are read as

    - binary, if all of them are 0 or 1;
    - grey levels, if they are integers (0..255 if uint8, otherwise 0..max), or floats that are all
      k/255 with k in 0..255;
    - real, if they are other floats.

    Args:
      name: "digits", "mnist", "fashion_mnist", "binarized_mnist", "dsprites", "nltcs",
        "half_moons", "ring" or the path of a file.
      likelihood: "bernoulli" of binary values; "discretized_logistic",
        "discretized_logistic_mixture", "categorical", "discretized_gaussian" or "dequantized" of
        grey levels; "gaussian" of real values (or grey ones, as a density); or
        "none", for a model that has no likelihood.
      protocol: None chooses the only one that fits; or "dynamic" for a Bernoulli on one of the grey
        data sets above. On a user's grey levels a Bernoulli needs its protocol by name.
      data_dir: where TFDS keeps its data sets; see `tfds.read_split`.
      cache_dir: where decoded images are kept; see `tfds.read_split`.

    Raises:
      CacheError: the decoded images on disk are corrupt (the message names the file).
      FileNotFoundError: there is no such file, or no such prepared data set (the message says how
        to prepare it).
      ValueError: the data set is unknown, the likelihood or the protocol does not fit its values,
        or a file's arrays are empty, of wrong shape or range, or not finite.
    """
    if likelihood not in _LIKELIHOODS:
        raise _unknown("likelihood", likelihood, _LIKELIHOODS)
    if name.endswith((".npy", ".npz")):
        path = Path(name).expanduser()
        source = arrays.read_file(path)
        protocol = _choose_protocol(path.name, source.num_levels, likelihood, protocol)
        return _apply(path.name, protocol, source)
    if name not in _NUM_LEVELS:
        raise _unknown("data set", name, (*_NUM_LEVELS, "a path ending in .npy or .npz"))
    protocol = _choose_protocol(name, _NUM_LEVELS[name], likelihood, protocol)
    embedded = {
        "digits": _read_digits,
        "dsprites": lambda: dsprites.read(data_dir)[0],
        "nltcs": lambda: nltcs.read(data_dir),
        "half_moons": points.read_half_moons,
        "ring": points.read_ring,
    }
    source = embedded[name]() if name in embedded else _read_images(name, data_dir, cache_dir)
    return _apply(name, protocol, source)


def _unknown(what: str, got: str, known: Iterable[str]) -> ValueError:
    near = difflib.get_close_matches(got, known, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ValueError(f"unknown {what} {got!r}: {hint}There are {', '.join(known)}")


def _choose_protocol(
    name: str, num_levels: int | None, likelihood: str, protocol: str | None
) -> str:
    kind = "real" if num_levels is None else "binary" if num_levels == 2 else "grey"
    fitting = _PROTOCOLS[kind] | {"none": (_AS_FOUND[kind],)}
    if likelihood not in fitting:
        hint = "; if they are grey levels, save them as uint8" if kind == "real" else ""
        raise ValueError(
            f"likelihood={likelihood!r} does not fit the {kind} values of {name}: "
            f"use {' or '.join(_PROTOCOLS[kind])}{hint}"
        )
    allowed = fitting[likelihood]
    if name == "mnist":  # a fixed sample of our own would pass for the one that papers use
        allowed = tuple(other for other in allowed if other != "static")
    if protocol is None and len(allowed) > 1 and name not in _NUM_LEVELS:
        raise ValueError(
            f"a Bernoulli is not a likelihood of the grey levels of {name}: name a protocol that "
            f"makes them binary ({', '.join(allowed)}), or use discretized_logistic or gaussian"
        )
    if protocol is not None and protocol not in allowed:
        instead = {("binarized_mnist", "dynamic"): "mnist", ("mnist", "static"): "binarized_mnist"}
        other = instead.get((name, protocol))
        raise ValueError(
            f"protocol={protocol!r} does not fit likelihood={likelihood!r} and the {kind} values "
            f"of {name}: use {' or '.join(allowed)}" + (f", or --data {other}" if other else "")
        )
    return protocol or allowed[0]


def _apply(name: str, protocol: str, source: Source) -> Dataset:
    num_levels = source.num_levels
    by_prepare = protocol in ("dynamic", "grey")

    def fix(index: int, split: Split) -> Split:
        return split._replace(x=_fix(split.x, index, protocol, num_levels))

    return Dataset(
        name,
        protocol,
        source.example_shape,
        num_levels if by_prepare or num_levels is None else 2,
        source.train if by_prepare else fix(0, source.train),
        fix(1, source.validation),
        fix(2, source.test),
        source.split,
    )


def _fix(x: np.ndarray, index: int, protocol: str, num_levels: int | None) -> np.ndarray:
    """Returns the examples of split number `index` as the protocol fixes them once and for all."""
    if num_levels is None or num_levels == 2:
        return x
    probability = x.astype(np.float32) / np.float32(num_levels - 1)
    if protocol == "grey":
        return probability
    if protocol == "threshold":
        return (probability > 0.5).astype(np.uint8)
    # What a user may have configured does not reach the draw.
    with jax.threefry_partitionable(True):
        key = jax.random.key(_BINARISATION_SEED, impl="threefry2x32")
        draw = jax.random.bernoulli(jax.random.fold_in(key, index), probability)
    return np.asarray(draw).astype(np.uint8)


def _read_digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    splits = arrays.split_examples(digits.data.astype(np.uint8), digits.target.astype(np.int32))
    return Source(*splits, example_shape=(8, 8), num_levels=17)


def _read_images(name: str, data_dir: str | Path | None, cache_dir: str | Path | None) -> Source:
    def read(split: str) -> Split:
        return Split(*tfds.read_split(name, split, data_dir=data_dir, cache_dir=cache_dir))

    if name == "binarized_mnist":
        train, validation, test = map(read, SPLITS)
        words = "Larochelle's 50000/10000/10000"
    else:
        # As many as Burda et al. (2016) hold out; TFDS has the images in an order of its own.
        (x, labels), test = read("train"), read("test")
        train, validation = (
            Split(x[part], None if labels is None else labels[part])
            for part in (slice(-400), slice(-400, None))
        )
        words = "TFDS's, the last 400 of its train for validation"
    return Source(train, validation, test, words, (28, 28), _NUM_LEVELS[name])
