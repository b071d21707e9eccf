"""Probabilistic principal components, with the exact posterior, likelihood and maximum likelihood."""

import math
from typing import NamedTuple

import pyro
import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor, nn

from zoo.parts.checks import check_data, check_gaps, check_rows, listed
from zoo.parts.distributions import UnitNormal
from zoo.parts.distributions.observed import observed_entries
from zoo.parts.given.gaps import observe
from zoo.parts.store_keys import RootModule


class PPCAStatistics(NamedTuple):
    """Sums over data of moments of z~ = (z, 1) and of the residual r = x - W z - mu, at the current parameters.

    Moments of the residual, not of x: the M-step then corrects (W, mu) by a small step, and in float32 nothing cancels.

    Attributes:
        moments: sum_n E[z~ z~'], `(latent_dim + 1, latent_dim + 1)`.
        observed_moments: the same sum for each data dimension, over the data that observe it,
            `(data_dim, latent_dim + 1, latent_dim + 1)`; the first axis is 1 if nothing is missing.
        cross: sum_n E[r z~'], `(data_dim, latent_dim + 1)`.
        squares: sum_n E[|r|^2], `()`.
        observed: number of observed entries, `()`.
    """

    moments: Tensor
    observed_moments: Tensor
    cross: Tensor
    squares: Tensor
    observed: Tensor


