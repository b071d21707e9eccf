"""The mixture of Gaussians against scikit-learn, scipy, Pyro's enumeration, and its gradients."""

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from pyro.infer import TraceEnum_ELBO
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Sklearn
from tiers import thorough_but
from torch import Tensor

from zoo.infer.em import EMError, em
from zoo.mixture import GaussianMixture, MixtureStatistics
from zoo.parts.covariances import Covariance, DiagonalCovariance, FullCovariance, TiedCovariance
from zoo.parts.distributions import DiagonalNormal


@dataclass(frozen=True)
class SphericalCovariance:
    """Sigma_k = s_k^2 I: a form that the zoo does not have, written as a user would."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.positive

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.ones(num_components, 1)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return DiagonalNormal(mean, scale[k])

    def maximise(self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        squares = (x.unsqueeze(1) - mean).square().mean(-1) * responsibilities
        return (squares.sum(0) / count + self.floor).sqrt().unsqueeze(-1)

    def trace_precision(self, scale: Tensor) -> Tensor:
        return 4 / scale.square().squeeze(-1)  # of the four dimensions of the irises


FORMS = {
    "full": FullCovariance,
    "diag": DiagonalCovariance,
    "tied": TiedCovariance,
    "spherical": SphericalCovariance,
}


@pytest.fixture(scope="module")
def iris() -> Tensor:
    return torch.as_tensor(load_iris().data)


def started(x: Tensor, covariance: Covariance, num_components: int = 3, seed: int = 0) -> GaussianMixture:
    """A mixture after one M-step from random responsibilities."""
    model = GaussianMixture(x.shape[1], num_components, covariance=covariance).to(x.dtype)
    random = torch.randn(len(x), num_components, generator=torch.Generator().manual_seed(seed)).mul(2)
    model.m_step(MixtureStatistics(x, random.softmax(-1).to(x.dtype)))
    return model


def covariances(model: GaussianMixture) -> np.ndarray:
    """Dense Sigma_k, `(K, data_dim, data_dim)`."""
    scale, k, d = model.scale.detach(), model.num_components, model.data_dim
    if model.covariance.constraint is constraints.positive:
        return torch.diag_embed(scale.square().expand(k, d)).numpy()
    return (scale @ scale.mT).expand(k, d, d).numpy()


@pytest.mark.parametrize("floor", [1e-6, 0.05])
@pytest.mark.parametrize("form", FORMS)
def test_em_is_scikit_learns_from_the_same_start(iris, form, floor):
    model = started(iris, FORMS[form](floor=floor))
    precision = np.linalg.inv(covariances(model))
    precision = {
        "full": precision,
        "diag": precision.diagonal(axis1=1, axis2=2),
        "tied": precision[0],
        "spherical": precision[:, 0, 0],
    }[form]
    sklearn = Sklearn(
        3,
        covariance_type=form,
        reg_covar=floor,
        tol=0.0,
        max_iter=20,
        weights_init=model.prior().probs.detach().numpy(),
        means_init=model.means.detach().numpy(),
        precisions_init=precision,
        random_state=0,
    )
    with pytest.warns(match="did not converge"):
        sklearn.fit(iris.numpy())
    for _ in range(20):
        model.m_step(model.e_step(iris)[0])
    np.testing.assert_allclose(model.log_prob(iris).detach(), sklearn.score_samples(iris.numpy()), rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.responsibilities(iris).detach(), sklearn.predict_proba(iris.numpy()), atol=1e-9)
    np.testing.assert_allclose(model.prior().probs.detach(), sklearn.weights_, atol=1e-9)
    np.testing.assert_allclose(model.means.detach(), sklearn.means_, atol=1e-9)


@pytest.mark.parametrize("form", ["full", "diag", "tied"])
def test_initialise_is_scikit_learns_start(iris, form):
    """k-means with the same seed, one M-step: scikit-learn's mixture after as many iterations, its start not given."""
    model = GaussianMixture(4, 3, covariance=FORMS[form]()).double()
    torch.manual_seed(3)
    seed = int(torch.randint(2**31 - 1, ()))
    torch.manual_seed(3)
    model.initialise(iris)
    sklearn = Sklearn(3, covariance_type=form, tol=0.0, max_iter=2, random_state=seed)
    with pytest.warns(match="did not converge"):
        sklearn.fit(iris.numpy())
    em(model, iris, max_iterations=2, tolerance=0.0)
    np.testing.assert_allclose(model.log_prob(iris).detach(), sklearn.score_samples(iris.numpy()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["full", "diag", "tied"])
def test_exact_quantities_equal_bayes_rule_with_scipy(iris, form):
    model = started(iris, FORMS[form]())
    weights, means = model.prior().probs.detach().numpy(), model.means.detach().numpy()
    joint = np.stack(
        [
            w * scipy.stats.multivariate_normal(m, c).pdf(iris.numpy())
            for w, m, c in zip(weights, means, covariances(model), strict=True)
        ],
        -1,
    )
    np.testing.assert_allclose(model.log_prob(iris).detach(), np.log(joint.sum(-1)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.responsibilities(iris).detach(), joint / joint.sum(-1, keepdims=True), atol=1e-10)
    q = model.posterior(iris.reshape(15, 10, 4))  # any leading axes
    assert q.batch_shape == (15, 10)
    np.testing.assert_allclose(q.probs.detach().flatten(0, 1), model.responsibilities(iris).detach(), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_enumeration_with_an_empty_guide_is_the_exact_marginal(iris, form):
    model = started(iris, FORMS[form]())
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: None, iris)
    assert loss == pytest.approx(-model.log_prob(iris).sum().item(), rel=1e-13)
    by_enumeration = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda x: None, iris)
    gradients = torch.autograd.grad(by_enumeration, list(model.parameters()))
    expected = torch.autograd.grad(-model.log_prob(iris).sum(), list(model.parameters()))
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["full", "diag", "tied"])
def test_the_posterior_makes_the_bound_tight_at_every_k(iris, form):
    model = started(iris, FORMS[form]())
    q = model.posterior(iris)
    for k in range(3):
        value = torch.full((len(iris),), k)
        trace = poutine.trace(poutine.condition(model, {"k": value})).get_trace(iris)
        trace.compute_log_prob()
        joint = trace.nodes["k"]["log_prob"] + trace.nodes["x"]["log_prob"]
        torch.testing.assert_close(joint - q.log_prob(value), model.log_prob(iris), rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["full", "diag", "tied"])
