"""`zoo.parts.structural` and `zoo.parts.stationary` against statsmodels, the Nile of Durbin and Koopman, the deck."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import nn
from torch.autograd.functional import jacobian
from torch.distributions import transform_to

from zoo import LGSSM
from zoo.infer import em
from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.parts.stationary import invertible, stationary
from zoo.parts.structural import APPROXIMATE_DIFFUSE, arima, ball, local_level, local_linear_trend, seasonal

pytestmark = pytest.mark.usefixtures("double_precision")


def nile():
    """Annual flow at Aswan 1871 to 1970, `(1, 100, 1)`."""
    return torch.tensor(sm.datasets.nile.load_pandas().data["volume"].values)[None, :, None]


def learned(value):
    return PyroParam(torch.tensor(float(value)), constraints.positive)


def walk(length=120, missing=True):
    """A random walk with a hole: what any of the models below can be asked about."""
    y = np.random.default_rng(0).normal(size=length).cumsum() + 10
    if missing:
        y[40:44] = np.nan
    return y


def series(y):
    """x and its mask as our models take them."""
    x = torch.tensor(y)[None, :, None]
    return x, ~x[..., 0].isnan()


def assert_equals_statsmodels(model, theirs, parameters, y, k=15):
    """Likelihood, smoothed states' observation, forecasts and their variances."""
    x, mask = series(y)
    assert model.burn == theirs.loglikelihood_burn
    assert model.log_prob(x, None, mask).item() == pytest.approx(theirs.loglike(parameters), rel=1e-8, abs=1e-6)
    found, expected = model.forecast(x, k, None, mask), theirs.smooth(parameters).get_forecast(k)
    torch.testing.assert_close(
        found.observation_means[0, :, 0], torch.tensor(expected.predicted_mean), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        found.observation_covariances[0, :, 0, 0], torch.tensor(expected.var_pred_mean), rtol=1e-6, atol=1e-6
    )


# --- likelihood and forecasts at given parameters --------------------------------------------------------------------

COMPONENTS = {
    "level": (
        {"level": "llevel"},
        1,
        lambda r, level: local_level(level, r),
        (1.3, 0.4),
    ),
    "trend": (
        {"level": "lltrend"},
        2,
        lambda r, level, trend: local_linear_trend(level, trend, r),
        (1.3, 0.4, 0.05),
    ),
    "smooth trend": (
        {"level": "strend"},
        2,
        lambda r, trend: local_linear_trend(torch.zeros_like(trend), trend, r),
        (1.3, 0.05),
    ),
    "seasonal": (
        {"irregular": True, "seasonal": 4},
        3,
        lambda r, s: seasonal(4)(s, r),
        (1.3, 0.2),
    ),
    "level and seasonal": (
        {"level": "llevel", "seasonal": 12},
        12,
        lambda r, level, s: local_level(level, r) + seasonal(12)(s),
        (0.3, 0.4, 0.02),
    ),
    "trend and seasonal": (
        {"level": "lltrend", "seasonal": 5},
        6,
        lambda r, level, trend, s: seasonal(5)(s) + local_linear_trend(level, trend) + local_level(0 * r, r, None, 0.0),
        (0.3, 0.4, 0.05, 0.02),
    ),
}


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("missing", [False, True])
def test_components_equal_statsmodels(name, missing):
    options, burn, build, values = COMPONENTS[name]
    names = build.__code__.co_varnames[: len(values)]
    model = LGSSM(build, burn=burn, **{n: torch.tensor(v) for n, v in zip(names, values, strict=True)})
    y = walk(missing=missing)
    assert_equals_statsmodels(model, sm.tsa.UnobservedComponents(y, **options), values, y)


ORDERS = [
    ((1, 0, 0), (0, 0, 0, 0), None),
    ((0, 0, 2), (0, 0, 0, 0), None),
    ((2, 0, 1), (0, 0, 0, 0), "c"),
    ((0, 1, 0), (0, 0, 0, 0), None),
    ((1, 1, 1), (0, 0, 0, 0), "c"),
    ((0, 2, 2), (0, 0, 0, 0), None),
    ((3, 2, 1), (0, 0, 0, 0), None),
    ((0, 1, 1), (0, 1, 1, 12), None),
    ((1, 0, 0), (1, 0, 0, 4), "c"),
    ((1, 1, 0), (1, 2, 1, 4), None),
    ((0, 0, 0), (0, 1, 0, 3), None),
]


