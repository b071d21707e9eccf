"""Figures of calibration: panels, bands and words follow from the ranks."""

import numpy as np
import pytest
import torch
from gaussian_pairs import Given, LinearGaussian

import guides
from zoo import PPCA
from zoo.infer import Calibration, plot_coverage, plot_predictive, plot_ranks, posterior_draws
from zoo.infer.calibration.simulate import simulate
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


def test_several_calibrations_share_the_panels():
    figure = plot_ranks({"one": found(), "two": found()})
    assert [line.get_label() for line in figure.axes[0].lines[:2]] == ["one", "two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one: fails", "two: fails"]
    for several in ({}, {"one": found(), "two": found(("k", "log p(x | z)"))}):
        with pytest.raises(ValueError, match="same numbers of data"):
            plot_ranks(several)


def test_replicated_statistics_surround_those_of_the_model_s_own_data():
    torch.manual_seed(0)
    model = LinearGaussian()
    x = simulate(model, torch.zeros(50, 4).double(), {}).x
    draws = posterior_draws(model, Given(model), x, num_draws=200, seed=0)
    figure = plot_predictive(draws)
    shares = [float(ax.get_title().partition(": ")[2]) for ax in figure.axes]
    assert len(shares) == 4
    # none of 200 replications beyond the data: for one of the four statistics this happens in at most 4 of 100 seeds
    assert all(0 < share < 1 for share in shares)
    beside = posterior_draws(model, Given(model), x + 3.0, num_draws=200, seed=0)
    assert float(plot_predictive(beside).axes[0].get_title().partition(": ")[2]) < 0.01
    own = plot_predictive(draws, statistics={"median": lambda v: v.flatten(-2).median(-1).values})
    assert own.axes[0].lines[0].get_xdata()[0] == pytest.approx(x.median().item())
    with pytest.raises(ValueError, match="'all': expected shape"):
        plot_predictive(draws, statistics={"all": lambda v: v})
    with pytest.raises(ValueError, match="no replicated and observed data of 'y'"):
        plot_predictive(draws, site="y")


def test_statistics_are_of_the_observed_entries():
    torch.manual_seed(0)
    model, seen = PPCA(4, 2), torch.rand(30, 4) < 0.5
    x = torch.where(seen, torch.randn(30, 4), torch.nan)
    draws = posterior_draws(model, guides.Exact(model), x, num_draws=20, mask=seen, seed=0)
    replicated = torch.as_tensor(draws["posterior_predictive"]["x"].values.copy())[0].double()
    figure = plot_predictive(draws)
    lines = [ax.lines[0].get_xdata()[0] for ax in figure.axes]
    known = x[seen].double()
    assert lines == pytest.approx([float(v) for v in (known.mean(), known.std(), known.min(), known.max())], rel=1e-5)
    share = (replicated[:, seen].mean(-1) >= known.mean()).double().mean()
    assert figure.axes[0].get_title() == f"mean: {share:.2f}"
    own = plot_predictive(draws, statistics={"own": lambda v: v.nanmean((-1, -2))})
    assert own.axes[0].get_title() == f"own: {share:.2f}"
    with pytest.raises(ValueError, match="statistics: 'own': NaN; entries that were not observed"):
        plot_predictive(draws, statistics={"own": lambda v: v.mean((-1, -2))})
    nothing = posterior_draws(model, guides.Exact(model), x, num_draws=3, mask=seen & False)
    with pytest.raises(ValueError, match="no entry of 'x' was observed"):
        plot_predictive(nothing)


@pytest.mark.parametrize("plot", [plot_ranks, plot_coverage])
def test_level_is_a_probability(plot):
    with pytest.raises(ValueError, match="level"):
        plot(found(), level=2.0)
