"""Rows of an agent in a room of coloured walls: rays into a memory of 150 views, with true poses or from actions alone.

From actions alone the gains of turn and stride start 30 % off. Training memorises 150 views and predicts 30; tests are
of new rooms, 150 views ahead, and 600.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import guides
from rows.row import Row, Splits
from rows.walk_figures import POSE, unrolled
from rows.walks import EPOCH, adam, data_dim_of, held_out, long_short_term, row
from zoo import GTMSM, HeadingStep
from zoo.data.simulated.rooms import SHAPES, SQUARE, PanelledRoom, rooms
from zoo.infer import ELBO
from zoo.parts.networks import Maps
from zoo.parts.walking import Rays, Views

RAYS, VIEWS = "GTM-SM, rays + Remembering", "GTM-SM, views + Remembering"
#: frames of training and of a test: memorised, predicted; and predicted further ahead
TAU, PREDICTED, AHEAD, FAR = 150, 30, 150, 600
BATCH = 8
STEPS, LSTM_STEPS = 4_000, 4_000
#: the gains that actions start with where they are learned
OFF = 0.7
#: columns of each stored view that training looks at, of 16
COLUMNS = 4
#: largest norm of the gradient of a walk's bound: 100 for each predicted frame
CLIP = 100.0 * PREDICTED


def walked_rooms(shape: str, noise: float = 0.0) -> Splits:
    """Walks in rooms of one shape, each with colours of its own."""
    make = partial(rooms, room=PanelledRoom(SHAPES[shape]), noise=noise)
    return held_out(make, make, make, T=TAU + PREDICTED, sizes=(TAU, AHEAD, FAR), num=(24, 48, 12), compared=POSE,
                    an_epoch=EPOCH * BATCH)  # fmt: skip


def heading(gain: float | None) -> HeadingStep:
    """The step of an agent that turns and strides: as it truly does, or learned from a gain on."""
    turn, stride = (0.0, 0.0, SQUARE.turn, -SQUARE.turn, 0.0), (SQUARE.stride, -SQUARE.stride, 0.0, 0.0, 0.0)
    if gain is None:
        return HeadingStep(turn, stride).requires_grad_(False)
    return HeadingStep([gain * w for w in turn], [gain * v for v in stride])


def placed(splits: Splits, *, gain: float | None = None, views: bool = False) -> nn.Module:
    """The loss of a model that recalls by rays, or by whole views."""
    recall = Views(data_dim_of(splits)) if views else Rays(Maps(SQUARE.size, SQUARE.size, 3), columns=COLUMNS)
    model = GTMSM(heading(gain), memorise=TAU, recall=recall)
    return ELBO()(model, guides.Remembering(model))


@dataclass(frozen=True)
class Warmed:
    """The factor of the learning rate: up to 1 over 100 steps, 1 up to the half, then along a cosine to a hundredth."""

    steps: int

    def __call__(self, step: int) -> float:
        past = max(0.0, 2 * step / self.steps - 1)
        return min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, past))))


def warmed(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of `Warmed`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, Warmed(steps))


def in_room(name: str, system: str, build: Callable[..., nn.Module], *, shape: str = "square", noise: float = 0.0,
            rate: float = 2e-3, **rest: Any) -> Row:  # fmt: skip
    """A row of batches of 8 rooms."""
    words = f"rooms, {shape}" + (f", pixel noise {noise:g}" if noise else "")
    options: dict[str, Any] = {"steps": STEPS, "minutes": 15, "batch_size": BATCH, "schedule": warmed,
                               "optimizer": adam(rate), "settings": {"clip": CLIP}, "every": 5}  # fmt: skip
    return row(f"room-{name}", partial(walked_rooms, shape, noise), system, build, words=words, **options | rest)


LEARNED = partial(placed, gain=OFF)
ROWS = [
    *(in_room(f"poses-{seed}", f"{RAYS}, true poses", placed, seed=seed) for seed in range(3)),
    *(in_room(f"actions-{seed}", RAYS, LEARNED, seed=seed) for seed in range(3)),
    in_room("views", f"{VIEWS}, true poses", partial(placed, views=True), rate=1e-3),
    in_room("hexagon", RAYS, LEARNED, shape="hexagon"),
    in_room("l_shaped", RAYS, LEARNED, shape="l_shaped"),
    in_room("noise", RAYS, LEARNED, noise=0.05),
    in_room("lstm", "LSTM fed its own frames", partial(long_short_term, memorise=TAU), reading=unrolled,
            steps=LSTM_STEPS, rate=1e-3),
]  # fmt: skip
