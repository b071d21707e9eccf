"""The generative model of hierarchical and ladder variational autoencoders."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from zoo.parts.conditionals import Bernoulli
from zoo.parts.given.conditions import entering, prior_given, prior_of
from zoo.parts.hierarchy import GAUSSIAN, Hierarchy
from zoo.parts.networks.stages import StageArgument, build_stage, stage_arguments
from zoo.parts.once import once


class Hierarchical(Hierarchy):
    """p(x, z) = p(z_L) prod_{l<L} p(z_l | z_{l+1}) p(x | z_1): a chain of latent vectors, each a diagonal Gaussian.

    h_{l-1} = f_l(z_l), one network for each level, whose last layer all conditionals below it share. With `skip` a
    deterministic path leads down from the top, h_{l-1} = f_l(z_l, h_l), so that every conditional sees all levels
    above it: p(z_l | z_{>l}), p(x | z).

    References: Rezende, Mohamed and Wierstra 2014; Burda, Grosse and Salakhutdinov 2016 (two levels); Sonderby et al.
    2016; with `skip` the model of LVAE+, Maaloe et al. 2019.

    Args:
        data_dim: size D of a data point; a `Maps` for stages of feature maps.
        latent_dims: sizes of z_1..z_L, z_1 next to the data.
        hidden: for each level the widths of f_l, from z_l towards the data, or the constructor of a stage
            (`zoo.parts.networks.DenseStage`, `ResidualStage`); None: one layer of 400 for each level.
        skip: adds the path down from the top.
        likelihood: constructor `(in_features, data_dim) -> Module` of p(x | h_0), as of `VAE`; for feature maps
            `partial(Bernoulli, layer=ToPicture)`.
        conditional: constructor `(in_features, latent_dim) -> Module` of p(z_l | h_l).
        prior: module whose call gives p(z_L); None: `StandardNormal`, with a condition a Gaussian by a network of y.
        activation: constructor of the nonlinearity of stages given by widths.
        condition_dim: as of `Hierarchy`; y enters p(z_L | y) and each f_l.

    Sites: `z_1`..`z_L` (N, latent_dims[l - 1]), `x` (N, data_dim), all in `pyro.plate("data", N)`.

    Raises:
        TypeError: an entry of `hidden` is neither widths nor a constructor.
        ValueError: as `Hierarchy`; `hidden` has another number of entries; a stage does not take the sizes that enter.

    Example:
        >>> import pyro, torch
        >>> from zoo import Hierarchical
        >>> model = Hierarchical(784, (8, 4), hidden=((200, 200), (100, 100)))
        >>> pyro.poutine.uncondition(model)(torch.zeros(3, 784)).shape
        torch.Size([3, 784])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int],
        hidden: Sequence[StageArgument] | None = None,
        skip: bool = False,
        *,
        likelihood: Callable[[int, int], nn.Module] = Bernoulli,
        conditional: Callable[[int, int], nn.Module] = GAUSSIAN,
        prior: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        condition_dim: int | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dims, condition_dim=condition_dim)
        self.skip = skip
        depth, path = len(self.latent_dims), 0
        stages: list[Any] = []
        arguments = stage_arguments(hidden, depth)
        # from the top down: the path of each level is the output of the level above
        for level in range(depth - 1, -1, -1):
            told = entering(self.condition_dim)
            sizes = (self.latent_dims[level], *((path,) if skip and path else ()), *told)
            stages.insert(0, build_stage(arguments[level], sizes, activation, f"hidden[{level}]"))
            path = stages[0].size
        self.stages = nn.ModuleList(stages)
        self.above_dims = (*(stage.size for stage in stages[1:]), 0)
        self.top = prior_of(prior, self.latent_dims[-1], self.condition_dim, arguments[-1])
        # constructors, not modules: only here are the widths of the features known
        self.conditionals = nn.ModuleList(map(conditional, self.above_dims[:-1], self.latent_dims[:-1]))
        self.emission = likelihood(path, data_dim)

    @once
    def prior(self, level: int, above: Tensor | None, *y: Tensor):
        """p(z_l | h_l), event `(latent_dims[l - 1],)`; `above` is h_l, None at the top: p(z_L | y)."""
        return prior_given(self.top, y) if above is None else self.conditionals[level - 1](above)

    @once
    def descend(self, level: int, above: Tensor | None, z: Tensor, *y: Tensor) -> Tensor:
        """h_{l-1}, from z_l, with `skip` from h_l, and from the condition y."""
        path = (above,) if self.skip and above is not None else ()
        return self.stages[level - 1](z, *path, *y)

    @once
    def likelihood(self, above: Tensor):
        """p(x | h_0), event `(data_dim,)`."""
        return self.emission(above)
