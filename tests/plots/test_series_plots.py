"""Figures of structural models show the numbers that they were given; exact forecasts in `plot_draws`."""

import math

import numpy as np
import pytest
import torch

from zoo import LGSSM
from zoo.infer import Band, plot_components, plot_draws, plot_residuals
from zoo.parts.structural import components, irregular, local_level, seasonal

T = 40


def model():
    values = {"level_variance": 0.3, "seasonal_variance": 0.1, "noise_variance": 0.5, "initial_variance": math.inf}
    parts = components(level=local_level, season=seasonal(4), noise=irregular)
    return LGSSM(parts, **{name: torch.tensor(value) for name, value in values.items()})


def series():
    return torch.randn(2, T, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)


def test_each_component_has_a_panel_with_its_band():
    x = series()
    parts = model().components(x)
    figure = plot_components(parts, 1, observed=x, times=1950 + torch.arange(T), label="x, metres", time_label="year")
    assert [ax.get_ylabel() for ax in figure.axes] == ["x, metres", "season", "noise"]
    assert figure.axes[-1].get_xlabel() == "year"
    points, line = figure.axes[0].lines
    np.testing.assert_allclose(points.get_ydata(), x[1, :, 0])
    np.testing.assert_allclose(line.get_ydata(), parts["level"].mean[1, :, 0])
    assert line.get_xdata()[0] == 1950
    band = Band.normal(parts["season"].mean[1, :, 0], parts["season"].variance[1, :, 0].sqrt())
    (shade,) = figure.axes[1].collections
    heights = shade.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(band.upper.max().item())
    assert heights.min() == pytest.approx(band.lower.min().item())


def test_residuals_are_shown_in_four_ways():
    x, own = series(), model()
    residuals = own.residuals(x)
    over, histogram, quantiles, correlations = plot_residuals(residuals, 1, lags=12).axes
    np.testing.assert_allclose(over.lines[0].get_ydata(), residuals[1, :, 0])
    known = residuals[1, :, 0][~residuals[1, :, 0].isnan()].double().numpy()
    assert len(known) == T - 4
    np.testing.assert_allclose(quantiles.lines[1].get_ydata(), np.sort(known))
    assert sum(bar.get_height() * bar.get_width() for bar in histogram.patches) == pytest.approx(1.0)
    (bars,) = correlations.collections[-1:]
    centred = known - known.mean()
    first = centred[1:] @ centred[:-1] / (centred @ centred)
    assert bars.get_segments()[0][1, 1] == pytest.approx(first)
    assert len(bars.get_segments()) == 12


def test_an_exact_forecast_has_the_bands_of_its_moments():
    x, own = series(), model()
    mask = torch.ones(2, T, dtype=torch.bool)
    mask[0, 35:] = False
    found = own.forecast(x, 6, mask=mask)
    (ax,) = plot_draws(found, x, 0, mask=mask, mass=0.5).axes
    band, observed = ax.lines
    np.testing.assert_allclose(band.get_xdata(), np.arange(35, 41))
    np.testing.assert_allclose(band.get_ydata(), found.observation_means[0, :, 0])
    assert np.isfinite(observed.get_ydata()).sum() == 35
    sd = found.observation_covariances[0, :, 0, 0].sqrt()
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    expected = Band.normal(found.observation_means[0, :, 0], sd, 0.5)
    assert heights.max() == pytest.approx(expected.upper.max().item())
    assert "forecast, 50 % band" in [text.get_text() for text in ax.figure.legends[0].get_texts()]
    with pytest.raises(ValueError, match=r"plot_draws: draws of \(2, 1\) sequences and coordinates, x has \(1, 1\)"):
        plot_draws(found, x[:1])


def test_what_does_not_fit_is_named():
    x = series()
    parts, residuals = model().components(x), model().residuals(x)
    with pytest.raises(ValueError, match="plot_components: there must be at least one component"):
        plot_components({})
    with pytest.raises(ValueError, match="plot_components: n: there is no 2 of 2"):
        plot_components(parts, 2)
    with pytest.raises(ValueError, match=r"plot_components: times: expected shape \(40,\), got \(3,\)"):
        plot_components(parts, times=torch.arange(3))
    with pytest.raises(ValueError, match=r"plot_components: observed: expected shape \(2, 40, 1\), got \(1, 40, 1\)"):
        plot_components(parts, observed=x[:1])
    with pytest.raises(ValueError, match="plot_residuals: coordinate: there is no 1 of 1"):
        plot_residuals(residuals, coordinate=1)
    with pytest.raises(ValueError, match=r"plot_residuals: times: expected shape \(40,\), got \(3,\)"):
        plot_residuals(residuals, times=torch.arange(3))
    with pytest.raises(ValueError, match="plot_residuals: lags: expected fewer than the 36 residuals, got 36"):
        plot_residuals(residuals, lags=36)
