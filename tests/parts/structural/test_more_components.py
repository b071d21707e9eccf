"""Cycles, trigonometric seasons, regressions, autoregressions and named sums against statsmodels, value by value."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam

from zoo import LGSSM, load_pair, save_pair
from zoo.parts import kalman
from zoo.parts.structural import (
    autoregressive,
    components,
    cycle,
    irregular,
    local_level,
    local_linear_trend,
    regression,
    seasonal,
    time_varying_regression,
    trigonometric,
)

pytestmark = pytest.mark.usefixtures("double_precision")

T, AHEAD = 90, 6
REGRESSORS = np.random.default_rng(1).normal(size=(T + AHEAD, 2))


def series(missing):
    y = np.random.default_rng(0).normal(size=T).cumsum() + 10
    if missing:
        y[[0, 3, 4, 50]] = np.nan
    return y


def build(**parts):
    return components(**parts, noise=irregular)


# name -> (statsmodels' options, our sum, our values, statsmodels' order of them)
CASES = {
    "cycle": (
        {"level": "llevel", "cycle": True, "stochastic_cycle": True, "cycle_period_bounds": (2, 40)},
        build(level=local_level, wave=cycle),
        {"noise_variance": 1.3, "level_variance": 0.4, "cycle_variance": 0.2, "frequency": 0.7},
    ),
    "damped cycle": (
        {"level": "lltrend", "cycle": True, "stochastic_cycle": True, "damped_cycle": True},
        build(level=local_linear_trend, wave=cycle),
        {
            "noise_variance": 1.3, "level_variance": 0.4, "trend_variance": 0.1, "cycle_variance": 0.2,
            "frequency": 0.7, "damping": 0.8,
        },
    ),
    "trigonometric, odd": (
        {"level": "llevel", "freq_seasonal": [{"period": 7}]},
        build(level=local_level, season=trigonometric(7)),
        {"noise_variance": 1.3, "level_variance": 0.4, "seasonal_variance": 0.05},
    ),
    "trigonometric, two of six": (
        {"level": "llevel", "freq_seasonal": [{"period": 12, "harmonics": 2}]},
        build(level=local_level, season=trigonometric(12, 2)),
        {"noise_variance": 1.3, "level_variance": 0.4, "seasonal_variance": 0.05},
    ),
    "trigonometric, period not whole": (
        {"level": "llevel", "freq_seasonal": [{"period": 8.5, "harmonics": 3}]},
        build(level=local_level, season=trigonometric(8.5, 3)),
        {"noise_variance": 1.3, "level_variance": 0.4, "seasonal_variance": 0.05},
    ),
    "autoregression": (
        {"level": "llevel", "autoregressive": 2},
        build(level=local_level, own=autoregressive(2)),
        {"noise_variance": 1.3, "level_variance": 0.4, "own_variance": 0.6, "ar": [0.5, -0.3]},
    ),
    "regression": (
        {"level": "llevel", "exog": REGRESSORS[:T]},
        build(level=local_level, of_u=regression),
        {"noise_variance": 1.3, "level_variance": 0.4, "coefficients": [0.5, -2.0]},
    ),
    "regression as states": (
        {"level": "llevel", "exog": REGRESSORS[:T], "mle_regression": False},
        build(level=local_level, of_w=time_varying_regression(torch.tensor(REGRESSORS))),
        {"noise_variance": 1.3, "level_variance": 0.4, "coefficient_variance": 0.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_likelihood_states_and_forecasts_equal_statsmodels(name, missing, exact):
    options, parts, values = CASES[name]
    y = series(missing)
    theirs = sm.tsa.UnobservedComponents(y, use_exact_diffuse=exact, **options)
    fixed = [v for given in values.values() for v in (given if isinstance(given, list) else [given])]
    vector = [v for v, own in zip(fixed, (n for n, g in values.items() for _ in np.atleast_1d(g)), strict=True)
              if own != "coefficient_variance"]  # fmt: skip
    burn = 0 if exact else theirs.loglikelihood_burn
    given = {name: torch.tensor(value) for name, value in values.items()}
    model = LGSSM(parts, burn=burn, **given, initial_variance=torch.tensor(math.inf if exact else 1e6))
    x = torch.tensor(y)[None, :, None]
    mask = ~x[..., 0].isnan()
    result = theirs.smooth(vector)
    controls = torch.tensor(REGRESSORS)[None] if name == "regression" else None
    u = None if controls is None else controls[:, :T]
    # statsmodels' burn counts missing frames, ours does not: the comparison at N(0, 1e6) is of complete series
    if exact or not missing:
        assert model.log_prob(x, u, mask).item() == pytest.approx(result.llf, rel=1e-9, abs=1e-6)
    smoothed = model.components(x, u, mask)
    assert torch.allclose(
        smoothed["level"].mean[0, :, 0], torch.tensor(result.level.smoothed), rtol=1e-5, atol=1e-5 if exact else 1e-3
    )
    future = {} if "exog" not in options else {"exog": REGRESSORS[T:]}
    expected, found = result.get_forecast(AHEAD, **future), model.forecast(x, AHEAD, controls, mask)
    torch.testing.assert_close(
        found.observation_means[0, :, 0], torch.tensor(expected.predicted_mean), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        found.observation_covariances[0, :, 0, 0], torch.tensor(expected.var_pred_mean), rtol=1e-6, atol=1e-6
    )


def test_components_add_up_to_what_is_observed():
    y = series(False)
    parts = build(trend=local_linear_trend, season=seasonal(4), wave=cycle)
    values = {"noise_variance": 0.5, "level_variance": 0.4, "trend_variance": 0.1, "seasonal_variance": 0.2,
              "cycle_variance": 0.1, "frequency": 0.5, "initial_variance": math.inf}  # fmt: skip
    model = LGSSM(parts, **{name: torch.tensor(v) for name, v in values.items()})
    x = torch.tensor(y)[None, :, None]
    found = model.components(x)
    torch.testing.assert_close(sum(part.mean for part in found.values()), x)
    theirs = sm.tsa.UnobservedComponents(
        y, "lltrend", seasonal=4, cycle=True, stochastic_cycle=True, use_exact_diffuse=True
    ).smooth([0.5, 0.4, 0.1, 0.2, 0.1, 0.5])
    for name, own in {"trend": "level", "season": "seasonal", "wave": "cycle"}.items():
        component = getattr(theirs, own)
        torch.testing.assert_close(found[name].mean[0, :, 0], torch.tensor(component.smoothed), rtol=1e-7, atol=1e-7)
        variance = torch.tensor(component.smoothed_cov)
        torch.testing.assert_close(found[name].variance[0, :, 0], variance, rtol=1e-7, atol=1e-7)
    noise = torch.tensor(theirs.smoothed_measurement_disturbance[0])
    torch.testing.assert_close(found["noise"].mean[0, :, 0], noise, rtol=1e-7, atol=1e-7)


def test_the_even_season_of_waves_has_no_state_that_is_never_seen():
    """Six waves of a year have eleven states, and the same likelihood as statsmodels' twelve."""
    values = {"seasonal_variance": torch.tensor(0.05), "level_variance": torch.tensor(0.4)}
    parts = components(level=local_level, season=trigonometric(12), noise=irregular)
    model = LGSSM(parts, burn=12, **values, noise_variance=torch.tensor(1.3))
    assert model.state_dim == 12
    y = series(False)
    theirs = sm.tsa.UnobservedComponents(y, "llevel", freq_seasonal=[{"period": 12}], loglikelihood_burn=12)
    assert model.log_prob(torch.tensor(y)[None, :, None]).item() == pytest.approx(theirs.loglike([1.3, 0.4, 0.05]))


