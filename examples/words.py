"""The one place where words on a command line become objects of the library."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyro.infer.autoguide import AutoNormal
from torch import nn

import guides
from zoo import DMM, SRNN, STORN, VRNN
from zoo.data import Sequences
from zoo.infer import ELBO, IWELBO, Objective, RenyiELBO
from zoo.parts.conditionals import Bernoulli, MixtureOfNormals, Normal
from zoo.parts.networks import Dropped

FAMILIES: Mapping[str, Callable[[int, int], guides.Family]] = {
    "diagonal": guides.Diagonal,
    "full-rank": guides.FullRank,
    "mixture": guides.Mixture,
    "planar": guides.Planar,
    "radial": guides.Radial,
    "iaf": guides.IAF,
    "spline": guides.Spline,
}
OBJECTIVES: Mapping[str, Callable[[int], Objective]] = {
    "elbo": ELBO,
    "elbo-analytic": partial(ELBO, analytic_kl=True),
    "elbo-sticking": partial(ELBO, sticking=True),
    "iwelbo": IWELBO,
    "iwelbo-doubly": partial(IWELBO, gradient="doubly"),
    "renyi": partial(RenyiELBO, 0.5),
    "vr-max": partial(RenyiELBO, -float("inf")),
}
GUIDES = ("amortized", "per-datum", "auto-normal")
SEQUENCE_FAMILIES = {**FAMILIES, "residual": guides.Residual, "precision-weighted": guides.PrecisionWeighted}
SEQUENCE_GUIDES = {"mean-field": guides.MeanField, "filter": guides.Filter, "smoother": guides.Smoother}
MODELS = {"dmm": DMM, "storn": STORN, "vrnn": VRNN, "srnn": SRNN}
LIKELIHOODS = {
    "bernoulli": Bernoulli,
    # Silence has no variance: without a floor the density of a frame grows without bound.
    "normal": partial(Normal, heteroscedastic=True, floor=1e-3),
    "mixture": partial(MixtureOfNormals, num_components=20),
}
# Families whose KL from a Normal prior has a closed form: its gradient has no noise of a draw.
CLOSED_FORM_KL = ("diagonal", "residual", "precision-weighted")


def choose(kind: str, table: Mapping[str, Any] | tuple[str, ...], word: str) -> Any:
    """The entry of `word`; an unknown word ends the program with the nearest valid one."""
    if word not in table:
        nearest = difflib.get_close_matches(word, list(table), n=1, cutoff=0.0)[0]
        raise SystemExit(f"unknown {kind} {word!r}: did you mean {nearest!r}? One of {', '.join(table)}")
    return word if isinstance(table, tuple) else table[word]


def family(word: str) -> Callable[[int, int], guides.Family]:
    """A guide family: `--family iaf`."""
    return choose("family", FAMILIES, word)


def objective(word: str, num_particles: int = 1) -> Objective:
    """An objective: `--objective iwelbo --num-particles 50`."""
    return choose("objective", OBJECTIVES, word)(num_particles)


def guide(word: str, family_word: str, model: Any, num_data: int, **settings: Any) -> nn.Module:
    """A guide: `--guide per-datum --family full-rank`. `auto-normal` is Pyro's own, for the whole data set at once."""
    choose("guide", GUIDES, word)
    if word == "auto-normal":
        return AutoNormal(model)
    if word == "per-datum":
        return guides.PerDatum(model, num_data, family=family(family_word))
    return guides.Amortized(model, family=family(family_word), **settings)


def sequence_pair(
    model: str, guide: str, family: str, likelihood: str, train: Sequences, *, latent_dim: int, hidden: int,
    recurrent: int, guide_hidden: int, guide_recurrent: int, dropout: float,
) -> tuple[nn.Module, nn.Module]:  # fmt: skip
    """A model of sequences and its guide: `--model srnn --guide smoother --family residual --likelihood bernoulli`."""
    emission = choose("likelihood", LIKELIHOODS, likelihood)
    # Bits start from each key's share of the frames, not from one half: most keys hardly ever sound.
    if likelihood == "bernoulli":
        emission = partial(emission, mean=train.frames.float().mean(0))
    # A chain has a transition network in place of a recurrent one.
    sizes = {"transition_hidden": (hidden,)} if model == "dmm" else {"recurrent": recurrent}
    p = choose("model", MODELS, model)(len(train.columns), latent_dim, likelihood=emission, hidden=(hidden,), **sizes)
    q = choose("guide", SEQUENCE_GUIDES, guide)(
        p, family=choose("family", SEQUENCE_FAMILIES, family), hidden=(guide_hidden,), recurrent=guide_recurrent,
        recurrence=partial(Dropped, probability=dropout) if dropout else nn.GRU,
    )  # fmt: skip
    return p, q