@pytest.mark.parametrize(("order", "season", "trend"), ORDERS)
@pytest.mark.parametrize("noise", [False, True])
def test_arima_equals_statsmodels(order, season, trend, noise):
    theirs = sm.tsa.SARIMAX(walk(), order=order, seasonal_order=season, trend=trend, measurement_error=noise)
    values, vector = {}, []
    if trend:
        values["intercept"] = torch.tensor(0.3)
    sizes = {"ar": order[0], "ma": order[2], "seasonal_ar": season[0], "seasonal_ma": season[2]}
    values |= {name: torch.tensor([0.4, -0.3, 0.1][:size]) for name, size in sizes.items() if size}
    if noise:
        values["observation_variance"] = torch.tensor(0.6)
    values["variance"] = torch.tensor(1.7)
    vector = [v for value in values.values() for v in value.flatten().tolist()]
    model = LGSSM(arima(*order, seasonal=season), burn=order[1] + season[1] * season[3], **values)
    assert_equals_statsmodels(model, theirs, vector, walk())


def test_every_function_takes_batches_of_parameters():
    """Two series with parameters of their own score as each does alone."""
    y = torch.randn(2, 30, 1).cumsum(1)
    two = lambda *values: torch.tensor(values)  # noqa: E731
    cases = [
        (local_level, {"level_variance": two(0.5, 2.0), "observation_variance": two(1.0, 0.1)}),
        (local_level, {"level_variance": two(0.5, 2.0), "initial_mean": two(0.5, 1.0)}),
        (local_level, {"level_variance": torch.tensor(0.5), "observation_variance": two(1.0, 0.1)}),
        (local_linear_trend, {"level_variance": two(0.5, 2.0), "trend_variance": torch.tensor(0.1)}),
        (seasonal(4), {"seasonal_variance": two(0.5, 2.0), "observation_variance": two(1.0, 0.1)}),
        (
            lambda a, b: local_level(a, b) + seasonal(3)(b),
            {"a": two(0.5, 2.0), "b": torch.tensor(0.3)},
        ),
        (
            arima(2, 1, 1, seasonal=(1, 0, 1, 3)),
            {
                "variance": two(1.0, 2.0),
                "ar": torch.tensor([[0.4, -0.2], [0.1, 0.5]]),
                "ma": torch.tensor([0.3]),
                "seasonal_ar": torch.tensor([[0.3], [-0.3]]),
                "seasonal_ma": torch.tensor([[0.2], [0.5]]),
                "intercept": two(0.1, -0.1),
                "observation_variance": two(0.2, 0.3),
            },
        ),
        (arima(1, 0, 0), {"variance": torch.tensor(1.0), "ar": torch.tensor([[0.4], [0.1]])}),
    ]
    for build, values in cases:
        both = LGSSM(build, **values).log_prob(y)
        assert both.shape == (2,)
        for n in range(2):
            own = {
                name: v[n] if v.ndim > (name in ("ar", "ma", "seasonal_ar", "seasonal_ma")) else v
                for name, v in values.items()
            }
            torch.testing.assert_close(LGSSM(build, **own).log_prob(y[n : n + 1])[0], both[n])


def test_gradients_of_every_function():
    """Through the stationary start and the polynomials: against differences of the log-likelihood."""
    x = torch.randn(1, 20, 1).cumsum(1)

    def log_p(build):
        return lambda *values: kalman.marginal_loglik(build(*values), x).sum()

    positive = [torch.tensor(v, requires_grad=True) for v in (0.7, 0.2, 0.4)]
    short = {"initial_variance": 3.0}  # differences of a diffuse start lose their digits
    assert torch.autograd.gradcheck(log_p(lambda a, b: local_level(a, b, **short)), positive[:2])
    assert torch.autograd.gradcheck(log_p(lambda a, b, c: local_linear_trend(a, b, c, **short)), positive)
    assert torch.autograd.gradcheck(log_p(lambda a, b: seasonal(4)(a, b, **short)), positive[:2])
    names = ("variance", "ar", "ma", "seasonal_ar", "seasonal_ma", "intercept")
    shapes = (0.7, [0.4, -0.3], [0.2], [0.3], [-0.4], 0.1)
    values = [torch.tensor(v, requires_grad=True) for v in shapes]
    build = arima(2, 1, 1, seasonal=(1, 1, 1, 3))
    assert torch.autograd.gradcheck(
        log_p(lambda *v: build(**dict(zip(names, v, strict=True)), initial_variance=3.0)), values
    )


