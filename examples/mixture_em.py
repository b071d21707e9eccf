"""Gaussian mixtures by EM, with three forms of covariance, on handwritten digits seen through two principal components.

The data are E[z | x] of a two-latent `PPCA`. Each mixture starts five times from k-means++ and keeps the best end; `em`
raises if the log-likelihood falls anywhere on the way. scikit-learn fits five times beside it.

    python examples/mixture_em.py --components 7 --restarts 5
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.axes import Axes
from report import save
from sklearn.mixture import GaussianMixture as Sklearn

from zoo import DiagonalCovariance, FullCovariance, GaussianMixture, TiedCovariance
from zoo.data import load
from zoo.infer.em import em
from zoo.parts.covariances import Covariance
from zoo.ppca import PPCA


def draw(axis: Axes, model: GaussianMixture, x: torch.Tensor, palette: torch.Tensor) -> None:
    """Draws every datum in the mixed colour of its responsibilities, every component as ellipses of one and two sd."""
    axis.scatter(*x.T, c=(model.responsibilities(x) @ palette).clamp(0, 1), s=7, linewidths=0)
    low, high = x.min(0).values - 0.5, x.max(0).values + 0.5
    across, up = (torch.linspace(low[i], high[i], 300, dtype=x.dtype) for i in range(2))
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)
    for k, color in enumerate(palette):
        component = model.likelihood(torch.tensor(k))
        # -r^2 / 2 at r standard deviations.
        height = component.log_prob(grid) - component.log_prob(model.means[k])
        lines = {"colors": [color.numpy() * 0.6], "linewidths": [0.7, 1.5], "linestyles": "solid"}
        axis.contour(across, up, height, levels=[-2.0, -0.5], **lines)
    weights = model.prior().probs
    axis.scatter(*model.means.T, s=30 + 300 * weights, c=palette.numpy() * 0.6, edgecolors="white", zorder=3)
    axis.spines[:].set_color("0.85")
    axis.set(xticks=[], yticks=[], xlabel="$E[z_1\\,|\\,x]$", ylabel="$E[z_2\\,|\\,x]$")


@torch.no_grad()
def main(components: int = 7, restarts: int = 5, max_iterations: int = 1000, seed: int = 0,
         out: Path = Path("runs/mixture_em")) -> None:  # fmt: skip
    """Fits the three forms of covariance, compares with scikit-learn, draws responsibilities and trajectories."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    digits = load("digits").train.images.double()
    x = PPCA(64, 2).double().maximum_likelihood(digits).posterior(digits).mean

    forms: dict[str, tuple[Covariance, str]] = {
        "full": (FullCovariance(), "full"),
        "diagonal": (DiagonalCovariance(), "diag"),
        "tied": (TiedCovariance(), "tied"),
    }
    palette = torch.as_tensor(plt.get_cmap("turbo" if components > 8 else "Set2").colors)[..., :3].double()
    palette = (
        palette[torch.linspace(0, len(palette) - 1, components).long()] if components > 8 else palette[:components]
    )
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), height_ratios=(3, 2), sharey="row", layout="constrained")
    print(f"{len(x)} data, {components} components, {restarts} restarts; nats per datum")
    print(
        f"{'covariance':11} {'worst end':>10} {'best end':>10} {'scikit-learn':>13} {'difference':>11} {'M-steps':>8}"
    )
    for (name, (covariance, word)), (above, below) in zip(forms.items(), axes.T, strict=True):
        model = GaussianMixture(2, components, covariance=covariance).double()
        result = em(model, x, restarts=restarts, max_iterations=max_iterations, tolerance=1e-7)
        sklearn = Sklearn(
            components, covariance_type=word, n_init=restarts, tol=1e-7, max_iter=10_000, random_state=seed
        )
        theirs = sklearn.fit(x.numpy()).score(x.numpy())
        # Local maxima: the spread of the ends says how much the starts matter.
        ends = [trajectory[-1] for trajectory in result.starts]
        print(
            f"{name:11} {min(ends):10.5f} {max(ends):10.5f} {theirs:13.5f} {max(ends) - theirs:11.1e} "
            f"{result.iterations:8d}{'' if result.converged else ', not converged'}"
        )
        draw(above, model, x, palette)
        above.set_title(f"{name} covariance")
        for trajectory in result.starts:
            best = trajectory == result.trajectory
            below.plot(trajectory, color="C3" if best else "0.7", lw=1.8 if best else 0.9, zorder=3 if best else 2)
        below.axhline(theirs, color="C0", ls=(0, (5, 4)), lw=1, zorder=4)
        below.set(xlabel="M-steps", xscale="symlog", xlim=(0, None))
        below.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        below.minorticks_off()
    for axis in axes[0, 1:]:
        axis.set_ylabel("")
    axes[1, 0].set_ylabel("log-likelihood, nats per datum")
    # Empty lines, for the legend alone.
    axes[1, 0].plot([], [], color="C3", lw=1.8, label="best of the restarts")
    axes[1, 0].plot([], [], color="0.7", label="the others")
    axes[1, 0].plot([], [], color="C0", ls=(0, (5, 4)), lw=1, label="scikit-learn, best end")
    axes[1, 0].legend(frameon=False, loc="lower right", fontsize=8)
    save(figure, out / "mixture_em.png", axes[1])


if __name__ == "__main__":
    tyro.cli(main)
