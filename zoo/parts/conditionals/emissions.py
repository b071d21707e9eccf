"""Emissions of hidden Markov models, p(x_t | z_t = k): modules that are called with states z.

Any module of this kind serves, `nn.Sequential(nn.Embedding(K, 8), Bernoulli(8, data_dim))` too: it is trained by
gradients. Those of this file have a closed M-step besides.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from pyro.distributions import Categorical as PyroCategorical
from pyro.distributions import Poisson, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import transform_to

from zoo.parts.checks import check_counts, parameter_of
from zoo.parts.covariances import Covariance, DiagonalCovariance
from zoo.parts.recorded import Recorded
from zoo.parts.starts.clusters import clusters


class Emission(Protocol):
    """An emission that `HMM` takes: p(x_t | z_t)."""

    def __call__(self, z: Tensor) -> Any:
        """p(x_t | z_t = z) for states z, int64 `(...)`: batch shape that of z, event shape `(data_dim,)`."""
        ...


@runtime_checkable
class MaximisedEmission(Protocol):
    """An emission with a closed M-step, as `em` needs it."""

    def initialise(self, x: Tensor) -> None:
        """Sets the parameters to a random start made of the frames x `(M, data_dim)`."""
        ...

    def maximise(self, x: Tensor, responsibilities: Tensor) -> Tensor | None:
        """Sets the parameters to the maximiser of sum_mk responsibilities_mk log p(x_m | k).

        A state without any responsibility keeps its parameters. Returns what `zoo.infer.em.EMModel.m_step` returns.

        Args:
            x: frames, `(M, data_dim)`.
            responsibilities: `(M, K)`.
        """
        ...


class NormalEmission(Recorded, nn.Module):
    """p(x_t | z_t = k) = N(x_t; mu_k, Sigma_k).

    Args:
        num_states: K.
        data_dim: size of x_t.
        covariance: form of Sigma_k, as in a `GaussianMixture`: `DiagonalCovariance()` (default), `FullCovariance()`,
            `TiedCovariance()`, or your own. EM adds its `floor`, 1e-6, to every variance: x of far smaller variance is
            to be scaled first.

    Attributes:
        means: mu_k, `(K, data_dim)`; standard normal at first.
        scale: standard deviations or Cholesky factors, as `covariance` stores them; ones at first.
    """

    def __init__(self, num_states: int, data_dim: int, *, covariance: Covariance | None = None) -> None:
        super().__init__()
        check_counts(num_states=num_states, data_dim=data_dim)
        self.num_states = num_states
        self.covariance: Covariance = DiagonalCovariance() if covariance is None else covariance
        self.means = nn.Parameter(torch.randn(num_states, data_dim))
        start = self.covariance.start(num_states, data_dim)
        self.unconstrained_scale = nn.Parameter(transform_to(self.covariance.constraint).inv(start).clone())

    @property
    def scale(self) -> Tensor:
        """Standard deviations or Cholesky factors, as `covariance` stores them."""
        return transform_to(self.covariance.constraint)(self.unconstrained_scale)

    def forward(self, z: Tensor) -> TorchDistribution:
        return self.covariance.density(self.means[z], self.scale, z)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        self.maximise(x, clusters(x, len(self.means)))

    @torch.no_grad()
    def maximise(self, x: Tensor, responsibilities: Tensor) -> Tensor:
        """As `MaximisedEmission`.

        Returns:
            A bound on the fall of the log-likelihood, which the floor of the covariances may cause, in nats.

        Raises:
            ValueError: a covariance is singular in spite of the floor.
        """
        count = responsibilities.sum(0)
        seen = count > 10 * torch.finfo(x.dtype).eps
        count, responsibilities = count[seen], responsibilities[:, seen]
        means = (responsibilities.T @ x) / count.unsqueeze(-1)
        found = self.covariance.maximise(x, responsibilities, count, means)
        old = self.scale.to(found.dtype)
        # a form whose states share one covariance has no axis of states
        shared = self.covariance.trace_precision(old).ndim == 0
        scale = found if shared else old.index_put((seen.nonzero().squeeze(-1),), found)
        change = self.covariance.trace_precision(old) - self.covariance.trace_precision(scale)
        self.means[seen] = means.to(self.means.dtype)
        self.unconstrained_scale.copy_(transform_to(self.covariance.constraint).inv(scale))
        # with the floor e the step maximises Q - (e/2) sum_k N_k tr Sigma_k^-1, Q the expected log-likelihood
        return 0.5 * self.covariance.floor * (count * (change if shared else change[seen])).sum()


class PoissonEmission(Recorded, nn.Module):
    """p(x_t | z_t = k) = prod_i Poisson(x_ti; rate_ki), counts x.

    Args:
        num_states: K.
        data_dim: size of x_t.

    Attributes:
        log_rate: `(K, data_dim)`; standard normal at first.
    """

    def __init__(self, num_states: int, data_dim: int) -> None:
        super().__init__()
        check_counts(num_states=num_states, data_dim=data_dim)
        self.num_states = num_states
        self.log_rate = nn.Parameter(torch.randn(num_states, data_dim))

    def forward(self, z: Tensor) -> TorchDistribution:
        return Poisson(self.log_rate[z].exp()).to_event(1)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        self.maximise(x, clusters(x, len(self.log_rate)))

    @torch.no_grad()
    def maximise(self, x: Tensor, responsibilities: Tensor) -> None:
        """As `MaximisedEmission`."""
        count = responsibilities.sum(0).unsqueeze(-1)
        # a rate of zero is the maximiser where a state has met no event; the least number keeps its logarithm finite
        rate = ((responsibilities.T @ x) / count).to(self.log_rate.dtype)
        found = rate.clamp(min=torch.finfo(rate.dtype).tiny).log()
        self.log_rate.copy_(torch.where(count > 0, found, self.log_rate))


class CategoricalEmission(Recorded, nn.Module):
    """p(x_t | z_t = k) = prod_i Categorical(x_ti; softmax(logits_ki)), x in {0, ..., levels - 1}^data_dim.

    Args:
        num_states: K.
        data_dim: size of x_t.
        levels: number of levels, at least 2.

    Attributes:
        logits: `(K, data_dim, levels)`; standard normal at first.
    """

    def __init__(self, num_states: int, data_dim: int = 1, *, levels: int) -> None:
        super().__init__()
        check_counts(num_states=num_states, data_dim=data_dim)
        self.num_states = num_states
        check_counts(2, levels=levels)
        self.logits = nn.Parameter(torch.randn(num_states, data_dim, levels))

    def forward(self, z: Tensor) -> TorchDistribution:
        return PyroCategorical(logits=self.logits[z]).to_event(1)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        # levels have no distance by which k-means could group them
        self.logits.normal_()

    @torch.no_grad()
    def maximise(self, x: Tensor, responsibilities: Tensor) -> None:
        """As `MaximisedEmission`."""
        levels = torch.arange(self.logits.shape[-1], device=x.device)
        counts = torch.einsum("mk,mil->kil", responsibilities, (x.unsqueeze(-1) == levels).to(x.dtype))
        total = counts.sum(-1, keepdim=True)
        found = (counts / total).to(self.logits.dtype).clamp(min=torch.finfo(self.logits.dtype).tiny).log()
        self.logits.copy_(torch.where(total > 0, found, self.logits))


def examined(emission: Emission, num_states: int) -> tuple[int, torch.dtype]:
    """The size of x_t and the dtype of the parameters, by a call of the emission.

    Raises:
        TypeError: the emission is not callable, or returns no distribution of Pyro.
        ValueError: it is made for another number of states, or its batch shape is not that of z.
    """
    if not callable(emission):
        raise TypeError(f"emission: expected a module such as PoissonEmission({num_states}, 1), got {emission!r}")
    own = getattr(emission, "num_states", num_states)
    if own != num_states:
        raise ValueError(f"emission: expected one for {num_states} states, got one for {own}")
    # two rows of states: an emission that returns all states, whatever z is, would pass with one, and draw wrongly
    z = torch.arange(num_states).expand(2, num_states)
    try:
        density = emission(z)
    except IndexError as error:
        raise ValueError(f"emission: expected one for {num_states} states, it has fewer ({error})") from error
    if not isinstance(density, TorchDistributionMixin):
        raise TypeError("emission: expected a module that returns distributions of pyro.distributions, "
                        f"got {type(density).__module__}.{type(density).__name__}")  # fmt: skip
    if density.batch_shape != z.shape or len(density.event_shape) != 1:
        raise ValueError(
            f"emission: expected batch shape {tuple(z.shape)} and event shape (data_dim,) for states of shape "
            f"{tuple(z.shape)}, got {tuple(density.batch_shape)} and {tuple(density.event_shape)}"
        )
    parameter = parameter_of(emission) if isinstance(emission, nn.Module) else None
    return density.event_shape[0], torch.get_default_dtype() if parameter is None else parameter.dtype
