"""PPCA against the dense joint Gaussian, scikit-learn, scipy, its own closed form, and its gradients."""

import math

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from pyro import poutine
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from zoo.infer.em import em
from zoo.ppca import PPCA


def random_model(data_dim: int = 6, latent_dim: int = 3, dtype: torch.dtype = torch.float64) -> PPCA:
    torch.manual_seed(0)
    model = PPCA(data_dim, latent_dim).to(dtype)
    with torch.no_grad():
        model.mean.normal_()
        model.log_scale.fill_(-0.7)
    return model


def data_with_holes(model: PPCA, num: int = 40) -> tuple[Tensor, Tensor]:
    """NaN where missing; the first row misses everything, the second all but one entry, the third nothing."""
    torch.manual_seed(1)
    x = poutine.trace(poutine.uncondition(model)).get_trace(model.mean.new_zeros(num, model.data_dim))
    x = x.nodes["x"]["value"].detach()
    mask = torch.rand_like(x) > 0.4
    mask[0], mask[1], mask[2] = False, False, True
    mask[1, 0] = True
    mask[3:, :] |= ~mask[3:].any(-1, keepdim=True)
    return x.masked_fill(~mask, math.nan), mask


def dense(model: PPCA) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (z, x) as one Gaussian."""
    w, mean, scale = (p.detach().double().numpy() for p in (model.weight, model.mean, model.scale))
    q, d = model.latent_dim, model.data_dim
    joint = np.block([[np.eye(q), w.T], [w, w @ w.T + scale**2 * np.eye(d)]])
    return np.concatenate([np.zeros(q), mean]), joint


def conditional(mean: np.ndarray, cov: np.ndarray, want: np.ndarray, given: np.ndarray, value: np.ndarray):
    gain = np.linalg.solve(cov[np.ix_(given, given)], cov[np.ix_(given, want)]).T
    return mean[want] + gain @ (value - mean[given]), cov[np.ix_(want, want)] - gain @ cov[np.ix_(given, want)]


def test_posterior_marginal_and_imputation_equal_the_dense_joint_gaussian():
    model = random_model()
    x, mask = data_with_holes(model)
    mean, cov = dense(model)
    q = model.posterior(x, mask)
    log_prob, filled = model.log_prob(x, mask), model.impute(x, mask)
    assert q.batch_shape == (40,)
    assert q.event_shape == (3,)
    for n in range(len(x)):
        given = 3 + mask[n].nonzero().flatten().numpy()
        missing = 3 + (~mask[n]).nonzero().flatten().numpy()
        value = x[n][mask[n]].numpy()
        loc, covariance = conditional(mean, cov, np.arange(3), given, value)
        np.testing.assert_allclose(q.mean[n].detach(), loc, atol=1e-10)
        np.testing.assert_allclose(q.covariance_matrix[n].detach(), covariance, atol=1e-10)
        expected = (
            scipy.stats.multivariate_normal(mean[given], cov[np.ix_(given, given)]).logpdf(value) if len(given) else 0
        )
        assert log_prob[n].item() == pytest.approx(expected, abs=1e-10)
        np.testing.assert_allclose(
            filled[n, missing - 3].detach(), conditional(mean, cov, missing, given, value)[0], atol=1e-10
        )
        assert torch.equal(filled[n][mask[n]], x[n][mask[n]])


def test_without_missing_entries_the_mask_changes_nothing():
    model = random_model()
    x = torch.randn(2, 5, 6, dtype=torch.float64)  # any leading axes
    full = torch.ones_like(x, dtype=torch.bool)
    assert model.log_prob(x).shape == (2, 5)
    torch.testing.assert_close(model.log_prob(x), model.log_prob(x, full), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.posterior(x).mean, model.posterior(x, full).mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        model.posterior(x).covariance_matrix, model.posterior(x, full).covariance_matrix, rtol=0, atol=1e-12
    )


def test_contents_of_missing_entries_do_not_matter_and_gradients_are_finite():
    model = random_model()
    x, mask = data_with_holes(model)
    values = []
    for fill in (math.nan, math.inf, 1e6):
        model.zero_grad()
        value = model.log_prob(x.masked_fill(~mask, fill), mask).sum()
        value.backward()
        values.append(torch.cat([value.detach().flatten()] + [p.grad.flatten() for p in model.parameters()]))
    assert torch.isfinite(values[0]).all()
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


@pytest.mark.parametrize("masked", [False, True])
def test_program_scores_what_the_exact_quantities_say(masked):
    """log p(x, z) - log p(z | x) = log p(x) at every z: the program's sites, scales and mask are right."""
    model = random_model()
    x, mask = data_with_holes(model)
    args = (x, mask) if masked else (x.nan_to_num(0.0),)
    q = model.posterior(*args)
    for _ in range(3):
        z = q.sample()
        trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(*args)
        trace.compute_log_prob()
        joint = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
        torch.testing.assert_close(joint - q.log_prob(z), model.log_prob(*args), rtol=0, atol=1e-10)
    model.zero_grad()
    joint.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_float32_agrees_with_float64():
    model = random_model()
    x, mask = data_with_holes(model)
    single = random_model(dtype=torch.float32)
    single.load_state_dict(model.state_dict())
    eps = torch.finfo(torch.float32).eps
    expected = model.log_prob(x, mask)
    error = (single.log_prob(x.float(), mask) - expected).abs() / expected.abs().clamp(min=1)
    assert error.max() < 100 * eps
    torch.testing.assert_close(
        single.posterior(x.float(), mask).mean.double(), model.posterior(x, mask).mean, rtol=0, atol=1e-5
    )


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return torch.as_tensor(load_digits().data / 16)


