"""A small file of the form of dSprites."""

import itertools
from pathlib import Path

import numpy as np


def write_sprites(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Squares and hollow squares of two sizes anywhere in 8x8 pixels.

    Args:
        folder: gets the folder `dsprites`.

    Returns:
        Images [N, 8, 8] and classes [N, 5]: shape, scale, orientation (all zero), x and y.
    """
    images, classes = [], []
    for shape, scale, x, y in itertools.product(range(2), range(2), range(5), range(5)):
        image = np.zeros((8, 8), np.uint8)
        side = 3 + scale
        image[y : y + side, x : x + side] = 1
        if shape:
            image[y + 1 : y + side - 1, x + 1 : x + side - 1] = 0
        images.append(image)
        classes.append((shape, scale, 0, x, y))
    arrays = np.stack(images), np.array(classes, np.int64)
    path = folder / "dsprites" / "dsprites_downsampled.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, imgs=arrays[0], latents_classes=arrays[1])
    return arrays
