"""Figures of classifiers: is a class that is given probability 0.8 the right one in 8 of 10 cases?"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from zoo.plots.look import DRAWS, array, plain, styles

__all__ = ["plot_reliability"]


def plot_reliability(predictions: Mapping[str, tuple[Tensor, Tensor]], *, bins: int = 10) -> Figure:
    """A reliability plot: the share of right labels over the probability of the most probable class, in bins.

    On the diagonal a classifier is calibrated; below it, it is too sure. Under the curves stands the number of data
    in each bin, and in the legend the expected calibration error: the mean distance from the diagonal over the data.
    The curve is scikit-learn's `calibration_curve` of the most probable class, in bins of equal width.

    References: Guo et al. 2017.

    Args:
        predictions: label of a curve -> probabilities `(N, C)`, such as `guide.predict(x)`, and the true labels `(N,)`.
        bins: their number over [0, 1].

    Raises:
        ValueError: probabilities and labels of other shapes, or no probabilities; labels that are no classes.

    Example:
        >>> import torch
        >>> from zoo.plots import plot_reliability
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.25, 0.75]])
        >>> figure = plot_reliability({"three of four": (probabilities, torch.tensor([0, 0, 1, 1]))})
        >>> figure.axes[0].lines[1].get_xydata().tolist(), figure.axes[0].get_legend().get_texts()[0].get_text()
        ([[0.75, 0.75]], 'three of four: 0.000')
    """
    # scikit-learn takes a second to load
    from sklearn.calibration import calibration_curve

    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    ax.plot([0, 1], [0, 1], color=DRAWS, linewidth=0.8, linestyle=":")
    edges = np.linspace(0, 1, bins + 1)
    for (label, (probabilities, y)), (colour, style) in zip(predictions.items(), styles(), strict=False):
        confidence, right = _most_probable(label, probabilities, y)
        share, mean = calibration_curve(right, confidence, n_bins=bins)
        # the same bins as scikit-learn's, which has no counts: a value on an edge belongs to the bin below
        counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=bins)
        error = np.average(np.abs(share - mean), weights=counts[counts > 0])
        ax.plot(mean, share, color=colour, linestyle=style, linewidth=1.6, marker=".", label=f"{label}: {error:.3f}")
        below.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.2)
    ax.set(ylabel="share of right labels", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="probability of the most probable class", ylabel="data")
    for one in (ax, below):
        plain(one)
    if predictions:
        ax.legend(frameon=False, fontsize=9, loc="upper left", title="calibration error", title_fontsize=9)
    return figure


def _most_probable(label: str, probabilities: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each datum the probability of its most probable class, and True where that is the label."""
    if probabilities.dim() != 2 or y.shape != probabilities.shape[:1] or not len(y):
        raise ValueError(
            f"{label}: expected probabilities (N, C) and labels (N,), got {tuple(probabilities.shape)} and "
            f"{tuple(y.shape)}"
        )
    classes = probabilities.shape[1]
    if y.is_floating_point() or not ((y >= 0) & (y < classes)).all():
        raise ValueError(
            f"{label}: expected integers 0 to {classes - 1} as labels, got {y.dtype}, {y.min().item()} to "
            f"{y.max().item()}; data without a label have no place in the plot"
        )
    values = array(probabilities)
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError(f"{label}: expected probabilities in [0, 1], got values from {values.min()} to {values.max()}")
    # rounding of a softmax in single precision may go beyond 1, which scikit-learn refuses
    return values.max(-1).clip(max=1.0), values.argmax(-1) == array(y)
