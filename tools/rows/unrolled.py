"""A recurrent network that is fed its own predictions: the baseline of models with a spatial memory."""

from functools import partial

import pyro
import torch
from torch import Tensor, nn

from zoo.parts.checks import check_controls, check_frames, check_sequences, parameter_of
from zoo.parts.conditionals import Normal
from zoo.parts.networks import WithHead, mlp
from zoo.parts.store_keys import RootModule


class Unrolled(RootModule):
    """p(x | u) = prod_t N(x_t; m_t, s^2), m_t = f(h_t), h_t = LSTM((g(y_{t-1}), u_t), h_{t-1}).

    y_t is x_t up to t = tau and the prediction m_t after it, in training as in a test. The model has no latent
    variables: its guide is `guides.Empty`, and a bound its exact log p.

    Args:
        data_dim, control_dim: sizes of x_t and u_t.
        memorise: tau, the number of frames that are read.
        recurrent: size of h_t.
        hidden: width of f, and twice that of g.

    Sites, in `pyro.plate("data", N)`: `x` (T, data_dim), observed.
    """

    def __init__(
        self, data_dim: int, control_dim: int, *, memorise: int, recurrent: int = 256, hidden: int = 128
    ) -> None:
        super().__init__("model")
        self.data_dim, self.control_dim, self.memorise = data_dim, control_dim, memorise
        self.feature = mlp(data_dim, (hidden // 2,))
        self.recurrence = nn.LSTM(hidden // 2 + control_dim, recurrent, batch_first=True)
        self.likelihood = WithHead((recurrent,), data_dim, partial(Normal, scale=0.25, floor=0.02), (hidden,))
        # pixels lie in [0, 1]
        nn.init.constant_(self.likelihood.head.loc.bias, 0.45)

    def features(self, x: Tensor, u: Tensor) -> Tensor:
        """f's features of all frames, `(N, T, hidden)`: x `(N, tau, data_dim)` are read, the others predicted."""
        before = torch.cat([torch.zeros_like(x[:, :1]), x], 1)
        h, state = self.recurrence(torch.cat([self.feature(before), u[:, : before.shape[1]]], -1))
        found = [self.likelihood.stage(h)]
        for action in u[:, before.shape[1] :].split(1, 1):
            mean = self.likelihood.head.loc(found[-1][:, -1:])
            h, state = self.recurrence(torch.cat([self.feature(mean), action], -1), state)
            found.append(self.likelihood.stage(h))
        return torch.cat(found, 1)

    def forward(self, x: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Runs the generative program; arguments as of a `GTMSM`, but every frame is observed."""
        if mask is not None:
            raise ValueError("mask: Unrolled reads every frame")
        check_sequences(x, self.data_dim, parameter_of(self), u)
        check_controls(u, self.control_dim, "Unrolled")
        check_frames(x)
        with pyro.plate("data", len(x)):
            features = self.features(x[:, : self.memorise], u)
            return pyro.sample("x", self.likelihood.head(features).to_event(1), obs=x)

    def predict(self, x: Tensor, u: Tensor) -> Tensor:
        """The means of the frames after the memorised ones x `(N, tau, data_dim)`, `(N, T - tau, data_dim)`."""
        return self.likelihood.head.loc(self.features(x, u)[:, x.shape[1] :])
