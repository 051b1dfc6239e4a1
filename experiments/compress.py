"""Lossless compression of binary images by a latent-variable model (Townsend et al. 2019).

`python -m experiments.compress` trains a VAE on handwritten digits in about a minute, codes the
test images by bits-back coding, decodes them, and compares the rate with the model's bound, PNG and
bz2; `--trained FOLDER` takes the model of any run with Gaussian or binary latents instead, and
`--decode FILE --trained FOLDER --out NEW` gives back the images of a file; `--help` lists the rest.
"""

import bz2
import dataclasses
import hashlib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import harness, vae
from experiments.harness import archive, bits_back, downstream, pictures
from experiments.harness.checkpoints import write_atomically
from experiments.harness.mesh import make_mesh
from genjax_models.evaluation import BoundEstimate, bound_estimate
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning import bounds

_FILE = "images.bits"
_BITS = "bits per pixel"
_HEADER = {
    "num_examples": int,
    "example_shape": list,
    "num_bins": int,
    "seed": int,
    "params_sha256": str,
    "data_sha256": str,
}
"""What `describe` gives."""
# 64 bits of a SHA-256 are enough against chance, and few beside a small file's payload.
_DIGITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(vae.Settings):
    """Compress the test images, decode them, and measure the rate."""

    trained: str | None = None
    """Folder of a run whose model is taken; by default a VAE is trained now."""
    decode: str | None = None
    """A file that an earlier run wrote: decode it, into decoded.npy in the new folder --out."""
    num_bins: int = 4096
    """Bins of each dimension of a Gaussian z, a power of two."""
    num_images: int | None = None
    """Test images, at most; None: all."""
    evaluation_samples: int = 500
    """Draws of z for the bound of each image, and for the test log-likelihood of a new model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_images is not None and self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, got {self.num_images}")
        bits_back.check_num_bins(self.num_bins)
        if self.likelihood != "bernoulli":
            raise ValueError(f"likelihood must be bernoulli, got {self.likelihood}")
        if self.decode is not None and (self.trained is None or self.out is None):
            raise ValueError(
                "--decode needs --trained, the model that encoded, and --out, a new folder"
            )


build_model = vae.build_model


def build_codec(settings: Settings, trained: downstream.Trained) -> bits_back.BitsBack:
    """The model as a code.

    Raises:
        ValueError: the data are not binary.
        TypeError: the model has a distribution that has no codec.
    """
    if trained.dataset.test.x.dtype != np.uint8:
        raise ValueError(
            f"bits-back coding is of binary images here, but those of {trained.dataset.name} are"
            f" {trained.dataset.protocol}"
        )
    num_dims = trained.dataset.test.x.shape[1]
    return bits_back.from_model(trained.model, trained.params, num_dims, num_bins=settings.num_bins)


def check(settings: Settings, trained: downstream.Trained) -> None:
    """Code one image: what has no codec, of any layer, is known before anything is written."""
    bits_back.encode(build_codec(settings, trained), trained.dataset.test.x[:1])


def evaluate(
    settings: Settings, trained: downstream.Trained, folder: Path
) -> dict[str, dict[str, Any]]:
    """Code, decode and compare; writes the file and the picture."""
    model = build_codec(settings, trained)
    xs = trained.dataset.test.x[: settings.num_images]
    coded = bits_back.encode(model, xs, seed=settings.seed)
    path = folder / _FILE
    num_bytes = archive.write(path, describe(settings, trained, xs), coded.words)
    if not np.array_equal(decode_file(path, settings, trained).reshape(xs.shape), xs):
        raise RuntimeError(f"{path} does not decode to the images that it was made of")
    metrics = measure(settings, trained, xs, coded)
    others = {"file": num_bytes} | other_formats(xs, trained.dataset.example_shape)
    for name, size in others.items():
        metrics[name] = harness.measurement(
            value=8 * size / xs.size,
            standard_error=None,
            monte_carlo_error=None,
            estimator=f"{size} bytes",
            num_samples=None,
            unit=_BITS,
        )
    save_rates(folder / "rates.png", coded, xs.shape[1], metrics)
    return metrics


def describe(settings: Settings, trained: downstream.Trained, xs: np.ndarray) -> dict[str, Any]:
    """The header of a file: what it holds, and what decodes it."""
    return {
        "num_examples": len(xs),
        "example_shape": list(trained.dataset.example_shape),
        "num_bins": settings.num_bins,
        "seed": settings.seed,
        "params_sha256": digest_of(trained.params),
        "data_sha256": hashlib.sha256(xs.astype(np.uint8).tobytes()).hexdigest()[:_DIGITS],
    }


def digest_of(params: Params) -> str:
    """The first digits of the SHA-256 of parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:_DIGITS]


