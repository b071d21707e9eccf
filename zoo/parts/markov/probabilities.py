"""Learned probabilities: of the first state, and of each step from one state to the next."""

import math

import torch
from torch import Tensor, nn

from zoo.parts.checks import listed
from zoo.parts.recorded import Recorded


class Probabilities(Recorded, nn.Module):
    """Rows of probabilities as learned logits, those that start at zero excepted: a zero stays one.

    Args:
        start: probabilities, `(..., K)`; each row sums to 1.
    """

    possible: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        # kept apart from the logits: a parameter of -inf would be NaN after an optimiser's average or weight decay
        self.register_buffer("possible", start > 0)
        self.logits = nn.Parameter(start.log().masked_fill(~self.possible, 0.0))

    def forward(self) -> Tensor:
        """The logarithms, -inf of a zero; their gradient there is 0."""
        return self.logits.masked_fill(~self.possible, -math.inf).log_softmax(-1)

    @torch.no_grad()
    def initialise(self) -> None:
        """Draws each row anew, uniform over the probabilities that keep its zeros."""
        noise = torch.empty_like(self.logits).exponential_()
        self.logits.copy_(noise.clamp(min=torch.finfo(noise.dtype).tiny).log().masked_fill(~self.possible, 0.0))

    @torch.no_grad()
    def maximise(self, counts: Tensor) -> None:
        """Sets each row to its share of the expected counts; a row without any stays as it is."""
        total = counts.sum(-1, keepdim=True)
        # a share of zero that is not structural: the least number keeps its logit finite
        least = torch.finfo(self.logits.dtype).tiny
        found = (counts / total).to(self.logits.dtype).clamp(min=least).log().masked_fill(~self.possible, 0.0)
        self.logits.copy_(torch.where(total > 0, found, self.logits))


def started(name: str, start: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Probabilities:
    """The `Probabilities` that begin at the caller's argument `name`; None: all equal.

    Raises:
        TypeError: start is no tensor.
        ValueError: another shape, a negative entry, a row that does not sum to 1.
    """
    if start is None:
        start = torch.full(shape, 1 / shape[-1])
    if not isinstance(start, Tensor):
        raise TypeError(f"{name}: expected a tensor of probabilities {shape}, got {type(start).__name__}")
    if start.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(start.shape)}")
    # wide enough for a row of float32 thirds
    wrong = (start < 0).any(-1) | ~((start.sum(-1) - 1).abs() < 1e-4)
    if wrong.any():
        rows = f" in rows {listed(wrong.nonzero().flatten().tolist())}" if wrong.ndim else ""
        raise ValueError(f"{name}: expected probabilities that sum to 1{rows}, got {start.tolist()}")
    return Probabilities(start.to(dtype))


class StationaryStart(Recorded, nn.Module):
    """p(z_1) = pi with pi = pi A: the chain has run for ever before the first frame.

    The module has no parameter of its own. Every state must be reached from every other: the pi of a left-to-right
    model is its last state alone. EM has no closed form with it; `HMM.maximum_likelihood` and `fit` take it.
    """

    def forward(self, log_transition: Tensor) -> Tensor:
        """log pi, `(K,)`."""
        # in float64, and 1 - A_jj as the sum of the row's others, which a difference would lose in a chain that stays
        A = log_transition.double().exp()
        moves = A - torch.diag(A.diagonal())
        # pi (I - A) = 0, its last column replaced by pi 1 = 1, which the others imply: a regular system
        system = torch.cat([(torch.diag(moves.sum(-1)) - moves)[:, :-1], torch.ones_like(A[:, :1])], -1)
        # without a check of values, which waits for the device; of a chain in parts pi is not unique, and the result is
        # not finite or not positive: `HMM` looks at it once
        found = torch.linalg.solve_ex(system.T, torch.eye(len(A), dtype=A.dtype, device=A.device)[-1])[0]
        return found.log().to(log_transition.dtype)
