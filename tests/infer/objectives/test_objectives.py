"""Every objective on linear-Gaussian models, where log p(x), the posterior and the gradients are known exactly."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from tiers import thorough_but
from torch import nn

from zoo.infer import ELBO, IWELBO, RenyiELBO, Tempered, Terms, terms

Z_MAX = 4.5  # two-sided failure rate below 1e-5 for each comparison


class LinearGaussian(PyroModule):
    """z ~ N(0, I), x ~ N(W z, s^2 I), with the exact posterior."""

    def __init__(self, data_dim=4, latent_dim=2):
        super().__init__("model")
        self.data_dim, self.latent_dim = data_dim, latent_dim
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(data_dim, latent_dim, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))

    def posterior(self, x):
        variance = (2 * self.log_scale).exp()
        precision = torch.eye(self.latent_dim, dtype=x.dtype) + self.weight.T @ self.weight / variance
        mean = torch.linalg.solve(precision, (x @ self.weight / variance).mT).mT
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def log_prob(self, x):
        cov = self.weight @ self.weight.T + (2 * self.log_scale).exp() * torch.eye(self.data_dim, dtype=x.dtype)
        return dist.MultivariateNormal(x.new_zeros(self.data_dim), cov).log_prob(x)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T, self.log_scale.exp()).to_event(1), obs=x)


class ExactPosterior(PyroModule):
    def __init__(self, model):
        super().__init__("guide")
        self._model = (model,)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self._model[0].posterior(x))


OBJECTIVES = {
    "ELBO": ELBO,
    "ELBO-sticking": lambda k: ELBO(k, sticking=True),
    "IWELBO": IWELBO,
    "IWELBO-doubly": lambda k: IWELBO(k, gradient="doubly"),
    "Renyi-0.5": lambda k: RenyiELBO(0.5, k),
    "Renyi-1": lambda k: RenyiELBO(1.0, k),
    "Renyi-nearly-1": lambda k: RenyiELBO(1 - 1e-9, k),
    "Renyi--1": lambda k: RenyiELBO(-1.0, k),
    "VR-max": lambda k: RenyiELBO(-math.inf, k),
    "VR-min": lambda k: RenyiELBO(math.inf, k),
    "Tempered": lambda k: Tempered(ELBO(k)),
}


@pytest.fixture
def x():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("num_particles", [1, 2, 7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_exact_posterior_gives_log_p_for_every_k_and_seed(name, num_particles, seed, x):
    model = LinearGaussian()
    loss = OBJECTIVES[name](num_particles)(model, ExactPosterior(model))
    torch.manual_seed(seed)
    assert -loss(x).item() == pytest.approx(model.log_prob(x).sum().item(), rel=1e-10)
    assert -loss.elbo.loss(model, loss.guide, x) == pytest.approx(model.log_prob(x).sum().item(), rel=1e-10)


# --- a two-layer model and a bottom-up guide, all scalars: every expectation is a 2K-dimensional Gauss-Hermite sum ----


class TwoLayers(PyroModule):
    """z_2 ~ N(0, 1), z_1 ~ N(a z_2, 1), x ~ N(b z_1, 0.7^2)."""

    def __init__(self):
        super().__init__("model")
        self.a = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(1.2, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(self.a * z_2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.b * z_1, 0.7).to_event(1), obs=x)


class BottomUp(PyroModule):
    """q(z_1 | x) q(z_2 | z_1), deliberately wrong."""

    def __init__(self):
        super().__init__("guide")
        self.first = nn.Parameter(torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor([0.6, -0.2, 0.1], dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            slope, shift, log_scale = self.first
            z_1 = pyro.sample("z_1", dist.Normal(slope * x + shift, log_scale.exp()).to_event(1))
            slope, shift, log_scale = self.second
            pyro.sample("z_2", dist.Normal(slope * z_1 + shift, log_scale.exp()).to_event(1))


def log_normal(value, loc, log_scale):
    return -0.5 * ((value - loc) / torch.exp(log_scale)) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)


def exact_bound(objective_of, num_particles, model, guide, x, nodes=28):
    """E[bound(log w_1..K)] by Gauss-Hermite quadrature over all 2K noises, written without Pyro."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(points), torch.tensor(weights / weights.sum())
    grid = torch.cartesian_prod(*[points] * (2 * num_particles)).reshape(-1, num_particles, 2)
    mass = torch.cartesian_prod(*[weights] * (2 * num_particles)).reshape(-1, num_particles * 2).prod(-1)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    loc_1 = guide.first[0] * x + guide.first[1]
    z_1 = loc_1 + guide.first[2].exp() * grid[..., 0]
    loc_2 = guide.second[0] * z_1 + guide.second[1]
    z_2 = loc_2 + guide.second[2].exp() * grid[..., 1]
    log_w = (
        log_normal(z_2, zero, zero) + log_normal(z_1, model.a * z_2, zero)
        + log_normal(x * one, model.b * z_1, zero + math.log(0.7))
        - log_normal(z_1, loc_1, guide.first[2]) - log_normal(z_2, loc_2, guide.second[2])
    )  # fmt: skip
    return (mass * objective_of(log_w)).sum()