class PPCA(RootModule):
    """p(x, z) = N(z; 0, I) N(x; W z + mu, sigma^2 I), p(x) = N(x; mu, W W' + sigma^2 I): probabilistic PCA.

    The posterior is p(z | x) = N(M^-1 W'(x - mu), sigma^2 M^-1) with M = W'W + sigma^2 I; where entries of x are
    missing, W and mu keep the rows of the others. Fit in closed form (`maximum_likelihood`), by EM (`zoo.infer.em`), or
    by gradients. The data determine W up to a rotation of z: compare W W', never W.

    References: Tipping & Bishop 1999. Missing data: Ilin & Raiko 2010.

    Args:
        data_dim: size of x.
        latent_dim: size of z.

    Attributes:
        weight: W, `(data_dim, latent_dim)`; standard normal at first, divided by sqrt(latent_dim).
        mean: mu, `(data_dim,)`; zero at first.
        log_scale: log sigma, `()`; zero at first.

    Sites, in `pyro.plate("data", N)`: `z` `(latent_dim,)`; `x` `(data_dim,)`, observed.

    Throughout, x is `(..., data_dim)`, or `(N, data_dim)` in `forward` and for fitting. `mask` is boolean, of the shape
    of x, True where x is observed; where it is False x may hold anything, NaN too. A row may miss everything.

    Raises:
        ValueError: by every method, for a wrong last dimension, dtype or mask, or no data; by methods that fit or
            return exact quantities also for NaN or infinite observed entries, with the rows. The message names the
            argument.

    Example:
        >>> import torch
        >>> from zoo import PPCA
        >>> model = PPCA(data_dim=5, latent_dim=2).maximum_likelihood(torch.randn(100, 5))
        >>> model.posterior(torch.randn(3, 5)).event_shape
        torch.Size([2])
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__("model")
        if data_dim < 1 or latent_dim < 1:
            raise ValueError(f"PPCA: expected data_dim >= 1 and latent_dim >= 1, got {data_dim} and {latent_dim}")
        self.data_dim, self.latent_dim = data_dim, latent_dim
        self.weight = nn.Parameter(torch.randn(data_dim, latent_dim) / math.sqrt(latent_dim))
        self.mean = nn.Parameter(torch.zeros(data_dim))
        self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """sigma, the standard deviation of the noise."""
        return self.log_scale.exp()

    def prior(self) -> TorchDistribution:
        """p(z), event shape `(latent_dim,)`."""
        return UnitNormal(self.latent_dim, self.mean)

    def likelihood(self, z: Tensor, mask: Tensor | None = None) -> TorchDistribution:
        """p(x | z), event shape `(data_dim,)`; with a mask, the density of the observed entries alone."""
        p = Normal(z @ self.weight.T + self.mean, self.scale).to_event(1)
        return p if mask is None else observed_entries(p, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        check_rows(x, self.data_dim, self.weight, mask)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return observe("x", self.likelihood(z), x, mask)

    def posterior(self, x: Tensor, mask: Tensor | None = None) -> MultivariateNormal:
        """p(z | observed entries of x), exact: batch shape `(...)`, event shape `(latent_dim,)`."""
        loc, scale_tril = self._posterior(check_data(x, self.data_dim, self.weight, mask), mask)
        return MultivariateNormal(loc, scale_tril=scale_tril)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(observed entries of x), exact, in nats, `(...)`; zero for a row that misses everything."""
        x = check_data(x, self.data_dim, self.weight, mask)
        return self._log_prob(x, mask, *self._posterior(x, mask))

    def impute(self, x: Tensor, mask: Tensor) -> Tensor:
        """x, with E[x_missing | x_observed] in place of its missing entries."""
        check_gaps(mask)
        z = self.posterior(x, mask).mean
        return torch.where(mask, x, z @ self.weight.T + self.mean)

    @torch.no_grad()
    def maximum_likelihood(self, x: Tensor) -> "PPCA":
        """Sets the parameters to the maximum of the likelihood, in closed form; returns the model.

        mu is the mean of x. The covariance of x, divided by N and not N - 1, has eigenvalues Lambda and eigenvectors U:
        sigma^2 is the mean of the discarded eigenvalues, and W = U (Lambda - sigma^2 I)^1/2, with columns by falling
        eigenvalue and the largest entry of each positive.

        Raises:
            ValueError: latent_dim >= data_dim, so that nothing is left to estimate sigma from; or x lies in a subspace
                of dimension latent_dim, so that sigma = 0 has infinite likelihood.
        """
        if self.latent_dim >= self.data_dim:
            raise ValueError(
                f"latent_dim: the closed form expects latent_dim < data_dim = {self.data_dim}, got {self.latent_dim}"
            )
        x = self._rows(check_data(x, self.data_dim, self.weight))
        mean = x.mean(0)
        # by singular values of x, not eigenvalues of its covariance: squaring x would lose half of the digits
        _, singular, directions = torch.linalg.svd(x - mean, full_matrices=False)
        eigenvalues = singular.square() / len(x)
        kept, directions = eigenvalues[: self.latent_dim], directions[: self.latent_dim]
        variance = eigenvalues[self.latent_dim :].sum() / (self.data_dim - self.latent_dim)
        self._refuse_no_noise(variance, eigenvalues.sum())
        # an eigenvector's sign is arbitrary: fixed, so that two fits of the same data agree
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        self._assign((kept - variance).clamp(min=0).sqrt() * (directions * largest.sign()).T, mean, variance)
        return self

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Sets a start for EM: mean and standard deviation of the observed entries; W random, rows about sigma long."""
        x = self._rows(check_data(x, self.data_dim, self.weight, mask))
        count = self._counts(x, mask)
        mean = x.sum(0) / count
        centred = x - mean if mask is None else (x - mean).masked_fill(~mask, 0.0)
        variance = centred.square().sum() / count.sum()
        self._refuse_no_noise(variance, x.square().mean())
        self._assign(torch.randn_like(self.weight) * (variance / self.latent_dim).sqrt(), mean, variance)

    @torch.no_grad()
    def e_step(self, x: Tensor, mask: Tensor | None = None) -> tuple[PPCAStatistics, Tensor]:
        """The statistics for `m_step`, and log p(x_n) of the observed entries in nats, `(N,)`.

        Raises:
            ValueError: besides the reasons of every method, data dimensions that no row observes.
        """
        x = self._rows(check_data(x, self.data_dim, self.weight, mask))
        count = self._counts(x, mask)
        loc, scale_tril = self._posterior(x, mask)
        residual = self._residual(x, mask, loc)
        # E[z~] and cov[z~]: the 1 that z~ has behind z carries no variance
        z = nn.functional.pad(loc, (0, 1), value=1.0)
        covariance = nn.functional.pad(scale_tril @ scale_tril.mT, (0, 1, 0, 1))
        if mask is None:
            # one posterior covariance serves all rows, and one sum all data dimensions
            observed_covariance = len(x) * covariance.unsqueeze(0)
            observed_moments = observed_covariance + z.T @ z
            moments = observed_moments[0]
        else:
            seen = mask.T.to(x.dtype)
            observed_covariance = (seen @ covariance.flatten(1)).unflatten(-1, covariance.shape[1:])
            observed_moments = observed_covariance + torch.einsum("dn,ni,nj->dij", seen, z, z)
            moments = covariance.sum(0) + z.T @ z
        weight = nn.functional.pad(self.weight, (0, 1))
        # r falls as z rises: E[r z~'] = E[r] E[z~]' - W cov[z~]
        spread = (observed_covariance @ weight.unsqueeze(-1)).squeeze(-1)
        squares = residual.square().sum() + (spread * weight).sum()
        statistics = PPCAStatistics(moments, observed_moments, residual.T @ z - spread, squares, count.sum())
        return statistics, self._log_prob(x, mask, loc, scale_tril)

    @torch.no_grad()
    def m_step(self, statistics: PPCAStatistics) -> None:
        """Sets the parameters to the maximum of the expected log-likelihood, by parameter-expanded EM.

        The step is made in the wider model z ~ N(a, R): the regression of x on (z, 1) gives (W, mu) and sigma^2. The
        result is mapped back to z ~ N(0, I) by mu <- mu + W a and W <- W R^1/2.

        References: Liu, Rubin & Wu 1998; Tipping & Bishop 1999, whose step this is where a = 0 and R = I.

        Raises:
            ValueError: sigma^2 vanishes, since the data lie in a subspace of dimension latent_dim.
        """
        # this step has the fixed points of Tipping & Bishop's and its guarantee to climb, and fewer of them are needed
        moments, observed_moments, cross, squares, observed = statistics
        step = torch.cholesky_solve(cross.unsqueeze(-1), torch.linalg.cholesky(observed_moments)).squeeze(-1)
        weight, mean = self.weight + step[:, :-1], self.mean + step[:, -1]
        variance = (squares - (step * cross).sum()) / observed
        location = moments[-1, :-1] / moments[-1, -1]
        spread = moments[:-1, :-1] / moments[-1, -1] - torch.outer(location, location)
        mean, weight = mean + weight @ location, weight @ torch.linalg.cholesky(spread)
        self._refuse_no_noise(variance, weight.square().sum())
        self._assign(weight, mean, variance)

    def _residual(self, x: Tensor, mask: Tensor | None, z: Tensor | None = None) -> Tensor:
        """x - W z - mu, or x - mu without z; zero where missing."""
        residual = x - (self.mean if z is None else z @ self.weight.T + self.mean)
        return residual if mask is None else residual.masked_fill(~mask, 0.0)

    def _posterior(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean `(..., latent_dim)` and Cholesky factor of p(z | x): one factor for all x if nothing is missing."""
        rows = self.weight / self.scale
        identity = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device)
        if mask is None:
            precision = identity + rows.T @ rows
        else:
            squares = (rows.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(1)
            precision = identity + (mask.to(x.dtype) @ squares).unflatten(-1, identity.shape)
        # T lower with T T' = precision^-1, from the Cholesky factor of the reversed matrix: to invert the precision and
        # factorise the inverse would round twice
        factor = torch.linalg.cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
        scale_tril = torch.linalg.solve_triangular(factor, identity, upper=False)
        projection = (self._residual(x, mask) / self.scale) @ rows
        return (projection.unsqueeze(-2) @ scale_tril @ scale_tril.mT).squeeze(-2), scale_tril

    def _log_prob(self, x: Tensor, mask: Tensor | None, loc: Tensor, scale_tril: Tensor) -> Tensor:
        """log p(x) = log p(x, z) - log p(z | x) at z = E[z | x]: Woodbury's identity as a sum of squares."""
        residual = self._residual(x, mask, loc) / self.scale
        entries = self.data_dim if mask is None else mask.sum(-1)
        log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        quadratic = residual.square().sum(-1) + loc.square().sum(-1)
        return log_det - 0.5 * quadratic - entries * (self.log_scale + 0.5 * math.log(2 * math.pi))

    def _counts(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The number of rows that observe each data dimension, `(data_dim,)`."""
        count = torch.full_like(x[0], len(x)) if mask is None else mask.sum(0).to(x.dtype)
        if (count == 0).any():
            which = listed((count == 0).nonzero().flatten().tolist())
            raise ValueError(f"mask: data dimensions {which} are observed in no row")
        return count

    def _rows(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"x: expected shape (N, {self.data_dim}), got {tuple(x.shape)}")
        return x

    def _refuse_no_noise(self, variance: Tensor, signal: Tensor) -> None:
        # written so that NaN is refused too
        if not variance > torch.finfo(variance.dtype).eps * signal:
            raise ValueError(
                f"x: the noise variance is zero to rounding ({variance:.3g}): the data lie in a subspace of dimension "
                f"{self.latent_dim}, where the likelihood has no maximum; expected latent_dim below their rank"
            )

    def _assign(self, weight: Tensor, mean: Tensor, variance: Tensor) -> None:
        self.weight.copy_(weight)
        self.mean.copy_(mean)
        self.log_scale.copy_(variance.log() / 2)
