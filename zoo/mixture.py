"""The mixture of Gaussians, with the form of the covariances as a part."""

import warnings
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor, nn
from torch.distributions import transform_to

from zoo.parts.checks import check_data, check_rows, listed
from zoo.parts.covariances import Covariance, FullCovariance
from zoo.parts.distributions.observed import observed_entries
from zoo.parts.given.gaps import observe
from zoo.parts.starts.clusters import clusters
from zoo.parts.store_keys import RootModule


class MixtureStatistics(NamedTuple):
    """The statistics of an E-step: the data and their responsibilities.

    Sums would not do: the M-step computes the covariances about the new means, so that nothing cancels in float32.

    Attributes:
        x: the data, `(N, data_dim)`.
        responsibilities: p(k | x_n), `(N, K)`.
    """

    x: Tensor
    responsibilities: Tensor


class GaussianMixture(RootModule):
    """p(x, k) = pi_k N(x; mu_k, Sigma_k): a mixture of Gaussians, whose latent is the component k.

    The exact posterior p(k | x) is the responsibility of component k for x. Fit by EM, `zoo.infer.em(model, x,
    restarts=10)`, by gradients of `log_prob`, or by `pyro.infer.TraceEnum_ELBO`, which with an empty guide is log p(x).

    References: Dempster, Laird & Rubin 1977; Bishop 2006, chapter 9. Start: k-means++, Arthur & Vassilvitskii 2007.

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
    `mask` is boolean, of the shape of x, True where x is observed; fitting by EM takes data without gaps.

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
    def initialise(self, x: Tensor) -> None:
        """Sets the parameters to a start for EM: one M-step from the clusters of scikit-learn's k-means.

        scikit-learn's own mixture starts in the same way. The seed of k-means is drawn by torch (`clusters`).
        """
        self._check_count(check_data(x, self.data_dim, self.means))
        # clusters that stay empty, `m_step` starts again with a warning
        self.m_step(MixtureStatistics(x, clusters(x, self.num_components)))

    @torch.no_grad()
    def e_step(self, x: Tensor) -> tuple[MixtureStatistics, Tensor]:
        """The statistics for `m_step`, and log p(x_n) in nats, `(N,)`.

        Raises:
            ValueError: besides the reasons of every method, fewer rows than components.
        """
        log_joint = self._log_joint(x)
        self._check_count(x)
        return MixtureStatistics(x, log_joint.softmax(-1)), log_joint.logsumexp(-1)

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
        x, responsibilities = statistics
        count = responsibilities.sum(0)
        # a weight of this size is lost in the sum of all weights
        empty = count <= 10 * torch.finfo(x.dtype).eps * len(x)
        before = self.log_prob(x).sum() if empty.any() else None
        if before is not None:
            responsibilities = responsibilities.masked_fill(empty, 1 / len(x))
            count = responsibilities.sum(0)
        mean = (responsibilities.T @ x) / count.unsqueeze(-1)
        if before is not None:
            mean[empty] = self._worst_explained(x, int(empty.sum()))
        # refuses a singular covariance, hence before the first parameter is written
        scale = self.covariance.maximise(x, responsibilities, count, mean)
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
        return torch.maximum(announced, before - self.log_prob(x).sum())

    def _worst_explained(self, x: Tensor, num: int) -> Tensor:
        """The `num` distinct data of least log p(x), least first; repeated from the first where there are fewer."""
        # distinct: components at one and the same datum would have equal responsibilities, and never part
        distinct = torch.unique(x, dim=0)
        order = self.log_prob(distinct).argsort()
        return distinct[order[torch.arange(num, device=x.device) % len(order)]]

    def _log_joint(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(observed entries of x, k), `(..., K)`."""
        x = check_data(x, self.data_dim, self.means, mask)
        # all components at once, along a last axis
        components: Any = self.likelihood(torch.arange(self.num_components, device=x.device))
        if mask is not None:
            components = observed_entries(components, mask.unsqueeze(-2))
        return self.logits.log_softmax(-1) + components.log_prob(x.unsqueeze(-2))

    def _check_count(self, x: Tensor) -> None:
        if x.ndim != 2 or len(x) < self.num_components:
            raise ValueError(
                f"x: expected shape (N, {self.data_dim}) with N >= num_components = {self.num_components}, "
                f"got {tuple(x.shape)}"
            )