def test_closed_form_is_sklearns_pca(digits):
    """scikit-learn divides covariances by N - 1, maximum likelihood by N: its variances are N/(N-1) times ours."""
    pca, model = PCA(10).fit(digits.numpy()), PPCA(64, 10).double().maximum_likelihood(digits)
    ratio = len(digits) / (len(digits) - 1)
    projector = (basis := torch.linalg.qr(model.weight.detach())[0]) @ basis.T
    np.testing.assert_allclose(projector, pca.components_.T @ pca.components_, atol=1e-10)
    weight = model.weight.detach()
    covariance = weight @ weight.T + model.scale.detach() ** 2 * torch.eye(64, dtype=torch.float64)
    np.testing.assert_allclose(ratio * covariance, pca.get_covariance(), atol=1e-10)
    assert ratio * model.scale.item() ** 2 == pytest.approx(pca.noise_variance_, rel=1e-10)

    theirs = PPCA(64, 10).double()
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        theirs.weight.mul_(math.sqrt(ratio))
        theirs.log_scale.add_(math.log(ratio) / 2)
    np.testing.assert_allclose(theirs.log_prob(digits).detach(), pca.score_samples(digits.numpy()), atol=1e-8)
    assert pca.score(digits.numpy()) < model.log_prob(digits).mean().item()  # theirs is not quite the maximum


def gradient_norm(model: PPCA, *args: Tensor) -> float:
    model.zero_grad()
    model.log_prob(*args).mean().backward()
    return max(p.grad.abs().max().item() for p in model.parameters())