# --- maximum likelihood ----------------------------------------------------------------------------------------------


def fitted(theirs, start):
    """statsmodels' maximum, from its own optimiser with its tolerances closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"disp": 0, "maxiter": 2000, "cov_type": "none"}
        best = theirs.fit(start, method="lbfgs", pgtol=1e-12, factr=10.0, **options)
        return theirs.fit(best.params, method="nm", xtol=1e-12, ftol=1e-14, **options)


def test_the_nile_of_durbin_and_koopman():
    """15098.5 and 1469.2 with -632.55 over the last 99 years (exact diffuse start), in two ways; and by EM."""
    x = nile()
    diffuse = LGSSM(
        local_level,
        burn=1,
        level_variance=learned(1e3),
        observation_variance=learned(1e4),
        initial_variance=torch.tensor(1e12),
    ).maximum_likelihood(x)
    given = LGSSM(
        lambda level_variance, observation_variance: local_level(
            level_variance, observation_variance, x[0, 0, 0], None
        ),
        level_variance=learned(1e3),
        observation_variance=learned(1e4),
    ).maximum_likelihood(x[:, 1:])
    for model, data in ((diffuse, x), (given, x[:, 1:])):
        assert f"{model.observation_variance.item():.1f}" == "15098.5"
        assert f"{model.level_variance.item():.1f}" == "1469.2"
        assert f"{model.log_prob(data).item():.2f}" == "-632.55"
    climbing = LGSSM(
        Parameters,
        initial_mean=torch.zeros(1),
        initial_covariance=torch.full((1, 1), 1e12),
        transition_matrix=torch.eye(1),
        transition_covariance=nn.Parameter(torch.full((1, 1), 1469.0)),
        emission_matrix=torch.eye(1),
        emission_covariance=nn.Parameter(torch.full((1, 1), 15000.0)),
    )
    assert em(climbing, x, tolerance=1e-12, max_iterations=3000).converged
    assert climbing.transition_covariance.item() == pytest.approx(diffuse.level_variance.item(), rel=1e-3)
    assert climbing.emission_covariance.item() == pytest.approx(diffuse.observation_variance.item(), rel=1e-4)


def test_the_nile_of_statsmodels():
    """Its approximate diffuse start and burn of one year: parameters, likelihood, forecasts to 1e-6."""
    x = nile()
    model = LGSSM(local_level, burn=1, level_variance=learned(1e3), observation_variance=learned(1e4))
    model.maximum_likelihood(x)
    theirs = sm.tsa.UnobservedComponents(x[0, :, 0].numpy(), "llevel")
    best = fitted(theirs, [1.5e4, 1.4e3])
    found = np.array([model.observation_variance.item(), model.level_variance.item()])
    np.testing.assert_allclose(best.params, found, rtol=1e-5)
    assert model.log_prob(x).item() >= best.llf - 1e-9
    assert_equals_statsmodels(model, theirs, found, x[0, :, 0].numpy())


def test_arima_by_maximum_likelihood_is_that_of_statsmodels():
    """An ARIMA(1, 1, 1) with a missing stretch, coefficients under their constraints, from zero."""
    rng = np.random.default_rng(3)
    e, w = rng.normal(size=201), np.zeros(200)
    for t in range(1, 200):
        w[t] = 0.6 * w[t - 1] + e[t] + 0.4 * e[t - 1]
    y = w.cumsum()
    y[50:55] = np.nan
    x, mask = series(y)
    model = LGSSM(
        arima(1, 1, 1),
        burn=1,
        variance=learned(1.0),
        ar=PyroParam(torch.zeros(1), stationary),
        ma=PyroParam(torch.zeros(1), invertible),
    ).maximum_likelihood(x, mask=mask)
    theirs = sm.tsa.SARIMAX(y, order=(1, 1, 1))
    found = np.array([model.ar.item(), model.ma.item(), model.variance.item()])
    best = fitted(theirs, found * 0.9)
    np.testing.assert_allclose(best.params, found, rtol=1e-5)  # their search compares values: 1e-6 off on some machines
    assert model.log_prob(x, None, mask).item() >= best.llf - 1e-9
    assert_equals_statsmodels(model, theirs, found, y)


# --- constraints of coefficients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("constraint", [stationary, invertible])
def test_coefficients_are_those_of_stationary_processes(order, constraint):
    transform = transform_to(constraint)
    x = 3 * torch.randn(200, order)
    y = transform(x)
    sign = 1 if constraint is stationary else -1
    companion = torch.diag(torch.ones(order - 1), -1).repeat(200, 1, 1)
    companion[:, 0] = sign * y
    assert torch.linalg.eigvals(companion).abs().max() < 1
    assert constraint.check(y).all()
    torch.testing.assert_close(transform.inv(y), x, rtol=1e-4, atol=1e-4)
    outside = torch.cat([torch.full((1,), 1.5 * sign), torch.zeros(order - 1)])
    assert not constraint.check(outside)
    expected = torch.stack([jacobian(transform, row).det().abs().log() for row in x[:20] / 3])
    torch.testing.assert_close(transform.log_abs_det_jacobian(x[:20] / 3, transform(x[:20] / 3)), expected)


def test_the_map_from_the_reals_is_that_of_statsmodels():
    from statsmodels.tsa.statespace.tools import constrain_stationary_univariate

    for order in (1, 2, 4):
        x = torch.randn(order)
        expected = torch.tensor(constrain_stationary_univariate(-x.numpy()))
        torch.testing.assert_close(transform_to(stationary)(x), expected)
        torch.testing.assert_close(transform_to(invertible)(x), -expected)


# --- the deck's ball, errors -----------------------------------------------------------------------------------------


def test_the_ball_is_the_one_of_the_deck():
    dt, g = 0.25, 9.81
    p, u = ball(dt, g)
    assert p.transition_matrix.tolist() == [[1, dt, 0, 0], [0, 1, 0, 0], [0, 0, 1, dt], [0, 0, 0, 1]]
    expected = torch.zeros(4, 4)
    expected[2, 2], expected[3, 3] = -(dt**2) / 2, -dt
    torch.testing.assert_close(p.transition_input, expected)
    assert u.tolist() == [0, 0, g, g]
    assert p.emission_matrix.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    start = torch.tensor([1.0, 2.0, 3.0, 8.0])
    T = 9
    still = p._replace(
        initial_mean=start, initial_covariance=torch.zeros(4, 4), transition_covariance=torch.zeros(4, 4)
    )
    z, _ = kalman.sample(still, T, u.expand(T, 4))
    time = dt * torch.arange(T)
    torch.testing.assert_close(z[:, 0], 1 + 2 * time)
    torch.testing.assert_close(z[:, 2], 3 + 8 * time - 0.5 * g * time**2)  # the parabola, exactly
    torch.testing.assert_close(z[:, 3], 8 - g * time)
    assert ball(0.1, dtype=torch.float32)[0].transition_matrix.dtype == torch.float32


def test_what_does_not_fit_is_named():
    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"ar: expected 2 coefficients for arima\(2, 0, 0\)"):
        arima(2)(one, ar=torch.zeros(1))
    with pytest.raises(ValueError, match="ma: expected 0 coefficients"):
        arima(1)(one, ar=torch.zeros(1), ma=torch.zeros(1))
    with pytest.raises(ValueError, match="ar: not stationary, expected eigenvalues within the unit circle"):
        arima(1)(one, ar=torch.tensor([1.1]))
    with pytest.raises(ValueError, match="ar: NaN or infinite"):
        arima(1)(one, ar=torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="a season of at least 2"):
        arima(0, 1, 1, seasonal=(0, 1, 1, 1))
    with pytest.raises(ValueError, match="expected orders >= 0"):
        arima(-1)
    with pytest.raises(ValueError, match="seasonal: expected period >= 2, got 1"):
        seasonal(1)
    with pytest.raises(ValueError, match="initial_mean: expected the value of the frame before"):
        local_level(one, initial_variance=None)
    assert local_level(one).initial_covariance.item() == APPROXIMATE_DIFFUSE