def test_coefficients_that_vary_follow_the_regressors():
    """A coefficient that jumps is followed, and forecasts read the regressors to come."""
    torch.manual_seed(0)
    w = torch.randn(T + AHEAD, 1)
    b = torch.where(torch.arange(T + AHEAD) < 40, 1.0, 3.0).unsqueeze(-1)
    x = (b * w + 0.05 * torch.randn(T + AHEAD, 1))[None]
    parts = components(of_w=time_varying_regression(w), noise=irregular)
    values = {"coefficient_variance": torch.tensor(0.3), "noise_variance": torch.tensor(0.05**2)}
    model = LGSSM(parts, **values, initial_variance=torch.tensor(math.inf))
    found = model.posterior(x[:, :T])
    # thirty errors, in their standard deviations: one beyond 5 comes about once in 50,000 seeds
    assert ((found.mean[0, 60:, 0] - 3.0) / found.variance[0, 60:, 0].sqrt()).abs().max() < 5
    ahead = model.forecast(x[:, :T], AHEAD)
    expected = model.posterior(x[:, :T]).mean[0, -1, 0] * w[T:, 0]
    torch.testing.assert_close(ahead.observation_means[0, :, 0], expected)
    assert model.sample_forecast(x[:, :T], AHEAD, 3).x.shape == (3, 1, AHEAD, 1)
    with pytest.raises(ValueError, match=r"regressors: expected those of at least 97 frames, .* got 96"):
        model.forecast(x[:, :T], AHEAD + 1)
    with pytest.raises(ValueError, match="frames: given twice, or a name that the model has"):
        LGSSM(parts, frames=torch.tensor(3.0), **values)
    assert model.sizes == (None, None)


