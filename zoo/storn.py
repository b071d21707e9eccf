"""p(x, z) = prod_t p(z_t) p(x_t | h_t), h_t = GRU(x_{t-1}, z_t, h_{t-1}): the stochastic recurrent network STORN."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.checks import widths
from zoo.parts.conditionals import Bernoulli
from zoo.parts.distributions import UnitNormal
from zoo.parts.networks import GRU, mlp
from zoo.parts.trajectory import Carry, StateSpace, shift, side_by_side


class STORNState(NamedTuple):
    """The state of step t: h_{t-1} and f(x_{t-1}). `states` adds the z_t that it was given, and h_t."""

    h: Tensor
    fed: Tensor
    z: Tensor | None = None
    reached: Tensor | None = None


class STORN(StateSpace):
    """p(x, z) = prod_t N(z_t; 0, I) p(x_t | h_t), h_t = GRU(f(x_{t-1}), z_t, h_{t-1}): noise drives a GRU.

    The state s_t is (h_{t-1}, f(x_{t-1})), and h_0 is a parameter that starts at 0. The prior is the same at every
    step: z acts on x through the GRU alone. `guides.Filter` is nearest to the paper's q(z_t | x_{1:t}); it has a
    recurrent network of its own too, and reads s_t, hence earlier z, besides.

    References: Bayer and Osendorfer 2014 (a plain tanh network in place of the GRU).

    Args:
        data_dim, latent_dim: sizes of x_t and z_t.
        recurrent: size of h_t.
        hidden: widths of the hidden layers of f, and the same of the emission.
        likelihood: constructor `(in_features, data_dim) -> Module` whose call gives p(x_t | features): `Bernoulli`,
            `Normal`, `MixtureOfNormals` of `zoo.parts.conditionals`, or your own.
        activation: constructor of the nonlinearity.

    Sites, in `pyro.plate("data", N)`: `z` (T, latent_dim); `x` (T, data_dim), observed.

    Example:
        >>> import torch
        >>> from zoo import STORN
        >>> STORN(88, 16, recurrent=32, hidden=(20,)).generate(3, 20)[1].shape
        torch.Size([3, 20, 88])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        recurrent: int = 300,
        hidden: Sequence[int] = (500,),
        *,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        hidden = widths(hidden)
        width = hidden[-1] if hidden else None
        fed = width or data_dim
        self.data_dim, self.latent_dim, self.state_dim = data_dim, latent_dim, recurrent + fed
        self.h_0 = nn.Parameter(torch.zeros(recurrent))
        self.feature = mlp(data_dim, hidden, activation=activation)
        self.gru = GRU(fed + latent_dim, recurrent)
        self.decoder = mlp(recurrent, hidden, activation=activation)
        self.likelihood = likelihood(width or recurrent, data_dim)

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Tensor]:
        """f(x_0)..f(x_{T-1})."""
        # refuses controls
        super().inputs(x, u)
        return (self.feature(shift(x, x.new_zeros(self.data_dim) if carry is None else carry.x)),)

    def features(self, s: STORNState) -> Tensor:
        return side_by_side(s.h, s.fed)

    def start(self, x: Tensor, fed: Tensor) -> STORNState:
        return STORNState(self.h_0, fed)

    def transition(self, s: STORNState) -> TorchDistribution:
        return UnitNormal(self.latent_dim, s.h, torch.broadcast_shapes(s.h.shape[:-1], s.fed.shape[:-1]))

    def emission(self, z: Tensor, s: STORNState) -> TorchDistribution:
        # `states` ran the GRU over this very z: the h_t that it kept is taken
        return self.likelihood(self.decoder(s.reached if s.z is z else self._reach(s, z)))

    def advance(self, s: STORNState, z: Tensor, x: Tensor, fed: Tensor) -> STORNState:
        return STORNState(self._reach(s, z), fed)

    def states(self, z: Tensor, x: Tensor, *inputs: Tensor, first: STORNState | None = None) -> STORNState:
        (fed,) = inputs
        h = self.h_0 if first is None else first.h
        reached = self.gru(side_by_side(fed, z), h)
        return STORNState(shift(reached, h), fed, z, reached)

    def _reach(self, s: STORNState, z: Tensor) -> Tensor:
        """h_t."""
        return self.gru.step(side_by_side(s.fed, z), s.h)
