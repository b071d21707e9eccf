"""Recurrent networks over the last but one axis, time; leading axes are broadcast."""

from collections.abc import Callable
from operator import index

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """h_t = GRU(v_t, h_{t-1}) (Cho et al. 2014): over a whole sequence in one fused call, or one step of it.

    Recurrent weights start orthogonal, gate by gate, as SRNN's do.

    Args:
        in_features, hidden: sizes of v_t and h_t.
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden = index(hidden)
        self.fused = nn.GRU(in_features, hidden, batch_first=True)
        for gate in self._parameters_of_a_step()[1].chunk(3):
            nn.init.orthogonal_(gate)

    def forward(self, v: Tensor, h: Tensor) -> Tensor:
        """h_1..h_T, `(..., T, hidden)`, of v `(..., T, in_features)` and h_0 `(..., hidden)`."""
        lead = torch.broadcast_shapes(v.shape[:-2], h.shape[:-1])
        if v.shape[-2] == 0:
            return v.new_zeros(*lead, 0, self.hidden)
        v = v.expand(*lead, *v.shape[-2:]).reshape(-1, *v.shape[-2:])
        h = h.expand(*lead, self.hidden).reshape(1, -1, self.hidden).contiguous()
        return self.fused(v, h)[0].reshape(*lead, -1, self.hidden)

    def step(self, v: Tensor, h: Tensor) -> Tensor:
        """h_t of v_t and h_{t-1}, leading axes broadcast."""
        lead = torch.broadcast_shapes(v.shape[:-1], h.shape[:-1])
        v, h = (part.expand(*lead, part.shape[-1]).reshape(-1, part.shape[-1]) for part in (v, h))
        return torch.gru_cell(v, h, *self._parameters_of_a_step()).reshape(*lead, self.hidden)

    def _parameters_of_a_step(self) -> list[Tensor]:
        """Of input and of recurrence: weights, then biases."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [getattr(self.fused, name) for name in names]


class Dropped(nn.Module):
    """A recurrent network with dropout of what enters and of what leaves it, entries anew at each frame, in training.

    As `recurrence=partial(Dropped, probability=0.1)` it keeps a guide from learning its sequences by heart.

    References: Zaremba, Sutskever and Vinyals 2014; Krishnan, Shalit and Sontag 2017 have 0.1.

    Args:
        in_features, hidden, batch_first: as of `nn.GRU`.
        probability: with which an entry is set to zero; the others are scaled up.
        recurrence: constructor of the network itself.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        batch_first: bool = True,
        *,
        probability: float = 0.1,
        recurrence: Callable[..., nn.Module] = nn.GRU,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(probability)
        self.network = recurrence(in_features, hidden, batch_first=batch_first)

    def forward(self, v: Tensor) -> tuple[Tensor]:
        return (self.dropout(self.network(self.dropout(v))[0]),)
