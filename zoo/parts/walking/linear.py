"""Steps without walls."""

import torch
from torch import Tensor, nn

from zoo.parts.checks import check_counts
from zoo.parts.recorded import Recorded


def along(first: Tensor, moves: Tensor, noise: Tensor) -> Tensor:
    """s_1..s_T, s_1 = first + noise_1 and s_t = s_{t-1} + moves_t + noise_t, as one cumulative sum.

    Args:
        first: `(..., state_dim)`.
        moves, noise: `(..., T, state_dim)`; the first move is not used.
    """
    steps = torch.cat([first.unsqueeze(-2).expand_as(moves[..., :1, :]), moves[..., 1:, :]], -2)
    return (steps + noise).cumsum(-2)


class LinearStep(Recorded, nn.Module):
    """s_t = s_{t-1} + M u_t: every action moves the agent by the same vector wherever it is.

    Args:
        control_dim: size of u_t.
        state_dim: size of s_t.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, control_dim: int, state_dim: int) -> None:
        super().__init__()
        check_counts(control_dim=control_dim, state_dim=state_dim)
        self.control_dim, self.state_dim = control_dim, state_dim
        self.move = nn.Linear(control_dim, state_dim, bias=False)

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        return s + self.move(u)

    def path(self, first: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        return along(first, self.move(u), noise)


class Moves(nn.Module):
    """s_t = s_{t-1} + u_t: the moves themselves are given.

    Args:
        state_dim: size of s_t and u_t.
    """

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        self.control_dim = self.state_dim = state_dim

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        return s + u

    def path(self, first: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        return along(first, u, noise)