def test_em_ends_where_the_gradient_vanishes(iris, form):
    model = started(iris, FORMS[form](floor=0.0), num_components=2)
    result = em(model, iris, tolerance=0.0, max_iterations=5000)
    assert result.converged
    model.log_prob(iris).mean().backward()
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e-5


def test_em_finds_the_irises():
    """Three restarts, full covariances: the species, but for a few versicolor (scikit-learn finds the same split)."""
    iris = load_iris()
    x = torch.as_tensor(iris.data, dtype=torch.float32)
    torch.manual_seed(0)
    model = GaussianMixture(4, 3)
    result = em(model, x, restarts=3)
    theirs = Sklearn(3, n_init=3, random_state=0, tol=1e-6, max_iter=1000).fit(x.double().numpy())
    assert result.log_likelihood == pytest.approx(theirs.score(x.double().numpy()), abs=1e-4)  # two tolerances of 1e-6
    table = torch.stack(
        [torch.bincount(model.responsibilities(x[iris.target == s]).argmax(-1), minlength=3) for s in range(3)]
    )
    assert table.max(0).values.sum() >= 144


def test_float32_agrees_with_float64(iris):
    for form in FORMS.values():
        model = started(iris, form())
        single = GaussianMixture(4, 3, covariance=form())
        single.load_state_dict(model.state_dict())
        expected, actual = model.log_prob(iris), single.log_prob(iris.float())
        assert actual.dtype == torch.float32
        # residuals of up to 8, rounded by eps * 8, count by their size in standard deviations, at least 0.1
        assert (actual - expected).abs().max() < 1000 * torch.finfo(torch.float32).eps * expected.abs().max()


def test_a_floor_that_lowers_the_likelihood_is_announced(iris):
    """From tight components a large floor must lose likelihood; em passes it, as m_step says by how much at most."""
    tight = started(iris, DiagonalCovariance(floor=0.0))
    em(tight, iris, max_iterations=200)
    model = GaussianMixture(4, 3, covariance=DiagonalCovariance(floor=0.1)).double()
    model.load_state_dict(tight.state_dict())
    statistics, before = model.e_step(iris)
    announced = model.m_step(statistics)
    after = model.log_prob(iris)
    fall = (before - after).sum().item()
    assert 0 < fall <= announced.item()

    model.load_state_dict(tight.state_dict())
    trajectory = em(model, iris, tolerance=0.0).trajectory
    assert trajectory[1] < trajectory[0]

    class Silent(GaussianMixture):
        def m_step(self, statistics: MixtureStatistics) -> None:
            super().m_step(statistics)

    silent = Silent(4, 3, covariance=DiagonalCovariance(floor=0.1)).double()
    silent.load_state_dict(tight.state_dict())
    with pytest.raises(EMError):
        em(silent, iris)