ESTIMATORS = {
    "ELBO": (lambda: ELBO(2), lambda w: w.mean(-1)),
    "ELBO-sticking": (lambda: ELBO(2, sticking=True), lambda w: w.mean(-1)),
    "IWELBO": (lambda: IWELBO(2), lambda w: w.logsumexp(-1) - math.log(2)),
    "IWELBO-doubly": (lambda: IWELBO(2, gradient="doubly"), lambda w: w.logsumexp(-1) - math.log(2)),
    "Renyi--2": (lambda: RenyiELBO(-2.0, 2), lambda w: ((3 * w).logsumexp(-1) - math.log(2)) / 3),
    "Tempered-sticking": (lambda: Tempered(ELBO(2, sticking=True)), lambda w: w.mean(-1)),
}


@pytest.mark.parametrize("name", thorough_but([*ESTIMATORS][1:4], ESTIMATORS))
def test_every_estimator_has_the_exact_gradient_for_a_two_layer_guide(name):
    """The popular hook on every latent fails here: it weights the path z_1 -> z_2 twice."""
    make, functional = ESTIMATORS[name]
    model, guide, x = TwoLayers(), BottomUp(), torch.tensor(1.5, dtype=torch.float64)
    parameters = [model.a, model.b, guide.first, guide.second]
    value = exact_bound(functional, 2, model, guide, x)
    exact = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])

    torch.manual_seed(3)
    loss, chunk, repeats = make()(model, guide), 500, 200
    values, gradients = [], []
    for _ in range(repeats):
        total = loss(x.expand(chunk, 1))
        values.append(-total.detach() / chunk)
        gradients.append(-torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, parameters)]) / chunk)
    for estimate, truth in ((torch.stack(values)[:, None], value[None]), (torch.stack(gradients), exact)):
        z = (estimate.mean(0) - truth) / (estimate.std(0) / math.sqrt(repeats))
        assert z.abs().max() < Z_MAX, f"z-scores {z.tolist()}"


def test_sticking_is_refused_with_what_it_does_not_serve():
    with pytest.raises(ValueError, match="sticking"):
        ELBO(analytic_kl=True, sticking=True)
    with pytest.raises(ValueError, match="free_bits"):
        Tempered(ELBO(sticking=True), free_bits=0.1)
    with pytest.raises(ValueError, match="doubly"):
        Tempered(IWELBO(5, gradient="doubly"))


class LeafGuide(PyroModule):
    """A full-rank Gaussian for each datum whose parameters are leaves, started at the exact posterior."""

    def __init__(self, posterior):
        super().__init__("guide")
        self.loc = nn.Parameter(posterior.mean.detach().clone())
        self.scale_tril = nn.Parameter(posterior.scale_tril.detach().clone())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril))


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("make", [lambda k: ELBO(k, sticking=True), lambda k: IWELBO(k, gradient="doubly")])
def test_path_gradients_vanish_at_the_exact_posterior(make, num_particles, x):
    """For every draw, not on average: parameters that leak into the frozen score are seen here, at K = 1 too."""
    model = LinearGaussian()
    guide = LeafGuide(model.posterior(x))
    torch.manual_seed(0)
    make(num_particles)(model, guide)(x).backward()
    assert guide.loc.grad.abs().max() < 1e-10
    assert guide.scale_tril.grad.abs().max() < 1e-10
    plain = torch.autograd.grad(ELBO(num_particles)(model, guide)(x), guide.loc)[0]
    assert plain.abs().max() > 1e-3


