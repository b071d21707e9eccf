"""Attention over stored rays, by the places where they end."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.parts.checks import check_counts
from zoo.parts.networks import WithHead, mlp
from zoo.parts.recorded import Recorded

#: entries of a ray: place (2), bearing (cos, sin), and three more
RAY = 7

# the logit of a ray that is missing: its exponential is 0 beside any other's
_NEVER = -1e30


class Cloud(Recorded, nn.Module):
    """sum_k w_k v_k, w_k proportional to exp(-e^{2 g} |h - h_k|^2 / 2 + q·k_k): a cloud of points, asked by a ray.

    h_k = place + softplus(depth + 1/2) (cos bearing, sin bearing) is the end of a stored ray, whose depth a network
    tells from the ray and its content; h is the end of the ray that asks, whose depth a network tells from the ray
    alone, since it has no content yet: it knows the room. Values v_k and keys k_k follow from ray and content too, q
    from the ray that asks. g is learned, one for each head.

    Args:
        content: length of a stored ray's content.
        width: length of the values, and units of a hidden layer.
        heads: number of weightings.

    Raises:
        ValueError: a width that the heads do not divide, or that leaves a head fewer than four entries.
    """

    def __init__(self, content: int, width: int = 64, heads: int = 2) -> None:
        super().__init__()
        check_counts(content=content, width=width, heads=heads)
        if width % heads or width // heads < 4:
            raise ValueError(f"width: expected at least four entries for each of {heads} heads, got {width}")
        self.heads, self.size = heads, width // heads
        # of each head's key: two entries are the end of the ray, one is the square of its length
        learned = heads * (self.size - 3)
        self.parts, deep = (learned, width, 1), (2 * width, 2 * width)
        self.seen = mlp(content, (width,), width // 2)
        self.stored = WithHead((RAY, width // 2), sum(self.parts), nn.Linear, deep)
        self.asked = WithHead((RAY,), learned + 1, nn.Linear, deep)
        # from coarse to fine, so that heads do not start alike: within 0.2 and 0.05 of the room's unit
        self.sharpness = nn.Parameter(torch.linspace(1.5, 3.0, heads))

    def forward(self, stored: Tensor, content: Tensor, asked: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of the values for each ray that asks, `(..., Q, width)`.

        Args:
            stored: rays, `(..., M, 7)`.
            content: `(N, M, content)`, without an axis of particles.
            asked: rays, `(..., Q, 7)`.
            mask: bool `(N, M)`, False where a ray is missing.
        """
        key, value, depth = self.stored(stored, self.seen(content)).split(self.parts, -1)
        query, expected = self.asked(asked).split([self.parts[0], 1], -1)
        # |h - h_k|^2 = |h|^2 - 2 h·h_k + |h_k|^2: the first is the same for all k, the others are a product of
        # (h, 1) with (h_k, -|h_k|^2 / 2). Places are taken from the middle of the stored ones, or it would lose digits
        # far from the origin.
        middle = stored[..., :2].mean(-2, keepdim=True).detach()
        sharp = (self.sharpness.exp() * self.size**0.25)[:, None, None]
        here = sharp * tips(asked, expected, middle).unsqueeze(-3)
        there = sharp * tips(stored, depth, middle).unsqueeze(-3)
        away = -0.5 * there.square().sum(-1, keepdim=True)
        if mask is not None:
            # no attention mask, which some of torch's kernels make as large as all pairs of rays
            away = away.masked_fill(~mask[..., None, :, None], _NEVER)
        keys = torch.cat([there, away, self._by_head(key)], -1)
        queries = torch.cat([here, torch.ones_like(here[..., :1]), self._by_head(query)], -1)
        # one leading axis: with more, torch's attention keeps a number for each pair of rays
        given = (a.flatten(0, -4) if a.ndim > 3 else a.unsqueeze(0) for a in (queries, keys, self._by_head(value)))
        found = F.scaled_dot_product_attention(*given)
        return found.movedim(-3, -2).flatten(-2).reshape(*asked.shape[:-1], -1)

    def _by_head(self, a: Tensor) -> Tensor:
        """`(..., M, heads * n)` as `(..., heads, M, n)`."""
        return a.unflatten(-1, (self.heads, -1)).movedim(-2, -3)


def tips(rays: Tensor, depth: Tensor, middle: Tensor) -> Tensor:
    """The ends of rays, `(..., M, 2)`, as seen from `middle`; positive lengths follow from `depth` `(..., M, 1)`."""
    return rays[..., :2] - middle + F.softplus(depth + 0.5) * rays[..., 2:4]
