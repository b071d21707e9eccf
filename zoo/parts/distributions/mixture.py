"""A mixture of Normals whose samples have a derivative, that for its weights included."""

import copy
import math

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from zoo.parts.distributions.vector import VectorDistribution


class NormalMixture(VectorDistribution):
    """q(z) = sum_k pi_k N(z; m_k, diag(s_k)^2), its samples reparameterised implicitly: pi, m and s get a derivative.

    The conditional distribution functions F_i(z_i | z_1..z_{i-1}) of a sample are uniform noise. Held fixed while the
    parameters move, they move the sample by dz = -(dF/dz)^{-1} dF, dF/dz lower triangular: features^2 a sample.

    Pyro's `MixtureOfDiagNormals` was the candidate. Its derivative for pi is biased (it takes scales for 1, and lines
    through two means for lines through 0), NaN in float32 from 64 features on, and `rsample(sample_shape)` of a batch
    takes the particle axis for the data axis.

    References: Graves 2016, Stochastic Backpropagation through Mixture Density Distributions; Figurnov et al. 2018.

    Args:
        loc, log_scale: `(..., components, features)`.
        logits: `(..., components)`, log pi up to a constant.
    """

    has_rsample = True
    support = constraints.real_vector

    def __init__(self, loc: Tensor, log_scale: Tensor, logits: Tensor) -> None:
        shape = torch.broadcast_shapes(loc.shape, log_scale.shape)
        if logits.shape[-1:] != shape[-2:-1]:
            raise ValueError(f"NormalMixture: {tuple(logits.shape)} logits for components of shape {tuple(shape)}")
        super().__init__(torch.broadcast_shapes(logits.shape[:-1], shape[:-2]), shape[-1])
        self.loc, self.log_scale, self.log_weight = loc, log_scale, logits.log_softmax(-1)

    def _expand(self, batch_shape: torch.Size) -> "NormalMixture":
        new = copy.copy(self)  # the parameters broadcast as they are
        VectorDistribution.__init__(new, batch_shape, self.event_shape[0])
        return new

    @property
    def mean(self) -> Tensor:
        mean = (self.log_weight.exp().unsqueeze(-1) * self.loc).sum(-2)
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        second = (2 * self.log_scale).exp() + (self.loc - self.mean.unsqueeze(-2)) ** 2
        return (self.log_weight.exp().unsqueeze(-1) * second).sum(-2)

    def _standardised(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Each component's (z - m) / s and log N(z_i; m_i, s_i), `(..., components, features)`."""
        y = (self._vectors(value).unsqueeze(-2) - self.loc) * (-self.log_scale).exp()
        return y, -0.5 * y**2 - self.log_scale - 0.5 * math.log(2 * math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._full((self.log_weight + self._standardised(value)[1].sum(-1)).logsumexp(-1))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            gumbel = -self.loc.new_empty(shape + self.log_weight.shape[-1:]).exponential_().log()
            chosen = F.one_hot((self.log_weight + gumbel).argmax(-1), gumbel.shape[-1]).unsqueeze(-1)
            noise = torch.randn(shape + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
            z = (chosen * (self.loc + self.log_scale.exp() * noise.unsqueeze(-2))).sum(-2)
        return self._attached(z) if torch.is_grad_enabled() else z

    def _attached(self, z: Tensor) -> Tensor:
        """The value of z, with its derivative."""
        y, log_density = self._standardised(z)
        before = F.pad(log_density.cumsum(-1)[..., :-1], (1, 0))
        weight = (self.log_weight.unsqueeze(-1) + before).softmax(-2)  # of each component, given z_1..z_{i-1}
        below = torch.special.ndtr(y)
        cdf = (weight * below).sum(-2)
        with torch.no_grad():
            score = -y * (-self.log_scale).exp()
            jacobian = ((weight * (below - cdf.unsqueeze(-2))).mT @ score).tril(-1)
            jacobian += (weight * log_density.exp()).sum(-2).diag_embed()
        change = torch.linalg.solve_triangular(jacobian, (cdf - cdf.detach()).unsqueeze(-1), upper=False)  # zero
        return z - change.squeeze(-1)
