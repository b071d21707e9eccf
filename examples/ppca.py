"""Probabilistic PCA of handwritten digits in three ways: closed form, EM, and EM with 30 % of the pixels missing.

EM must end at the closed form; scikit-learn's PCA has the same subspace, and variances larger by N / (N - 1). The model
with missing pixels fills them in with E[x_missing | x_observed], exactly.

    python examples/ppca.py --latent-dim 10 --missing 0.3
"""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.figure import SubFigure
from report import save
from sklearn.decomposition import PCA

from zoo.data import load
from zoo.infer.em import em
from zoo.ppca import PPCA


def largest_angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest principal angle between the column spaces of `a` and `b`, in degrees."""
    # By its sine: the cosine of an angle near zero is 1 to the last digit.
    a, b = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    sine = torch.linalg.matrix_norm(b - a @ (a.T @ b), ord=2)
    return math.degrees(math.asin(min(1.0, sine.item())))


@torch.no_grad()
def main(latent_dim: int = 10, missing: float = 0.3, max_iterations: int = 2000, seed: int = 0,
         out: Path = Path("runs/ppca")) -> None:  # fmt: skip
    """Fits the models, prints log p in nats per image and angles between the subspaces, draws the filled-in digits."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    digits = load("digits")
    train, test = digits.train.images.double(), digits.test.images.double()
    seen, seen_test = torch.rand_like(train) >= missing, torch.rand_like(test) >= missing
    # NaN, so that a missing pixel that were read by mistake would show.
    holes = train.masked_fill(~seen, math.nan)

    closed = PPCA(64, latent_dim).double().maximum_likelihood(train)
    pca = PCA(latent_dim).fit(train.numpy())
    by_em, by_holes = PPCA(64, latent_dim).double(), PPCA(64, latent_dim).double()
    run = em(by_em, train, restarts=1, tolerance=1e-12, max_iterations=max_iterations)
    run_holes = em(by_holes, holes, mask=seen, restarts=1, tolerance=1e-12, max_iterations=max_iterations)

    print(f"{'':22} {'train':>10} {'test':>10} {'sigma':>8} {'angle to closed form':>21} {'M-steps':>8}")
    for name, model, steps in (
        ("closed form", closed, ""),
        ("EM", by_em, run.iterations),
        (f"EM, {missing:.0%} missing", by_holes, run_holes.iterations),
    ):
        figures = [model.log_prob(x).mean().item() for x in (train, test)] + [model.scale.item()]
        angle = f"{largest_angle(model.weight, closed.weight):.1e}°" if model is not closed else ""
        print(f"{name:22} {figures[0]:10.5f} {figures[1]:10.5f} {figures[2]:8.5f} {angle:>21} {steps:>8}")
    scores = [pca.score(x.numpy()) for x in (train, test)]
    angle = largest_angle(torch.as_tensor(pca.components_.T.copy()), closed.weight)
    print(f"{'scikit-learn PCA':22} {scores[0]:10.5f} {scores[1]:10.5f} {pca.noise_variance_**0.5:8.5f} {angle:20.1e}°")

    filled = by_holes.impute(test, seen_test)
    error = (filled - test)[~seen_test].square().mean().sqrt().item()
    naive = (by_holes.mean - test)[~seen_test].square().mean().sqrt().item()
    print(f"missing test pixels, root mean square error: filled in {error:.4f}, by the mean image {naive:.4f}")

    rows = {"test image": test, "observed": test.masked_fill(~seen_test, math.nan), "filled in": filled}
    figure = plt.figure(figsize=(12, 3.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 1), wspace=0.04)
    draw_digits(left, rows, digits.test.labels, closed.weight)
    axis = right.subplots()
    best = closed.log_prob(train).mean().item()
    for label, colour, end, trajectory in (
        ("all pixels: to the closed form", "C3", best, run.trajectory),
        (f"{missing:.0%} missing: to its own end", "C0", run_holes.log_likelihood, run_holes.trajectory),
    ):
        # Below 1e-9 a gap is rounding, and a logarithmic axis has no place for it.
        gaps = [end - value for value in trajectory]
        axis.semilogy([gap for gap in gaps if gap > 1e-9], color=colour, label=label)
    axis.set(xlabel="M-steps", ylabel="nats per image still to gain")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    save(figure, out / "ppca.png", (axis,))


def draw_digits(figure: SubFigure, rows: dict[str, torch.Tensor], labels: torch.Tensor, weight: torch.Tensor) -> None:
    """Draws the first image of each digit under every label of `rows`, and the columns of the weight below."""
    chosen = [(labels == digit).nonzero()[0, 0].item() for digit in range(10)]
    grid = figure.subplots(4, 10)
    colours = plt.get_cmap("gray_r").with_extremes(bad="#f6c8a8")
    for axes, (label, images) in zip(grid[:3], rows.items(), strict=True):
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, index in zip(axes, chosen, strict=True):
            axis.imshow(images[index].view(8, 8).numpy(), cmap=colours, vmin=0, vmax=1)
    grid[3, 0].set_ylabel("columns of W", rotation=0, ha="right", va="center")
    for axis, column in zip(grid[3], weight.T, strict=False):
        size = column.abs().max()
        axis.imshow(column.view(8, 8).numpy(), cmap="RdBu_r", vmin=-size, vmax=size)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("0.8")
    for axis in grid[3, weight.shape[-1] :]:
        axis.set_visible(False)


if __name__ == "__main__":
    tyro.cli(main)
