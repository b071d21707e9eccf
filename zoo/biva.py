"""The generative model of the bidirectional-inference variational autoencoder."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.conditionals import Bernoulli
from zoo.parts.given.conditions import entering, prior_given, prior_of
from zoo.parts.hierarchy import GAUSSIAN, Hierarchy
from zoo.parts.networks.stages import StageArgument, build_stage, stage_arguments
from zoo.parts.once import once


class BIVA(Hierarchy):
    """p(x, z) = p(z_L) prod_{l<L} p(z_l^TD | z_{>l}) p(z_l^BU | z_{>l}) p(x | z), with two latents in each layer l < L.

    A deterministic path leads down from the top, h_{l-1} = f_l(z_l^BU, z_l^TD, h_l), so that every conditional sees all
    latents above it. To the model the two latents of a layer are alike; of the `Bidirectional` guide, one is drawn on
    the way up and the other on the way down. Guides of hierarchies see 2L - 1 levels, z_l^BU just below z_l^TD.

    References: Maaloe, Fraccaro, Lievin and Winther 2019.

    Args:
        data_dim: size D of a data point; a `Maps` for stages of feature maps.
        latent_dims: sizes of z_1..z_L, z_1 next to the data: of z_l^BU and of z_l^TD alike.
        hidden: for each of the L layers the widths of f_l, from z_l towards the data, or the constructor of a stage;
            None: 400 for each.
        likelihood, conditional, prior, activation, condition_dim: as of `Hierarchical`.

    Attributes:
        bottom_up: the levels of z_l^BU, for `guides.Bidirectional`.

    Sites: `z_1_bu`, `z_1_td`, .., `z_L` (N, size), `x` (N, data_dim), all in `pyro.plate("data", N)`.

    Raises:
        TypeError, ValueError: as `Hierarchical`.

    Example:
        >>> import torch
        >>> from zoo import BIVA
        >>> z, x = BIVA(784, (8, 4), hidden=((200, 200), (100, 100))).generate(3)
        >>> {site: tuple(draws.shape) for site, draws in z.items()}
        {'z_2': (3, 4), 'z_1_td': (3, 8), 'z_1_bu': (3, 8)}
    """

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int],
        hidden: Sequence[StageArgument] | None = None,
        *,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        conditional: Callable[[int, int], nn.Module] = GAUSSIAN,
        prior: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        condition_dim: int | None = None,
    ) -> None:
        # twice each but the top: a level for z_l^BU and one for z_l^TD
        super().__init__(data_dim, [size for size in latent_dims[:-1] for _ in "bt"] + [*latent_dims[-1:]],
                         condition_dim=condition_dim)  # fmt: skip
        depth = len(latent_dims)
        self.layers = (*((f"z_{n}_bu", f"z_{n}_td") for n in range(1, depth)), (f"z_{depth}",))
        self.sites = tuple(site for layer in self.layers for site in layer)
        self.bottom_up = tuple(range(1, 2 * depth - 1, 2))
        arguments = stage_arguments(hidden, depth)
        stages: list[Any] = []
        above_dims = [0]
        # from the top down: the path of each layer is the output of the layer above
        for n in range(depth - 1, -1, -1):
            size = latent_dims[n]
            sizes: tuple[int, ...] = (size, size, stages[0].size) if stages else (size,)
            if stages:
                above_dims[:0] = [stages[0].size + latent_dims[n], stages[0].size]
            sizes = (*sizes, *entering(self.condition_dim))
            stages.insert(0, build_stage(arguments[n], sizes, activation, f"hidden[{n}]"))
        self.stages, self.above_dims = nn.ModuleList(stages), tuple(above_dims)
        self.top = prior_of(prior, latent_dims[-1], self.condition_dim, arguments[-1])
        # widths of the path in front of each pair: all that its two conditionals see
        self.paths = tuple(stage.size for stage in stages[1:])
        pairs = [pair for pair in zip(self.paths, latent_dims, strict=False) for _ in "bt"]
        self.conditionals = nn.ModuleList(conditional(path, size) for path, size in pairs)
        self.emission = likelihood(stages[0].size, data_dim)

    @once
    def prior(self, level: int, above: Tensor | None, *y: Tensor):
        """p(z | h) of a level, event `(latent_dims[level - 1],)`: z_l^BU is independent of z_l^TD, drawn before it."""
        if above is None:
            return prior_given(self.top, y)
        return self.conditionals[level - 1](above[..., : self.paths[(level - 1) // 2]])

    @once
    def descend(self, level: int, above: Tensor | None, z: Tensor, *y: Tensor) -> Tensor:
        """h below a level: below z_l^TD the path and z_l^TD side by side, below z_l^BU the next piece of the path."""
        if above is None:
            return self.stages[-1](z, *y)
        if level % 2 == 0:
            # torch.cat does not broadcast: at the top of a chain of draws, either may lack the particles
            lead = torch.broadcast_shapes(above.shape[:-1], z.shape[:-1])
            return torch.cat([part.expand(*lead, part.shape[-1]) for part in (above, z)], -1)
        layer = (level - 1) // 2
        path, td = above.split([self.paths[layer], z.shape[-1]], -1)
        return self.stages[layer](z, td, path, *y)

    @once
    def likelihood(self, above: Tensor):
        """p(x | h_0), event `(data_dim,)`."""
        return self.emission(above)
