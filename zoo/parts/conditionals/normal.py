"""Likelihoods of real vectors: a Normal, and a mixture of Normals."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts.distributions import DiagonalNormal, MixtureOfNormalsDensity
from zoo.parts.recorded import Recorded


class Normal(Recorded, nn.Module):
    """p(x | h) = N(x; W h + b, diag(s)^2), the standard deviation s learned: one for each coordinate.

    Args:
        in_features: size of h.
        data_dim: size of x.
        scale: initial standard deviation.
        heteroscedastic: makes log s a linear function of h.
        floor: least standard deviation; its square is added to the variance. Without a floor the likelihood is
            unbounded where a coordinate is met exactly. For z-scored speech of 16 bits, 1e-3 is two or three levels.
        layer: constructor `(in_features, data_dim) -> Module` of W h + b: `nn.Linear`, for feature maps
            `zoo.parts.networks.ToPicture`.

    Raises:
        ValueError: scale is not positive, floor is negative, or one of them is infinite.
    """

    def __init__(
        self,
        in_features: int,
        data_dim: int,
        *,
        scale: float = 1.0,
        heteroscedastic: bool = False,
        floor: float = 0.0,
        layer: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        if not (0 < scale < math.inf and 0 <= floor < math.inf):
            raise ValueError(f"Normal: expected scale > 0 and floor >= 0, got {scale} and {floor}")
        self.floor = floor
        self.loc: Any = layer(in_features, data_dim)
        self.log_scale = nn.Parameter(torch.full((data_dim,), float(scale)).log())
        # zeros: the heteroscedastic likelihood starts as the other one
        self.scale_weight = nn.Parameter(torch.zeros(data_dim, in_features)) if heteroscedastic else None

    def forward(self, h: Tensor) -> DiagonalNormal:
        loc, log_scale = self._told(h)
        if self.floor:
            # variances are added by their logarithms, since exp(2 log_scale) overflows before log_scale does
            log_scale = 0.5 * torch.logaddexp(2 * log_scale, log_scale.new_tensor(2 * math.log(self.floor)))
        return DiagonalNormal(loc, log_scale=log_scale)

    def _told(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """W h + b, and log s without the floor."""
        if self.scale_weight is None:
            return self.loc(h), self.log_scale
        if not _plain(self.loc) or self.loc.weight.shape != self.scale_weight.shape:
            return self.loc(h), self.log_scale + h @ self.scale_weight.T
        # one product with both matrices: h has more rows than they have, and its gradient is then one product too
        weight, bias = torch.cat([self.loc.weight, self.scale_weight]), torch.cat([self.loc.bias, self.log_scale])
        loc, log_scale = F.linear(h, weight, bias).chunk(2, -1)
        return loc, log_scale


def _plain(layer: nn.Module) -> bool:
    """Tells whether a call of the layer is W h + b and nothing besides."""
    # hooks are how torch's weight norm and pruning make W anew at each call, and how a caller looks on
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) is nn.Linear and layer.bias is not None and not any(hooks)


class MixtureOfNormals(Recorded, nn.Module):
    """p(x | h) = sum_k pi_k(h) N(x; m_k(h), diag(s_k(h))^2): whole frames choose their component; for speech.

    log pi and m are linear in h; s = softplus(linear) + 1e-4, as in VRNN's code.

    References: Chung et al. 2015 (VRNN-GMM; 20 components); Bishop 1994.

    Args:
        in_features: size of h.
        data_dim: size of x.
        num_components: K.

    Raises:
        ValueError: fewer than one component.
    """

    def __init__(self, in_features: int, data_dim: int, *, num_components: int = 20) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"MixtureOfNormals: num_components >= 1, got {num_components}")
        self.num_components, self.data_dim = num_components, data_dim
        self.parameters_of = nn.Linear(in_features, num_components * (1 + 2 * data_dim))

    def forward(self, h: Tensor) -> MixtureOfNormalsDensity:
        K = self.num_components
        logits, rest = self.parameters_of(h).split([K, 2 * K * self.data_dim], -1)
        loc, scale = rest.unflatten(-1, (K, 2 * self.data_dim)).chunk(2, -1)
        # the constant bounds the density: a component that shrinks onto one frame would raise it without end
        return MixtureOfNormalsDensity(logits, loc, F.softplus(scale) + 1e-4)
