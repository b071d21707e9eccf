"""Bands hold the mass they name, regions too, and figures show what they were given."""

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from scipy.stats import chi2
from torch.distributions import Normal

from zoo.infer import Band, draw_band, draw_regions, plot_bands, plot_draws
from zoo.parts.trajectory.rollout import Draws


@pytest.mark.parametrize("mass", [0.5, 0.9, 0.999])
def test_normal_bands_hold_their_mass(mass):
    mean, sd = torch.tensor([0.0, 3.0], dtype=torch.float64), torch.tensor([1.0, 0.2], dtype=torch.float64)
    band, normal = Band.normal(mean, sd, mass), Normal(mean, sd)
    assert torch.allclose(normal.cdf(band.upper) - normal.cdf(band.lower), torch.tensor(mass, dtype=torch.float64))
    assert torch.allclose(band.upper - band.centre, band.centre - band.lower)


def test_bands_of_draws_hold_their_share():
    draws = torch.randn(1001, 4, 2, generator=torch.Generator().manual_seed(0)).exp()
    band = Band.of_draws(draws, 0.8)
    assert band.centre.shape == (4, 2)
    assert torch.equal(band.centre, draws.median(0).values)
    share = ((band.lower <= draws) & (draws <= band.upper)).double().mean(0)
    assert torch.allclose(share, torch.tensor(0.8, dtype=torch.float64), atol=2 / 1001)
    assert torch.equal(band.covers(draws[0]), (band.lower <= draws[0]) & (draws[0] <= band.upper))
    assert not band.covers(torch.full((4, 2), torch.nan)).any()


@pytest.mark.parametrize("mass", [0.0, 1.0, 90])
def test_a_mass_that_is_none_is_refused(mass):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Band.normal(torch.zeros(2), torch.ones(2), mass)


