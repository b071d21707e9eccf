"""The mixture of Gaussians, with the form of the covariances as a part."""

import warnings
from inspect import signature
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import Categorical, MultivariateNormal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import transform_to

from zoo.parts.checks import check_data, check_rows, listed
from zoo.parts.covariances import Covariance, FullCovariance
from zoo.parts.distributions.observed import given_observed, observed_entries
from zoo.parts.given.gaps import observe, zero_filled
from zoo.parts.starts.clusters import clusters
from zoo.parts.store_keys import RootModule


class MissingMoments(NamedTuple):
    """The moments of the missing entries given the observed ones, in each component.

    Attributes:
        mask: True where observed, `(N, data_dim)`.
        completed: the data with E[x_missing | x_observed, k] in their gaps, `(N, K, data_dim)`.
        covariance: cov[x_missing | x_observed, k], 0 elsewhere, `(N, K, data_dim, data_dim)`; its diagonal
            `(N, K, data_dim)` where the entries are independent.
    """

    mask: Tensor
    completed: Tensor
    covariance: Tensor

    def spread(self, responsibilities: Tensor) -> Tensor:
        """The covariances, weighted and summed over the data, `(K, data_dim, data_dim)`."""
        summed = torch.einsum("nk,nk...->k...", responsibilities, self.covariance)
        return summed if summed.ndim == 3 else torch.diag_embed(summed)


class MixtureStatistics(NamedTuple):
    """The statistics of an E-step: the data and their responsibilities.

    Sums would not do: the M-step computes the covariances about the new means, so that nothing cancels in float32.

    Attributes:
        x: the data, `(N, data_dim)`; 0 where they are missing.
        responsibilities: p(k | x_n), `(N, K)`.
        gaps: of data with missing entries.
    """

    x: Tensor
    responsibilities: Tensor
    gaps: MissingMoments | None = None


