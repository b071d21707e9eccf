"""An observation model that combines the stored views nearest to a pose."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.checks import check_counts
from zoo.parts.conditionals import Normal
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.networks import DenseStage, WithHead, mlp
from zoo.parts.networks.memory import retrieve
from zoo.parts.recorded import Recorded
from zoo.parts.walking.poses import check_poses, on_circle, seen_from


class Views(Recorded, nn.Module):
    """p(z_t | c_t) p(x_t | z_t, c_t), c_t = sum_j w_tj f(g(x_j), s_j seen from s_t), over the k views nearest to s_t.

    The weights are w_tj proportional to exp(a·f_tj) / (d_tj^2 + delta): each view says how far it is to be trusted,
    beside its distance d_tj, that of (x, y, cos heading, sin heading). Since a stored pose counts as it is seen from
    s_t, the origin and the orientation of the map make no difference.

    The observation model with which the paper combines views is the generative query network's, convolutional and of
    several steps; this one has its idea, a sum of encoded views given the pose asked for, in perceptrons.

    References: Fraccaro et al. 2018, section 4.2; Eslami et al. 2018.

    Args:
        data_dim: size of a frame.
        latent_dim: size of z.
        neighbours: k.
        delta: added to the squared distances.
        width: units of each hidden layer, and the length of c_t.

    Raises:
        ValueError: a size below 1; in `context` states that are no poses, and as `retrieve`.

    Example:
        >>> import torch
        >>> from zoo.parts.walking import Views
        >>> recall = Views(768, 16)
        >>> c = recall.context(torch.randn(5, 20, 3), torch.rand(5, 20, 768), torch.randn(5, 7, 3))
        >>> recall.emission(recall.likeliest(c), c).shape()
        torch.Size([5, 7, 768])
    """

    state_dim = 3

    def __init__(
        self, data_dim: int, latent_dim: int = 16, *, neighbours: int = 8, delta: float = 1e-4, width: int = 256
    ) -> None:
        super().__init__()
        check_counts(data_dim=data_dim, latent_dim=latent_dim, neighbours=neighbours)
        check_counts(2, width=width)
        self.data_dim, self.latent_dim, self.neighbours, self.delta = data_dim, latent_dim, neighbours, delta
        self.glance = mlp(data_dim, (width,), width // 2)
        self.placed = DenseStage((width // 2, 4), (width, width))
        self.trust = nn.Linear(width, 1)
        code = partial(Normal, heteroscedastic=True)
        self.prior = WithHead((width,), latent_dim, code, (width,))
        self.posterior = WithHead((data_dim, width), latent_dim, partial(code, scale=0.4), (width,))
        picture = partial(Normal, scale=0.3, floor=0.03)
        self.emission = WithHead((latent_dim, width), data_dim, picture, (width, width))
        head: Any = self.emission.head
        # pixels lie in [0, 1]
        nn.init.constant_(head.loc.bias, 0.5)

    def context(self, s: Tensor, x: Tensor, at: Tensor, mask: Tensor | None = None) -> Tensor:
        """c, `(..., Q, width)`; arguments as in `Recall`, states being poses."""
        check_poses(s, at)
        found = retrieve(on_circle(s), on_circle(at), self.neighbours, self.delta, mask)
        views = self.placed(found.of(self.glance(x)), seen_from(at.unsqueeze(-2), found.of(s)))
        weights = (self.trust(views).squeeze(-1) + found.log_weights).softmax(-1)
        return torch.einsum("...k,...ki->...i", weights, views)

    def likeliest(self, c: Tensor) -> Tensor:
        """The most probable z, `(..., Q, latent_dim)`."""
        p: DiagonalNormal = self.prior(c)
        return p.mean