@pytest.mark.parametrize("form", ["full", "diag", "tied"])
def test_a_collapse_is_an_error_without_a_floor_and_none_with_one(form):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double()
    x[:, 3] = 2.0  # a constant coordinate
    model = GaussianMixture(4, 2, covariance=FORMS[form](floor=0.0)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^floor: .* singular with floor=0\.0"):
        model.initialise(x)
    x[:, 3] = x[:, :3].sum(-1)  # or one that the others determine
    if form != "diag":
        with pytest.raises(ValueError, match=r"^floor: .* singular with floor=0\.0"):
            model.initialise(x)
    x[:, 3] = 2.0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    floored = GaussianMixture(4, 2, covariance=FORMS[form](floor=1e-4)).double()
    torch.manual_seed(0)
    assert em(floored, x, restarts=1).converged
    np.testing.assert_allclose(covariances(floored)[:, 3, 3], 1e-4, rtol=1e-6)


EMPTY = r"components 2 were responsible for no datum and have been started again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_an_empty_component_is_started_again(iris, form, dtype):
    """One mean so far off that it gets no datum: with a warning EM ends between the best of scikit-learn with 2 and 3
    components, and every one has its share; it stayed at the origin, a spike, before."""
    x = iris.to(dtype) + 20.0
    model = started(x, FORMS[form]())
    with torch.no_grad():
        model.means[2] = -1e3
    assert model.responsibilities(x)[:, 2].max() == 0
    with pytest.warns(UserWarning, match=EMPTY):
        result = em(model, x, tolerance=1e-6)
    assert result.converged
    assert model.prior().probs.min() > 0.02, "more than three of the 150"
    assert (model.means - x.mean(0)).abs().max() < 5
    best = Sklearn(3, covariance_type=form, n_init=10, random_state=0).fit(x.double().numpy())
    two = Sklearn(2, covariance_type=form, n_init=10, random_state=0).fit(x.double().numpy())
    assert result.log_likelihood > two.score(x.double().numpy()), "three explain more than two"
    assert result.log_likelihood < best.score(x.double().numpy()) + 0.01


@pytest.mark.parametrize("form", FORMS)
def test_what_a_new_start_costs_is_announced(iris, form):
    model = started(iris, FORMS[form]())
    with torch.no_grad():
        model.means[2] = -1e3
    statistics, before = model.e_step(iris)
    with pytest.warns(UserWarning, match=EMPTY):
        announced = model.m_step(statistics)
    assert (before - model.log_prob(iris)).sum() <= announced + 1e-9 * before.abs().sum()
    with warnings.catch_warnings():  # once: after that it has its data
        warnings.simplefilter("error")
        em(model, iris)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_fewer_distinct_data_than_components(form, distinct):
    """k-means leaves clusters empty; their components double others, and p(x) is that of the distinct data."""
    points = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()[:distinct]
    x = points.repeat(20, 1)
    model = GaussianMixture(4, 5, covariance=FORMS[form](floor=1e-2)).double()
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="were responsible for no datum"):
        result = em(model, x, restarts=2)
    assert result.converged
    assert model.responsibilities(x).isfinite().all()
    nearest = torch.cdist(model.means.detach(), points).min(1).values
    assert (nearest * (model.prior().probs > 1e-3)).max() < 0.3
    if form != "spherical":  # N(0; 0, 0.01 I), each point a component's own
        at_a_point = -0.5 * 4 * math.log(2 * math.pi * 1e-2) - math.log(distinct)
        assert result.log_likelihood == pytest.approx(at_a_point, abs=0.02)


@pytest.mark.parametrize("form", ["full", "diag", "spherical"])
def test_a_small_component_is_where_its_data_are(form):
    """In float32 a share of 1e-3 of a datum had its mean drawn a thousandth of the way to the origin."""
    x = 1000 + torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    model = GaussianMixture(4, 2, covariance=FORMS[form](floor=1e-2))
    responsibilities = torch.full((50, 2), 1.0)
    responsibilities[:, 1] = 2e-5
    model.m_step(MixtureStatistics(x, responsibilities))
    torch.testing.assert_close(model.means.detach(), x.mean(0).expand(2, 4), rtol=1e-6, atol=0)


