"""Figures of systems on videos of a ball: bounds, errors in pixels where frames are missing, what latents tell."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rows.row import Figures, Splits
from zoo.data import Sequences
from zoo.data.simulated.balls import ROOMS
from zoo.data.simulated.tracking import (
    distance,
    hamming,
    hamming_baselines,
    linear_r2,
    planning_mask,
    positions,
    straight_line,
)
from zoo.infer import log_likelihood
from zoo.parts import kalman
from zoo.parts.kalman.parameters import observed

#: frames that are missing, after four that are seen
MISSING = (4, 8, 12)
#: draws of the latents whose mean is a system's picture or latent, where there is no closed form
DRAWS = 20
#: sequences at a time: with their draws a piece of frames is 40 MB, of which a few are alive
PIECE = 25
Pictures = dict[str, Tensor]


class Held(NamedTuple):
    """Videos that no step sees.

    Attributes:
        room: name of the set.
        valid, test: its splits.
    """

    room: str
    valid: Sequences
    test: Sequences


class Reading(NamedTuple):
    """How a system is asked for pictures and latents; arguments are (model, guide, x, u, mask) or (model, guide, x, u).

    Attributes:
        pictures: the means of all frames, "smoothed" given all frames that are seen and "filtered" given those before.
        latents: the latents' means, `(N, T, any)`.
        encoded: the means of frames that are read off each frame alone; None where no network does that.
    """

    pictures: Callable[..., Pictures]
    latents: Callable[..., Tensor]
    encoded: Callable[..., Tensor] | None = None


def kvae_pictures(model: Any, guide: Any, x: Tensor, u: Tensor | None, mask: Tensor) -> Pictures:
    """By the paper's plug-in."""
    found = model.reconstruct(x, guide, u, mask)
    return {"smoothed": found.smoothed, "filtered": found.filtered}


def kvae_encoded(model: Any, guide: Any, x: Tensor, u: Tensor | None) -> Tensor:
    return model.reconstruct(x, guide, u).encoded


def kvae_latents(model: Any, guide: Any, x: Tensor, u: Tensor | None) -> Tensor:
    """The means of q(a_t | x_t)."""
    return guide.codes(x, u).mean


