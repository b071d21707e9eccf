"""p(x, k) = pi_k N(x; mu_k, Sigma_k): the mixture of Gaussians, with the covariances' form as a part handed in."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import pyro
import torch
from pyro.distributions import Categorical, MultivariateNormal, TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions import transform_to

from zoo.parts.checks import check_data, check_rows
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.store_keys import RootModule


class Covariance(Protocol):
    """A form of covariance: how the scales of all components are stored, used and estimated. It holds no parameters.

    Attributes:
        floor: added to every variance by `maximise`, as scikit-learn's `reg_covar`: keeps a component from
            collapsing on a point.
        constraint: of the stored scale.
    """

    @property
    def floor(self) -> float: ...

    @property
    def constraint(self) -> constraints.Constraint: ...

    def start(self, num_components: int, data_dim: int) -> Tensor:
        """The scale of unit covariances."""
        ...

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        """N(mean, Sigma_k), batch of `mean` without its last axis, which is the event."""
        ...

    def maximise(self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        """The scale of the weighted covariances of x about the means, plus the floor.

        x `(N, data_dim)`, responsibilities `(N, K)` with column sums `count`, mean `(K, data_dim)`.
        """
        ...

    def trace_precision(self, scale: Tensor) -> Tensor:
        """tr Sigma_k^-1, `(K,)`, or `()` where all share one Sigma."""
        ...


def _cholesky(covariance: Tensor, mean: Tensor, floor: float) -> Tensor:
    """Cholesky factor of the covariance plus the floor; refuses what is singular."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    covariance = covariance + floor * identity
    factor, info = torch.linalg.cholesky_ex(covariance)
    pivots, variances = (m.diagonal(dim1=-2, dim2=-1) for m in (factor.square(), covariance))
    _refuse_collapse(pivots, variances, mean, floor, info > 0)
    return factor


def _refuse_collapse(
    pivots: Tensor, variances: Tensor, mean: Tensor, floor: float, failed: Tensor | bool = False
) -> None:
    """Refuses variances `(..., data_dim)` about the mean, or given the coordinates before, that are rounding alone."""
    eps = torch.finfo(variances.dtype).eps
    bad = ((pivots <= eps * variances) | (variances <= (2 * eps * mean).square())).any(-1) | failed
    if bad.any():
        which = f" of components {bad.nonzero().flatten().tolist()}" if bad.ndim else ""
        raise ValueError(
            f"floor: the covariance{which} is singular with floor={floor}; expected a larger floor, fewer components, "
            "or a covariance with fewer parameters (DiagonalCovariance, TiedCovariance)"
        )


