"""Rows of walks over images: a model with a spatial memory, without walls and with them, and two systems beside it.

Training memorises 128 frames and predicts 32; tests memorise 256 of images that no step has seen. With walls there are
two rows for each: in the first (`_begun`) the transition follows a guide that watches the frames, in cycles until the
KL of s shows that the gate has learned the walls; then both are trained by the plain bound.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import guides
from rows.place import cache
from rows.row import Row, Splits, cosine
from rows.unrolled import Unrolled
from rows.walk_figures import (
    PLACE,
    Compared,
    Held,
    Reading,
    evaluate,
    forecast,
    look,
    recalled,
    squared_error,
    trial,
    unrolled,
)
from zoo import GTMSM, SRNN, LinearStep, StoppingStep
from zoo.data import Fresh, Sequences, load
from zoo.data.simulated.walks import ACTIONS, partition, walks
from zoo.infer import ELBO, Scheduled, load_model
from zoo.parts.conditionals import Normal
from zoo.parts.networks import WithHead

SYSTEM = "GTM-SM + Remembering"
WATCHED = "GTM-SM, walls + Watching"
#: frames of training: memorised and predicted; of a test: memorised, predicted, and predicted further ahead
MEMORISED, PREDICTED = 128, 32
TAU, AHEAD, FAR = 256, 256, 1024
#: walks of a batch, and batches of an epoch
BATCH, EPOCH = 16, 100
#: largest norm of the gradient of a walk's bound: 10 for each predicted frame
CLIP = 10.0 * PREDICTED
STEPS, SRNN_STEPS, LSTM_STEPS = 12_000, 4_000, 5_500
#: epochs of a cycle with walls, the most cycles, and the steps by the plain bound
CYCLE, CYCLES, PLAIN = 15, 4, 4_000
#: the model's standard deviation of a step while it follows, and at the end
FOLLOWS, ENDS = 0.01, 0.003
#: nats of s a predicted frame, by which a gate that has learned the walls is told from one that has not: 18.1 are left
#: of the two standard deviations alone, 60 and more of a gate that is open everywhere, 20 of one that has learned some
LEARNED = 18.5
#: a wall right of the sixth column of nine, with a gap in its middle
PARTITION = partition(9, 5, gap=(3, 4, 5))


def image_walks(name: str, **world: Any) -> Splits:
    """Walks over the images of a data set; `world`: further arguments of `walks`."""
    data = load(name)
    train, valid, test = (
        partial(walks, part.levels.unflatten(-1, data.shape), **world) for part in (data.train, data.valid, data.test)
    )
    return held_out(train, valid, test, T=MEMORISED + PREDICTED, sizes=(TAU, AHEAD, FAR), num=(64, 64, 16),
                    compared=PLACE, an_epoch=EPOCH * BATCH)  # fmt: skip


def held_out(
    train: Callable[..., Sequences], valid: Callable[..., Sequences], test: Callable[..., Sequences], *,
    T: int, sizes: tuple[int, int, int], num: tuple[int, int, int], compared: Compared, an_epoch: int,
) -> Splits:  # fmt: skip
    """New walks of T frames for every batch, some for validation, and trials.

    Args:
        train, valid, test: simulators, `make(num=, T=, seed=, noise=)`.
        sizes: frames of a trial: memorised, predicted, predicted further ahead.
        num: walks of the validation, of the test, and of the longer one.
    """
    tau, ahead, far = sizes
    trials = (
        trial(valid, num[0] // 2, 97, tau, ahead),
        trial(test, num[1], 99, tau, ahead),
        trial(test, num[2], 96, tau, far),
    )
    return Splits(Fresh(partial(train, T=T), an_epoch), valid(num=num[0], T=T, seed=98), Held(*trials, compared))


def data_dim_of(splits: Splits) -> int:
    return splits.validation.frames.shape[-1]


def codes(data_dim: int, latent_dim: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    """The encoder q(z | x) and the emission p(x | z), which start at grey frames."""
    encoder = WithHead((data_dim,), latent_dim, partial(Normal, scale=math.exp(-1), heteroscedastic=True), (hidden,))
    emission = WithHead((latent_dim,), data_dim, partial(Normal, scale=0.25, floor=0.02), (hidden,))
    nn.init.constant_(emission.head.loc.bias, 0.45)
    return encoder, emission


def remembering(splits: Splits, *, latent_dim: int = 16, hidden: int = 128) -> nn.Module:
    """The loss of a model that knows by its actions alone where it is."""
    size = data_dim_of(splits)
    model = GTMSM(LinearStep(len(ACTIONS), 2), *codes(size, latent_dim, hidden), size, latent_dim, memorise=MEMORISED)
    return ELBO()(model, guides.Remembering(model))


def watching(splits: Splits, *, gated: bool = False, begun: str | None = None) -> nn.Module:
    """The loss of a model of walls, whose transition follows its guide until it is `begun`."""
    size = data_dim_of(splits)
    step = StoppingStep(len(ACTIONS), 2)
    model = GTMSM(step, *codes(size, 16, 128), size, 16, memorise=MEMORISED, noise=FOLLOWS)
    guide = guides.Watching(model, gated=gated, follow=begun is None)
    if begun is None:
        return ELBO()(model, guide)
    # the file alone: the guide's arguments are others, since it no longer leads
    load_model(ELBO()(model, guide), cache() / begun / "model.safetensors")
    return Scheduled(ELBO(), model.noise, Narrowing(3 * PLAIN // 5))(model, guide)


@dataclass(frozen=True)
class Narrowing:
    """The model's standard deviation of a step, that goes down to its end by equal factors over some steps."""

    steps: int

    def __call__(self, step: int) -> float:
        return FOLLOWS * (ENDS / FOLLOWS) ** min(1.0, step / self.steps)


