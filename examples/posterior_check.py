"""A check of the posterior: one trained VAE, its guide against every reference, and the references among themselves.

With one or two latent dimensions a grid is exact; batched HMC serves any number of data points; Pyro's NUTS is the
second opinion for a few. `compare` prints, for each digit, the gap log p - ELBO, the error of the mean in posterior
standard deviations, the ratio of standard deviations, Pareto k-hat, and a verdict from all four.

    python examples/posterior_check.py --family full-rank --latent-dim 5
    python examples/posterior_check.py --checkpoint runs/demo/model.safetensors --hidden 128
"""

from pathlib import Path

import pyro
import torch
import tyro
import words
from report import Report

import guides
from zoo import VAE
from zoo.data import Binarized, binarize, load
from zoo.infer import (
    NotAReference,
    compare,
    fit,
    grid_reference,
    hmc_reference,
    load_model,
    nuts_reference,
    plot_overlay,
)


def main(
    *,
    data: str = "digits",
    family: str = "diagonal",
    objective: str = "elbo",
    num_particles: int = 1,
    latent_dim: int = 2,
    hidden: tuple[int, ...] = (128,),
    epochs: int = 300,
    num_checked: int = 8,
    draws: int = 1000,
    nuts_seconds: float = 240.0,
    checkpoint: Path | None = None,
    seed: int = 0,
    out: Path = Path("runs/posterior_check"),
) -> None:
    """Trains a pair (or loads one with `--checkpoint`), finds its posterior by every means, compares."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    source = load(data)
    x = binarize(source.test.shuffled(seed), seed=seed)[:num_checked]
    model = VAE(source.data_dim, latent_dim, hidden)
    guide = guides.Amortized(model, family=words.family(family), hidden=hidden)
    loss = words.objective(objective, num_particles)(model, guide)
    if checkpoint is not None:
        load_model(loss, checkpoint)
    else:
        fit(loss, Binarized(source.train), epochs=epochs, batch_size=64, seed=seed, out=out)

    page = Report(out, f"The posterior of a VAE on {data}", f"{family}, {objective}, {latent_dim} latent dimensions")
    # HMC takes all digits at once. NUTS takes one after the other, so that it has a budget of time.
    finders = {
        "grid": lambda: grid_reference(model, x),
        "HMC": lambda: hmc_reference(model, x, num_samples=draws, warmup=draws, seed=seed),
        "NUTS": lambda: nuts_reference(
            model, x, num_samples=draws, warmup=draws // 3, time_budget=nuts_seconds, seed=seed
        ),
    }
    # The points of a grid are exponential in its dimensions.
    if latent_dim > 2:
        del finders["grid"]
    found, gaps = {}, {}
    for name, finder in finders.items():
        page.heading(f"Against {name}")
        try:
            found[name] = finder()
        except NotAReference as refusal:
            # Draws that failed their checks are no reference; they stay in refusal.inference_data.
            page.preformatted(str(refusal))
            continue
        comparison = compare(guide, found[name], x, seed=seed)
        gaps[name] = comparison.gap
        page.preformatted(str(comparison))
    page.heading("The references against each other")
    # Independent means must agree on log p: a difference is an error of one of them, not of the guide.
    first, *others = gaps
    for other in others:
        apart = (gaps[other] - gaps[first]).abs().max()
        page.text(f"log p - ELBO: {other} and {first} differ by at most {apart:.3f} nats.")
    if latent_dim > 1:
        overlay = plot_overlay(guide, list(found.values()), x, image_shape=source.shape)
        page.figure("overlay", overlay, "The guide's contours over the draws and the exact posterior.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
