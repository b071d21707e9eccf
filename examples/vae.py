"""A VAE of real digits, the demo: trained, evaluated, its posterior laid over NUTS draws and the exact posterior.

    p(x, z) = N(z; 0, I) prod_i Bernoulli(x_i; decoder(z)_i),    q(z | x) = family(z; encoder(x)).

    python examples/vae.py                                     # 8x8 digits, two latent dimensions: about a minute
    python examples/vae.py --family iaf --objective iwelbo --num-particles 10
    python examples/vae.py --data mnist --latent-dim 20 --hidden 400 --epochs 20

With two latent dimensions (or one) the posterior is exact on a grid; with more, batched HMC takes its place.
"""

import shlex
import sys
import time
from pathlib import Path

import pyro
import torch
import tyro
import words
from report import Report

from zoo import VAE
from zoo.data import Binarized, binarize, load
from zoo.infer import (
    NotAReference,
    active_units,
    compare,
    fit,
    grid_reference,
    hmc_reference,
    log_likelihood,
    nuts_reference,
    plot_elbo_history,
    plot_overlay,
    plot_reconstructions,
)


def main(
    *, data: str = "digits", guide: str = "amortized", family: str = "diagonal", objective: str = "elbo",
    num_particles: int = 1, latent_dim: int = 2, hidden: tuple[int, ...] = (128,), epochs: int = 300,
    batch_size: int = 64, num_test: int = 300, num_checked: int = 6, draws: int = 1000, device: str = "cpu",
    seed: int = 2, out: Path = Path("runs/demo"),
) -> None:  # fmt: skip
    """Trains, evaluates and checks the pair; everything lands in `out`, with a report.html."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    began, source = time.time(), load(data)
    # Shuffled: a test set may be ordered by class. Fixed bits: all that is compared below sees the same data.
    test = binarize(source.test.shuffled(seed), seed=seed)[:num_test]
    train, valid = Binarized(source.train), binarize(source.valid, seed=seed)
    # Other guides have parameters for each datum: they infer the test digits themselves.
    if guide != "amortized":
        train, valid, batch_size = test, None, len(test)

    model = VAE(source.data_dim, latent_dim, hidden)
    q = words.guide(guide, family, model, len(train), hidden=hidden)
    loss = words.objective(objective, num_particles)(model, q)
    result = fit(loss, train, epochs=epochs, batch_size=batch_size, validation=valid, seed=seed, device=device, out=out)
    loss.cpu()

    page = Report(out, f"VAE on {data}: {guide}, {family}, {objective}", shlex.join(["python", *sys.argv]))
    epoch, kept = [r["epoch"] for r in result.history], result.best["epoch"] if result.best else epochs
    curves = {"train": (epoch, [-r["train"] for r in result.history])}
    if valid is not None:
        curves["validation"] = (epoch, [-r["validation"] for r in result.history])
    page.heading("Training")
    page.figure("training", plot_elbo_history(curves, unit="epoch"), f"Nats per digit; epoch {kept} is kept.")

    page.heading("The worth of the pair")
    value = log_likelihood(model, q, test, num_particles=1000, seed=seed)
    page.table({
        "log p(x), 1000 importance samples": f"{value.mean:.3f} ± {value.standard_error:.3f} nats per digit",
        "ELBO": f"{value.elbo.mean():.3f} nats per digit",
        "test digits": f"{len(test)}, binarised once with seed {seed}",
        "active units": f"{int(active_units(q, test)['z'].active.sum())} of {latent_dim}",
    })  # fmt: skip
    with torch.no_grad():
        z = pyro.poutine.trace(q).get_trace(test).nodes["z"]["value"][:10]
        samples = model.likelihood(torch.randn(10, latent_dim)).mean
        images = {"data": test[:10], "decoded": model.likelihood(z).mean, "samples": samples}
    page.figure("digits", plot_reconstructions(images, source.shape), "Test digits, reconstructions and samples.")

    page.heading("The posterior")
    # Per-datum guides are cut to the rows that are checked; Pyro's autoguides cannot be, and are checked on all.
    count = len(test) if guide == "auto-normal" else num_checked
    x = test[:count]
    checked = q.rows(torch.arange(count)) if guide == "per-datum" else q
    finders = [lambda: grid_reference(model, x) if latent_dim <= 2 else hmc_reference(model, x, seed=seed)]
    # NUTS is the second opinion: it takes nothing from the grid, nor from our HMC.
    if guide != "auto-normal":
        sampler = {"num_samples": draws, "warmup": draws // 3, "chains": 4, "time_budget": 240.0, "seed": seed}
        finders.append(lambda: nuts_reference(model, x, **sampler))
    references = []
    for find in finders:
        try:
            references.append(find())
            page.preformatted(str(compare(checked, references[-1], x, model=model, seed=seed)))
        except NotAReference as refusal:
            # Draws that failed their checks are no reference; they stay in refusal.inference_data.
            page.preformatted(str(refusal))
    if latent_dim > 1 and references:
        layout = {"data": range(num_checked), "image_shape": source.shape, "columns": 3}
        overlay = plot_overlay(checked, references, x, model=model, **layout)
        page.figure("overlay", overlay, "The guide's contours over NUTS draws and the exact posterior.")
    page.text(f"{time.time() - began:.0f} seconds in all, one thread; torch {torch.__version__}, seed {seed}.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
