"""The gap of the bound in two parts: log p - ELBO = approximation gap (the family) + amortization gap (the encoder).

One VAE for each encoder width and family on the binarised 8x8 digits. On test digits, the best q of the same family
with parameters of its own for each digit tells the two parts apart (Cremer, Li and Duvenaud 2018).

    python examples/amortization_gap.py --families diagonal full-rank iaf --widths 10 50 200
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyro
import torch
import tyro
import words
from report import save

import guides
from zoo import VAE
from zoo.data import Binarized, binarize, load
from zoo.infer import fit, gaps


def main(
    *,
    families: tuple[str, ...] = ("diagonal", "full-rank", "iaf"),
    widths: tuple[int, ...] = (10, 50, 200),
    objective: str = "elbo",
    num_particles: int = 1,
    latent_dim: int = 8,
    epochs: int = 200,
    num_test: int = 100,
    steps: int = 1000,
    seed: int = 0,
    out: Path = Path("runs/amortization_gap"),
) -> None:
    """Trains every pair, splits its gap, and draws the parts."""
    torch.set_num_threads(1)
    digits = load("digits")
    test = binarize(digits.test, seed=seed)[:num_test]
    found = {}
    for word in families:
        for width in widths:
            # The same start for all: the pairs differ in the guide alone.
            pyro.set_rng_seed(seed)
            model = VAE(digits.data_dim, latent_dim, (100,))
            guide = guides.Amortized(model, family=words.family(word), hidden=(width,))
            loss = words.objective(objective, num_particles)(model, guide)
            fit(loss, Binarized(digits.train), epochs=epochs, batch_size=64, seed=seed, progress=False)
            found[word, width] = gaps(model, guide, test, steps=steps, seed=seed)
            log_p = found[word, width].log_p.mean()
            print(f"--- {word}, encoder of {width}: log p = {log_p:.2f}\n{found[word, width]}")

    # Bars on a shared axis: models differ in log p too, gaps compare.
    figure, axes = plt.subplots(1, len(families), figsize=(3.2 * len(families), 3.4), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, word in zip(axes[0], families, strict=True):
        approximation = [found[word, w].approximation.mean().item() for w in widths]
        amortization = [found[word, w].amortization.mean().item() for w in widths]
        names = [str(w) for w in widths]
        axis.bar(names, approximation, color="C0", width=0.6, label="approximation gap")
        axis.bar(names, amortization, bottom=approximation, color="C1", width=0.6, label="amortization gap")
        axis.set(title=word, xlabel="width of the encoder")
    axes[0, 0].set_ylabel("log p(x) - ELBO, nats per digit")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, out / "gaps.png", axes[0])


if __name__ == "__main__":
    tyro.cli(main)
