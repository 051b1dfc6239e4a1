"""Sprites whose factors are known, from a small file of the same form and from the real one."""

import numpy as np
import pytest

from experiments import harness
from experiments.harness import dsprites
from tests.sprites import write_sprites


def test_every_image_stays_with_its_factors(tmp_path):
    images, classes = write_sprites(tmp_path)
    source, factors = dsprites.read(tmp_path)
    assert factors.names == ("shape", "scale", "x", "y")  # The orientation does not vary.
    of_image = {
        image.tobytes(): tuple(c[[0, 1, 3, 4]]) for image, c in zip(images, classes, strict=True)
    }
    assert len(of_image) == len(images)
    found = set()
    for split in ("train", "validation", "test"):
        part = getattr(source, split)
        assert part.x.dtype == np.uint8 and part.x.shape[1:] == (64,)
        for x, label, row in zip(part.x, part.labels, getattr(factors, split), strict=True):
            assert of_image[x.tobytes()] == tuple(row)
            assert label == row[0]
            found.add(tuple(row))
    assert len(found) == len(images)


def test_it_is_a_data_set_like_any_other(tmp_path):
    write_sprites(tmp_path)
    dataset = harness.load("dsprites", likelihood="bernoulli", data_dir=tmp_path)
    source, _ = dsprites.read(tmp_path)
    assert (dataset.protocol, dataset.example_shape, dataset.num_levels) == ("static", (8, 8), 2)
    np.testing.assert_array_equal(dataset.test.x, source.test.x)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dSprites in .* has the folder dsprites"):
        dsprites.read(tmp_path)
    path = tmp_path / "dsprites" / "dsprites_downsampled.npz"
    path.parent.mkdir()
    path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"cannot read .*dsprites_downsampled.npz"):
        dsprites.read(tmp_path)
    images, classes = write_sprites(tmp_path)
    np.savez(path, imgs=images, latents_classes=classes[:-1])
    with pytest.raises(ValueError, match="must hold imgs"):
        dsprites.read(tmp_path)
    np.savez(path, imgs=255 * images, latents_classes=classes)
    with pytest.raises(ValueError, match="must be zeros and ones, got up to 255"):
        dsprites.read(tmp_path)


def test_the_real_file(shared_data):
    if not (shared_data / "raw" / "dsprites").is_dir():
        pytest.skip(f"no dsprites in {shared_data}")
    source, factors = dsprites.read(shared_data / "raw")
    assert factors.names == ("shape", "scale", "orientation", "x", "y")
    assert source.example_shape == (64, 64)
    everything = np.concatenate([factors.train, factors.validation, factors.test])
    assert len(np.unique(everything, axis=0)) == 3 * 6 * 10 * 16 * 16
    # A larger x stands further right, a larger y further down.
    images = source.test.x.reshape(-1, 64, 64).astype(np.float64)
    mass = images.sum(axis=(1, 2))
    columns = (images.sum(axis=1) @ np.arange(64)) / mass
    rows = (images.sum(axis=2) @ np.arange(64)) / mass
    x, y = factors.test[:, 3], factors.test[:, 4]
    assert np.corrcoef(columns, x)[0, 1] > 0.99 < np.corrcoef(rows, y)[0, 1]
    assert np.corrcoef(mass, factors.test[:, 1])[0, 1] > 0.8
