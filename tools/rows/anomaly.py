"""Rows of hierarchies that examples/anomaly.py scores strange images with: letters as bits, CIFAR-10 in colour.

The hierarchy of digits is a row of hierarchies.py. Plans end a little before their budget on this project's machine.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

import guides
from rows.hierarchies import Rise, evaluate, five_levels, row, stage
from rows.row import Figures, Splits
from zoo import Hierarchical
from zoo.data import Binarized, binarize, load
from zoo.infer import ELBO, Tempered, bits_per_dim
from zoo.parts.conditionals import DiscretizedLogistic
from zoo.parts.networks import Maps, RescaledStage, ToPicture

#: colour images kept to choose the best epoch by: of 3,500, which a hierarchy learns by heart within minutes
HELD_OUT = 200

PICTURE = Maps(32, 32, 3)
#: feature maps of the levels, upwards
STAGES = (stage(Maps(16, 16, 32)), stage(Maps(8, 8, 32)), stage(Maps(4, 4, 32)))


def letters() -> Splits:
    """notMNIST: 8,000 letters as fresh Bernoulli bits of their grey values, 1,000 and 1,000 as bits drawn once."""
    data = load("notmnist_10k")
    return Splits(Binarized(data.train), binarize(data.valid, seed=123), binarize(data.test, seed=123))


def cifar10() -> Splits:
    """The levels 0..255 of 3,300 images to train, 200 to validate and 500 to test."""
    data = load("cifar10_first4000")
    images = torch.cat([data.train.levels, data.valid.levels]).float()
    return Splits(images[:-HELD_OUT], images[-HELD_OUT:], data.test.levels.float())


def colour(splits: Splits, *, steps: int) -> nn.Module:
    """The loss of LVAE+ with three levels of feature maps, whose likelihood is of the levels 0..255."""
    likelihood = partial(DiscretizedLogistic, layer=ToPicture)
    model = Hierarchical(PICTURE, (128, 64, 32), STAGES, True, likelihood=likelihood)
    # levels 0..255 enter as numbers from -1 to 1
    lowest = partial(RescaledStage, stage=STAGES[0], shift=127.5, scale=127.5)
    guide = guides.TopDown(model, hidden=(lowest, *STAGES[1:]))
    # a level of pictures in colour carries tens of nats, so that half a nat would not hold it open
    return Tempered(ELBO(), kl_weight=Rise(steps // 5), free_bits=2.0)(model, guide)


def evaluate_colour(model: Any, guide: Any, splits: Splits) -> Figures:
    """The figures of `evaluate` by 100 draws, and L_1 in bits per dimension."""
    found = evaluate(model, guide, splits, num_particles=100)
    return found | {"bits_per_dim": bits_per_dim(found["L_1"], PICTURE)}


ROWS = [
    row("notmnist-5-top-down", "Hierarchical + TopDown", partial(five_levels, guide=guides.TopDown, steps=28_500),
        steps=28_500, minutes=15, data=letters, facts={"data": "notmnist_10k, dynamic bits"}),
    row("cifar10-maps-skip", "Hierarchical(skip=True) + TopDown of feature maps (LVAE+)", partial(colour, steps=8_500),
        steps=8_500, minutes=15, data=cifar10, batch_size=32, optimizer=partial(torch.optim.Adamax, lr=4e-3),
        evaluate=evaluate_colour, figure="L_100", facts={"data": "cifar10_first4000"}),
]  # fmt: skip