def test_closed_form_and_em_meet_at_the_maximum(digits):
    closed = PPCA(64, 5).double().maximum_likelihood(digits)
    assert gradient_norm(closed, digits) < 1e-10
    torch.manual_seed(0)
    model = PPCA(64, 5).double()  # not initialised from the data: mean 0, scale 1
    result = em(model, digits, tolerance=0.0)
    assert result.converged
    assert result.log_likelihood == pytest.approx(closed.log_prob(digits).mean().item(), abs=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(model.weight @ model.weight.T, closed.weight @ closed.weight.T, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.mean, closed.mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(model.scale, closed.scale, rtol=1e-8, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_em_in_float32_far_from_the_origin(digits, offset):
    closed = PPCA(64, 5).double().maximum_likelihood(digits * 10)
    x = (digits * 10 + offset).float()
    model = PPCA(64, 5)
    torch.manual_seed(0)
    model.initialise(x)
    result = em(model, x, tolerance=0.0)
    # a coordinate is rounded by eps * offset; over sigma, times a residual of order sigma, that moves its log-density
    per_datum = 64 * torch.finfo(torch.float32).eps * (100 + offset / closed.scale.item())
    assert result.log_likelihood == pytest.approx(closed.log_prob(digits * 10).mean().item(), abs=per_datum)


def test_em_with_missing_entries_ends_at_a_maximum_of_the_dense_likelihood():
    model = random_model()
    x, mask = data_with_holes(model, 300)
    fitted = PPCA(6, 3).double()
    torch.manual_seed(0)
    fitted.initialise(x, mask)
    _, log_likelihood = fitted.e_step(x, mask)
    result = em(fitted, x, mask=mask, tolerance=1e-13, max_iterations=20_000)
    assert result.converged
    assert gradient_norm(fitted, x, mask) < 1e-5
    mean, cov = dense(fitted)
    expected = [
        scipy.stats.multivariate_normal(mean[3:][m], cov[3:, 3:][np.ix_(m, m)]).logpdf(row[m]) if m.any() else 0.0
        for row, m in zip(x.numpy(), mask.numpy(), strict=True)
    ]
    assert result.log_likelihood == pytest.approx(np.mean(expected), abs=1e-10)
    assert result.trajectory[0] == pytest.approx(log_likelihood.mean().item(), abs=1e-12)
    assert result.log_likelihood > model.log_prob(x, mask).mean().item()  # better on these data than what made them


def test_one_step_is_the_textbook_step_in_its_wider_form(digits):
    """At mu = mean(x): Tipping & Bishop's W and sigma, then W R W' with R = E[z z'] for W W'."""
    model = PPCA(64, 4).double().maximum_likelihood(digits)
    with torch.no_grad():
        model.weight.add_(0.05 * torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        w, variance, centred = model.weight.clone(), model.scale.square(), digits - model.mean
        m = w.T @ w + variance * torch.eye(4, dtype=torch.float64)
        z = torch.linalg.solve(m, w.T @ centred.T).T
        second = len(z) * variance * torch.linalg.inv(m) + z.T @ z
        textbook = torch.linalg.solve(second, z.T @ centred).T
        residual = (
            centred.square().sum() - 2 * (z * (centred @ textbook)).sum() + (second * (textbook.T @ textbook)).sum()
        )
        statistics, _ = model.e_step(digits)
        model.m_step(statistics)
    assert model.scale.item() ** 2 == pytest.approx(residual.item() / digits.numel(), rel=1e-10)
    spread = textbook @ (second / len(z)) @ textbook.T
    torch.testing.assert_close((model.weight @ model.weight.T).detach(), spread, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.mean.detach(), digits.mean(0), rtol=0, atol=1e-10)


def test_samples_have_the_models_moments():
    model = random_model()
    torch.manual_seed(0)
    num = 20_000
    x = (
        poutine.trace(poutine.uncondition(model))
        .get_trace(torch.zeros(num, 6, dtype=torch.float64))
        .nodes["x"]["value"]
    )
    mean, cov = (t[3:] if t.ndim == 1 else t[3:, 3:] for t in dense(model))
    centred = x.detach().numpy() - mean
    z_mean = centred.mean(0) / np.sqrt(np.diag(cov) / num)
    variance = np.outer(np.diag(cov), np.diag(cov)) + cov**2  # of a product of two centred Gaussians
    z_cov = (centred.T @ centred / num - cov) / np.sqrt(variance / num)
    assert np.abs(z_mean).max() < 4.5  # 27 normal variables: fails by chance with probability 27 * 7e-6
    assert np.abs(z_cov).max() < 4.5


def test_nothing_is_made_on_the_default_device():
    """Stands in for a second device: any tensor made without naming one would be on "meta" and meet the others."""
    model = random_model()
    x, mask = data_with_holes(model)
    torch.set_default_device("meta")
    try:
        for args in ((x, mask), (x.nan_to_num(0.0),)):
            model.initialise(*args)
            em(model, args, max_iterations=2)
            model.log_prob(*args)
            model.posterior(*args).mean  # noqa: B018
            site = poutine.trace(model).get_trace(*args).nodes["x"]
            site["fn"].log_prob(site["value"])
        model.maximum_likelihood(x.nan_to_num(0.0))
        model.impute(x, mask)
    finally:
        torch.set_default_device(None)


X = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
BAD = X.clone()
BAD[3, 1], BAD[7, 0] = math.nan, math.inf
RANK_TWO = X[:, :2] @ torch.randn(2, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["log_prob", "posterior", "e_step", "initialise", "maximum_likelihood"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :5], r"x: expected shape \(..., 6\), got \(10, 5\)"),
        (X[:0], r"x: expected at least one row, got shape \(0, 6\)"),
        (X.double() * 1e300, "x: column 0 would lose its differences in torch.float32"),
        (BAD, r"x: NaN or infinite values in 2 of 10 rows \(rows 3, 7\); say which .*mask="),
    ],
    ids=["last dimension", "empty", "dtype", "NaN"],
)
def test_bad_data(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(PPCA(6, 2), method)(x)


def test_other_errors():
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\), got \(10, 5\)"):
        PPCA(6, 2)(X[:, :5])
    with pytest.raises(TypeError, match=r"x: expected a torch\.Tensor, got set"):
        PPCA(6, 2).log_prob({1.0})
    with pytest.raises(ValueError, match=r"mask: expected torch\.bool of shape \(10, 6\).* got torch\.float32"):
        PPCA(6, 2).log_prob(X, torch.ones(10, 6))
    with pytest.raises(ValueError, match=r"rows \(rows 3, 7\)$"):
        PPCA(6, 2).log_prob(BAD, torch.ones(10, 6, dtype=torch.bool))
    never = torch.ones(10, 6, dtype=torch.bool)
    never[:, 4] = False
    for method in ("e_step", "initialise"):
        with pytest.raises(ValueError, match=r"mask: data dimensions 4 are observed in no row"):
            getattr(PPCA(6, 2), method)(X, never)
    with pytest.raises(ValueError, match="latent_dim < data_dim = 6, got 6"):
        PPCA(6, 6).maximum_likelihood(X)
    with pytest.raises(ValueError, match="subspace of dimension 2"):
        PPCA(6, 2).maximum_likelihood(RANK_TWO)
    with pytest.raises(ValueError, match="subspace of dimension 2"):
        em(PPCA(6, 2), RANK_TWO, tolerance=0.0)
    with pytest.raises(ValueError, match="data_dim >= 1 and latent_dim >= 1, got 6 and 0"):
        PPCA(6, 0)
    with pytest.raises(ValueError, match=r"expected shape \(N, 6\)"):
        PPCA(6, 2).maximum_likelihood(X[0])


def test_value_checks_follow_pyros_validation():
    with pyro.validation_enabled(False):
        assert PPCA(6, 2).log_prob(BAD).isnan().any()
