"""A prior that is learned as a flow of spline couplings."""

from collections.abc import Sequence
from math import expm1, log

import torch
from pyro.distributions.transforms import Permute, SplineCoupling
from pyro.nn import DenseNN
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_positive, widths
from zoo.parts.conditionals.flow_prior import FlowDensity
from zoo.parts.distributions import UnitNormal
from zoo.parts.networks import start_small
from zoo.parts.recorded import Recorded


class CouplingNetwork(DenseNN):
    """Bin widths, heights and slopes before their softmax and softplus, held within +-2; zeros give f(x) = x."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        # unbounded, bins narrow until float32 cannot invert them, and Pyro's inverse raises an AssertionError
        bins, heights, slopes = (2 * torch.tanh(part / 2) for part in super().forward(x))
        # slopes of 1 at zeros: Pyro takes softplus of these and adds its least slope, 0.001
        return bins, heights, slopes + log(expm1(0.999))


class SplinePrior(Recorded, nn.Module):
    """p(z) = N(f^{-1}(z); 0, I) |det df^{-1}/dz|, f a stack of couplings by monotone rational-quadratic splines.

    As `FlowPrior`, with a spline of each feature of the second part in place of an affine map. Outside [-bound, bound]
    every spline is the identity.

    References: Durkan et al. 2019, Neural Spline Flows.

    Args:
        latent_dim: size of z, at least 2.
        num_flows: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.
        num_bins: pieces of each spline.
        bound: end of the interval that the pieces share, in standard deviations.

    Raises:
        ValueError: latent_dim is 1, which leaves a coupling nothing to split; a number below its least.
    """

    like: Tensor

    def __init__(
        self,
        latent_dim: int,
        *,
        num_flows: int = 4,
        hidden: Sequence[int] = (64,),
        num_bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__()
        check_counts(2, latent_dim=latent_dim, num_bins=num_bins)
        check_counts(num_flows=num_flows)
        check_positive(bound=bound)
        self.latent_dim, self.num_bins, self.bound = latent_dim, num_bins, bound
        self.split = latent_dim // 2
        moved = latent_dim - self.split
        shape = (self.split, list(widths(hidden)), [moved * num_bins, moved * num_bins, moved * (num_bins - 1)])
        self.networks = nn.ModuleList(CouplingNetwork(*shape) for _ in range(num_flows))
        for network in self.networks.children():
            # p(z) starts near N(0, I), as that of `FlowPrior` and for its reason
            start_small(*list(network.parameters())[-2:])
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self.register_buffer("order", torch.arange(latent_dim).flip(0), persistent=False)

    def forward(self) -> FlowDensity:
        # made at each call, as those of `FlowPrior`
        transforms: list[torch.distributions.Transform] = []
        for network in self.networks:
            # the first part stays as it is: a spline of its own would start at random
            coupling = SplineCoupling(
                self.latent_dim, self.split, network, self.num_bins, self.bound, "quadratic", identity=True
            )
            transforms += [coupling, Permute(self.order)]
        return FlowDensity(UnitNormal(self.latent_dim, self.like), transforms)
