"""Pictures of a square, an ellipse or a heart whose scale, rotation and place are known: `shapes`.

As dSprites (Matthey et al. 2017), drawn here, so that no file is needed. A square looks the same after a quarter of a
turn and an ellipse after half of one, as in dSprites: equal pictures have several rotations, no code of the picture can
tell them apart, and only the heart's rotation is identified.
"""

import math

import numpy as np
import torch

from zoo.data import manifest
from zoo.data.dataset import Dataset, Split
from zoo.data.simulated.arguments import check_whole
from zoo.data.sources import Root, check_content

# The columns of `Split.factors` and the number of values of each; values are 0, 1, ...
FACTORS = {"shape": 3, "scale": 6, "rotation": 20, "x": 16, "y": 16}
# Turns after which a square, an ellipse and a heart look the same, as parts of a full turn.
SYMMETRY = np.array([4, 2, 1])
# Points of a pixel in each direction; a pixel is 1 where most of its points lie in the shape.
FINE = 3
# Rows drawn at a time: the points of all pictures together are gigabytes.
ROWS = 1000
Array = np.ndarray


def shapes(num: int, *, side: int = 16, seed: int = 0) -> Split:
    """Pictures of shapes with independent, uniform factors: bits `(num, side^2)`, and `factors`, int64 `(num, 5)`.

    Factors are shape (0 square, 1 ellipse, 2 heart: also `labels`), scale (6), rotation (20 to a full turn), x and y
    (16 each, to the right and downwards). The rotation of squares is known up to a quarter of a turn, that of ellipses
    up to half of one.

    Args:
        num: pictures.
        side: pixels in a row, and in a column.
        seed: of the factors.

    Raises:
        ValueError: `num` below 1, `side` below 8, `seed` below 0, or no whole number.

    Example:
        >>> from zoo.data.simulated.shapes import shapes
        >>> drawn = shapes(3)
        >>> drawn.images.shape, drawn.factors.shape
        (torch.Size([3, 256]), torch.Size([3, 5]))
    """
    check_whole(num=num)
    check_whole(8, side=side)
    check_whole(0, seed=seed)
    # The stream of RandomState is the same everywhere and in every version of numpy.
    random = np.random.RandomState(seed)
    factors = np.stack([random.randint(values, size=num) for values in FACTORS.values()], 1)
    levels = torch.from_numpy(pictures_of(factors, side))
    known = torch.from_numpy(factors.astype(np.int64))
    return Split(levels, known[:, 0].clone(), 2, known)


def pictures_of(factors: Array, side: int = 16) -> Array:
    """The pictures of given factors `(N, 5)`, uint8 `(N, side^2)`."""
    return np.concatenate([_bits(factors[start : start + ROWS], side) for start in range(0, len(factors), ROWS)])


def _bits(factors: Array, side: int) -> Array:
    # a picture is the unit square, and places lie in its middle half, so that no shape is cut
    points = (np.arange(side * FINE) + 0.5) / (side * FINE)
    shape, scale, rotation, x, y = factors.T
    size = (0.1 + 0.1 * scale / (FACTORS["scale"] - 1))[:, None, None]
    across = (points - (0.25 + 0.5 * x / (FACTORS["x"] - 1))[:, None])[:, None, :] / size
    # upwards, as the heart's formula has it
    above = -(points - (0.25 + 0.5 * y / (FACTORS["y"] - 1))[:, None])[:, :, None] / size
    # rotations that look the same take one angle, so that their pictures are equal to the last bit
    angle = 2 * math.pi / FACTORS["rotation"] * (rotation % (FACTORS["rotation"] // SYMMETRY[shape]))
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u, v = cos * across + sin * above, cos * above - sin * across
    inside = np.empty(u.shape, bool)
    for kind, contains in enumerate((_in_square, _in_ellipse, _in_heart)):
        inside[shape == kind] = contains(u[shape == kind], v[shape == kind])
    covered = inside.reshape(-1, side, FINE, side, FINE).sum((2, 4))
    return (2 * covered > FINE**2).astype(np.uint8).reshape(len(factors), -1)


def _in_square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.85


def _in_ellipse(u: Array, v: Array) -> Array:
    return u**2 + (v / 0.55) ** 2 <= 1


def _in_heart(u: Array, v: Array) -> Array:
    # the curve reaches 1.14 to the sides and 1.24 up
    u, v = 1.15 * u, 1.15 * v
    return (u**2 + v**2 - 1) ** 3 <= u**2 * v**3


# Pictures and seed of each split.
SPLITS = {"train": (12_000, 0), "valid": (1_000, 1), "test": (2_000, 2)}


def shapes_set(root: Root = None) -> Dataset[Split]:
    """12,000/1,000/2,000 pictures of shapes, 16 x 16 bits, made at each load in a few seconds; no file is needed."""
    parts = {part: shapes(num, seed=seed) for part, (num, seed) in SPLITS.items()}
    sha256 = manifest.SETS["shapes"]["sha256"]
    # as of `cadences`: this machine draws the set whose numbers are printed
    check_content({part: split.levels.numpy() for part, split in parts.items()}, sha256, "shapes()")
    digests = {f"shapes/{part}": value for part, value in sha256.items()}
    return manifest.dataset("shapes", (parts["train"], parts["valid"], parts["test"]), (16, 16), digests)
