"""Exact diffuse starts against statsmodels (Durbin and Koopman), and against the limit of a dense Gaussian."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from dense_gaussian import joint
from tiers import thorough_but
from torch.autograd import gradcheck

from zoo import LGSSM
from zoo.data import load
from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.parts.kalman.distributions import LinearGaussian, LinearGaussianPosterior
from zoo.parts.kalman.engines.pytorch import triangularise
from zoo.parts.structural import arima, local_level, local_linear_trend, seasonal

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(params=["compiled", "pytorch"])
def _engine(request, monkeypatch):
    """The later frames by the compiled recursions and by PyTorch's."""
    if request.param == "pytorch":
        monkeypatch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)


EXACT = {"initial_variance": math.inf}


def t(value):
    return torch.tensor(value)


MODELS = {
    "trend and season": (
        lambda y: sm.tsa.UnobservedComponents(y, "lltrend", seasonal=12, use_exact_diffuse=True),
        lambda: local_linear_trend(t(0.4), t(0.05), t(0.3), **EXACT) + seasonal(12)(t(0.02), **EXACT),
        [0.3, 0.4, 0.05, 0.02],
    ),
    "seasonal arima": (
        lambda y: sm.tsa.SARIMAX(y, order=(1, 1, 1), seasonal_order=(0, 1, 1, 12), use_exact_diffuse=True),
        lambda: arima(1, 1, 1, (0, 1, 1, 12))(t(1.3), t([0.3]), t([0.2]), seasonal_ma=t([-0.4]), **EXACT),
        [0.3, 0.2, -0.4, 1.3],
    ),
    "no noise of x": (
        lambda y: sm.tsa.UnobservedComponents(y, "rwalk", seasonal=4, use_exact_diffuse=True),
        lambda: local_level(t(0.7), **EXACT) + seasonal(4)(t(0.2), **EXACT),
        [0.7, 0.2],
    ),
    "two differences": (
        lambda y: sm.tsa.SARIMAX(y, order=(0, 2, 0), use_exact_diffuse=True),
        lambda: arima(0, 2, 0)(t(1.3), **EXACT),
        [1.3],
    ),
}


@pytest.mark.parametrize("missing", [[], [0, 1, 5, 40, 41]])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("_engine")
def test_values_and_moments_equal_statsmodels(name, missing):
    theirs, ours, vector = MODELS[name]
    y = np.random.default_rng(0).normal(size=120).cumsum() + 10
    y[missing] = np.nan
    x = torch.tensor(y)[:, None]
    mask = ~x[:, 0].isnan() if missing else None
    other, p = theirs(y), ours()
    other.ssm.tolerance = 0.0  # or their covariances stop changing before the last digits
    expected = other.smooth(vector)
    assert kalman.marginal_loglik(p, x, None, mask).item() == pytest.approx(expected.llf, abs=1e-9)
    smoothed, filtered = kalman.smoother(p, x, None, mask), kalman.filter(p, x, None, mask)
    d, close = expected.nobs_diffuse, {"rtol": 1e-7, "atol": 1e-7}
    numbers = lambda name: torch.tensor(np.moveaxis(getattr(expected, name), -1, 0))  # noqa: E731
    torch.testing.assert_close(smoothed.smoothed_means, numbers("smoothed_state"), **close)
    torch.testing.assert_close(smoothed.smoothed_covariances, numbers("smoothed_state_cov"), **close)
    torch.testing.assert_close(filtered.predicted_means[d:], numbers("predicted_state")[d:-1], **close)
    torch.testing.assert_close(filtered.predicted_covariances[d:], numbers("predicted_state_cov")[d:-1], **close)
    torch.testing.assert_close(filtered.filtered_means[d:], numbers("filtered_state")[d:], **close)
    assert filtered.predicted_means[:d].isnan().all()
    assert filtered.filtered_means[: d - 1].isnan().all()
    assert filtered.loglik_per_step.sum().item() == pytest.approx(expected.llf, abs=1e-9)