def test_sites_and_samples(iris):
    model = started(iris, FullCovariance())
    torch.manual_seed(0)
    num = 20_000
    nodes = poutine.trace(poutine.uncondition(model)).get_trace(iris.new_zeros(num, 4)).nodes
    k, x = nodes["k"]["value"], nodes["x"]["value"].detach()
    assert nodes["k"]["infer"]["enumerate"] == "parallel"
    probs, means, cov = model.prior().probs.detach(), model.means.detach(), covariances(model)
    for component in range(3):
        chosen = x[k == component]
        z = (len(chosen) / num - probs[component]) / (probs[component] * (1 - probs[component]) / num).sqrt()
        assert z.abs() < 4.5  # 15 normal variables in all: fails by chance with probability 1e-4
        z = (chosen.mean(0) - means[component]) / torch.as_tensor(np.diag(cov[component]) / len(chosen)).sqrt()
        assert z.abs().max() < 4.5


def test_nothing_is_made_on_the_default_device(iris):
    """Stands in for a second device: any tensor made without naming one would be on "meta" and meet the others."""
    models = [started(iris, form()) for form in FORMS.values()]
    torch.set_default_device("meta")
    try:
        for model in models:
            em(model, iris, restarts=1, max_iterations=2)
            model.posterior(iris).sample()
            model.likelihood(torch.zeros(5, dtype=torch.long, device="cpu")).sample()
    finally:
        torch.set_default_device(None)


X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
BAD = X.clone()
BAD[3, 1], BAD[7, 0] = math.nan, math.inf


@pytest.mark.parametrize("method", ["log_prob", "posterior", "responsibilities", "e_step", "initialise"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, :3], r"x: expected shape \(..., 4\), got \(10, 3\)"),
        (X[:0], r"x: expected at least one row, got shape \(0, 4\)"),
        (X.double() * 1e300, "x: column 0 would lose its differences in torch.float32"),
        (BAD, r"x: NaN or infinite values in 2 of 10 rows \(rows 3, 7\)"),
    ],
    ids=["last dimension", "empty", "dtype", "NaN"],
)
def test_bad_data(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(GaussianMixture(4, 2), method)(x)


def test_other_errors():
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 4\), got \(10, 3\)"):
        GaussianMixture(4, 2)(X[:, :3])
    for method in ("e_step", "initialise"):
        with pytest.raises(ValueError, match=r"N >= num_components = 11, got \(10, 4\)"):
            getattr(GaussianMixture(4, 11), method)(X)
    with pytest.raises(ValueError, match="data_dim >= 1 and num_components >= 1, got 4 and 0"):
        GaussianMixture(4, 0)
    with pytest.raises(ValueError, match="floor: expected >= 0, got -1"):
        GaussianMixture(4, 2, covariance=DiagonalCovariance(floor=-1.0))


GAPS = torch.rand(150, 4, generator=torch.Generator().manual_seed(1)) < 0.7


@pytest.mark.parametrize("form", thorough_but(["diag"], ["full", "tied", "diag"]))
def test_em_under_gaps_climbs_to_a_stationary_point_of_the_observed_likelihood(form, iris):
    model = GaussianMixture(4, 3, covariance=FORMS[form](floor=0.0)).double()
    torch.manual_seed(0)
    result = em(model, iris.masked_fill(~GAPS, torch.nan), mask=GAPS, restarts=1, tolerance=1e-12)
    assert min(b - a for a, b in zip(result.trajectory, result.trajectory[1:], strict=False)) > -1e-10
    assert result.log_likelihood == pytest.approx(model.log_prob(iris, GAPS).mean().item(), abs=1e-9)
    gradients = torch.autograd.grad(model.log_prob(iris, GAPS).mean(), [*model.parameters()])
    assert max(gradient.abs().max() for gradient in gradients) < 1e-4


@pytest.mark.parametrize("form", ["full", "tied", "diag"])
def test_gaps_that_hide_nothing_are_no_gaps(form, iris):
    models = [started(iris, FORMS[form]()) for _ in range(2)]
    models[0].m_step(models[0].e_step(iris)[0])
    models[1].m_step(models[1].e_step(iris, torch.ones_like(iris, dtype=torch.bool))[0])
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other)


def test_a_component_without_data_is_started_again_under_gaps(iris):
    model = started(iris, FullCovariance())
    with torch.no_grad():
        model.means[1] = 1e3
    with pytest.warns(UserWarning, match="components 1 were responsible for no datum"):
        result = em(model, iris, mask=GAPS, max_iterations=20)
    assert result.trajectory[-1] > result.trajectory[0]


def test_gaps_that_em_cannot_fill_are_named(iris):
    hidden = GAPS.clone()
    hidden[:, 2] = False
    with pytest.raises(ValueError, match="mask: data dimensions 2 are observed in no row"):
        em(started(iris, FullCovariance()), iris, mask=hidden)
    with pytest.raises(ValueError, match=r"mask: SphericalCovariance.maximise takes no `spread`"):
        em(started(iris, SphericalCovariance()), iris, mask=GAPS)
