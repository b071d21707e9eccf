"""Transitions p(z_t | s_t): modules whose call returns a distribution, event shape `(latent_dim,)`.

A `DMM` takes the constructor of one, and calls it with `(latent_dim, hidden)`; your own serves as well.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts.distributions import DiagonalNormal
from zoo.parts.networks import mlp
from zoo.parts.recorded import Recorded

# added to every variance or standard deviation that a network puts out: softplus of a very negative number is 0 in
# floating point, and a density of scale 0 has no bound
FLOOR = 1e-4


class GatedTransition(Recorded, nn.Module):
    """N((1 - g) * (W z + b) + g * h, diag(v)), g = sigmoid(MLP(z)), h = MLP(z), v = softplus(V relu(h) + c).

    The gate g mixes, for each coordinate, a linear step with a nonlinear one, h; W starts as the identity.

    References: Krishnan, Shalit and Sontag 2017, section 5.

    Args:
        latent_dim: size of z.
        hidden: widths of the hidden layers of the gate, and of those of the proposal h.
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (200,)) -> None:
        super().__init__()
        self.gate = mlp(latent_dim, hidden, latent_dim)
        self.proposal = mlp(latent_dim, hidden, latent_dim)
        self.linear = nn.Linear(latent_dim, latent_dim)
        self.variance = nn.Linear(latent_dim, latent_dim)
        # as in Pyro's dmm.py: at the start the linear part keeps z_{t-1}, so gradients reach back over many steps
        with torch.no_grad():
            nn.init.eye_(self.linear.weight)
            self.linear.bias.zero_()

    def forward(self, z: Tensor) -> DiagonalNormal:
        proposal = self.proposal(z)
        loc = torch.lerp(self.linear(z), proposal, self.gate(z).sigmoid())
        # as in the paper, the variance is one layer on the proposal and no network of its own
        variance = F.softplus(self.variance(proposal.relu())) + FLOOR
        return DiagonalNormal(loc, log_scale=0.5 * variance.log())


class LinearTransition(Recorded, nn.Module):
    """N(A z + b, diag(s)^2): with it a DMM whose emission is linear too is an `LGSSM`.

    Args:
        latent_dim: size of z.
        hidden: ignored, since a linear map has no hidden layers; `DMM` passes it to every transition.
        scale: initial standard deviation.
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (), *, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, latent_dim)
        self.log_scale = nn.Parameter(torch.full((latent_dim,), float(scale)).log())

    def forward(self, z: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.linear(z), log_scale=self.log_scale)


class NormalTransition(Recorded, nn.Module):
    """N(m, diag(softplus(r) + 1e-4)^2), (m, r) = MLP(h): the transition of VRNN and SRNN.

    Args:
        in_features: size of h.
        latent_dim: size of z.
        hidden: widths of the hidden layers.
        activation: constructor of the nonlinearity.
    """

    def __init__(
        self, in_features: int, latent_dim: int, hidden: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.network = mlp(in_features, hidden, 2 * latent_dim, activation)

    def forward(self, h: Tensor) -> DiagonalNormal:
        loc, scale = self.network(h).chunk(2, -1)
        return DiagonalNormal(loc, F.softplus(scale) + FLOOR)
