"""The guide of hierarchies that all others derive from: the levels z_1..z_L of each data point, up and down."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pyro
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.guide import Guide
from guides.inputs import Inputs, Reading
from guides.levels.has_levels import HasLevels, levels_of
from guides.levels.level import Foot, Level, with_flags
from guides.levels.per_datum_levels import PerDatumLevels
from zoo.parts.networks.stages import StageArgument, build_stage, per_level, stage_arguments

Families = Callable[[int, int], Family] | Sequence[Callable[[int, int], Family]]


class HierarchyGuide(Guide):
    """q(z_1..z_L | x) of any hierarchy: networks climb from x to the top, then draws come down (abstract).

    A subclass states `climb`: the inputs of each level's network, and the levels that are drawn on the way up. All
    others are drawn on the way down, given h_l, the model's summary of the levels above. Parameters of q(z_l | ...) are
    linear in the features of the level's network, and in h_l where `told_above` says so.

    Args:
        model: any model with `data_dim`, `latent_dims` and `prior(level, above)` (protocol `HasLevels`).
        family: constructor `(features, context) -> Family`, or one for each level.
        hidden: for each level the widths of its network, from x towards the top, or the constructor of a stage
            (`zoo.parts.networks`); None: one layer of 400 each. Stages are called with a condition last.
        activation, flags: the nonlinearity of stages given by widths; a second input beside x, 1 where it is missing.

    Sites: those of the model, `z_l` (N, latent_dims[l - 1]), in `pyro.plate("data", N)`.

    Raises:
        TypeError, ValueError: as `levels_of`; `hidden` or `family` has another number of entries, or one that does not
            fit; a family looks at a prior that is not known yet. At each call: as of `Amortized`.
    """

    # declared by a subclass, so that all guides share one constructor
    told_above: ClassVar[bool] = True  # h_l enters the parameters, and not only p(z_l | h_l), which families may read
    sees_data: ClassVar[bool] = True  # levels above the first see x, and not only the draw below them

    def __init__(
        self,
        model: HasLevels,
        *,
        family: Families = Diagonal,
        hidden: Sequence[StageArgument] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        flags: bool = False,
    ) -> None:
        super().__init__(model)
        name = type(self).__name__
        if getattr(type(self).climb, "__isabstractmethod__", False):
            raise TypeError(f"HierarchyGuide: abstract; {name} does not state climb")
        self.latent_dims, above_dims, self.sites = levels_of(model, name)
        depth, self.inputs, data = len(self.sites), Inputs(model, flags), Foot(model.data_dim)
        families = (family,) * depth if callable(family) else per_level("family", family, depth)
        networks = stage_arguments(hidden, depth)
        self.parts: Any = nn.ModuleList()
        up: set[int] = set()

        def build(level: int, *sizes: int, draws: bool = False) -> tuple[int, int]:
            i, site, size = level - 1, self.sites[level - 1], self.latent_dims[level - 1]
            up.update((level,) * draws)
            sizes = (*with_flags(sizes, data, model.data_dim, self.inputs.flagged), *self.inputs.told_sizes)
            stage = build_stage(networks[i], sizes, activation, f"hidden[{i}]")
            told = above_dims[i] if self.told_above and not draws else 0
            self.parts.append(Level(stage, Family.built(families[i], size, 0), told, before=site if draws else None))
            return stage.size, size

        # the wiring is stated once, for sizes and for vectors
        self.climb(data, build)
        # the way down ends here; none begins where all are drawn on the way up
        self.lowest = min({*range(1, depth + 1)} - up, default=depth + 1)

    @abstractmethod
    def climb(self, x: Any, step: Callable[..., tuple[Any, Any]]) -> None:
        """Calls `step(level, *inputs, draws=False)` for each level from 1 up, which returns its features and its draw.

        With `draws` the level is drawn on the way up; the draw of any other is None. The constructor climbs with sizes
        in place of vectors.
        """

    def draw(self, seen: Reading, offsets: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Samples every site, within the plate; offsets of the parameters by level."""
        x, flags, condition = seen
        features: dict[int, Tensor] = {}
        drawn: dict[str, Tensor] = {}

        def sample(level: int, above: Tensor | None = None) -> Tensor:
            site, part = self.sites[level - 1], self.parts[level - 1]
            prior = self.model.prior(level, above, *condition) if part.family.uses_prior else None
            drawn[site] = pyro.sample(site, part.density(prior, features[level], above, offsets.get(level)))
            return drawn[site]

        def step(level: int, *inputs: Tensor, draws: bool = False) -> tuple[Tensor, Tensor | None]:
            features[level] = self.parts[level - 1].stage(*with_flags(inputs, x, x, flags), *condition)
            return features[level], sample(level) if draws else None

        self.climb(x, step)
        descend, above = getattr(self.model, "descend", None), None
        for level in range(len(self.sites), self.lowest - 1, -1):
            z = drawn[s] if (s := self.sites[level - 1]) in drawn else sample(level, above)
            if level > self.lowest:
                above = z if descend is None else descend(level, above, z, *condition)
        return drawn

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples the levels; returns site -> draw."""
        seen = self.inputs.see(self, x, args, kwargs, "Write a guide of your own for it")
        with pyro.plate("data", len(x)):
            return self.draw(seen, {})

    def per_datum(self, x: Tensor, *args: Any, **kwargs: Any) -> PerDatumLevels:
        """A guide of the same family with parameters of its own for each row of x, started at this guide's."""
        return PerDatumLevels(self, len(x))
