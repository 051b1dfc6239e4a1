"""Compression from end to end: what is coded comes back, and costs what the bound says."""

import bz2
import functools
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import image
from PIL import Image

from experiments import compress, harness
from experiments.harness import archive, bits_back, downstream
from genjax_models.models import latent

LADDER = functools.partial(latent.ladder_vae, latent_dims=(2, 2), hidden=(4, 4))
MODEL = {"latent_dim": 4, "hidden": (16,), "num_epochs": 15, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A compression that trains its own model."""
    out = str(tmp_path_factory.mktemp("compress"))
    return compress.run(compress.Settings(out=out, evaluation_samples=50, **MODEL))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())["metrics"]


def settings_of(folder: Path, out: Path, file: Path | None = None) -> compress.Settings:
    return compress.Settings(
        decode=str(file or folder / "images.bits"), trained=str(folder / "model"), out=str(out)
    )


def test_the_file_holds_the_test_images(folder, tmp_path):
    compress.run(settings_of(folder, tmp_path / "decoded"))
    found = np.load(tmp_path / "decoded" / "decoded.npy")
    dataset = harness.load("digits", likelihood="bernoulli")
    assert found.shape == (180, 8, 8) and found.dtype == np.uint8
    np.testing.assert_array_equal(found.reshape(180, 64), dataset.test.x)


def test_the_rate_is_the_bound(folder):
    """Of the draws by which it was coded within a thousandth, of all draws within its error."""
    metrics = metrics_of(folder)
    rate, bound = metrics["rate"]["value"], metrics["bound"]["value"]
    codes = metrics["description length of the codes"]["value"]
    assert abs(rate / codes - 1) < 2e-3
    ratio = metrics["rate / bound"]
    assert ratio["value"] == pytest.approx(rate / bound, rel=1e-6)
    assert ratio["standard_error"] < 0.01
    assert abs(ratio["value"] - 1) < 0.002 + 4 * ratio["standard_error"]
    assert metrics["net bits"]["value"] == pytest.approx(180 * rate / np.log(2), rel=1e-6)
    for name in ("rate", "bound"):
        in_bits = metrics[f"{name} in bits"]
        assert in_bits["unit"] == "bits per pixel"
        assert in_bits["value"] == pytest.approx(metrics[name]["value"] / 64 / np.log(2))
    # The test bound of the run that trained the model, from other draws.
    trained = metrics_of(folder / "model")["test_bound"]
    error = np.hypot(trained["monte_carlo_error"], metrics["bound"]["monte_carlo_error"])
    assert abs(-trained["value"] - bound) < 5 * error


def test_sizes_are_those_of_the_files(folder):
    metrics, xs = metrics_of(folder), harness.load("digits", likelihood="bernoulli").test.x
    size = (folder / "images.bits").stat().st_size
    assert metrics["file"]["value"] == pytest.approx(8 * size / xs.size)
    # Beside the net bits: the initial ones, a word not full, the sentinel and the header.
    bits = metrics["net bits"]["value"] + metrics["initial bits"]["value"]
    assert bits / 8 < size < bits / 8 + 8 + 300
    packed = np.packbits(xs.astype(bool)).tobytes()
    assert metrics["bz2"]["value"] == 8 * len(bz2.compress(packed, 9)) / xs.size
    assert metrics["packed bits"]["value"] == 1.0
    assert metrics["PNG of each"]["value"] > metrics["PNG of all"]["value"]
    assert image.imread(folder / "rates.png")[..., :3].std() > 0.05


def test_pngs_hold_the_images(monkeypatch):
    """The formats that the rate is held against are files of the same images."""
    saved, save = [], Image.Image.save

    def keep(self, file, **options):
        save(self, file, **options)
        saved.append(np.array(Image.open(io.BytesIO(file.getvalue()))))

    monkeypatch.setattr(Image.Image, "save", keep)
    xs = np.random.default_rng(0).integers(0, 2, (5, 12)).astype(np.uint8)
    compress.other_formats(xs, (3, 4))
    np.testing.assert_array_equal(np.array(saved[:5]).reshape(5, 12), xs)
    assert saved[5].shape == (6, 12)
    np.testing.assert_array_equal(saved[5][3:, 4:8].ravel(), xs[4])


def test_what_does_not_decode_leaves_nothing(folder, tmp_path):
    content = (folder / "images.bits").read_bytes()
    file, out = tmp_path / "images.bits", tmp_path / "out"
    for damaged in (content[:-5], content[:400] + b"\0" + content[401:], b"", b"GIF89a" * 20):
        file.write_bytes(damaged)
        with pytest.raises(archive.ArchiveError, match=r"images\.bits is (cut|damaged|no file)"):
            compress.run(settings_of(folder, out, file))
        assert not out.exists()
    # A file that is whole, of a stack that is not.
    header, words = archive.read(folder / "images.bits")
    words[3] ^= 1
    archive.write(file, header, words)
    with pytest.raises(bits_back.DecodingError, match="does not end in the bits"):
        compress.run(settings_of(folder, out, file))
    archive.write(file, header | {"data_sha256": "0"}, archive.read(folder / "images.bits")[1])
    with pytest.raises(bits_back.DecodingError, match="decodes to other images"):
        compress.run(settings_of(folder, out, file))
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"params_sha256": None}, "its params_sha256 is None"),
        ({"num_examples": "5"}, "its num_examples is '5'"),
        ({"num_examples": 0}, r"its num_examples and example_shape are \[0, 8, 8\]"),
        ({"example_shape": [8, "8"]}, r"example_shape are \[180, 8, '8'\]"),
        ({"example_shape": [8, 9]}, r"no examples of shape \[8, 9\]"),
        ({"num_bins": 1000}, "num_bins must be a power of two"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 0.5}, "its seed is 0.5"),
    ],
)
def test_a_foreign_file_is_named(folder, tmp_path, changed, message):
    header, words = archive.read(folder / "images.bits")
    file = tmp_path / "images.bits"
    archive.write(file, header | changed, words)
    with pytest.raises(archive.ArchiveError, match=f"is no file of compressed images: .*{message}"):
        compress.run(settings_of(folder, tmp_path / "out", file))


def test_the_folder_to_decode_into_is_a_new_one(folder, tmp_path):
    (tmp_path / "decoded.npy").write_bytes(b"of an earlier decoding")
    for out in (tmp_path, tmp_path / "decoded.npy"):
        with pytest.raises(ValueError, match=r"--out: .* must be a new folder or an empty one"):
            compress.run(settings_of(folder, out))
    assert (tmp_path / "decoded.npy").read_bytes() == b"of an earlier decoding"


def test_another_model_is_refused(folder, tmp_path):
    trained = downstream.read_trained(folder / "model", None)
    other = trained._replace(params=jax.tree.map(lambda leaf: leaf + 1e-3, trained.params))
    with pytest.raises(bits_back.DecodingError, match="by a model of other parameters"):
        compress.decode_file(folder / "images.bits", settings_of(folder, tmp_path), other)


@pytest.mark.parametrize(
    ("error", "message", "make_model", "likelihood"),
    [
        (ValueError, "binary images here, but those of digits are grey", None, "gaussian"),
        (TypeError, "a OneHotCategorical has no codec", latent.categorical_vae, "bernoulli"),
        # Of its layers; there is one for a single vector.
        (TypeError, "a DiagonalGaussian has no codec", LADDER, "bernoulli"),
    ],
)
def test_what_has_no_codec_leaves_no_folder(
    folder, tmp_path, monkeypatch, error, message, make_model, likelihood
):
    found = downstream.read_trained(folder / "model", None)
    found = found._replace(dataset=harness.load("digits", likelihood=likelihood))
    if make_model is not None:
        model = make_model(num_dims=64)
        found = found._replace(model=model, params=model.init(jax.random.key(0)))
    monkeypatch.setattr(downstream, "read_trained", lambda *arguments, **options: found)
    out = tmp_path / "out"
    with pytest.raises(error, match=message):
        compress.run(compress.Settings(trained=str(folder / "model"), out=str(out)))
    assert not out.exists()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_images must be at least 2, got 1"):
        compress.Settings(num_images=1)
    with pytest.raises(ValueError, match="num_bins must be a power of two"):
        compress.Settings(num_bins=1000)
    with pytest.raises(ValueError, match="likelihood must be bernoulli, got gaussian"):
        compress.Settings(likelihood="gaussian")
    for settings in ({"trained": "folder"}, {"out": "folder"}):
        with pytest.raises(ValueError, match="--decode needs --trained"):
            compress.Settings(decode="file", **settings)
