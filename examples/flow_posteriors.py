"""One VAE under every family of guides: bound, gap and picture of the posterior, on one page.

The model is trained once and frozen, so that log p(x) is the same for all and the bounds differ by the guides alone;
`--joint` trains a model with each guide instead, as in practice. With two latent dimensions the true posterior is exact
on a grid.

    python examples/flow_posteriors.py --families diagonal full-rank mixture planar radial iaf spline
"""

import copy
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import pyro
import torch
import tyro
import words
from report import Report

import guides
from zoo import VAE
from zoo.data import Binarized, binarize, load
from zoo.infer import compare, fit, grid_reference, log_likelihood, plot_overlay


def main(
    *,
    families: tuple[str, ...] = tuple(words.FAMILIES),
    objective: str = "elbo",
    num_particles: int = 1,
    joint: bool = False,
    hidden: tuple[int, ...] = (128,),
    epochs: int = 300,
    num_test: int = 100,
    num_shown: int = 4,
    seed: int = 0,
    out: Path = Path("runs/flow_posteriors"),
) -> None:
    """Trains, evaluates and draws every family."""
    torch.set_num_threads(1)
    digits = load("digits")
    train, test = Binarized(digits.train), binarize(digits.test.shuffled(seed), seed=seed)[:num_test]
    page = Report(out, "One VAE, every family", "frozen model" if not joint else "a model for each guide")

    # Every fit has the same seed, so that families see the same batches and bits.
    def trained(model: VAE, word: str) -> guides.Amortized:
        guide = guides.Amortized(model, family=words.family(word), hidden=hidden)
        loss = words.objective(objective, num_particles)(model, guide)
        fit(loss, train, epochs=epochs, batch_size=64, seed=seed, progress=False)
        return guide

    pyro.set_rng_seed(seed)
    start = VAE(digits.data_dim, 2, hidden)
    if not joint:
        trained(start, "diagonal")
        # Frozen: log p is then the same for all families, and bounds differ by the guides alone.
        start.requires_grad_(False)
    page.heading("The families")
    lines = [f"{'family':12} {'ELBO':>9} {'log p':>9} {'gap':>8} {'+-':>6}   good, fair, bad"]
    overlays = []
    for word in families:
        pyro.set_rng_seed(seed)
        model = copy.deepcopy(start)
        guide = trained(model, word)
        # With --joint each model has a log p of its own, so the grid is made for each.
        exact = grid_reference(model, test)
        value = log_likelihood(model, guide, test, num_particles=1000, seed=seed)
        gap = exact.log_evidence - value.elbo
        verdicts = [v.value for v in compare(guide, exact, test, num_particles=1000, seed=seed).verdicts]
        counts = ", ".join(f"{verdicts.count(v):3d}" for v in ("good", "fair", "bad"))
        spread = gap.std().item() / num_test**0.5
        means = f"{value.elbo.mean():9.3f} {exact.log_evidence.mean():9.3f} {gap.mean():8.4f} {spread:6.4f}"
        lines.append(f"{word:12} {means}   {counts}")
        print(lines[-1])
        overlays.append((word, plot_overlay(guide, exact, test, data=range(num_shown), image_shape=digits.shape)))
    page.preformatted("\n".join(lines))
    page.text(f"Nats per digit, means over {num_test} test digits; log p exact on a grid; +- over the digits.")
    for word, overlay in overlays:
        page.heading(word)
        page.figure(f"overlay-{word}", overlay, f"{word}: the guide's contours over the exact posterior.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
