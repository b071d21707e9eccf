"""Makes the small pairs that ship, seconds each: exact models by EM or in closed form, and a VAE of two latents.

    python tools/small.py               # all of them
    python tools/small.py digits-vae    # some

Their figures are those of the rows that `python -m zoo NAME` scores again.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from ship import SEED, Subset, finish, named_subset
from sklearn.datasets import load_iris
from torch import nn

import guides
from zoo import HMM, LGSSM, PPCA, VAE, GaussianMixture
from zoo.data import Binarized, binarize, load
from zoo.infer import ELBO, em, fit
from zoo.infer.training.settings import versions
from zoo.parts.conditionals import NormalEmission
from zoo.parts.structural import local_level
from zoo.shipped.rescore import scored
from zoo.shipped.shelf import WEIGHTS

Pair = tuple[nn.Module, nn.Module]


class Small(NamedTuple):
    """A pair of seconds.

    Attributes:
        data, convention: of the figure, in words.
        subset: the rows of the figure.
        trained: the pair, fitted.
        num_particles: of the figure.
    """

    data: str
    convention: str
    subset: Callable[[], Subset]
    trained: Callable[[], Pair]
    num_particles: int = 10


def exact(model: nn.Module, *, site: str = "z") -> Pair:
    return model, guides.Exact(model, site=site)  # type: ignore[arg-type]


def iris() -> torch.Tensor:
    return torch.as_tensor(load_iris().data)


def iris_rows() -> Subset:
    terms, source = "CC BY 4.0 (UCI repository)", "R. A. Fisher, Annals of Eugenics 1936; from scikit-learn"
    # the file is ordered by species, and pictures show the first rows
    mixed = torch.randperm(150, generator=torch.Generator().manual_seed(SEED))
    return Subset({"x": iris()[mixed]}, {"source": "sklearn.datasets.load_iris"}, terms, source)


def iris_mixture() -> Pair:
    model = GaussianMixture(4, 3).double()
    em(model, iris(), restarts=10)
    return exact(model, site="k")


def nile_level() -> Pair:
    start = {"level_variance": 1e3, "observation_variance": 1e4}
    learned = {name: PyroParam(torch.tensor(v).double(), constraints.positive) for name, v in start.items()}
    return exact(LGSSM(local_level, marginal=False, **learned).maximum_likelihood(load("nile").train.values))


def nile_states() -> Pair:
    model = HMM(2, NormalEmission(2, 1), marginal=False).double()
    em(model, load("nile").train.values, restarts=3)
    return exact(model)


def digits_components() -> Pair:
    return exact(PPCA(64, 10).maximum_likelihood(load("digits").train.images))


def digits_vae() -> Pair:
    digits = load("digits")
    model = VAE(64, 2, (100,))
    guide = guides.Amortized(model, hidden=(100,))
    fit(ELBO(analytic_kl=True)(model, guide), Binarized(digits.train), epochs=300, seed=SEED, progress=False,
        validation=binarize(digits.valid, seed=SEED))  # fmt: skip
    return model, guide


def test_digits(form: str) -> Subset:
    return named_subset({"set": "digits", "split": "test", "form": form, "seed": SEED, "rows": list(range(300))})


NILE = partial(named_subset, {"set": "nile", "split": "train", "rows": [0]})
FITTED = "exact, on the data that it was fitted to"
SMALL = {
    "iris-mixture": Small("iris", f"{FITTED}: three components", iris_rows, iris_mixture),
    "nile-level": Small("nile", f"{FITTED}; the first level has variance 1e6", NILE, nile_level),
    "nile-states": Small("nile", f"{FITTED}: two states", NILE, nile_states),
    "digits-ppca": Small("digits", "exact, test images in [0, 1], ten components", partial(test_digits, "images"),
                         digits_components),
    "digits-vae": Small("digits, dynamic bits", "1000 importance samples, test bits drawn once with seed 123",
                        partial(test_digits, "bits"), digits_vae, 1000),
}  # fmt: skip


def make(name: str, shelf: Path = WEIGHTS) -> None:
    """Fits a small pair and ships it."""
    small = SMALL[name]
    torch.manual_seed(SEED)
    model, guide = small.trained()
    subset = small.subset()
    found = scored(model.eval(), guide.eval(), subset.arguments, small.num_particles, SEED)
    series = subset.arguments["x"].dim() == 3
    about = {
        "name": name, "data": small.data, "command": f"python tools/small.py {name}", "note": "", "seed": SEED,
        "versions": versions(), "date": time.strftime("%Y-%m-%d"),
        "figure": f"log p, nats per {'series' if series else 'datum'}", "convention": small.convention,
        "value": found.mean, "error": None if series else found.standard_error, "stored": "as trained",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        finish(Path(made), shelf / name, model, guide, about, subset, small.num_particles, None)
    print(f"{name}: {found.mean:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=SMALL, help="some of them")
    torch.set_num_threads(1)
    for chosen in parser.parse_args().names or SMALL:
        make(chosen)
