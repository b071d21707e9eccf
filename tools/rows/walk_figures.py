"""Figures of systems that predict an agent's frames from a memory: squared errors, and R^2 of states on true ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rows.row import Figures, Splits
from zoo.data import Sequences
from zoo.data.simulated.recollection import been_there, mean_seen, nearest_seen, squared_errors
from zoo.data.simulated.tracking import linear_r2
from zoo.parts.walking.poses import on_circle

#: walks at a time, and draws of a system that has no closed form of a prediction
PIECE, DRAWS = 8, 10
#: frames over which the error is told apart: the first ones after the memorised ones, and the last
FIRST, LAST = 32, 64
#: (model, guide, memorised frames, actions) -> predicted frames, and states of all frames where the system has such
Reading = Callable[[Any, Any, Tensor, Tensor], tuple[Tensor, Tensor | None]]
#: name -> the part of a state that is compared, as a vector of which a linear map is a fair reading
Compared = Mapping[str, Callable[[Tensor], Tensor]]


class Trial(NamedTuple):
    """Walks that no step sees.

    Attributes:
        seen: the walks as a system sees them.
        clean: the same without noise, by which predictions are measured.
        tau: number of memorised frames.
    """

    seen: Sequences
    clean: Sequences
    tau: int


class Held(NamedTuple):
    """The trials of a row, and what is compared of the states.

    Attributes:
        valid, test: as many frames ahead as are memorised.
        long: further ahead.
        compared: parts of a state.
    """

    valid: Trial
    test: Trial
    long: Trial
    compared: Compared


def trial(make: Callable[..., Sequences], num: int, seed: int, tau: int, ahead: int) -> Trial:
    """A trial of walks of a simulator, `make(num=, T=, seed=, noise=)`, whose noise its own arguments state."""
    given = {"num": num, "T": tau + ahead, "seed": seed}
    return Trial(make(**given), make(**given, noise=0.0), tau)


PLACE: Compared = {"place": lambda s: s}
#: a heading as cosine and sine: a turn more or less makes no difference
POSE: Compared = {"place": lambda s: s[..., :2], "heading": lambda s: on_circle(s)[..., 2:]}


def recalled(model: Any, guide: Any, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable future of a GTMSM; the guide places the memorised frames."""
    found = model.predict(x, u, guide=guide)
    return found.mean, torch.cat([found.memorised, found.s], -2)


def unrolled(model: Any, guide: Any, x: Tensor, u: Tensor) -> tuple[Tensor, None]:
    """The frames that a recurrent network makes of its own frames."""
    return model.predict(x, u), None


def forecast(model: Any, guide: Any, x: Tensor, u: Tensor) -> tuple[Tensor, None]:
    """The mean over draws of E[x | z] of a state space, each frame drawn and fed on to the next."""
    ahead = u.shape[1] - x.shape[1]
    whole = torch.nn.functional.pad(x, (0, 0, 0, ahead))
    seen = (torch.arange(u.shape[1]) < x.shape[1]).expand(len(x), -1)
    z, frames, _ = model.sample_imputation(whole, seen, guide, DRAWS, u)
    states = model.states(z, frames, *model.inputs(frames, u.expand(DRAWS, *u.shape)))
    return model.emission(z, states).mean.mean(0)[:, x.shape[1] :], None


@torch.no_grad()
def read(reading: Reading, model: Any, guide: Any, given: Trial) -> tuple[Tensor, Tensor | None]:
    """A system's frames and states of a trial, some walks at a time."""
    x, u = given.seen.values[:, : given.tau], given.seen.u
    pieces = [reading(model, guide, *piece) for piece in zip(x.split(PIECE), u.split(PIECE), strict=True)]
    frames, states = zip(*pieces, strict=True)
    return torch.cat(frames), None if states[0] is None else torch.cat(states)


def errors_of(errors: Tensor) -> Figures:
    """The squared errors of the first frames, of all and of the last ones, and by frame; errors are `(N, T - tau)`."""
    return {
        "first": errors[:, :FIRST].mean().item(), "all": errors.mean().item(), "last": errors[:, -LAST:].mean().item(),
        "curve": errors.mean(0),
    }  # fmt: skip


def agreement(compared: Compared, states: Tensor, given: Trial) -> dict[str, float]:
    """R^2 of the true states, read off those after the memorised frames linearly."""
    true = given.clean.padded(given.clean.truth)[:, given.tau :]
    return {name: linear_r2(part(states[:, given.tau :]), part(true)) for name, part in compared.items()}


def places_of(compared: Compared, given: Trial) -> Tensor:
    """The true states as vectors of which equal ones see the same frame."""
    true = given.clean.padded(given.clean.truth)
    return torch.cat([part(true) for part in compared.values()], -1)


def without_model(compared: Compared, given: Trial) -> dict[str, Figures]:
    """Squared errors of frames that need no model."""
    x, clean, tau = given.seen.values, given.clean.values, given.tau
    places = places_of(compared, given)
    found = {"nearest frame": nearest_seen(x, places, tau), "mean frame": mean_seen(x, tau)}
    return {name: errors_of(squared_errors(frames, clean[:, tau:])) for name, frames in found.items()}


@torch.no_grad()
def reconstruction(model: Any, given: Trial) -> dict[str, float]:
    """The squared error of the frames that a model makes of the code of each frame itself, if it has such codes."""
    recall = getattr(model, "recall", None)
    if not hasattr(recall, "encode"):
        return {}
    x, clean = given.seen.values[:, given.tau :], given.clean.values[:, given.tau :]
    found = torch.cat([recall.emission_of(recall.encode(piece).mean).mean for piece in x.split(PIECE)])
    return {"reconstruction": squared_errors(found, clean).mean().item()}


def figures_of(reading: Reading, model: Any, guide: Any, given: Trial, compared: Compared) -> Figures:
    """Errors of a trial, those where the memory has been apart from the others, and R^2."""
    frames, states = read(reading, model, guide, given)
    errors = squared_errors(frames, given.clean.values[:, given.tau :])
    found: Figures = {"ahead": errors.shape[1], "num": len(errors), "errors": errors_of(errors)}
    if states is not None:
        found["r2"] = agreement(compared, states, given)
    been = been_there(places_of(compared, given), given.tau)
    if been.any():
        found["been there"] = {"share": been.double().mean().item(), "squared_error": errors[been].mean().item()}
    each = errors.mean(1)
    return found | {"squared_error": each.mean().item(), "error": each.std().item() / math.sqrt(len(each))}


def evaluate(model: Any, guide: Any, splits: Splits, *, reading: Reading) -> Figures:
    """The figures of the test walks; of the longer ones under "long"."""
    held = splits.test
    found = figures_of(reading, model, guide, held.test, held.compared)
    return found | {
        "without model": without_model(held.compared, held.test), **reconstruction(model, held.test),
        "long": figures_of(reading, model, guide, held.long, held.compared), "num_test": found["num"],
    }  # fmt: skip


def look(model: Any, guide: Any, splits: Splits, *, reading: Reading) -> Figures:
    """The errors and R^2 of the validation walks, and the gains of a step that has some."""
    held = splits.test
    found = figures_of(reading, model, guide, held.valid, held.compared)
    gains = {name: p.item() for name, p in model.named_parameters() if name.endswith("gain")}
    return {"squared_error": found["squared_error"], "r2": found.get("r2"), **gains}


def squared_error(model: Any, guide: Any, splits: Splits, *, reading: Reading) -> float:
    return figures_of(reading, model, guide, splits.test.test, splits.test.compared)["squared_error"]