class GaussianMixture(RootModule):
    """p(x, k) = pi_k N(x; mu_k, Sigma_k): a mixture of Gaussians, whose latent is the component k.

    The exact posterior p(k | x) is the responsibility of component k for x. Fit by EM, `zoo.infer.em(model, x,
    restarts=10)`, by gradients of `log_prob`, or by `pyro.infer.TraceEnum_ELBO`, which with an empty guide is log p(x).

    References: Dempster, Laird & Rubin 1977; Ghahramani & Jordan 1994 (missing entries); Bishop 2006, chapter 9. Start:
    k-means++, Arthur & Vassilvitskii 2007.

    Args:
        data_dim: size of x.
        num_components: K.
        covariance: form of Sigma_k: `FullCovariance(floor=1e-6)` (default), `DiagonalCovariance`, `TiedCovariance`,
            or your own (protocol `zoo.parts.covariances.Covariance`).

    Attributes:
        logits: log pi_k up to a constant, `(K,)`; zero at first.
        means: mu_k, `(K, data_dim)`; standard normal at first.
        scale: standard deviations or Cholesky factors of the Sigma_k, as `covariance` stores them; those of unit
            covariances at first. The parameter is `unconstrained_scale`.

    Sites, in `pyro.plate("data", N)`: `k` `()`, enumerated in parallel; `x` `(data_dim,)`, observed.

    Throughout, x is `(..., data_dim)`, or `(N, data_dim)` in `forward` and for fitting, and log-densities are in nats.
    `mask` is boolean, of the shape of x, True where x is observed: `em(model, x, mask=mask)` is exact under gaps too,
    missing entries being latents (Ghahramani & Jordan 1994).

    Raises:
        ValueError: by every method, for a wrong last dimension, a wrong dtype, or no data; by methods that fit or
            return exact quantities also for NaN or infinite values, with the rows. The message names the argument.

    Example:
        >>> import torch
        >>> from zoo import DiagonalCovariance, GaussianMixture
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
        """p(k), batch shape `()`."""
        return Categorical(logits=self.logits)

    def likelihood(self, k: Tensor) -> TorchDistribution:
        """p(x | k): batch shape that of k, event shape `(data_dim,)`."""
        return self.covariance.density(self.means[k], self.scale, k)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_rows(x, self.data_dim, self.means, mask)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", self.prior(), infer={"enumerate": "parallel"})
            return observe("x", self.likelihood(k), x, mask)

    def posterior(self, x: Tensor, mask: Tensor | None = None) -> Categorical:
        """p(k | observed entries of x), exact: batch shape `(...)`."""
        return Categorical(logits=self._log_joint(x, mask))

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x) as probabilities, `(..., K)`."""
        return self._log_joint(x).softmax(-1)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(observed entries of x), exact, nats, `(...)`; zero for a row that misses everything."""
        return self._log_joint(x, mask).logsumexp(-1)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets the parameters to a start for EM: one M-step from the clusters of scikit-learn's k-means.

        scikit-learn's own mixture starts in the same way. The seed of k-means is drawn by torch (`clusters`). Missing
        entries have the mean and the variance of their column.
        """
        x = check_data(x, self.data_dim, self.means, mask)
        self._check_count(x, mask)
        gaps = None
        if mask is not None:
            seen = mask.sum(0)
            mean = x.sum(0) / seen
            variance = torch.where(mask, x - mean, 0.0).square().sum(0) / seen
            x = torch.where(mask, x, mean)
            each = (len(x), self.num_components, self.data_dim)
            gaps = MissingMoments(mask, x.unsqueeze(1).expand(each), (variance * ~mask).unsqueeze(1).expand(each))
        # clusters that stay empty, `m_step` starts again with a warning
        self.m_step(MixtureStatistics(x, clusters(x, self.num_components), gaps))

    @torch.no_grad()
    def e_step(self, x: Tensor, mask: Tensor | None = None) -> tuple[MixtureStatistics, Tensor]:
        """The statistics for `m_step`, and log p(x_n) of the observed entries in nats, `(N,)`.

        Raises:
            ValueError: besides the reasons of every method, fewer rows than components; dimensions that no row
                observes; a form of covariance that serves no gaps.
        """
        log_joint = self._log_joint(x, mask)
        self._check_count(x, mask)
        gaps = None if mask is None else self._gaps(x := zero_filled(x, mask), mask)
        return MixtureStatistics(x, log_joint.softmax(-1), gaps), log_joint.logsumexp(-1)

    def _gaps(self, x: Tensor, mask: Tensor) -> MissingMoments:
        """The moments of the missing entries."""
        each: Any = observed_entries(self._components(), mask.unsqueeze(-2))
        p, _ = given_observed(each, x.unsqueeze(-2))
        hidden = ~mask.unsqueeze(-2)
        completed = torch.where(hidden, p.mean, x.unsqueeze(-2))
        if isinstance(p, MultivariateNormal):
            covariance = p.covariance_matrix * (hidden.unsqueeze(-1) & hidden.unsqueeze(-2))
        else:
            covariance = p.variance * hidden
        return MissingMoments(mask, completed, covariance)

    @torch.no_grad()
    def m_step(self, statistics: MixtureStatistics) -> Tensor:
        """Sets the parameters to the weighted means and covariances of the data.

        A component that is responsible for no datum has no mean. It is started again: its mean is one of the data with
        the least log p(x), its covariance that of all data about this mean, its weight that of one datum. A warning
        names the component.

        Returns:
            A bound on the fall of the log-likelihood, in nats summed over the data. With the floor e the step maximises
            Q - (e/2) sum_k N_k tr Sigma_k^-1, Q the expected log-likelihood. So the log-likelihood falls at most by the
            fall of the second term. Where a component was started again, the bound is at least the measured fall.

        Raises:
            ValueError: a covariance is singular in spite of the floor; names the components. The parameters stay as
                they were.
        """
        x, responsibilities, gaps = statistics
        mask = None if gaps is None else gaps.mask
        count = responsibilities.sum(0)
        # a weight of this size is lost in the sum of all weights
        empty = count <= 10 * torch.finfo(x.dtype).eps * len(x)
        before = self.log_prob(x, mask).sum() if empty.any() else None
        completed = x if gaps is None else (responsibilities.unsqueeze(-1) * gaps.completed).sum(1)
        if before is not None:
            responsibilities = responsibilities.masked_fill(empty, 1 / len(x))
            count = responsibilities.sum(0)
        # with gaps every component completes the data in its own way
        own = x if gaps is None else gaps.completed
        total = responsibilities.T @ x if gaps is None else torch.einsum("nk,nkd->kd", responsibilities, own)
        mean = total / count.unsqueeze(-1)
        if before is not None:
            mean[empty] = self._worst_explained(completed, int(empty.sum()))
        # refuses a singular covariance, hence before the first parameter is written
        spread = () if gaps is None else (gaps.spread(responsibilities),)
        scale = self.covariance.maximise(own, responsibilities, count, mean, *spread)
        change = self.covariance.trace_precision(self.scale) - self.covariance.trace_precision(scale)
        self.logits.copy_((count / count.sum()).log())
        self.means.copy_(mean)
        self.unconstrained_scale.copy_(transform_to(self.covariance.constraint).inv(scale))
        announced = 0.5 * self.covariance.floor * (count * change).sum()
        if before is None:
            return announced
        warnings.warn(
            f"GaussianMixture: components {listed(empty.nonzero().flatten().tolist())} were responsible for no datum "
            "and have been started again, each at a datum that the others explain badly", stacklevel=2,
        )  # fmt: skip
        return torch.maximum(announced, before - self.log_prob(x, mask).sum())

    def _worst_explained(self, x: Tensor, num: int) -> Tensor:
        """The `num` distinct data of least log p(x), least first; repeated from the first where there are fewer."""
        # distinct: components at one and the same datum would have equal responsibilities, and never part
        distinct = torch.unique(x, dim=0)
        order = self.log_prob(distinct).argsort()
        return distinct[order[torch.arange(num, device=x.device) % len(order)]]

    def _components(self) -> Any:
        """p(x | k) of all components at once, along a last axis."""
        return self.likelihood(torch.arange(self.num_components, device=self.means.device))

    def _log_joint(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(observed entries of x, k), `(..., K)`."""
        x = check_data(x, self.data_dim, self.means, mask)
        components = self._components()
        if mask is not None:
            components = observed_entries(components, mask.unsqueeze(-2))
        return self.logits.log_softmax(-1) + components.log_prob(x.unsqueeze(-2))

    def _check_count(self, x: Tensor, mask: Tensor | None = None) -> None:
        if x.ndim != 2 or len(x) < self.num_components:
            raise ValueError(
                f"x: expected shape (N, {self.data_dim}) with N >= num_components = {self.num_components}, "
                f"got {tuple(x.shape)}"
            )
        if mask is None:
            return
        if not mask.any(0).all():
            which = listed((~mask.any(0)).nonzero().flatten().tolist())
            raise ValueError(f"mask: data dimensions {which} are observed in no row")
        if "spread" not in signature(self.covariance.maximise).parameters:
            form = type(self.covariance).__name__
            raise ValueError(f"mask: {form}.maximise takes no `spread`, so it serves data without gaps alone")