def test_doubly_does_not_lose_signal_with_particles():
    """Signal-to-noise of the guide's gradient at K = 64 against K = 2; `examples/gradients.py` draws the curves."""

    class Mean(PyroModule):
        def __init__(self, mean):
            super().__init__("guide")
            self.mean = nn.Parameter(mean)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.mean, 0.65).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(10), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def ratio(objective, rows=2000):
        torch.manual_seed(0)
        x = torch.ones(rows, 10)
        guide = Mean(x / 2 + 0.1)
        objective(model, guide)(x).backward()
        return (guide.mean.grad.mean(0).abs() / guide.mean.grad.std(0)).mean().item()

    # 20,000 estimates of a mean: each ratio is known to about 1 %
    assert ratio(IWELBO(64, gradient="doubly")) > 0.9 * ratio(IWELBO(2, gradient="doubly"))
    assert ratio(IWELBO(64)) < 0.5 * ratio(IWELBO(2))


def test_bounds_are_ordered_and_rise_to_log_p(x):
    """ELBO <= IWELBO(K) <= log p with a wrong guide, within computed Monte Carlo errors; K = 512 comes close."""
    model = LinearGaussian()

    class Wide(ExactPosterior):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                mean = self._model[0].posterior(x).mean
                pyro.sample("z", dist.Normal(mean + 0.2, 0.6).to_event(1))

    truth = model.log_prob(x).sum().item()
    torch.manual_seed(5)
    with torch.no_grad():
        log_w = terms(model, Wide(model), x, num_particles=512 * 200).log_weights.unflatten(0, (200, 512))
    bounds = {k: log_w.unflatten(1, (-1, k)).logsumexp(2) - math.log(k) for k in (1, 2, 8, 64, 512)}
    means = {k: b.sum(-1).mean().item() for k, b in bounds.items()}
    errors = {k: (b.sum(-1).mean(1).std() / math.sqrt(200)).item() for k, b in bounds.items()}
    assert means[1] == pytest.approx(log_w.sum(-1).mean().item())
    ladder = list(bounds)
    for low, high in itertools.pairwise(ladder):
        assert means[low] < means[high] + Z_MAX * math.hypot(errors[low], errors[high])
    assert means[1] < truth - 0.5
    assert abs(means[512] - truth) < 0.05 + Z_MAX * errors[512]


def test_renyi_bounds_fall_with_alpha_and_meet_their_limits():
    """On the same draws: -inf (max) >= -1 >= 0 >= 0.5 >= 1 (mean) >= 2 >= inf (min), with its limits."""
    torch.manual_seed(0)
    run = Terms(torch.randn(9, 6, dtype=torch.float64) * 3, {}, {})
    values = [RenyiELBO(a, 9).bound(run) for a in (-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf)]
    for high, low in itertools.pairwise(values):
        assert (high >= low).all()
    torch.testing.assert_close(values[0], run.log_weights.max(0).values)
    torch.testing.assert_close(values[-1], run.log_weights.min(0).values)
    torch.testing.assert_close(RenyiELBO(1 + 1e-7, 9).bound(run), values[4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(RenyiELBO(0.98999, 9).bound(run), RenyiELBO(0.99001, 9).bound(run), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(RenyiELBO(0.0, 9).bound(run), IWELBO(9).bound(run))
    single = Terms(torch.randn(9, 6), {}, {})  # float32, where log mean exp of tiny numbers would cancel
    torch.testing.assert_close(RenyiELBO(1 - 1e-6, 9).bound(single), single.log_weights.mean(0), rtol=1e-4, atol=1e-4)