def test_the_nile_without_its_first_three_years():
    """-614.958 at the variances of Durbin and Koopman, whether the years are cut off or missing."""
    x = load("nile").train.values[0].double()
    p = local_level(t(1469.2), t(15098.5), **EXACT)
    theirs = sm.tsa.UnobservedComponents(x[3:, 0].numpy(), "llevel", use_exact_diffuse=True)
    value = theirs.loglike([15098.5, 1469.2])
    assert f"{value:.3f}" == "-614.958"
    assert kalman.marginal_loglik(p, x[3:]).item() == pytest.approx(value, abs=1e-9)
    mask = torch.arange(100) >= 3
    assert kalman.marginal_loglik(p, x, None, mask).item() == pytest.approx(value, abs=1e-9)


# --- in general: two coordinates, controls, parameters that change, sequences that differ ----------------------------

N, T, STATES, DATA, CONTROLS = 3, 9, 4, 2, 2


def general(lead, seed=0):
    """A model with every field, its first two states diffuse, the other two of a proper start."""
    torch.manual_seed(seed)

    def covariance(size, *axes):
        root = torch.randn(*axes, size, size)
        return root @ root.mT / size + 0.1 * torch.eye(size)

    start = torch.zeros(*lead[:1], STATES, STATES)
    start[..., 2:, 2:] = covariance(2, *lead[:1])
    start[..., 0, 0], start[..., 1, 1] = math.inf, math.inf
    return Parameters(
        torch.randn(*lead[:1], STATES), start, 0.5 * torch.randn(*lead, STATES, STATES) + 0.5 * torch.eye(STATES),
        covariance(STATES, *lead), torch.randn(*lead, DATA, STATES), covariance(DATA, *lead),
        torch.randn(*lead, STATES, CONTROLS), torch.randn(*lead, STATES), torch.randn(*lead, DATA, CONTROLS),
        torch.randn(*lead, DATA),
    )  # fmt: skip


