"""p(x, z) = prod_t p(z_t | h_{t-1}) p(x_t | z_t, h_{t-1}), h_t = GRU(x_t, z_t, h_{t-1})."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.checks import widths
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import GRU, mlp
from zoo.parts.trajectory import Carry, StateSpace, shift, side_by_side
from zoo.parts.transitions import NormalTransition


class VRNNState(NamedTuple):
    """The state of step t: h_{t-1}. `states` adds the z_t that it was given, and g(z_t)."""

    h: Tensor
    z: Tensor | None = None
    feature: Tensor | None = None


class VRNN(StateSpace):
    """p(x, z) = prod_t p(z_t | h_{t-1}) p(x_t | z_t, h_{t-1}), h_t = GRU(f(x_t), g(z_t), h_{t-1}): a VAE in each step.

    The state s_t is h_{t-1}, and h_0 is a parameter that starts at 0. Guides read f(x_t), which they share with the
    model as in the paper. The paper's guide, q(z_t | x_t, h_{t-1}), is `guides.Filter(model, recurrent=0)`.

    References: Chung, Kastner, Dinh, Goel, Courville and Bengio 2015. Speech: frames of 200, z 200, h 2000 to 4000
    (an LSTM), nets of four layers of 600.

    Args:
        data_dim, latent_dim: sizes of x_t and z_t.
        recurrent: size of h_t.
        hidden: widths of the hidden layers of f, and the same of g, of the transition and of the emission.
        likelihood: constructor `(in_features, data_dim) -> Module` whose call gives p(x_t | features): `Bernoulli`,
            `Normal`, `MixtureOfNormals` of `zoo.parts.conditionals`, or your own.
        activation: constructor of the nonlinearity.

    Sites, in `pyro.plate("data", N)`: `z` (T, latent_dim); `x` (T, data_dim), observed.

    Example:
        >>> import torch
        >>> from zoo import VRNN
        >>> VRNN(88, 16, recurrent=32, hidden=(20,)).generate(3, 20)[1].shape
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
        self.data_dim, self.latent_dim, self.state_dim = data_dim, latent_dim, recurrent
        self.h_0 = nn.Parameter(torch.zeros(recurrent))
        self.feature = mlp(data_dim, hidden, activation=activation)
        self.latent_feature = mlp(latent_dim, hidden, activation=activation)
        self.gru = GRU((width or data_dim) + (width or latent_dim), recurrent)
        self.prior = NormalTransition(recurrent, latent_dim, hidden, activation)
        self.decoder = mlp((width or latent_dim) + recurrent, hidden, activation=activation)
        self.likelihood = likelihood(width or latent_dim + recurrent, data_dim)
        self._encoding_dim = width or data_dim

    @property
    def encoding_dim(self) -> int:
        return self._encoding_dim

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Tensor, Tensor]:
        """f(x_0)..f(x_{T-1}), which enter the GRU; and f(x_1)..f(x_T), which guides read and no step of the model."""
        # refuses controls
        super().inputs(x, u)
        feature = self.feature(x)
        return shift(feature, self.feature(x.new_zeros(self.data_dim) if carry is None else carry.x)), feature

    def encoding(self, x: Tensor, fed: Tensor, feature: Tensor) -> Tensor:
        return feature

    def features(self, s: VRNNState) -> Tensor:
        return s.h

    def start(self, x: Tensor, fed: Tensor, feature: Tensor) -> VRNNState:
        return VRNNState(self.h_0)

    def transition(self, s: VRNNState) -> TorchDistribution:
        return self.prior(s.h)

    def emission(self, z: Tensor, s: VRNNState) -> TorchDistribution:
        # `states` ran g over this very z: the g(z_t) that it kept is taken
        feature = s.feature if s.feature is not None and s.z is z else self.latent_feature(z)
        return self.likelihood(self.decoder(side_by_side(feature, s.h)))

    def advance(self, s: VRNNState, z: Tensor, x: Tensor, fed: Tensor, feature: Tensor) -> VRNNState:
        return VRNNState(self.gru.step(side_by_side(fed, self.latent_feature(z)), s.h))

    def states(self, z: Tensor, x: Tensor, *inputs: Tensor, first: VRNNState | None = None) -> VRNNState:
        fed, _ = inputs
        h, seen = self.h_0 if first is None else first.h, self.latent_feature(z)
        # step t takes h_{t-1} = GRU(f(x_{t-1}), g(z_{t-1}), h_{t-2}); h_0 is given, so f(x_0) has no use here
        later = self.gru(side_by_side(fed[..., 1:, :], seen[..., :-1, :]), h)
        return VRNNState(torch.cat([h.expand(*later.shape[:-2], -1).unsqueeze(-2), later], -2), z, seen)
