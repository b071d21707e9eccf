"""Pictures in colour: CIFAR-10's first four thousand, and tiles of photographs.

A row is a picture flattened in the order (height, width, channel), the channels red, green, blue: `shape` is
`(height, width, 3)`. That is torch's `channels_last`, so `images.unflatten(-1, shape).movedim(-1, -3)` is the view
`(N, 3, height, width)` that convolutions take, without a copy.
"""

from pathlib import Path
from typing import Any

import numpy as np

from zoo.data import manifest
from zoo.data.dataset import Dataset, Split
from zoo.data.loaders.readers import read_npz
from zoo.data.loaders.rows import by_class, split
from zoo.data.sources import Root, fetch


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _cut_rows(downloaded: list[Path], target: Path) -> None:
    """Builds cifar10_first4000.npz from four lossless PNGs of 1,000 rows, each row an image of 1,024 colour pixels."""
    images = np.concatenate([_read_picture(path).reshape(-1, 32, 32, 3) for path in downloaded])
    np.savez_compressed(target, images=images)


CIFAR10_FIRST4000 = manifest.file("cifar10_first4000.npz", read_npz, _cut_rows)


def cifar10_first4000(root: Root = None) -> Dataset[Split]:
    """The first 4,000 training images of CIFAR-10, 32x32 RGB, 0 .. 255 (`images` = levels / 255).

    Split in file order: 3,000/500/500. CIFAR-10's own order is random in class. Labels 0 .. 9: airplane, automobile,
    bird, cat, deer, dog, frog, horse, ship, truck; data built from the public PNGs have labels None.
    """
    parts = fetch(CIFAR10_FIRST4000, root)
    images, labels = parts["images"], parts.get("labels")
    train, valid, test = (
        split(images[rows], None if labels is None else labels[rows], 256)
        for rows in (slice(3000), slice(3000, 3500), slice(3500, None))
    )
    return manifest.dataset("cifar10_first4000", (train, valid, test), (32, 32, 3), CIFAR10_FIRST4000.digests(parts))


PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
TILE = 64


def _pack_photos(downloaded: list[Path], target: Path) -> None:
    """Builds photos.npz from the four pictures, in the order of `PHOTOS`."""
    # The rocket is a JPEG, and a decoder that rounds otherwise gives other pixels: the sha256 of the pixels finds it.
    photos: dict[str, Any] = dict(zip(PHOTOS, map(_read_picture, downloaded), strict=True))
    np.savez_compressed(target, **photos)


PHOTO_FILE = manifest.file("photos.npz", read_npz, _pack_photos)


def photos(root: Root = None) -> Dataset[Split]:
    """206 tiles of 64x64 RGB, 0 .. 255 (`images` = levels / 255), cut from four photographs of up to 640 pixels.

    Labels 0 .. 3: astronaut, chelsea (a cat), coffee, rocket. Tiles do not overlap; those of a photograph start at its
    upper left corner, and pixels that do not fill a tile are left out. The split is ours: of each photograph every
    tenth tile to test and every tenth to validation, after a shuffle with seed 0 (`by_class`). The whole photographs
    are `fetch(PHOTO_FILE)`, name -> uint8 `(height, width, 3)`.
    """
    parts = fetch(PHOTO_FILE, root)
    cut = [_tiles(parts[name]) for name in PHOTOS]
    tiles, labels = np.concatenate(cut), np.repeat(np.arange(len(PHOTOS)), [len(each) for each in cut])
    # By photograph there would be four subjects for three splits, and no two of one kind.
    train, valid, test = (split(tiles[rows], labels[rows], 256) for rows in by_class(labels, every=10))
    return manifest.dataset("photos", (train, valid, test), (TILE, TILE, 3), PHOTO_FILE.digests())


def _tiles(photo: np.ndarray) -> np.ndarray:
    """`(tiles, 64, 64, 3)`, row by row of tiles."""
    down, across = photo.shape[0] // TILE, photo.shape[1] // TILE
    grid = photo[: down * TILE, : across * TILE].reshape(down, TILE, across, TILE, 3)
    return grid.swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
