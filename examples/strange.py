"""Images to tell apart: a familiar set, of the kind that a pair was trained on, and strange ones of the same size.

Bits are one Bernoulli draw of the grey values (ink 1, paper 0), with one seed for every set, as in dynamic MNIST: no
set gives itself away by another binarisation. Colours stay whole levels 0..255.
"""

from collections.abc import Mapping

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zoo.data import Dataset, Split, binarize, load

SEED = 123
NAMES = {"digits": "digits", "mnist": "mnist", "notmnist": "notmnist_10k", "omniglot": "omniglot"}
#: sets of 28x28 pixels, of which one is familiar and the others are strange
SAME_SIZE = ("mnist", "notmnist", "omniglot")


def images_of(data: str, num: int) -> Mapping[str, Tensor]:
    """Label -> images `(num, D)`, or all where there are fewer; the first label is that of the familiar test set."""
    return colours(num) if data == "cifar10" else bits(data, num)


def shape_of(data: str) -> tuple[int, ...]:
    """(height, width), of colour images (height, width, 3)."""
    return (32, 32, 3) if data == "cifar10" else load(NAMES[data]).shape


def bits(data: str, num: int) -> dict[str, Tensor]:
    """The test images of one set, the same turned, upside down and inverted, fair coins, and other sets, as bits."""
    familiar = load(NAMES[data])
    grey = drawn(familiar.test, num)
    pictures = grey.unflatten(-1, familiar.shape)
    found = {
        data: grey,
        f"{data}, turned": pictures.rot90(1, (1, 2)).flatten(1),
        f"{data}, upside down": pictures.flip(1).flatten(1),
        f"{data}, inverted": 1 - grey,
        "noise": torch.full_like(grey, 0.5),
    }
    if data in SAME_SIZE:
        found |= {other: drawn(load(NAMES[other]).test, num) for other in SAME_SIZE if other != data}
    return {label: binarize(images, SEED) for label, images in found.items()}


def drawn(split: Split, num: int) -> Tensor:
    """Some images of an ordered set, in [0, 1]."""
    return split.shuffled(SEED)[:num].images


def colours(num: int) -> dict[str, Tensor]:
    """CIFAR-10's test images; the same upside down, inverted, as their mean colour, and blurred; others: 0..255."""
    images = load("cifar10_first4000").test.levels[:num].float().unflatten(-1, (32, 32, 3))
    found = {
        "cifar10": images,
        "cifar10, upside down": images.flip(1),
        "cifar10, inverted": 255 - images,
        "cifar10, constant": images.mean((1, 2), keepdim=True).round().expand_as(images),
        "cifar10, blurred": torch.from_numpy(gaussian_filter(images.numpy(), (0, 1.5, 1.5, 0))).round(),
        "noise": torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(SEED)).float(),
        # a tile of 64 x 64 is four images as sharp as the tile; resizing would make a smoother one
        "photos": whole(load("photos"), num)
        .unflatten(-1, (2, 32, 2, 32, 3))
        .permute(0, 1, 3, 2, 4, 5)
        .flatten(0, 2)[:num],
        # faces are grey and as large as tiles: means of 2 x 2 pixels, three times
        "faces": whole(load("olivetti_faces"), num)
        .unflatten(-1, (32, 2, 32, 2, 1))
        .mean((2, 4))
        .round()
        .expand(-1, -1, -1, 3),
    }
    return {label: images.flatten(1) for label, images in found.items()}


def whole(data: Dataset[Split], num: int) -> Tensor:
    """Some images of a set that no pair was trained on, of all its splits, as levels."""
    levels = torch.cat([data.train.levels, data.valid.levels, data.test.levels]).float()
    return levels[torch.randperm(len(levels), generator=torch.Generator().manual_seed(SEED))[:num]]
