"""Rows of calibration: guides trained on draws of one model, which stays, and judged on new draws of it.

A row for each system of tests/pairs.py that can generate and has an amortised guide; and the recipe for a VAE of two
latents, in the order of its cost: families, then more steps, a better gradient, a wider encoder. All models have the
weights that a seed gives them: calibration asks about the guide, and a random model is as good a question as another.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import guides
from rows.row import ROOT, Figures, Row, Script, Splits
from zoo import VAE
from zoo.infer import (
    ELBO,
    IWELBO,
    NotAReference,
    Objective,
    compare,
    exact_reference,
    grid_reference,
    hmc_reference,
    simulation_based_calibration,
)
from zoo.infer.calibration.simulate import simulate
from zoo.parts.aside import streams_kept

NUM_TRAIN, NUM_DATA, NUM_DRAWS, SEED = 50_000, 2000, 99, 0
#: data that are held against a reference, and seconds that draws of HMC may take
NUM_CHECKED, HMC_SECONDS = 5, 600

#: pairs of tests/pairs.py, one for each model, or two where two structures are in the literature
PAIRS = (
    "vae", "vae-iaf", "vae-auxiliary", "hierarchical-bottom-up", "hierarchical-top-down", "hierarchical-ladder", "biva",
    "m2", "m1m2", "adgm", "sdgm", "ppca-amortized", "lgssm-mean-field", "lgssm-smoother", "kvae", "dmm-smoother",
    "storn-filter", "vrnn-filter", "srnn-smoother",
)  # fmt: skip


def registered(name: str) -> tuple[Any, Any, Tensor]:
    """Model and guide of tests/pairs.py, the model frozen, and data of the shape that it takes."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    from pairs import PAIRS as registry

    with streams_kept():
        model, guide, x = registry[name].build(SEED)
    return model.requires_grad_(False), guide, x[:1]


def two_latents(family: Callable[..., Any], hidden: tuple[int, ...]) -> tuple[Any, Any, Tensor]:
    """A VAE of two latents, the same for each family, whose weights are three times torch's: data know their z."""
    with streams_kept(SEED):
        model = VAE(10, 2, (64,))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)
        guide = guides.Amortized(model, family=family, hidden=hidden)
    return model.requires_grad_(False), guide, torch.zeros(1, 10)


def data(pair: Callable[[], tuple[Any, Any, Tensor]]) -> Splits:
    """Draws of the pair's model to train on; there is no test set, as the evaluation draws anew."""
    model, _, x = pair()
    with streams_kept(SEED + 1):
        drawn = simulate(model, x.repeat(NUM_TRAIN, *[1] * (x.dim() - 1)), {}).x
    return Splits(drawn, None, None)


def build(
    splits: Splits, *, pair: Callable[[], tuple[Any, Any, Tensor]], objective: Callable[[], Objective]
) -> nn.Module:
    """The loss, whose model has no parameter to train."""
    model, guide, _ = pair()
    return objective()(model, guide)


def checked(model: Any, guide: Any, x: Tensor) -> dict[str, Any]:
    """The guide beside the first reference that serves the model: the exact posterior, a grid, HMC; verdicts by datum.

    Without a reference the reason stands in its place.
    """
    for make in (exact_reference, grid_reference, partial(hmc_reference, time_budget=HMC_SECONDS)):
        try:
            reference = make(model, x, seed=SEED)
        except ValueError as refusal:
            reason = str(refusal)
            continue
        except NotAReference as refusal:
            return {"refused": str(refusal)}
        found = compare(guide, reference, x, seed=SEED)
        return {"kind": found.kind, "rows": found.rows()}
    return {"refused": reason}


def evaluate(model: Any, guide: Any, splits: Splits) -> Figures:
    """The p-value of all quantities together, their own, the names of those that fail at 1 %, and `checked`."""
    like = splits.train[:1]
    found = simulation_based_calibration(model, guide, NUM_DATA, NUM_DRAWS, x_like=like, seed=SEED + 2)
    own = dict(zip(found.names, found.p_values.tolist(), strict=True))
    return {"p_value": found.p_value, "p_values": own, "failing": found.failing(0.01), "num_data": NUM_DATA,
            "check": checked(model, guide, splits.train[:NUM_CHECKED])}  # fmt: skip


def row(
    name: str,
    system: str,
    pair: Callable[[], tuple[Any, Any, Tensor]],
    *,
    steps: int = 3000,
    minutes: float = 2,
    objective: Callable[[], Objective] = ELBO,
    **facts: Any,
) -> Row:
    """A row of calibration, trained on draws of its own model."""
    return Row(
        name=f"calibration-{name}", system=system, data=partial(data, pair), evaluate=evaluate, minutes=minutes,
        build=partial(build, pair=pair, objective=objective), steps=steps, batch_size=256, figure="p_value",
        unit="p-value", facts={"data": "draws of its own model", **facts},
    )  # fmt: skip


DOUBLY = partial(IWELBO, 8, gradient="doubly")
WIDE, USUAL = (256, 256), (64, 64)
FAMILIES = {
    "diagonal": guides.Diagonal, "full-rank": guides.FullRank, "iaf": guides.IAF, "spline": guides.Spline,
}  # fmt: skip

ROWS: list[Row | Script] = [
    *(row(name, name, partial(registered, name)) for name in PAIRS),
    *(
        row(f"two-{word}", f"VAE(10, 2), {word}", partial(two_latents, family, USUAL), recipe=1)
        for word, family in FAMILIES.items()
    ),
    *(
        row(f"two-{word}-{what}", f"VAE(10, 2), {word}, {words}", partial(two_latents, FAMILIES[word], hidden),
            steps=20_000, minutes=20, objective=objective, recipe=2)
        for word in ("iaf", "spline")
        for what, words, objective, hidden in (
            ("long", "20,000 steps", ELBO, USUAL),
            ("doubly", "20,000 steps, IWELBO(8, doubly)", DOUBLY, USUAL),
            ("wide", "20,000 steps, encoder 256-256", ELBO, WIDE),
            ("wide-doubly", "20,000 steps, IWELBO(8, doubly), encoder 256-256", DOUBLY, WIDE),
        )
    ),
]  # fmt: skip
