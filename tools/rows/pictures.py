"""Splits of pictures for rows: dynamic MNIST, drawn anew for each batch, and static MNIST."""

from dataclasses import replace

import torch
from torch import Tensor

from rows.row import Splits
from zoo.data import Binarized, PartlyLabelled, Split, binarize, load

#: images kept to choose the best epoch by; the papers chose on the test set, or trained on all
HELD_OUT = 1000


def mnist() -> tuple[Split, Split]:
    """The training images with their labels (the validation set of the literature too), and the test images."""
    data = load("mnist")
    both = data.train, data.valid
    levels, labels = torch.cat([part.levels for part in both]), torch.cat([part.labels for part in both])
    return replace(data.train, levels=levels, labels=labels), data.test


def grey_mnist() -> tuple[Tensor, Tensor]:
    """Probabilities of a one, in [0, 1], of the images of `mnist`."""
    train, test = mnist()
    return train.images, test.images


def dynamic_mnist() -> Splits:
    """59,000 training images as fresh bits, 1,000 to validate and 10,000 to test as bits drawn once."""
    train, test = grey_mnist()
    return Splits(
        Binarized(train[:-HELD_OUT]), binarize(train[-HELD_OUT:], seed=123), binarize(test, seed=123)
    )  # fmt: skip


def static_mnist() -> Splits:
    """The bits of Salakhutdinov and Murray 2008: 50,000, 10,000 (of which 1,000 validate), 10,000."""
    data = load("binarized_mnist")
    return Splits(data.train.images, data.valid.images[:HELD_OUT], data.test.images)


def mean_of(splits: Splits) -> Tensor:
    """The mean training image, from which a decoder's last layer starts."""
    train = splits.train.rows if isinstance(splits.train, PartlyLabelled) else splits.train
    grey = train if isinstance(train, Tensor) else train.grey / train.scale
    return grey.mean(0)