def of_dense(p, x, u, mask, kappa):
    """log p(x) + log kappa, mean and covariance of z given x, of one sequence with a start of variance kappa."""
    finite = torch.where(p.initial_covariance.isinf(), kappa, p.initial_covariance)
    dense = joint(p._replace(initial_covariance=finite), T, u)
    places = torch.arange(T * STATES, T * (STATES + DATA))[mask.flatten()]
    inner, cross = dense.covariance[places][:, places], dense.covariance[: T * STATES, places]
    error = x[mask] - dense.mean[places]
    gain = torch.linalg.solve(inner, cross.mT).mT
    log_p = torch.distributions.MultivariateNormal(dense.mean[places], inner).log_prob(x[mask])
    mean = dense.mean[: T * STATES] + gain @ error
    covariance = dense.covariance[: T * STATES, : T * STATES] - gain @ cross.mT
    return log_p + math.log(kappa), mean.unflatten(0, (T, STATES)), covariance


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("lead", [(), (N, 1), (N, T)])
@pytest.mark.usefixtures("_engine")
def test_every_kind_of_parameter_has_the_limit_of_the_dense_gaussian(lead, missing):
    p, u, x = general(lead), torch.randn(N, T, CONTROLS), torch.randn(N, T, DATA)
    mask = torch.rand(N, T, DATA) > 0.4 if missing else torch.ones(N, T, DATA, dtype=torch.bool)
    given = mask if missing else None
    total, found = kalman.marginal_loglik(p, x, u, given), kalman.smoother(p, x, u, given)
    torch.testing.assert_close(found.marginal_loglik, total)
    for n in range(N):
        own = Parameters(*(a[n] if lead else a for a in p))
        # the error of the limit is of the order of 1 / kappa, its rounding of kappa: 1e9 leaves five digits and more
        log_p, mean, covariance = of_dense(own, x[n], u[n], mask[n], 1e9)
        assert total[n].item() == pytest.approx(log_p.item(), abs=1e-3)
        torch.testing.assert_close(found.smoothed_means[n], mean, rtol=1e-4, atol=1e-3)
        blocks = covariance.unflatten(0, (T, STATES)).unflatten(2, (T, STATES)).transpose(1, 2)
        each, after = torch.arange(T), torch.arange(1, T)
        torch.testing.assert_close(found.smoothed_covariances[n], blocks[each, each], rtol=1e-4, atol=1e-3)
        cross = found.smoothed_cross_covariances[n]
        torch.testing.assert_close(cross, blocks[after, after - 1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("missing", thorough_but((True,), (False, True)))
def test_gradients_of_values_and_moments(missing):
    torch.manual_seed(0)
    x = torch.randn(2, 7, 1).cumsum(1)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :2] = False
    mask = mask if missing else None

    def build(a, b, c):
        return local_linear_trend(a, b, c, **EXACT) + seasonal(2)(b, **EXACT)

    values = [torch.tensor(v, requires_grad=True) for v in (0.7, 0.2, 0.4)]
    data = x.clone().requires_grad_()
    assert gradcheck(lambda x, *v: kalman.marginal_loglik(build(*v), x, None, mask), (data, *values))
    for field in ("smoothed_means", "smoothed_covariances", "smoothed_cross_covariances"):
        moments = lambda *v, field=field: getattr(kalman.smoother(build(*v), x, None, mask), field)  # noqa: E731
        assert gradcheck(moments, values)


def test_draws_have_the_moments_of_the_smoother():
    torch.manual_seed(0)
    p, u, x = general(()), torch.randn(N, T, CONTROLS), torch.randn(N, T, DATA)
    mask = torch.rand(N, T, DATA) > 0.3
    found, num = kalman.smoother(p, x, u, mask), 4000
    z = kalman.sample_posterior(p, x, u, mask, torch.Size((num,)))
    assert z.shape == (num, N, T, STATES)
    variance = found.smoothed_covariances.diagonal(dim1=-2, dim2=-1)
    errors = (z.mean(0) - found.smoothed_means) / (variance / num).sqrt()
    # 108 means and variances in their standard errors: one beyond 5 comes once in 10,000 seeds
    assert errors.abs().max() < 5
    assert ((z.var(0) / variance - 1) / math.sqrt(2 / num)).abs().max() < 5


def test_as_many_frames_as_the_start_needs_and_no_more():
    p = local_linear_trend(t(0.5), t(0.1), t(0.3), **EXACT)
    x = torch.randn(2, 2, 1)
    near = local_linear_trend(t(0.5), t(0.1), t(0.3), initial_variance=1e7)
    found, expected = kalman.smoother(p, x), kalman.smoother(near, x)
    torch.testing.assert_close(found.smoothed_means, expected.smoothed_means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.smoothed_cross_covariances, expected.smoothed_cross_covariances, rtol=1e-5, atol=1e-5
    )
    assert kalman.filter(p, x).loglik_per_step[:, 0].eq(0).all()
    ahead = kalman.forecast(p, x, 3)
    close = kalman.forecast(near, x, 3)
    torch.testing.assert_close(ahead.observation_means, close.observation_means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ahead.observation_covariances, close.observation_covariances, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"x: the observed frames do not determine the 2 states that start diffuse"):
        kalman.marginal_loglik(p, x[:, :1])
    mask = torch.tensor([[True, True], [False, True]])
    with pytest.raises(ValueError, match=r"x: the observed frames of sequence 1 \(counted from 0\) do not determine"):
        kalman.marginal_loglik(p, x, None, mask)


def test_single_precision_comes_back_as_it_came():
    p = local_linear_trend(t(0.5), t(0.1), t(0.3), **EXACT)
    x = torch.randn(2, 20, 1).cumsum(1)
    single = Parameters(*(None if a is None else a.float() for a in p))
    found = kalman.smoother(single, x.float())
    assert found.smoothed_means.dtype == torch.float32
    torch.testing.assert_close(found.smoothed_means, kalman.smoother(p, x).smoothed_means.float(), rtol=1e-5, atol=1e-5)
    assert kalman.marginal_loglik(single, x.float()).dtype == torch.float32


def test_a_model_forecasts_imputes_and_conditions_on_first_frames():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 30, 1).cumsum(1), torch.rand(2, 30) > 0.2
    mask[:, :2] = True
    values = {"level_variance": t(0.5), "observation_variance": t(0.2)}
    exact = LGSSM(local_level, **values, initial_variance=t(math.inf))
    near = LGSSM(local_level, **values, initial_variance=t(1e8))
    for question in (
        lambda model: model.forecast(x, 4, mask=mask).observation_means,
        lambda model: model.impute(x, mask),
        lambda model: model.posterior(x, mask=mask).variance,
    ):
        torch.testing.assert_close(question(exact), question(near), rtol=1e-6, atol=1e-6)
    # given the first year the start is a proper one
    scored = LGSSM(local_level, burn=1, **values, initial_variance=t(math.inf)).log_prob(x)
    given = [local_level(*values.values(), first, None) for first in x[:, 0, 0]]
    expected = [kalman.marginal_loglik(p, own) for p, own in zip(given, x[:, 1:], strict=True)]
    torch.testing.assert_close(scored, torch.stack(expected))
    assert exact.sample_imputation(x, mask, num=3).x.shape == (3, 2, 30, 1)


