"""p(x, z) = prod_t p(z_t | z_{t-1}, d_t) p(x_t | z_t, d_t), d_t = GRU(x_{t-1}, d_{t-1})."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.checks import check_controls, check_counts, widths
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import GRU, mlp
from zoo.parts.trajectory import Carry, StateSpace, shift, side_by_side
from zoo.parts.transitions import NormalTransition


class SRNNState(NamedTuple):
    """The state of step t: z_{t-1} and d_t."""

    z: Tensor
    d: Tensor


class SRNN(StateSpace):
    """p(x, z) = prod_t p(z_t | z_{t-1}, d_t) p(x_t | z_t, d_t), d_t = GRU(f(x_{t-1}), d_{t-1}): a chain over a GRU.

    The state s_t is (z_{t-1}, d_t). d depends on x alone, so it is known exactly under every guide, and one fused call
    computes all of it. Guides read (f(x_t), d_t), as in the paper's a_t = g(a_{t+1}, [d_t, x_t]). z_0 and d_0 are
    parameters that start at 0; x_0 = 0. The paper never scores the first frame; `carry=model.given(x_first)` does the
    same. The GRU then reads x_0 = 0, the given frame, and the frames that are scored. Controls, such as the actions of
    an agent, are read beside the frame before: d_t = GRU((f(x_{t-1}), u_t), d_{t-1}).

    References: Fraccaro, Sønderby, Paquet and Winther 2016. Music: z 100, d 300, nets (500,); TIMIT: z 256, d 1024,
    nets (512, 512).

    Args:
        data_dim, latent_dim: sizes of x_t and z_t.
        recurrent: size of d_t.
        hidden: widths of the hidden layers of f, and the same of the transition and of the emission.
        likelihood: constructor `(in_features, data_dim) -> Module` whose call gives p(x_t | h): `Bernoulli`, `Normal`,
            `MixtureOfNormals` of `zoo.parts.conditionals`, or your own.
        activation: constructor of the nonlinearity.
        control_dim: size of u_t; 0: none.

    Sites, in `pyro.plate("data", N)`: `z` (T, latent_dim); `x` (T, data_dim), observed.

    Example:
        >>> import torch
        >>> from zoo import SRNN
        >>> SRNN(88, 16, recurrent=32, hidden=(20,)).generate(3, 20)[1].shape
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
        control_dim: int = 0,
    ) -> None:
        super().__init__()
        check_counts(0, control_dim=control_dim)
        hidden = widths(hidden)
        width = hidden[-1] if hidden else None
        self.data_dim, self.latent_dim, self.state_dim = data_dim, latent_dim, latent_dim + recurrent
        self.control_dim = control_dim
        self.z_0, self.d_0 = nn.Parameter(torch.zeros(latent_dim)), nn.Parameter(torch.zeros(recurrent))
        self.feature = mlp(data_dim, hidden, activation=activation)
        self.gru = GRU((width or data_dim) + control_dim, recurrent)
        self.prior = NormalTransition(latent_dim + recurrent, latent_dim, hidden, activation)
        self.decoder = mlp(latent_dim + recurrent, hidden, activation=activation)
        self.likelihood = likelihood(width or latent_dim + recurrent, data_dim)

    @property
    def encoding_dim(self) -> int:
        return self.gru.fused.input_size - self.control_dim + self.gru.hidden

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Tensor, Tensor]:
        """d_1..d_T; and f(x_1)..f(x_T), which guides read and no step of the model does."""
        check_controls(u, self.control_dim, "SRNN")
        # guides share f with the model, as in the paper: handed on, it runs once
        x_0, d_0 = (x.new_zeros(self.data_dim), self.d_0) if carry is None else (carry.x, carry.s.d)
        feature = self.feature(x)
        before = shift(feature, self.feature(x_0))
        return self.gru(before if u is None else side_by_side(before, u), d_0), feature

    def encoding(self, x: Tensor, d: Tensor, feature: Tensor) -> Tensor:
        return side_by_side(feature, d)

    def start(self, x: Tensor, d: Tensor, feature: Tensor) -> SRNNState:
        return SRNNState(self.z_0, d)

    def transition(self, s: SRNNState) -> TorchDistribution:
        return self.prior(side_by_side(s.z, s.d))

    def emission(self, z: Tensor, s: SRNNState) -> TorchDistribution:
        return self.likelihood(self.decoder(side_by_side(z, s.d)))

    def advance(self, s: SRNNState, z: Tensor, x: Tensor, d: Tensor, feature: Tensor) -> SRNNState:
        return SRNNState(z, d)

    def states(self, z: Tensor, x: Tensor, *inputs: Tensor, first: SRNNState | None = None) -> SRNNState:
        d, _ = inputs
        return SRNNState(shift(z, self.z_0 if first is None else first.z), d)