@dataclass(frozen=True)
class FullCovariance:
    """Every component has its own Sigma_k; the scale is their Cholesky factors, `(K, data_dim, data_dim)`."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.lower_cholesky

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.eye(data_dim).expand(num_components, -1, -1)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return MultivariateNormal(mean, scale_tril=scale[k])

    def maximise(self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        centred = (x.unsqueeze(1) - mean).transpose(0, 1)
        scatter = (centred * responsibilities.T.unsqueeze(-1)).mT @ centred
        return _cholesky(scatter / count[:, None, None], mean, self.floor)

    def trace_precision(self, scale: Tensor) -> Tensor:
        return torch.cholesky_inverse(scale).diagonal(dim1=-2, dim2=-1).sum(-1)


@dataclass(frozen=True)
class TiedCovariance:
    """All components share one Sigma; the scale is its Cholesky factor, `(data_dim, data_dim)`."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.lower_cholesky

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.eye(data_dim)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return MultivariateNormal(mean, scale_tril=scale)

    def maximise(self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        centred = x.unsqueeze(1) - mean
        weighted = centred * responsibilities.unsqueeze(-1)
        scatter = weighted.flatten(0, 1).T @ centred.flatten(0, 1)
        return _cholesky(scatter / count.sum(), mean.abs().amax(0), self.floor)

    def trace_precision(self, scale: Tensor) -> Tensor:
        return torch.cholesky_inverse(scale).diagonal().sum()


@dataclass(frozen=True)
class DiagonalCovariance:
    """Every Sigma_k is diagonal; the scale is the standard deviations, `(K, data_dim)`."""

    floor: float = 1e-6
    constraint: ClassVar[constraints.Constraint] = constraints.positive

    def start(self, num_components: int, data_dim: int) -> Tensor:
        return torch.ones(num_components, data_dim)

    def density(self, mean: Tensor, scale: Tensor, k: Tensor) -> TorchDistribution:
        return DiagonalNormal(mean, scale[k])

    def maximise(self, x: Tensor, responsibilities: Tensor, count: Tensor, mean: Tensor) -> Tensor:
        squares = (x.unsqueeze(1) - mean).square() * responsibilities.unsqueeze(-1)
        variance = squares.sum(0) / count.unsqueeze(-1) + self.floor
        _refuse_collapse(variance, variance, mean, self.floor)
        return variance.sqrt()

    def trace_precision(self, scale: Tensor) -> Tensor:
        return scale.square().reciprocal().sum(-1)


class MixtureStatistics(NamedTuple):
    """The data `(N, data_dim)`, for the covariances about the new means, and the responsibilities `(N, K)`."""

    x: Tensor
    responsibilities: Tensor


class GaussianMixture(RootModule):
    """p(x, k) = pi_k N(x; mu_k, Sigma_k), so p(x) = sum_k pi_k N(x; mu_k, Sigma_k).

    The posterior of k is the responsibility, exact. EM: `zoo.infer.em(model, x, restarts=10)`; or gradients
    of `log_prob`, or of `pyro.infer.TraceEnum_ELBO` with an empty guide, which equals it.

    References: Dempster, Laird & Rubin 1977; Bishop 2006, chapter 9. Start: k-means++, Arthur & Vassilvitskii
        2007.

    Args:
        data_dim: size of x.
        num_components: K.
        covariance: form of Sigma_k: `FullCovariance(floor=1e-6)`, `DiagonalCovariance`, `TiedCovariance`, or
            your own.

    Attributes:
        logits: log pi_k up to a constant, `(K,)`; zero at first.
        means: mu_k, `(K, data_dim)`; standard normal at first.
        scale: what `covariance` makes of the Sigma_k (standard deviations or Cholesky factors); unit
            covariances at first. The parameter is `unconstrained_scale`.

    Sites, in `pyro.plate("data", N)`: `k` `()`, enumerated in parallel; `x` `(data_dim,)`, observed.

    Throughout, x is `(..., data_dim)`, `(N, data_dim)` in `forward` and for fitting, and log-densities are in
    nats.

    Raises (every method): ValueError that names the argument, for a wrong last dimension or dtype and for no
    data; those that return exact quantities or fit also for NaN or infinite values, with the rows.

    Example:
        >>> import torch
        >>> from zoo.mixture import DiagonalCovariance, GaussianMixture
        >>> model = GaussianMixture(data_dim=2, num_components=3, covariance=DiagonalCovariance(floor=1e-3))
        >>> model.responsibilities(torch.randn(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, data_dim: int, num_components: int, *, covariance: Covariance | None = None) -> None:
        super().__init__("model")
        if data_dim < 1 or num_components < 1:
            raise ValueError(
                f"GaussianMixture: expected data_dim >= 1 and num_components >= 1, got {data_dim} and {num_components}"
            )
        self.data_dim, self.num_components = data_dim, num_components
        self.covariance: Covariance = FullCovariance() if covariance is None else covariance
        if self.covariance.floor < 0:
            raise ValueError(f"floor: expected >= 0, got {self.covariance.floor}")
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, data_dim))
        start = self.covariance.start(num_components, data_dim)
        self.unconstrained_scale = nn.Parameter(transform_to(self.covariance.constraint).inv(start).clone())

    @property
    def scale(self) -> Tensor:
        """Standard deviations or Cholesky factors, as `covariance` stores them."""
        return transform_to(self.covariance.constraint)(self.unconstrained_scale)

    def prior(self) -> Categorical:
        """p(k)."""
        return Categorical(logits=self.logits)

    def likelihood(self, k: Tensor) -> TorchDistribution:
        """p(x | k), batch of k, event `(data_dim,)`."""
        return self.covariance.density(self.means[k], self.scale, k)

    def forward(self, x: Tensor) -> None:
        check_rows(x, self.data_dim, self.means)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", self.prior(), infer={"enumerate": "parallel"})
            pyro.sample("x", self.likelihood(k), obs=x)

    def posterior(self, x: Tensor) -> Categorical:
        """p(k | x), exact: batch `(...)`."""
        return Categorical(logits=self._log_joint(x))

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x) as probabilities, `(..., K)`."""
        return self._log_joint(x).softmax(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact, nats, `(...)`."""
        return self._log_joint(x).logsumexp(-1)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """A start for EM: one M-step from the clusters of scikit-learn's k-means, itself started by k-means++.

        It is the start of scikit-learn's own mixture; the seed comes from torch's random numbers.
        """
        from sklearn.cluster import KMeans  # here: a slow import that only this needs

        self._check_count(check_data(x, self.data_dim, self.means))
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))
        with warnings.catch_warnings():  # fewer distinct data than components: `m_step` says what comes of it
            warnings.filterwarnings("ignore", "Number of distinct clusters")
            kmeans = KMeans(self.num_components, n_init=1, random_state=seed).fit(x.detach().cpu().numpy())
        clusters = torch.as_tensor(kmeans.labels_, dtype=torch.long, device=x.device)
        self.m_step(MixtureStatistics(x, nn.functional.one_hot(clusters, self.num_components).to(x.dtype)))

    @torch.no_grad()
    def e_step(self, x: Tensor) -> tuple[MixtureStatistics, Tensor]:
        """Responsibilities, and log p(x_n) in nats, `(N,)`.

        Raises:
            ValueError: besides the above, fewer rows than components.
        """
        log_joint = self._log_joint(x)
        self._check_count(x)
        return MixtureStatistics(x, log_joint.softmax(-1)), log_joint.logsumexp(-1)

    @torch.no_grad()
    def m_step(self, statistics: MixtureStatistics) -> Tensor:
        """Weighted means and covariances; sets the parameters.

        A component that is responsible for no datum has neither. It is started again, as if it were responsible for one
        datum's worth of all of them: at one of those that have the least log p(x), with their covariance about it; a
        warning names it.

        Returns:
            By how many nats, summed over the data, the floor e may lower the log-likelihood. With it the step
            maximises Q - (e/2) sum_k N_k tr Sigma_k^-1, hence Q, and so the log-likelihood, falls at most by
            the fall of the second term; where a component was started again, what that has cost.

        Raises:
            ValueError: a covariance is singular in spite of the floor; names the components. The parameters
                are kept.
        """
        x, responsibilities = statistics
        count = responsibilities.sum(0)
        empty = count <= 10 * torch.finfo(x.dtype).eps * len(x)  # a weight that is lost in the sum of all
        before = self.log_prob(x).sum() if empty.any() else None
        if before is not None:
            responsibilities = responsibilities.masked_fill(empty, 1 / len(x))
            count = responsibilities.sum(0)
        mean = (responsibilities.T @ x) / count.unsqueeze(-1)
        if before is not None:
            mean[empty] = self._worst_explained(x, int(empty.sum()))
        scale = self.covariance.maximise(x, responsibilities, count, mean)
        change = self.covariance.trace_precision(self.scale) - self.covariance.trace_precision(scale)
        self.logits.copy_((count / count.sum()).log())
        self.means.copy_(mean)
        self.unconstrained_scale.copy_(transform_to(self.covariance.constraint).inv(scale))
        announced = 0.5 * self.covariance.floor * (count * change).sum()
        if before is None:
            return announced
        warnings.warn(
            f"GaussianMixture: components {empty.nonzero().flatten().tolist()} were responsible for no datum and have "
            "been started again, each at a datum that the others explain badly", stacklevel=2,
        )  # fmt: skip
        return torch.maximum(announced, before - self.log_prob(x).sum())

    def _worst_explained(self, x: Tensor, num: int) -> Tensor:
        """That many of the distinct data, those of least log p(x) first; over again where there are fewer."""
        distinct = torch.unique(x, dim=0)
        order = self.log_prob(distinct).argsort()
        return distinct[order[torch.arange(num, device=x.device) % len(order)]]

    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(x, k), `(..., K)`."""
        x = check_data(x, self.data_dim, self.means)
        components = self.likelihood(torch.arange(self.num_components, device=x.device))
        return self.logits.log_softmax(-1) + components.log_prob(x.unsqueeze(-2))

    def _check_count(self, x: Tensor) -> None:
        if x.ndim != 2 or len(x) < self.num_components:
            raise ValueError(
                f"x: expected shape (N, {self.data_dim}) with N >= num_components = {self.num_components}, "
                f"got {tuple(x.shape)}"
            )
