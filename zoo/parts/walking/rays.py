"""An observation model that takes pictures apart into rays, and draws a picture from the ends of rays."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.checks import check_counts
from zoo.parts.conditionals import Normal
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.networks import DenseStage, Maps, WithHead
from zoo.parts.recorded import Recorded
from zoo.parts.walking.cloud import RAY, Cloud
from zoo.parts.walking.poses import check_poses


class Rays(Recorded, nn.Module):
    """p(x_t | c_t) = prod over columns b of N(x_tb; m(c_tb), s^2), c_tb = (sum_k w_tbk v_k, r_tb), k over stored rays.

    Every column of a flat picture is a ray: it starts at the agent's place, has a bearing, heading + arctan of the
    column's distance from the middle, and ends at the wall that the column shows. A column that is asked for attends
    to all stored columns, above all to those whose rays end where its own does (`Cloud`). Hence a memory of frames
    becomes a map of walls, into which a picture from any pose is drawn; where rays end is learned, and from the
    pictures alone. r_tb, the ray itself, tells the floor, and how far off the wall is.

    With `latent_dim` there is a z_t for all that a memory leaves open, with its prior given c_t.

    In training mode some columns alone of each stored frame are looked at, by turns: frame j gives j mod n, and each
    n-th column after it. It saves most of the time, and hardly changes the result. In evaluation mode all are.

    Most weights are far below the largest, and some are denormal numbers, with which many CPUs are slow. `fit` counts
    them as 0; in a loop of your own `torch.set_flush_denormal(True)` does, and halves the time of a step.

    References: Sajjadi et al. 2022 (a ray attends over parts of the known views). The paper, Fraccaro et al. 2018,
    combines whole views (`Views`).

    Args:
        picture: `Maps(height, width, channels)` of a frame, which lies row by row, as a data set's colour images do.
        latent_dim: size of z; 0: none.
        field_of_view: angle between the first column's ray, on the left, and the last one's, in radians.
        columns: of each stored frame looked at in training mode, a divisor of the picture's width; None: all.
        width: length of v_k, and units of a hidden layer; the larger networks have twice as many.
        heads: number of weightings w, each of a part of v_k.

    Raises:
        TypeError: `picture` is no `Maps`.
        ValueError: a picture of one column, an angle outside (0, pi), columns that do not divide the picture's width,
            sizes below their least; in `context` states that are no poses; z asked for where there is none.

    Example:
        >>> import torch
        >>> from zoo.parts.networks import Maps
        >>> from zoo.parts.walking import Rays
        >>> recall = Rays(Maps(16, 16, 3))
        >>> c = recall.context(torch.randn(5, 20, 3), torch.rand(5, 20, 768), torch.randn(5, 7, 3))
        >>> recall.emission(None, c).shape()
        torch.Size([5, 7, 768])
    """

    state_dim = 3
    across: Tensor

    def __init__(
        self,
        picture: Maps,
        latent_dim: int = 0,
        *,
        field_of_view: float = math.pi / 2,
        columns: int | None = None,
        width: int = 64,
        heads: int = 2,
    ) -> None:
        super().__init__()
        if not isinstance(picture, Maps):
            raise TypeError(f"picture: expected Maps(height, width, channels), got {picture!r}")
        check_counts(0, latent_dim=latent_dim)
        if picture.width < 2:
            raise ValueError(f"picture: expected a width of at least two columns, got {picture}")
        if not 0 < field_of_view < math.pi:
            raise ValueError(f"field_of_view: expected an angle between 0 and pi, got {field_of_view}")
        columns = picture.width if columns is None else columns
        check_counts(columns=columns)
        if picture.width % columns:
            raise ValueError(f"columns: expected a divisor of the picture's width, {picture.width}, got {columns}")
        self.picture, self.data_dim, self.latent_dim, self.columns = picture, int(picture), latent_dim, columns
        # of a flat picture at distance 1, from left to right
        across = math.tan(field_of_view / 2) * torch.linspace(1, -1, picture.width)
        self.register_buffer("across", across, persistent=False)
        content = picture.height * picture.channels
        self.cloud = Cloud(content, width, heads)
        sizes = (width + RAY, latent_dim) if latent_dim else (width + RAY,)
        self.drawn = DenseStage(sizes, (2 * width, 2 * width))
        self.likelihood = Normal(2 * width, picture, scale=0.2, floor=0.03, layer=SideBySide)
        if latent_dim:
            code, gist = partial(Normal, heteroscedastic=True), 16 * picture.width
            self.gist = nn.Linear(width + RAY, 16)
            self.prior_of = WithHead((gist,), latent_dim, code, (2 * width,))
            self.posterior_of = WithHead((self.data_dim, gist), latent_dim, partial(code, scale=0.4), (4 * width,))

    def context(self, s: Tensor, x: Tensor, at: Tensor, mask: Tensor | None = None) -> Tensor:
        """c, `(..., Q, picture.width, width + 7)`: for each column the mean of the v_k, and the ray.

        Arguments are those of `Recall`, states being poses.
        """
        check_poses(s, at)
        lead = torch.broadcast_shapes(s.shape[:-2], at.shape[:-2])
        s, at = s.expand(*lead, -1, -1), at.expand(*lead, -1, -1)
        across, content = self.across, columns_of(x, self.picture)
        if self.training and self.columns < self.picture.width:
            chosen = self.chosen(x.shape[-2])
            across = across[chosen]
            content = content.gather(-2, chosen.unsqueeze(-1).expand(*content.shape[:-2], -1, content.shape[-1]))
        stored, asked = rays(s, across), rays(at, self.across)
        if mask is not None:
            mask = mask.unsqueeze(-1).expand(*mask.shape, stored.shape[-2]).flatten(-2)
        told = self.cloud(stored.flatten(-3, -2), content.flatten(-3, -2), asked.flatten(-3, -2), mask)
        return torch.cat([told.unflatten(-2, asked.shape[-3:-1]), asked], -1)

    def chosen(self, tau: int) -> Tensor:
        """The columns of each stored frame that are looked at in training mode, `(tau, columns)`."""
        # no draw: guide and model ask for one context, and have to mean the same
        every = self.picture.width // self.columns
        frames = torch.arange(tau, device=self.across.device)
        return (frames % every).unsqueeze(-1) + torch.arange(0, self.picture.width, every, device=frames.device)

    def emission(self, z: Tensor | None, c: Tensor) -> DiagonalNormal:
        """p(x_t | z_t, c_t), batch `(..., Q)`, event `(data_dim,)`."""
        return self.likelihood(self.drawn(c) if z is None else self.drawn(c, z.unsqueeze(-2)))

    def prior(self, c: Tensor) -> DiagonalNormal:
        """p(z_t | c_t), batch `(..., Q)`, event `(latent_dim,)`."""
        gist = self._gist(c)
        return self.prior_of(gist)

    def posterior(self, x: Tensor, c: Tensor) -> DiagonalNormal:
        """q(z_t | x_t, c_t), x `(N, Q, data_dim)`."""
        gist = self._gist(c)
        return self.posterior_of(x, gist)

    def likeliest(self, c: Tensor) -> Tensor:
        """The most probable z, `(..., Q, latent_dim)`."""
        return self.prior(c).mean

    def _gist(self, c: Tensor) -> Tensor:
        if not self.latent_dim:
            raise ValueError("Rays: there is no z, since latent_dim is 0")
        return self.gist(c).flatten(-2)


class SideBySide(Recorded, nn.Module):
    """A linear layer that makes a column of each feature vector, and of the columns a picture.

    Args:
        in_features: length of a vector.
        picture: `Maps` of the picture.
    """

    def __init__(self, in_features: int, picture: Any) -> None:
        super().__init__()
        self.picture = picture
        self.column = nn.Linear(in_features, picture.height * picture.channels)
        # pixels lie in [0, 1]
        nn.init.constant_(self.column.bias, 0.5)

    def forward(self, h: Tensor) -> Tensor:
        columns = self.column(h).unflatten(-1, (self.picture.height, self.picture.channels))
        return columns.movedim(-3, -2).flatten(-3)


def columns_of(x: Tensor, picture: Maps) -> Tensor:
    """The columns of pictures `(..., length)`: `(..., width, height * channels)`."""
    return x.unflatten(-1, (picture.height, picture.width, picture.channels)).movedim(-2, -3).flatten(-2)


def rays(s: Tensor, across: Tensor) -> Tensor:
    """The rays of views from poses s, `(..., T, columns, 7)`.

    A ray is (x, y, cos b, sin b, x sin b - y cos b, a, |a|): place, bearing b = heading + arctan a, distance from the
    origin of the line on which it lies, and the column's a.

    Args:
        s: `(..., T, 3)`.
        across: a of each column, `(columns,)`, or `(T, columns)` if frames differ in it.
    """
    bearing = s[..., 2:] + across.atan()
    cos, sin = bearing.cos(), bearing.sin()
    x, y, a = (v.expand_as(bearing) for v in (s[..., :1], s[..., 1:2], across))
    return torch.stack([x, y, cos, sin, x * sin - y * cos, a, a.abs()], -1)
