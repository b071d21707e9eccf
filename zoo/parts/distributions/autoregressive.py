"""Vectors of levels whose entries are drawn one after the other, each given all entries before it."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from zoo.parts.distributions.vector import VectorDistribution


class AutoregressiveNetwork(Protocol):
    """A network of `Autoregressive`: `n` vectors at once, entry d of the logits a function of entries before d alone.

    Attributes:
        data_dim: length of a vector.
        levels: number of levels of an entry.
        in_features: size of h; 0: the network takes none.
        rows_at_once: vectors whose intermediate results take about as much memory as may be held.
        like: a parameter, for dtype and device.
    """

    data_dim: int
    levels: int
    in_features: int

    @property
    def rows_at_once(self) -> int: ...

    @property
    def like(self) -> Tensor: ...

    def logits(self, x: Tensor, h: Tensor | None) -> Tensor:
        """Logits `(n, data_dim, 1 or levels)` of x `(n, data_dim)` in [-1, 1]; one of two levels, those of level 1."""
        ...

    def draw(self, uniform: Tensor, h: Tensor | None) -> Tensor:
        """The vectors `(n, data_dim)` of levels that `draw_level` gives for these uniform numbers, entry by entry."""
        ...


class Autoregressive(VectorDistribution):
    """p(x | h) = prod_d Categorical(x_d; softmax(logits_d(x_1..x_{d-1}, h))), x in {0, ..., levels - 1}^data_dim.

    A score is one pass through the network, a draw is sequential. There is no closed-form mean. Without a gradient both
    go through the network in pieces, so that memory stays bounded for any number of vectors.

    Args:
        network: gives logits and draws.
        h: features `(..., in_features)`, or None.
        batch_shape: shape of the batch; None: that of h.

    Raises:
        ValueError: h of another size than the network's, h for a network without, or none for one that needs it.
    """

    def __init__(self, network: AutoregressiveNetwork, h: Tensor | None, batch_shape: torch.Size | None = None) -> None:
        size = 0 if h is None else h.shape[-1]
        if size != network.in_features:
            raise ValueError(f"{type(network).__name__} was built with in_features = {int(network.in_features)}, and "
                             f"was given {f'{size} features' if size else 'none'}")  # fmt: skip
        self.network, self.h = network, h
        own = torch.Size() if h is None else h.shape[:-1]
        super().__init__(own if batch_shape is None else batch_shape, network.data_dim)

    @property
    def _name(self) -> str:
        return type(self.network).__name__

    @property
    def support(self) -> constraints.Constraint:
        return levels_support(self.network.levels)

    def _expand(self, batch_shape: torch.Size) -> "Autoregressive":
        # h stays as it is: particles that share it share the work on it
        return Autoregressive(self.network, self.h, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._vectors(value).to(self.network.like.dtype)
        lead = value.shape[:-1] if self.h is None else torch.broadcast_shapes(value.shape[:-1], self.h.shape[:-1])
        score = self._by_pieces(self._scores, value, lead, graph=torch.is_grad_enabled())
        return self._full(score.reshape(lead))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        lead = torch.Size(sample_shape) + self._batch_shape
        like = self.network.like
        uniform = torch.rand(lead + self._event_shape, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            return self._by_pieces(self.network.draw, uniform, lead, graph=False).reshape(uniform.shape)

    def _by_pieces(self, function: Callable, vectors: Tensor, lead: torch.Size, *, graph: bool) -> Tensor:
        """function(vectors, h) with all leading axes as one; in pieces, unless a graph has to be held anyway."""
        flat = vectors.expand(lead + self._event_shape).reshape(-1, self._event_shape[0])
        h = None if self.h is None else self.h.expand(lead + self.h.shape[-1:]).reshape(len(flat), -1)
        if graph or len(flat) <= self.network.rows_at_once:
            return function(flat, h)
        size = self.network.rows_at_once
        told = [None] * -(-len(flat) // size) if h is None else h.split(size)
        return torch.cat([function(piece, some) for piece, some in zip(flat.split(size), told, strict=True)])

    def _scores(self, x: Tensor, h: Tensor | None) -> Tensor:
        logits = self.network.logits(scaled(x, self.network.levels), h)
        if self.network.levels == 2:
            return -F.binary_cross_entropy_with_logits(logits.squeeze(-1), x, reduction="none").sum(-1)
        return logits.log_softmax(-1).gather(-1, x.long().unsqueeze(-1)).squeeze(-1).sum(-1)


def scaled(x: Tensor, levels: int) -> Tensor:
    """Levels 0..levels-1 as numbers from -1 to 1, which networks read."""
    return x * (2 / (levels - 1)) - 1


def draw_level(logits: Tensor, uniform: Tensor) -> Tensor:
    """Levels `(n,)` of logits `(n, 1 or levels)`, by the inverse of the distribution function at uniform `(n,)`."""
    if logits.shape[-1] == 1:
        return (uniform < logits.squeeze(-1).sigmoid()).to(logits.dtype)
    below = logits.softmax(-1).cumsum(-1)
    # the last sum is 1 up to rounding: left out, as a number above it would be one level too many
    return (uniform.unsqueeze(-1) >= below[..., :-1]).sum(-1).to(logits.dtype)


def levels_support(levels: int) -> constraints.Constraint:
    """Vectors of 0..levels-1."""
    one = constraints.boolean if levels == 2 else constraints.integer_interval(0, levels - 1)
    return constraints.independent(one, 1)