def drawn(model: Any, guide: Any, x: Tensor, u: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Means over draws of z and of E[x | z], where frames are missing drawn step by step."""
    z, x, _ = model.sample_imputation(x, mask, guide, DRAWS, u)
    states = model.states(z, x, *model.inputs(x, u))
    return z.mean(0), model.emission(z, states).mean.mean(0)


def state_space_pictures(model: Any, guide: Any, x: Tensor, u: Tensor | None, mask: Tensor) -> Pictures:
    """Means of draws; "filtered" is a forecast from the frames before the gap."""
    before = mask.cumprod(1).bool()
    return {"smoothed": drawn(model, guide, x, u, mask)[1], "filtered": drawn(model, guide, x, u, before)[1]}


def state_space_latents(model: Any, guide: Any, x: Tensor, u: Tensor | None) -> Tensor:
    return drawn(model, guide, x, u, x.new_ones(x.shape[:2], dtype=torch.bool))[0]


class Components(NamedTuple):
    """Principal components of frames, each divided by one number, the root of their mean variance.

    Attributes:
        mean: mean frame, `(data_dim,)`.
        basis: rows of unit length, `(components, data_dim)`.
        scale: that number.
    """

    mean: Tensor
    basis: Tensor
    scale: float

    def of(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.basis.mT / self.scale

    def frames(self, components: Tensor) -> Tensor:
        return self.scale * components @ self.basis + self.mean


def component_reading(components: Components) -> Reading:
    """That of an `LGSSM` of principal components."""

    def pictures(model: Any, guide: Any, x: Tensor, u: Tensor | None, mask: Tensor) -> Pictures:
        p = model.system()
        found = kalman.smoother(p, components.of(x), u, mask)
        moments = {
            "smoothed": (found.smoothed_means, found.smoothed_covariances),
            "filtered": (found.filtered_means, found.filtered_covariances),
        }
        return {name: components.frames(observed(p, *both, u)[0]) for name, both in moments.items()}

    def latents(model: Any, guide: Any, x: Tensor, u: Tensor | None) -> Tensor:
        return model.posterior(components.of(x), u).mean

    return Reading(pictures, latents)


KVAE_READING = Reading(kvae_pictures, kvae_latents, kvae_encoded)
STATE_SPACE_READING = Reading(state_space_pictures, state_space_latents)


@torch.no_grad()
def in_pieces(read: Callable[..., Any], model: Any, guide: Any, *arguments: Tensor | None) -> Any:
    """The pictures or latents of many sequences, some at a time."""
    cut = [[None] * -(-len(arguments[0]) // PIECE) if a is None else a.split(PIECE) for a in arguments]
    found = [read(model, guide, *piece) for piece in zip(*cut, strict=True)]
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return {name: torch.cat([piece[name] for piece in found]) for name in found[0]}


def bound(model: Any, guide: Any, sequences: Sequences) -> dict[str, float]:
    """The ELBO of ten draws, nats per frame, with its standard error over sequences."""
    arguments = [value for value in (sequences.values, sequences.u) if value is not None]
    found = log_likelihood(model, guide, *arguments, num_particles=10, seed=123)
    each = found.elbo / arguments[0].shape[1]
    return {"elbo": each.mean().item(), "error": each.std().item() / math.sqrt(len(each))}


def gaps(reading: Reading, model: Any, guide: Any, room: str, sequences: Sequences, missing: int) -> Figures:
    """Errors in pixels and Hamming distances in a gap of so many frames, with those that need no model."""
    x, u, mask = sequences.values, sequences.u, planning_mask(len(sequences), missing)
    true, place = sequences.padded(sequences.truth)[..., :2], ROOMS[room]
    pictures = in_pieces(reading.pictures, model, guide, x, u, mask)
    if reading.encoded is not None:
        pictures["encoder"] = in_pieces(reading.encoded, model, guide, x, u)
    pixels = {name: distance(positions(picture, place), true, mask) for name, picture in pictures.items()}
    pixels["straight line"] = distance(straight_line(positions(x, place), mask), true, mask)
    shares = {name: hamming(picture, x, mask) for name, picture in pictures.items()}
    baselines = hamming_baselines(x, place, mask)
    shares |= {"paper's baseline": baselines.paper, "walls only": baselines.walls_only}
    return {"pixels": pixels, "hamming": shares}


def read_off(reading: Reading, model: Any, guide: Any, sequences: Sequences) -> float:
    """R^2 of the true positions, read off the latents' means linearly."""
    latents = in_pieces(reading.latents, model, guide, sequences.values, sequences.u)
    return linear_r2(latents, sequences.padded(sequences.truth)[..., :2])


def figures_of(reading: Reading, model: Any, guide: Any, splits: Splits) -> Figures:
    """Errors and R^2 of the test set."""
    held = splits.test
    each = {str(n): gaps(reading, model, guide, held.room, held.test, n) for n in MISSING}
    return {
        "r2": read_off(reading, model, guide, held.test),
        **{kind: {n: found[kind] for n, found in each.items()} for kind in ("pixels", "hamming")},
        "num_test": len(held.test),
    }


def evaluate(model: Any, guide: Any, splits: Splits, *, reading: Reading) -> Figures:
    """The ELBO per frame, errors and R^2 of the test set."""
    return bound(model, guide, splits.test.test) | figures_of(reading, model, guide, splits)


def look(model: Any, guide: Any, splits: Splits, *, reading: Reading) -> Figures:
    """R^2 and the errors in the longest gap on 200 sequences of the validation set: a twisted code shows at once."""
    room, valid, _ = splits.test
    some = valid[:200]
    found = gaps(reading, model, guide, room, some, MISSING[-1])
    return {"r2": read_off(reading, model, guide, some), "pixels": found["pixels"]}


def elbo(model: Any, guide: Any, splits: Splits) -> float:
    return bound(model, guide, splits.test.test)["elbo"]
