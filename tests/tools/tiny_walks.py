"""Walks and rooms of seconds, for the tests of their rows, tables and pictures."""

from functools import partial

import numpy as np
import torch
from rows import walks
from rows.walk_figures import PLACE, POSE

from zoo.data.simulated.rooms import rooms as rooms_walked
from zoo.data.simulated.walks import walks as walked

IMAGES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (6, 32, 32, 3), np.uint8))
SIZES = {"T": 16, "sizes": (12, 6, 8), "num": (4, 4, 2), "an_epoch": 8}


def splits(**world):
    make = partial(walked, IMAGES, **world)
    return walks.held_out(make, make, make, compared=PLACE, **SIZES)


def room_splits(noise=0.0):
    make = partial(rooms_walked, noise=noise)
    return walks.held_out(make, make, make, compared=POSE, **SIZES)
