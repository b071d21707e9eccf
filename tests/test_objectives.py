"""Every objective on linear-Gaussian models, where log p(x), the posterior and the bounds' gradients are known exactly."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from zoo.infer import ELBO, IWELBO, RenyiELBO, Tempered, terms

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
