"""A density that is learned as a masked autoregressive flow."""

from collections.abc import Sequence
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from pyro.distributions.transforms import AffineAutoregressive
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from zoo.parts.checks import check_counts, widths
from zoo.parts.conditionals.flow_prior import FlowDensity
from zoo.parts.distributions import UnitNormal
from zoo.parts.networks import start_small
from zoo.parts.recorded import Recorded


class _OwnDtype(AffineAutoregressive):
    """Pyro's masked affine map, inverted in the dtype of its argument and not in torch's default one."""

    def _inverse(self, y: Tensor) -> Tensor:
        x = [torch.zeros_like(y[..., 0])] * y.shape[-1]
        for i in self.arn.permutation.tolist():
            mean, log_scale = self.arn(torch.stack(x, -1))
            log_scale = clamp_preserve_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)
            x[i] = (y[..., i] - mean[..., i]) * (-log_scale[..., i]).exp()
        self._cached_log_scale = log_scale
        return torch.stack(x, -1)


class MAFPrior(Recorded, nn.Module):
    """p(z) = N(f(z); 0, I) |det df/dz|, f a stack of masked affine maps z_i -> e^{s_i} z_i + m_i.

    (m_i, s_i) is a function of the features before i; the order of the features is reversed between the maps. A score
    is one pass through each map's network, a draw is `latent_dim` of them: the other way round than IAF, and right for
    a density that is scored in training. Log scales are kept within -3 and 3.

    References: Papamakarios, Pavlakou and Murray 2017; as a prior of latents, Chen et al. 2017 (VLAE).

    Args:
        latent_dim: size of z.
        num_flows: number of maps.
        hidden: widths of the hidden layers of each network, none below `latent_dim`.

    Raises:
        ValueError: a width below latent_dim, or a number below 1.
    """

    like: Tensor

    def __init__(self, latent_dim: int, *, num_flows: int = 4, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim, num_flows=num_flows)
        found = widths(hidden)
        # Pyro's own error names no argument
        if not found or min(found) < latent_dim:
            raise ValueError(f"hidden: MAFPrior expects widths >= latent_dim = {latent_dim}, got {found}")
        self.latent_dim = latent_dim
        order = torch.arange(latent_dim)
        networks: list[Any] = []
        with catch_warnings():
            # Pyro warns that for one feature an affine map would do; a prior serves every latent size
            simplefilter("ignore")
            for flow in range(num_flows):
                permutation = order.flip(0) if flow % 2 else order
                networks.append(AutoRegressiveNN(latent_dim, list(found), permutation=permutation))
        for network in networks:
            # p(z) starts near N(0, I), as that of `FlowPrior` and for its reason
            start_small(*network.layers[-1].parameters())
        self.networks = nn.ModuleList(networks)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self) -> FlowDensity:
        # made at each call, as those of `FlowPrior`
        maps = [_OwnDtype(network, log_scale_min_clip=-3.0).inv for network in self.networks]
        return FlowDensity(UnitNormal(self.latent_dim, self.like), maps)
