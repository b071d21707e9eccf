"""Recurrent networks over time, the last but one axis; leading axes are broadcast."""

from collections.abc import Callable
from operator import index

import torch
from torch import Tensor, nn

from zoo.parts.recorded import Recorded


class GRU(Recorded, nn.Module):
    """h_t = GRU(v_t, h_{t-1}): over a whole sequence in one fused call, or one step of it.

    References: Cho et al. 2014. The recurrent weights start orthogonal, gate by gate, as SRNN's do.

    Args:
        in_features: size of v_t.
        hidden: size of h_t.
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden = index(hidden)
        self.fused = nn.GRU(in_features, hidden, batch_first=True)
        # [1] is the recurrent weight: torch stacks those of reset gate, update gate and proposal
        for gate in self.fused.all_weights[0][1].chunk(3):
            nn.init.orthogonal_(gate)

    def forward(self, v: Tensor, h: Tensor) -> Tensor:
        """h_1..h_T, `(..., T, hidden)`, from v `(..., T, in_features)` and h_0 `(..., hidden)`."""
        # torch's GRU takes a single batch axis and does not broadcast: particles and rows become one axis
        lead = torch.broadcast_shapes(v.shape[:-2], h.shape[:-1])
        # torch refuses a sequence without frames; VRNN runs over all frames but the last, which may leave none
        if v.shape[-2] == 0:
            return v.new_zeros(*lead, 0, self.hidden)
        v = v.expand(*lead, *v.shape[-2:]).reshape(-1, *v.shape[-2:])
        h = h.expand(*lead, self.hidden).reshape(1, -1, self.hidden).contiguous()
        return self.fused(v, h)[0].reshape(*lead, -1, self.hidden)

    def step(self, v: Tensor, h: Tensor) -> Tensor:
        """h_t, `(..., hidden)`, from v_t `(..., in_features)` and h_{t-1} `(..., hidden)`."""
        lead = torch.broadcast_shapes(v.shape[:-1], h.shape[:-1])
        v, h = (part.expand(*lead, part.shape[-1]).reshape(-1, part.shape[-1]) for part in (v, h))
        return torch.gru_cell(v, h, *self.fused.all_weights[0]).reshape(*lead, self.hidden)


class Dropped(Recorded, nn.Module):
    """A recurrent network with dropout of its input and of its output, drawn anew at each frame, in training mode.

    As `recurrence=partial(Dropped, probability=0.1)` it keeps a guide from overfitting its sequences.

    References: Zaremba, Sutskever and Vinyals 2014; Krishnan, Shalit and Sontag 2017, with a probability of 0.1.

    Args:
        in_features, hidden, batch_first: as of `nn.GRU`.
        probability: probability with which an entry is set to zero; the others are scaled up.
        recurrence: constructor of the network itself, called as `nn.GRU` is.
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
        # a tuple, as that of `nn.GRU`, without the second entry (the last state), which no caller reads
        return (self.dropout(self.network(self.dropout(v))[0]),)