def decode_file(path: Path, settings: Settings, trained: downstream.Trained) -> np.ndarray:
    """The images of a file, uint8 [N, *example_shape], exactly those that were encoded.

    Raises:
        ArchiveError: the file is damaged, or no such file.
        DecodingError: it was encoded by another model, or on a machine that computes otherwise.
    """
    header, words = archive.read(path)
    own = settings_of(path, header, settings)
    if header["params_sha256"] != digest_of(trained.params):
        raise bits_back.DecodingError(f"{path} was encoded by a model of other parameters")
    shape = header["example_shape"]
    if math.prod(shape) != trained.dataset.test.x.shape[1]:
        raise archive.foreign(path, f"its model has no examples of shape {shape}")
    model = build_codec(own, trained)
    xs = bits_back.decode(model, words, header["num_examples"], seed=own.seed)
    if hashlib.sha256(xs.tobytes()).hexdigest()[:_DIGITS] != header["data_sha256"]:
        raise bits_back.DecodingError(f"{path} decodes to other images than it was made of")
    return xs.reshape(-1, *shape)


def settings_of(path: Path, header: Mapping[str, Any], settings: Settings) -> Settings:
    """The settings that a file was encoded with.

    Raises:
        ArchiveError: the header is not one that `describe` gives.
    """
    for name, kind in _HEADER.items():
        # A bool is an int too.
        if type(header.get(name)) is not kind:
            raise archive.foreign(path, f"its {name} is {header.get(name)!r}")
    sizes = [header["num_examples"], *header["example_shape"]]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise archive.foreign(path, f"its num_examples and example_shape are {sizes}")
    try:
        return dataclasses.replace(settings, num_bins=header["num_bins"], seed=header["seed"])
    except ValueError as error:
        raise archive.foreign(path, error) from None


def measure(
    settings: Settings, trained: downstream.Trained, xs: np.ndarray, coded: bits_back.Coded
) -> dict[str, dict[str, Any]]:
    """Rates and bounds, in nats per image and bits per pixel."""
    model, params = trained.model, trained.params

    def bound_of_one(params: Params, key: Key, x: Array) -> BoundEstimate:
        return bound_estimate(
            model,
            params,
            key,
            x,
            bound=bounds.elbo,
            num_replicates=max(settings.evaluation_samples, 2),
        )

    key = jax.random.fold_in(jax.random.key(settings.seed), 4)
    estimates = harness.map_examples(bound_of_one, make_mesh(), batch_size=20)(params, key, xs)
    # The last image was coded first.
    costs = np.diff(coded.sizes)[::-1] * math.log(2)
    entries = {
        "rate": harness.metric(costs, estimator="bits-back", num_samples=None, bound="exact"),
        "bound": harness.metric(
            -estimates.value,
            estimates.monte_carlo_error,
            estimator="-elbo",
            num_samples=settings.evaluation_samples,
            bound="upper",
        ),
        "description length of the codes": harness.metric(
            description_lengths(trained, xs, coded), estimator="-elbo", num_samples=1, bound=None
        ),
    }
    scale = 1 / (xs.shape[1] * math.log(2))
    parts = ("value", "standard_error", "monte_carlo_error")
    in_bits = {
        f"{name} in bits": entry | {"unit": _BITS} | {part: entry[part] * scale for part in parts}
        for name, entry in entries.items()
    }
    bound = entries["bound"]["value"]
    # The z of an image and its bits are one draw; the bound is their mean.
    ratio_error = np.std(costs + estimates.value, ddof=1) / len(xs) ** 0.5 / bound
    initial, final = coded.sizes[0], coded.sizes[-1]
    more = {
        "rate / bound": (entries["rate"]["value"] / bound, "ratio", float(ratio_error)),
        "initial bits": (float(initial), "bits", None),
        "net bits": (float(final - initial), "bits", None),
    }
    named = {
        name: harness.measurement(
            value=value,
            standard_error=error,
            monte_carlo_error=None,
            estimator=f"{len(xs)} test images",
            num_samples=None,
            unit=unit,
        )
        for name, (value, unit, error) in more.items()
    }
    return entries | in_bits | named


def description_lengths(
    trained: downstream.Trained, xs: np.ndarray, coded: bits_back.Coded
) -> np.ndarray:
    """-log p(x | z) - log p(z) + log q(z | x) of each image at the very z that it was coded by."""
    model, params = trained.model, trained.params

    @jax.jit
    def of_one(params: Params, x: Array, z: Any) -> Array:
        log_p = model.likelihood(params, z).log_prob(x) + model.prior(params).log_prob(z)
        return model.posterior(params, x).log_prob(z) - log_p

    return np.array([of_one(params, np.float32(x), z) for x, z in zip(xs, coded.zs, strict=True)])


