"""Figures of calibration: panels, bands and words follow from the ranks."""

import numpy as np
import pytest
import torch

from zoo.infer import Calibration, plot_coverage, plot_ranks
from zoo.infer.calibration.uniform import UniformRanks


def found(names=("z[0]", "log p(x | z)", "distance")):
    """Ranks of which the first quantity's are too small and the others uniform."""
    generator = np.random.default_rng(0)
    ranks = generator.integers(0, 20, (300, len(names)))
    ranks[:, 0] //= 2
    law = UniformRanks(300, 19)
    return Calibration(names, torch.as_tensor(ranks), 19, torch.tensor([law.p_value(column) for column in ranks.T]))


def test_panels_show_each_quantity_with_its_verdict():
    figure = plot_ranks(found(), columns=2)
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert titles[0].startswith("z[0]: fails")
    assert all(": passes" in title for title in titles[1:])
    curve = figure.axes[0].lines[0].get_ydata()
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    # ranks of 0..9 alone: at one half all data lie below
    assert curve.max() == pytest.approx(0.5)
    assert band.max() < 0.2
    inside = figure.axes[1].lines[0].get_ydata()
    assert abs(inside).max() < band.max()


def test_chosen_quantities_are_shown():
    assert len(plot_ranks(found(), names=["distance"]).axes) == 1
    for names in (["z[7]"], []):
        with pytest.raises(ValueError, match="plot_ranks: names"):
            plot_ranks(found(), names=names)


def test_coverage_is_that_of_the_distances():
    figure = plot_coverage(found())
    assert "passes" in figure.axes[0].get_title()
    assert figure.axes[0].lines[1].get_ydata()[-1] == 1
    with pytest.raises(ValueError, match="no real latents"):
        plot_coverage(found(("k", "log p(x | z)")))


@pytest.mark.parametrize("plot", [plot_ranks, plot_coverage])
def test_level_is_a_probability(plot):
    with pytest.raises(ValueError, match="level"):
        plot(found(), level=2.0)
