"""Linear-Gaussian pairs for the tests of evaluation: log p(x), posterior, gaps and moments are known exactly."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

#: two-sided failure rate of one comparison below 1e-5
Z_MAX = 4.5


class LinearGaussian(PyroModule):
    """z ~ N(0, I), x ~ N(W z, s^2 I), in float64."""

    def __init__(self, data_dim=4, latent_dim=2, scale=0.7, seed=1):
        super().__init__("model")
        self.data_dim, self.latent_dim = data_dim, latent_dim
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(data_dim, latent_dim, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float64))

    def precision(self):
        return (
            torch.eye(self.latent_dim, dtype=torch.float64) + self.weight.T @ self.weight / (2 * self.log_scale).exp()
        )

    def posterior(self, x):
        mean = torch.linalg.solve(self.precision(), (x @ self.weight / (2 * self.log_scale).exp()).mT).mT
        return dist.MultivariateNormal(mean, precision_matrix=self.precision())

    def log_prob(self, x):
        cov = self.weight @ self.weight.T + (2 * self.log_scale).exp() * torch.eye(self.data_dim, dtype=x.dtype)
        return dist.MultivariateNormal(x.new_zeros(self.data_dim), cov).log_prob(x)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent_dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T, self.log_scale.exp()).to_event(1), obs=x)

    def data(self, count, seed=2):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(count, self.latent_dim, generator=generator, dtype=torch.float64)
        noise = torch.randn(count, self.data_dim, generator=generator, dtype=torch.float64)
        return (z @ self.weight.T + self.log_scale.exp() * noise).detach()


class NoLogProb(PyroModule):
    """A model whose log p(x) has to be estimated: the same program without the closed forms."""

    def __init__(self, model):
        super().__init__("model")
        self.inner = model

    def forward(self, x):
        return self.inner.forward(x)


class Given(PyroModule):
    """q(z | x) = `make(x)`, any distribution with event `(latent_dim,)`; `Given(model)` is the exact posterior."""

    def __init__(self, model, make=None):
        super().__init__("guide")
        self._model = (model,)
        self.make = make or model.posterior

    @property
    def model(self):
        return self._model[0]

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.make(x))


class MeanField(PyroModule):
    """A diagonal Gaussian with own parameters for each datum, started beside the optimum; `rows` counts their use."""

    def __init__(self, model, num_data, shift=0.3):
        super().__init__("guide")
        self._model = (model,)
        self.loc = nn.Parameter(torch.full((num_data, model.latent_dim), shift, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((num_data, model.latent_dim), -0.5, dtype=torch.float64))

    @property
    def model(self):
        return self._model[0]

    def per_datum(self, x):
        guide = MeanField(self.model, len(x))
        guide.load_state_dict(self.state_dict())
        return guide

    def forward(self, x, index=None):
        index = slice(None) if index is None else index
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc[index], self.log_scale[index].exp()).to_event(1))


def shifted(model, shift=0.4, widen=1.3):
    """A guide that is off: the exact posterior moved by `shift` and widened by `widen` in every direction."""

    def make(x):
        exact = model.posterior(x)
        return dist.MultivariateNormal(exact.mean + shift, scale_tril=widen * exact.scale_tril)

    return Given(model, make)
