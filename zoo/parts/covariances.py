"""Forms of the covariances of a mixture: full, tied and diagonal, with their protocol for a form of your own."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints
from torch import Tensor

from zoo.parts.checks import listed
from zoo.parts.distributions import DiagonalNormal


class Covariance(Protocol):
    """A form of covariance: the way in which the scales of K components are stored, used and estimated.

    A form holds no parameters: the model owns the scale and hands it in.

    Attributes:
        floor: added to every variance by `maximise`, as scikit-learn's `reg_covar`; keeps a component from
            collapsing on a point.
        constraint: the set of valid scales, by which the model makes its unconstrained parameter.
    """

    @property
    def floor(self) -> float: ...

    @property
    def constraint(self) -> constraints.Constraint: ...

    def start(self, num_components: int, data_dim: int) -> Tensor:
        """The scale of unit covariances."""
        ...

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        """N(mean, Sigma_k): batch shape `(...)`, event shape `(data_dim,)`.

        Args:
            mean: means of the components k, `(..., data_dim)`.
            scale: the scales of all components, as the form stores them.
            k: indices of components, `(...)`.
        """
        ...

    def maximise(
        self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        """The covariances of x about the means, weighted, with the floor added, as the scale that the form stores.

        Args:
            x: data, `(N, data_dim)`; with missing entries the data as each component completes them,
                `(N, K, data_dim)`.
            responsibilities: weight of each datum in each component, `(N, K)`.
            count: their column sums, `(K,)`.
            mean: means of the components, `(K, data_dim)`.
            spread: the covariances of the missing entries given the observed ones, weighted and summed over the data,
                `(K, data_dim, data_dim)`. A form that lacks the argument serves data without gaps.

        Raises:
            ValueError: a covariance is singular in spite of the floor.
        """
        ...

    def trace_precision(self, scale: Tensor) -> Tensor:
        """tr Sigma_k^-1, `(K,)`, or `()` where all components share one Sigma."""
        ...


def _centred(x: Tensor, mean: Tensor) -> Tensor:
    """The data, or their completions by each component, about the means, `(N, K, data_dim)`."""
    return (x if x.ndim == 3 else x.unsqueeze(1)) - mean


def _cholesky(covariance: Tensor, mean: Tensor, floor: float) -> Tensor:
    """Cholesky factor of the covariance plus the floor; refuses singular ones."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    covariance = covariance + floor * identity
    # `cholesky` itself raises on the first failure, without the components' numbers
    factor, info = torch.linalg.cholesky_ex(covariance)
    pivots, variances = (m.diagonal(dim1=-2, dim2=-1) for m in (factor.square(), covariance))
    _refuse_collapse(pivots, variances, mean, floor, info > 0)
    return factor


def _refuse_collapse(
    pivots: Tensor, variances: Tensor, mean: Tensor, floor: float, failed: Tensor | bool = False
) -> None:
    """Refuses variances, or squared pivots of their Cholesky factor, `(..., data_dim)`, that are rounding alone."""
    eps = torch.finfo(variances.dtype).eps
    # a squared pivot is a coordinate's variance given the coordinates before it: below eps of the variance, these
    # determine the coordinate. The rounding of x - mean is about eps * mean: a variance below its square is rounding
    bad = ((pivots <= eps * variances) | (variances <= (2 * eps * mean).square())).any(-1) | failed
    if bad.any():
        which = f" of components {listed(bad.nonzero().flatten().tolist())}" if bad.ndim else ""
        raise ValueError(
            f"floor: the covariance{which} is singular with floor={floor}; expected a larger floor, fewer components, "
            "or a covariance with fewer parameters (DiagonalCovariance, TiedCovariance)"
        )


@dataclass(frozen=True)
class FullCovariance:
    """A Sigma_k of its own for every component; the scale is their Cholesky factors, `(K, data_dim, data_dim)`."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.lower_cholesky

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.eye(data_dim).expand(num_components, -1, -1)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return MultivariateNormal(mean, scale_tril=scale[k])

    def maximise(
        self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        # x is centred first: E[x x'] - mean mean' would cancel for data far from the origin
        centred = _centred(x, mean).transpose(0, 1)
        products = (centred * responsibilities.T.unsqueeze(-1)).mT @ centred
        products = products if spread is None else products + spread
        return _cholesky(products / count[:, None, None], mean, self.floor)

    def trace_precision(self, scale: Tensor) -> Tensor:
        return torch.cholesky_inverse(scale).diagonal(dim1=-2, dim2=-1).sum(-1)


@dataclass(frozen=True)
class TiedCovariance:
    """One Sigma that all components share; the scale is its Cholesky factor, `(data_dim, data_dim)`."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.lower_cholesky

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.eye(data_dim)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return MultivariateNormal(mean, scale_tril=scale)

    def maximise(
        self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        centred = _centred(x, mean)
        weighted = centred * responsibilities.unsqueeze(-1)
        products = weighted.flatten(0, 1).T @ centred.flatten(0, 1)
        products = products if spread is None else products + spread.sum(0)
        # the largest mean bounds the rounding about all of them
        return _cholesky(products / count.sum(), mean.abs().amax(0), self.floor)

    def trace_precision(self, scale: Tensor) -> Tensor:
        return torch.cholesky_inverse(scale).diagonal().sum()


@dataclass(frozen=True)
class DiagonalCovariance:
    """A diagonal Sigma_k for every component; the scale is the standard deviations, `(K, data_dim)`."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.positive

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.ones(num_components, data_dim)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return DiagonalNormal(mean, scale[k])

    def maximise(
        self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor, spread: Tensor | None = None
    ) -> Tensor:
        squares = (_centred(x, mean).square() * responsibilities.unsqueeze(-1)).sum(0)
        squares = squares if spread is None else squares + spread.diagonal(dim1=-2, dim2=-1)
        variance = squares / count.unsqueeze(-1) + self.floor
        # the pivots of a diagonal matrix are its variances
        _refuse_collapse(variance, variance, mean, self.floor)
        return variance.sqrt()

    def trace_precision(self, scale: Tensor) -> Tensor:
        return scale.square().reciprocal().sum(-1)
