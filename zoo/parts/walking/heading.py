"""A step of an agent that turns and strides: its state is a place and a heading."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts.recorded import Recorded


class HeadingStep(Recorded, nn.Module):
    """heading_t = heading_{t-1} + g w·u_t, place_t = place_{t-1} + h v·u_t (cos heading_t, sin heading_t).

    The state is a pose, s = (x, y, heading). An action first turns the agent, and then moves it along its new heading,
    by a stride that is negative for a step backwards. The heading is an angle in radians that is not brought back into
    one turn.

    w and v name the actions: which of them turn, and to which side, and which of them stride. Two gains g and h, which
    start at 1, learn by how much. `requires_grad_(False)` of the step, or of one gain, fixes them; the stride's is a
    unit of length, which matters to nothing but to a map that is read in other units. The sign of a turn has to be
    right: mirrored headings explain the actions as well, and a training that starts there stays there.

    References: Fraccaro et al. 2018, section 4.2.

    Args:
        turn: w, the turn of each action, in radians.
        stride: v, the stride of each action.
        free: learns each entry of w and of v, starting at those given, in place of the gains.

    Attributes:
        turn_gain, stride_gain: g and h; None if the entries are free.
        turns, strides: w and v, parameters if they are free.

    Raises:
        ValueError: `turn` or `stride` is no row of finite numbers, or they are not of one length.

    Example:
        >>> import torch
        >>> from zoo import HeadingStep
        >>> step = HeadingStep(turn=(0, 0, 0.5, -0.5, 0), stride=(1, -1, 0, 0, 0))
        >>> step(torch.zeros(3), torch.eye(5))[:2].tolist()
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    """

    turns: Tensor
    strides: Tensor

    def __init__(self, turn: Sequence[float] | Tensor, stride: Sequence[float] | Tensor, *, free: bool = False) -> None:
        super().__init__()
        turns, strides = _row("turn", turn), _row("stride", stride)
        if len(turns) != len(strides):
            raise ValueError(f"stride: expected as many entries as turn has, {len(turns)}, got {len(strides)}")
        self.control_dim, self.state_dim = len(turns), 3
        if free:
            self.turns, self.strides = nn.Parameter(turns), nn.Parameter(strides)
        else:
            self.register_buffer("turns", turns)
            self.register_buffer("strides", strides)
        self.turn_gain = None if free else nn.Parameter(torch.ones(()))
        self.stride_gain = None if free else nn.Parameter(torch.ones(()))

    def rates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The turn and the stride of actions u `(..., control_dim)`, `(...)` each."""
        turn, stride = u @ self.turns, u @ self.strides
        if self.turn_gain is None or self.stride_gain is None:
            return turn, stride
        return self.turn_gain * turn, self.stride_gain * stride

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        turn, stride = self.rates(u)
        heading = s[..., 2] + turn
        return torch.stack([s[..., 0] + stride * heading.cos(), s[..., 1] + stride * heading.sin(), heading], -1)

    def path(self, first: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """s_1..s_T, `(..., T, 3)`, s_1 = first + noise_1: `forward` and noise folded, by two cumulative sums.

        Args:
            first: `(..., 3)`.
            u: actions `(..., T, control_dim)`; the first is not used.
            noise: `(..., T, 3)`.
        """
        turn, stride = (F.pad(rate[..., 1:], (1, 0)) for rate in self.rates(u))
        heading = first[..., 2:] + (turn + noise[..., 2]).cumsum(-1)
        # a stride follows the mean of the new heading: the noise of step t turns the agent after it
        along = heading - noise[..., 2]
        move = stride.unsqueeze(-1) * torch.stack([along.cos(), along.sin()], -1)
        place = first[..., None, :2] + (move + noise[..., :2]).cumsum(-2)
        return torch.cat([place, heading.unsqueeze(-1)], -1)


def _row(name: str, given: Sequence[float] | Tensor) -> Tensor:
    """An argument as a row of floats."""
    row = torch.as_tensor(given, dtype=torch.get_default_dtype()).detach().clone()
    if row.ndim != 1 or not len(row) or not bool(row.isfinite().all()):
        raise ValueError(f"{name}: expected a finite number for each action, got {given!r}")
    return row