def test_gradients_of_the_new_functions():
    x = torch.randn(1, 14, 1).cumsum(1)
    positive = [torch.tensor(v, requires_grad=True) for v in (0.7, 0.6, 0.8, 0.2)]

    def log_p(parts):
        return lambda *values: kalman.marginal_loglik(parts(*values), x).sum()

    assert torch.autograd.gradcheck(log_p(lambda a, f, d, r: cycle(a, f, d, r, None, None)), positive)
    assert torch.autograd.gradcheck(log_p(lambda a, r: trigonometric(4)(a, r, None, math.inf)), positive[:2])


def test_a_batch_of_parameters_scores_as_each_alone():
    x = torch.randn(2, 14, 1).cumsum(1)
    two = torch.tensor([0.5, 0.7])
    for make in (
        lambda a: cycle(a, a, 0.9 * a, a),
        lambda a: trigonometric(4)(a, a, None, math.inf),
        lambda a: time_varying_regression(torch.ones(14, 1))(a.unsqueeze(-1), a),
        lambda a: local_level(a) + irregular(a),
    ):
        both = LGSSM(make, a=two).log_prob(x)
        each = [LGSSM(make, a=two[n]).log_prob(x[n : n + 1])[0] for n in range(2)]
        torch.testing.assert_close(both, torch.stack(each))


def test_a_sum_says_what_it_is_and_survives_a_folder(tmp_path):
    variance = PyroParam(torch.tensor(0.5), constraints.positive)
    parts = components(trend=local_linear_trend, season=seasonal(4), noise=irregular)
    values = {name: torch.tensor(0.1) for name in ("level_variance", "seasonal_variance", "noise_variance")}
    model = LGSSM(parts, trend_variance=variance, **values, initial_variance=torch.tensor(math.inf))
    said = repr(model)
    assert "trend (local_linear_trend) + season (Seasonal(4)) + noise (irregular)" in said
    assert "5 states, 5 of them diffuse, data_dim 1, marginal, burn 0" in said
    assert "trend_variance: 0.5 (learned, GreaterThan(lower_bound=0.0))" in said
    assert "noise_variance: 0.1 (fixed)" in said
    save_pair(tmp_path / "structural", model)
    again, _ = load_pair(tmp_path / "structural")
    x = torch.randn(1, 20, 1).cumsum(1)
    assert again.log_prob(x) == model.log_prob(x)
    varying = components(of_w=time_varying_regression(torch.randn(20, 2)), noise=irregular)
    model = LGSSM(varying, coefficient_variance=torch.tensor(0.1), noise_variance=torch.tensor(1.0))
    save_pair(tmp_path / "varying", model)
    assert load_pair(tmp_path / "varying")[0].log_prob(x) == model.log_prob(x)


def test_what_does_not_fit_is_named():
    one = torch.tensor(1.0)
    both = components(level=local_level, season=seasonal(4))
    with pytest.raises(ValueError, match="components: expected at least one part"):
        components()
    with pytest.raises(ValueError, match="sigma: no argument of level, season"):
        LGSSM(both, sigma=one)
    with pytest.raises(ValueError, match=r"observation_variance: an argument of several parts, expected "
                                         "level_observation_variance or season_observation_variance"):  # fmt: skip
        LGSSM(both, observation_variance=one, level_variance=one, seasonal_variance=one)
    with pytest.raises(TypeError, match="seasonal_variance"):
        LGSSM(both, level_variance=one)
    with pytest.raises(ValueError, match=r"build: expected structural.components\(...\), .* got local_level"):
        LGSSM(local_level, level_variance=one).components(torch.zeros(1, 5, 1))
    with pytest.raises(ValueError, match="build: expected parameters of at least one state"):
        LGSSM(irregular, variance=one)
    with pytest.raises(ValueError, match="trigonometric: expected period >= 2, got 1"):
        trigonometric(1)
    with pytest.raises(ValueError, match="harmonics: expected 1 to 6 for a period of 12, got 7"):
        trigonometric(12, 7)
    with pytest.raises(ValueError, match="damping: expected a value below 1"):
        cycle(one, one, initial_variance=None)
    for wrong in (torch.zeros(3), torch.zeros(0, 2), torch.full((3, 1), math.nan)):
        with pytest.raises(ValueError, match=r"regressors: expected finite values \(frames, k\)"):
            time_varying_regression(wrong)