def other_formats(xs: np.ndarray, example_shape: tuple[int, ...]) -> dict[str, int]:
    """Bytes that the same images take as PNGs, as one PNG, and packed into bits by bz2."""
    from PIL import Image

    height = example_shape[0] if len(example_shape) > 1 else 1
    images = xs.reshape(len(xs), height, -1).astype(bool)
    num_columns = math.ceil(math.sqrt(len(images)))
    blank = np.zeros((-len(images) % num_columns, *images.shape[1:]), bool)
    rows = np.concatenate([images, blank]).reshape(-1, num_columns, *images.shape[1:])
    sheet = rows.swapaxes(1, 2).reshape(rows.shape[0] * height, -1)

    def png(image: np.ndarray) -> int:
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG", optimize=True)
        return file.tell()

    packed = np.packbits(xs.astype(bool)).tobytes()
    return {
        "PNG of each": sum(map(png, images)),
        "PNG of all": png(sheet),
        "bz2": len(bz2.compress(packed, 9)),
        "packed bits": len(packed),
    }


def save_rates(
    path: Path, coded: bits_back.Coded, num_dims: int, metrics: dict[str, dict[str, Any]]
) -> None:
    """The rate against the number of images coded, beside the bound and other formats."""
    plt = pictures.pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    counts = np.arange(1, len(coded.sizes))
    pixels = counts * num_dims
    axes.plot(counts, coded.sizes[1:] / pixels, label="bits-back, with initial bits")
    axes.plot(counts, (coded.sizes[1:] - coded.sizes[0]) / pixels, label="bits-back, net of them")
    lines = {"bound": "bound in bits"} | {name: name for name in ("PNG of all", "bz2")}
    for index, (label, name) in enumerate(lines.items()):
        style = ("-", "--", ":")[index]
        axes.axhline(
            metrics[name]["value"], color="black", linestyle=style, linewidth=1, label=label
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.5)
    axes.set_xlabel("images coded")
    axes.set_ylabel(_BITS)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(result: dict[str, Any], folder: Path) -> None:
    """Print the table of a result."""
    metrics = result["metrics"]
    rows = {}
    for name in ("rate", "bound", "description length of the codes"):
        bits = metrics[f"{name} in bits"]
        nats = metrics[name]
        rows[name] = [
            f"{bits['value']:.4f} ± {bits['standard_error']:.4f}",
            f"{nats['value']:.2f} ± {nats['standard_error']:.2f}",
        ]
    for name in ("file", "PNG of all", "PNG of each", "bz2", "packed bits"):
        rows[name] = [f"{metrics[name]['value']:.4f}", metrics[name]["estimator"]]
    ratio = metrics["rate / bound"]
    downstream.print_table(
        f"Test images of {result['data']['name']} ({result['data']['protocol']}) by"
        f" {result['model']}, {ratio['estimator']}",
        [_BITS, "nats per image, or size"],
        rows,
        [
            f"rate / bound: {ratio['value']:.4f} ± {ratio['standard_error']:.4f}; every image"
            " decoded to the bit",
            f"initial bits: {metrics['initial bits']['value']:.0f}, in the file, not in the rate",
            f"run folder: {folder}",
        ],
    )


def decode_into(file: str, folder: str, trained_folder: str, settings: Settings) -> Path:
    """Decode a file into decoded.npy in a new folder, whole or not at all; gives back the folder.

    Raises:
        ValueError: the folder is not empty, or see `read_trained` and `decode_file`.
    """
    path = Path(folder) / "decoded.npy"
    if path.parent.exists() and (not path.parent.is_dir() or any(path.parent.iterdir())):
        raise ValueError(f"--out: {folder} must be a new folder or an empty one")
    trained = downstream.read_trained(trained_folder, settings.data_dir)
    xs = decode_file(Path(file), settings, trained)
    buffer = io.BytesIO()
    np.save(buffer, xs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    print(f"{len(xs)} images in {path}")
    return path.parent


def run(settings: Settings) -> Path:
    """Take or train the model, code, decode, measure and draw; returns the run's folder."""
    if settings.decode and settings.out and settings.trained:
        return decode_into(settings.decode, settings.out, settings.trained, settings)
    return downstream.run_downstream(
        "compress", settings, vae.run, vae.Settings, evaluate, report, check=check
    )


main = harness.command_line(run, Settings, "compress")

if __name__ == "__main__":
    main()