@dataclass(frozen=True)
class Cycle:
    """The factor of the learning rate: 1 for seven tenths of a cycle, then along a cosine to 0, and anew."""

    steps: int

    def __call__(self, step: int) -> float:
        share = (step % self.steps) / self.steps
        return 1.0 if share < 0.7 else 0.5 * (1 + math.cos(math.pi * (share - 0.7) / 0.3))


def cycles(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of `Cycle`, whatever the planned steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, Cycle(CYCLE * EPOCH))


def walls_are_learned(record: Mapping[str, Any]) -> bool:
    """Tells at the end of a cycle, without a label, whether the gate has learned the walls."""
    return record["epoch"] % CYCLE == 0 and record["kl"]["s"] / PREDICTED < LEARNED


def long_short_term(splits: Splits, *, memorise: int = MEMORISED) -> nn.Module:
    """The loss of an LSTM that is fed its own predictions."""
    model = Unrolled(data_dim_of(splits), len(ACTIONS), memorise=memorise)
    return ELBO()(model, guides.Empty(model))


def recurrent(splits: Splits) -> nn.Module:
    """The loss of an SRNN with actions."""
    size = data_dim_of(splits)
    likelihood = partial(Normal, scale=0.25, floor=0.02)
    model = SRNN(size, 16, recurrent=128, hidden=(128,), likelihood=likelihood, control_dim=len(ACTIONS))
    return ELBO(analytic_kl=True)(model, guides.Smoother(model, recurrent=64, hidden=(64,)))


def adam(rate: float) -> Any:
    return partial(torch.optim.Adam, lr=rate, fused=True)


def row(name: str, data: Any, system: str, build: Callable[..., nn.Module], *, minutes: float, words: str,
        reading: Reading = recalled, **rest: Any) -> Row:  # fmt: skip
    """A row of batches of 16 walks, Adam along a cosine; the bound of the validation walks chooses the epoch."""
    options: dict[str, Any] = {
        "evaluate": partial(evaluate, reading=reading), "figure": "squared_error", "unit": "a pixel, predicted frames",
        "check": ("squared_error", partial(squared_error, reading=reading)), "look": partial(look, reading=reading),
        "every": 10, "optimizer": adam(1e-3), "schedule": partial(cosine, last=1e-5), "batch_size": BATCH,
        "settings": {"clip": CLIP}, "facts": {"data": words},
    }  # fmt: skip
    return Row(name=name, system=system, data=data, build=build, minutes=minutes, **options | rest)


def free(
    name: str, images: str, words: str, seed: int = 0, *, sizes: Mapping[str, int] | None = None, **world: Any
) -> Row:
    """A walk that no wall stops."""
    return row(f"walk-{name}", partial(image_walks, images, **world), SYSTEM, partial(remembering, **sizes or {}),
               minutes=15, words=words, steps=STEPS, seed=seed)  # fmt: skip


def rates(moves: float, seen: float, gate: float) -> dict[str, Any]:
    """Settings of `fit` with learning rates of the moves, of the guide's network and of the gate."""
    groups = {"model.step.move.*": moves, "guide.seen.*": seen, "model.step.net.*": gate}
    return {"clip": CLIP, "groups": {names: {"lr": rate} for names, rate in groups.items()}}


def walled(name: str, words: str, seed: int = 0, *, gated: bool = False, **world: Any) -> list[Row]:
    """A walk with walls, in two rows."""
    data, begun = partial(image_walks, "cifar10_first4000", walls=True, **world), f"walk-{name}_begun-{seed}"
    return [
        row(begun, data, f"{WATCHED}, following it", partial(watching, gated=gated), minutes=15, words=words, seed=seed,
            epochs=CYCLE * CYCLES, schedule=cycles, settings=rates(2e-3, 1e-2, 5e-3), enough=walls_are_learned),
        row(f"walk-{name}-{seed}", data, WATCHED, partial(watching, gated=gated, begun=begun), minutes=10, words=words,
            seed=seed, steps=PLAIN, optimizer=adam(3e-4), settings=rates(3e-4, 1e-3, 2e-3), after=begun),
    ]  # fmt: skip


CIFAR = "cifar10_first4000"
#: pictures of 64 x 64 pixels: as many places as of 32 x 32, and frames of twice the size
LARGE: dict[str, Any] = {"crop": 16, "stride": 6, "sizes": {"latent_dim": 32, "hidden": 256}}
BESIDE = {"minutes": 15, "words": "walks over images"}
ROWS = [
    *(free(f"free-{seed}", CIFAR, "walks over images", seed) for seed in range(3)),
    free("faces", "olivetti_faces", "walks over faces", **LARGE),
    free("photos", "photos", "walks over photographs", **LARGE),
    *(line for seed in range(5) for line in walled("walls", "walks with walls", seed)),
    *walled("walls_noise", "walks with walls, pixel noise 0.05", gated=True, noise=0.05),
    *walled("partition", "walks with walls and a partition", blocked=PARTITION),
    row("walk-lstm", partial(image_walks, CIFAR), "LSTM fed its own frames", long_short_term, reading=unrolled,
        steps=LSTM_STEPS, **BESIDE),
    row("walk-srnn", partial(image_walks, CIFAR), "SRNN + Smoother", recurrent, reading=forecast, steps=SRNN_STEPS,
        **BESIDE),
]  # fmt: skip
