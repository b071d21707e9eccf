"""A mixture of Normals, whose samples have a derivative with respect to its weights too."""

import copy

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from zoo.parts.distributions.vector import LOG_2PI, DiagonalNormal, VectorDistribution


class MixtureOfNormalsDensity(VectorDistribution):
    """p(x) = sum_k pi_k prod_i N(x_i; loc_ki, scale_ki^2): whole vectors choose their component.

    Samples are reparameterised implicitly. The conditional distribution functions F_i(x_i | x_1..x_{i-1}) of a sample
    are uniform noise; held fixed while the parameters move, they move the sample by dx = -(dF/dx)^{-1} dF. The matrix
    dF/dx is lower triangular, so that a sample with its derivative costs d^2.

    Pyro's `MixtureOfDiagNormals` was the candidate. Its derivative for pi is biased (it takes scales for 1, and lines
    through two means for lines through 0), NaN in float32 from 64 features on, and `rsample(sample_shape)` of a batch
    takes the particle axis for the data axis. torch's `MixtureSameFamily` has no `rsample`.

    References: Graves 2016, Stochastic Backpropagation through Mixture Density Distributions; Figurnov et al. 2018,
        Implicit Reparameterization Gradients.

    Args:
        logits: `(..., K)`, log pi up to a constant.
        loc: `(..., K, d)`.
        scale, log_scale: standard deviations or their logarithms, one of the two, broadcast with `loc`.

    Attributes:
        logits: log pi, normalised.
        components: the K Normals, batch shape `(..., K)`.

    Raises:
        ValueError: the number of logits is not the number of components.
    """

    has_rsample = True
    support = constraints.real_vector

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor | None = None, *, log_scale: Tensor | None = None
    ) -> None:
        self.components = DiagonalNormal(loc, scale, log_scale=log_scale)
        shape = self.components.loc.shape
        if logits.shape[-1:] != shape[-2:-1]:
            raise ValueError(f"{self._name}: {tuple(logits.shape)} logits for components of shape {tuple(shape)}")
        self.logits = logits.log_softmax(-1)
        batch = logits.shape[:-1]
        super().__init__(batch if batch == shape[:-2] else torch.broadcast_shapes(batch, shape[:-2]), shape[-1])

    def _expand(self, batch_shape: torch.Size) -> "MixtureOfNormalsDensity":
        # the parameters stay as they are and broadcast: particles share the work on them
        new = copy.copy(self)
        VectorDistribution.__init__(new, batch_shape, self._event_shape[0])
        return new

    @property
    def mean(self) -> Tensor:
        mean = (self.logits.exp().unsqueeze(-1) * self.components.loc).sum(-2)
        return mean.expand(self._batch_shape + self._event_shape)

    @property
    def variance(self) -> Tensor:
        # about the mean: the difference of second moment and squared mean would cancel for means far from 0
        each = self.components.variance + (self.components.loc - self.mean.unsqueeze(-2)) ** 2
        return (self.logits.exp().unsqueeze(-1) * each).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        each = self.components.log_prob(self._vectors(value).unsqueeze(-2))
        # logsumexp: far from every mean all K densities underflow, and the log of their sum would be -inf
        return self._full((self.logits + each).logsumexp(-1))

    def log_prob_of_observed(self, value: Tensor, mask: Tensor) -> Tensor:
        """log p of the entries where the mask is True: the marginal, a mixture of the components' marginals."""
        each = self.components.log_prob_of_observed(self._vectors(value).unsqueeze(-2), mask.unsqueeze(-2))
        return (self.logits + each).logsumexp(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self._batch_shape
            loc, scale, logits = self.components.loc, self.components.scale, self.logits
            # Gumbel's maximum: log pi plus independent Gumbel noise is largest at k with probability pi_k
            gumbel = -loc.new_empty(shape + logits.shape[-1:]).exponential_().log()
            index = (logits + gumbel).argmax(-1)[..., None, None].expand(*shape, 1, *self._event_shape)
            # gathered, not summed with zeros for the others: 0 times a scale that has overflowed is NaN
            loc, scale = (v.expand(shape + v.shape[-2:]).gather(-2, index).squeeze(-2) for v in (loc, scale))
            x = torch.addcmul(loc, scale, torch.randn(shape + self._event_shape, dtype=loc.dtype, device=loc.device))
        return self._attached(x) if torch.is_grad_enabled() else x

    def _attached(self, x: Tensor) -> Tensor:
        """The value of x, with the derivative of an implicitly reparameterised sample."""
        loc, log_scale = self.components.loc, self.components.log_scale
        rate = (-log_scale).exp()
        y = (x.unsqueeze(-2) - loc) * rate
        log_density = -0.5 * y**2 - log_scale - 0.5 * LOG_2PI
        before = F.pad(log_density.cumsum(-1)[..., :-1], (1, 0))
        # p(k | x_1..x_{i-1}) by a softmax of logarithms: as a quotient, both densities underflow in many dimensions
        weight = (self.logits.unsqueeze(-1) + before).softmax(-2)
        below = torch.special.ndtr(y)
        cdf = (weight * below).sum(-2)
        # dF/dx needs no graph: it multiplies cdf - cdf.detach(), which is zero
        with torch.no_grad():
            jacobian = ((weight * (below - cdf.unsqueeze(-2))).mT @ (-y * rate)).tril(-1)
            jacobian += (weight * log_density.exp()).sum(-2).diag_embed()
        change = torch.linalg.solve_triangular(jacobian, (cdf - cdf.detach()).unsqueeze(-1), upper=False)
        return x - change.squeeze(-1)