def test_regions_are_the_ellipses_of_the_mass():
    """The outline of each ellipse lies at the chi-square radius of its Gaussian; a singular one is a line."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    roots = torch.randn(5, 2, 2, generator=generator, dtype=torch.float64)
    roots[4, :, 1] = 0
    covariances = roots @ roots.mT
    ax = Figure().add_subplot()
    draw_regions(ax, means, covariances, mass=0.7, label="path", between=2)
    (patch,) = (p for p in ax.patches if isinstance(p, PathPatch))
    outlines = torch.tensor(patch.get_path().vertices).reshape(13, -1, 2)[::3]
    codes = torch.tensor(patch.get_path().codes).reshape(13, -1)[::3]
    for n in range(4):
        ends = outlines[n][(codes[n] == 1)]  # where an arc of the unit circle begins, on the circle
        offset = torch.cat([ends, outlines[n, 3:25:3]]) - means[n]
        distance = (offset * torch.linalg.solve(covariances[n], offset.mT).mT).sum(-1)
        assert torch.allclose(distance, torch.tensor(chi2.ppf(0.7, 2)), rtol=1e-6)
        area = torch.linalg.det(torch.stack([outlines[n, :-2], outlines[n, 1:-1]], -1) - means[n][:, None]).sum()
        assert area > 0, "all ellipses turn the same way, or their union would have holes"
    (line,) = ax.lines
    assert line.get_label() == "path, 70 % regions"


def test_plot_bands_shows_bands_data_and_forecast():
    times = torch.arange(6.0)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
    seen = torch.tensor([[1.0], [1], [torch.nan], [1], [1], [1]]) * x
    smoothed = Band.normal(x, torch.ones(6, 2))
    forecast = Band.normal(x[:3], torch.ones(3, 2), 0.5, times=times[:3] + 6)
    figure = plot_bands(times, {"smoothed": smoothed, "forecast": forecast}, observed=seen, hidden=x, names=("a", "b"))
    assert [ax.get_ylabel() for ax in figure.axes] == ["a", "b"]
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert set(lines) == {"smoothed, 90 % band", "forecast, 50 % band", "observed", "held out"}
    assert lines["forecast, 50 % band"].get_xdata().tolist() == [6, 7, 8]
    assert lines["held out"].get_ydata().tolist() == x[:, 1].double().tolist()
    figure.canvas.draw()
    single = plot_bands(times, {"one": Band.normal(x[:, 0], torch.ones(6))}, observed=x[:, 0])
    assert len(single.axes) == 1


def test_edges_are_lines_where_the_shade_would_end():
    ax, band = Figure().add_subplot(), Band.normal(torch.arange(4.0), torch.ones(4))
    draw_band(ax, torch.arange(4.0), band, edges=True, label="guide", style="dashed")
    assert not ax.collections
    drawn = [line.get_ydata().tolist() for line in ax.lines]
    assert drawn == [part.double().tolist() for part in (band.lower, band.upper, band.centre)]
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")] == ["guide, 90 % band"]
    draw_band(ax, torch.arange(4.0), band)
    assert len(ax.collections) == 1


def test_plot_bands_refuses_what_does_not_fit():
    times, band = torch.arange(6.0), Band.normal(torch.zeros(6, 2), torch.ones(6, 2))
    with pytest.raises(ValueError, match="at least one"):
        plot_bands(times, {})
    with pytest.raises(ValueError, match=r"held out is \(5, 2\).*\(6, 2\)"):
        plot_bands(times, {"a": band}, hidden=torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"b is \(6, 1\).*\(6, 2\)"):
        plot_bands(times, {"a": band, "b": Band.normal(torch.zeros(6), torch.ones(6))})


def drawn(num=50, horizon=3):
    """Two sequences of 5 frames, the second observed up to the third, with their forecasts."""
    x = torch.arange(30.0).reshape(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False]])
    draws = torch.randn(num, 2, horizon, 3, generator=torch.Generator().manual_seed(2))
    return Draws(torch.zeros(num, 2, horizon, 1), draws, torch.tensor([5, 3])), x, mask


def test_a_forecast_stands_behind_what_was_observed():
    draws, x, mask = drawn()
    truth = torch.cat([x, 100 + torch.zeros(2, 4, 3)], 1)
    figure = plot_draws(draws, x, 1, mask=mask, truth=truth, coordinates=[2, 0], mass=0.8)
    assert [ax.get_ylabel() for ax in figure.axes] == ["x[2]", "x[0]"]
    for ax, place in zip(figure.axes, (2, 0), strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        band = lines["draws, 80 % band"]
        assert band.get_xdata().tolist() == [3, 4, 5]
        assert band.get_ydata() == pytest.approx(draws.x[:, 1, :, place].quantile(0.5, dim=0).tolist())
        seen = torch.tensor(lines["observed"].get_ydata())
        assert seen.isfinite().nonzero().flatten().tolist() == [0, 2]
        assert seen[2] == x[1, 2, place]
        kept = torch.tensor(lines["held out"].get_ydata())
        assert kept.isfinite().nonzero().flatten().tolist() == [1, 3, 4, 5, 6, 7, 8]
        assert kept[1] == x[1, 1, place]
    (ax, *_), band = plot_draws(draws, x).axes, draws.interval()
    shade = ax.collections[0].get_paths()[0].vertices
    assert shade[:, 0].min() == 5
    assert shade[:, 1].max() == pytest.approx(band[1][0, :, 0].max().item())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 2}, "n: there is no sequence 2 of 2"),
        ({"coordinates": [3]}, r"expected 1 to 16 of 0..2, got \[3\]"),
        ({"coordinates": [0] * 17}, "got 17 of them"),
        ({"x": torch.zeros(3, 5, 3)}, r"draws of \(2, 3\) sequences and coordinates, x has \(3, 3\)"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask: expected shape \(2, 5\), got \(2, 4\)"),
        ({"truth": torch.zeros(1, 9, 3)}, r"truth: expected shape \(2, T', 3\), got \(1, 9, 3\)"),
        ({"names": ["a", "b"]}, "names: expected 3, one for each coordinate shown, got 2"),
    ],
)
def test_draws_of_other_data_are_refused(arguments, message):
    draws, x, _ = drawn()
    with pytest.raises(ValueError, match=message):
        plot_draws(draws, **{"x": x, **arguments})
