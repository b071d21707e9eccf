"""A prior that is learned as a flow of couplings."""

import torch
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import DenseNN
from torch import Tensor, nn
from torch.distributions import Transform

from zoo.parts.checks import widths
from zoo.parts.distributions import UnitNormal
from zoo.parts.distributions.vector import no_closed_form
from zoo.parts.networks import start_small
from zoo.parts.recorded import Recorded


class FlowDensity(TransformedDistribution):
    """The density of a flow, without closed-form moments."""

    @property
    def mean(self) -> Tensor:
        no_closed_form(type(self).__name__, "mean")

    @property
    def variance(self) -> Tensor:
        no_closed_form(type(self).__name__, "variance")

    def entropy(self) -> Tensor:
        no_closed_form(type(self).__name__, "entropy")


class FlowPrior(Recorded, nn.Module):
    """p(z) = N(f^{-1}(z); 0, I) |det df^{-1}/dz|, f a stack of affine couplings.

    Every coupling moves the second part of z by an affine map that depends on the first part; the features are then
    reversed, so that the next coupling moves the others.

    References: Dinh et al. 2017.

    Args:
        latent_dim: size of z, at least 2.
        num_flows: number of couplings.
        hidden: widths of the hidden layers of each coupling's network.

    Raises:
        ValueError: latent_dim is 1, which leaves a coupling nothing to split.
    """

    # Couplings, not an autoregressive flow: a prior is sampled in generation and scored at the guide's values in
    # training, and a coupling does both in one pass.

    like: Tensor

    def __init__(self, latent_dim: int, *, num_flows: int = 4, hidden: tuple[int, ...] = (64,)) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"FlowPrior: a coupling needs latent_dim >= 2, got {latent_dim}")
        self.latent_dim = latent_dim
        self.split = latent_dim // 2
        shape = (self.split, list(widths(hidden)), [latent_dim - self.split] * 2)
        self.networks = nn.ModuleList(DenseNN(*shape) for _ in range(num_flows))
        for coupling in self.networks.children():
            # p(z) starts near N(0, I): with torch's full weights some eight couplings map a tail of N(0, I), where
            # guides start, to where no density is left
            start_small(*list(coupling.parameters())[-2:])
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self.register_buffer("order", torch.arange(latent_dim).flip(0), persistent=False)

    def forward(self) -> FlowDensity:
        flip = Permute(self.order)
        # made at each call: a coupling keeps its latest value with the graph, which torch refuses to deep-copy
        transforms: list[Transform] = []
        for network in self.networks:
            # log scales within -3 and 3, as wide downwards as upwards; Pyro's lower end is -5
            transforms += [AffineCoupling(self.split, network, log_scale_min_clip=-3.0), flip]
        return FlowDensity(UnitNormal(self.latent_dim, self.like), transforms)