def test_what_needs_a_proper_start_says_so():
    values = {"level_variance": t(0.5), "observation_variance": t(0.2), "initial_variance": t(math.inf)}
    model, x = LGSSM(local_level, **values), torch.randn(2, 5, 1)
    with pytest.raises(ValueError, match="initial_covariance: infinite, and a draw of the model needs a proper start"):
        model.generate(2, 5)
    with pytest.raises(ValueError, match="initial_covariance: infinite, and the density of z needs a proper start"):
        LinearGaussianPosterior(model.system(), x).log_prob(torch.zeros(2, 5, 1))
    with pytest.raises(ValueError, match="initial_covariance: infinite, and the latent form needs a density of z_1"):
        LGSSM(local_level, marginal=False, **values)
    with pytest.raises(ValueError, match="initial_covariance: infinite, and a moment of the model needs a proper"):
        LinearGaussian(model.system(), 5).mean  # noqa: B018
    fields = {name: v for name, v in model.system()._asdict().items() if v is not None}
    with pytest.raises(ValueError, match=r"e_step: the closed form needs .* a proper start"):
        LGSSM(Parameters, **fields).e_step(x)
    mixed = model.system()._replace(initial_covariance=torch.tensor([[[1.0]], [[math.inf]]]))
    with pytest.raises(ValueError, match="initial_covariance: expected the same infinite variances in all sequences"):
        kalman.marginal_loglik(mixed, x)
    certain = local_level(t(0.0), t(0.0), **EXACT)
    with pytest.raises(ValueError, match=r"emission_covariance: .* certain given"):
        kalman.marginal_loglik(certain, x)
    both = Parameters(
        torch.zeros(1),
        torch.full((1, 1), math.inf),
        torch.eye(1),
        torch.zeros(1, 1),
        torch.ones(2, 1),
        torch.zeros(2, 2),
    )
    with pytest.raises(ValueError, match="emission_covariance: one of the first frames of x is certain"):
        kalman.marginal_loglik(both, torch.randn(4, 2))
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 1:], mask[1, :3] = False, False
    with pytest.raises(ValueError, match=r"x: sequence 0 \(counted from 0\) ends before the diffuse starts of all"):
        model.forecast(x, 1, mask=mask)


def test_a_pivot_of_zero_loses_no_rows_below_it():
    """A coordinate that is certain, or a sum of others, while those after it are not: the square stays."""
    torch.manual_seed(0)
    array = torch.randn(4, 5, 6)
    array[0, 0] = 0.0
    array[1, 2] = array[1, 0] - 2 * array[1, 1]
    array[2, 1:3] = 3 * array[2, :1]
    array[3] = 0.0
    factor = triangularise(array)
    torch.testing.assert_close(factor @ factor.mT, array @ array.mT)
    assert torch.equal(factor, factor.tril())
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    assert (pivots >= 0).all()
    assert (pivots == 0).sum(-1).tolist() == [1, 1, 2, 5]
    assert (factor[(pivots == 0).unsqueeze(-2).expand_as(factor)] == 0).all()


def test_exact_observations_with_gaps_score_alike_in_both_engines():
    x, mask = torch.randn(40, 1).cumsum(0), torch.arange(40) % 7 > 1
    p = arima(0, 2, 0)(torch.tensor(1.3), initial_variance=1.0)
    compiled = kalman.filter(p, x, None, mask).loglik_per_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)
        torch.testing.assert_close(kalman.filter(p, x, None, mask).loglik_per_step, compiled)
