"""The guide of a hierarchy that draws some levels on its way up, and the others on its way down."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from guides.families import Diagonal, Family
from guides.levels.has_levels import HasLevels, levels_of
from guides.levels.hierarchy_guide import HierarchyGuide
from zoo.parts.networks.stages import StageArgument


class Bidirectional(HierarchyGuide):
    """q(z | x) = prod_{l in B} q(z_l | x, z_{<l} in B) prod_{l not in B} q(z_l | h_l, x, all z in B): up, then down.

    Two paths lead up. On the one through B, a level's network reads the draw below it, and the next draw depends on it;
    the other ends in no draw. Each reads the other's features beside its own, so that the way down, which starts from
    the second path, knows x and all draws of B. It then goes as that of `TopDown`.

    References: Maaloe, Fraccaro, Lievin and Winther 2019 (BIVA).

    Args:
        model: any hierarchy (protocol `HasLevels`).
        bottom_up: the levels of B, counted from 1; None: `model.bottom_up`, as `BIVA` states it.
        family: of the levels drawn on the way down, which may look at p(z_l | h_l).
        family_up: of the levels of B, which may not.
        hidden, activation, flags: as of `HierarchyGuide`; an entry of `hidden` for each level, 2L - 1 for `BIVA`.

    Sites: those of the model.

    Raises:
        ValueError: besides the reasons of `HierarchyGuide`, a level of B out of range, or no B.

    Example:
        >>> import torch, guides
        >>> from zoo import BIVA
        >>> guide = guides.Bidirectional(BIVA(784, (8, 4), hidden=((200,), (100,))), hidden=((200,), (200,), (100,)))
        >>> {site: tuple(z.shape) for site, z in guide(torch.zeros(3, 784)).items()}
        {'z_1_bu': (3, 8), 'z_2': (3, 4), 'z_1_td': (3, 8)}
    """

    def __init__(
        self,
        model: HasLevels,
        *,
        bottom_up: Iterable[int] | None = None,
        family: Callable[[int, int], Family] = Diagonal,
        family_up: Callable[[int, int], Family] = Diagonal,
        hidden: Sequence[StageArgument] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        flags: bool = False,
    ) -> None:
        depth = len(levels_of(model, "Bidirectional").sites)
        found = getattr(model, "bottom_up", None) if bottom_up is None else bottom_up
        levels = [] if found is None else [*found]
        if found is None or not set(levels) <= {*range(1, depth + 1)}:
            raise ValueError(f"bottom_up: expected levels of 1 to {depth}, got {found if found is None else levels}; "
                             f"{type(model).__name__} states none of its own")  # fmt: skip
        families = [family_up if level in levels else family for level in range(1, depth + 1)]
        # in place before the constructor of the guide, which climbs
        self.__dict__["bottom_up"] = frozenset(levels)
        super().__init__(model, family=families, hidden=hidden, activation=activation, flags=flags)

    def climb(self, x: Any, step: Callable[..., tuple[Any, Any]]) -> None:
        # each a tuple of one entry, or empty where there is nothing yet
        drawn: tuple[Any, ...] = ()
        through: tuple[Any, ...] = ()
        beside: tuple[Any, ...] = ()
        # x enters at the foot of each path, where the path has nothing of its own yet
        for level in range(1, len(self.sites) + 1):
            if level in self.bottom_up:
                features, z = step(level, *(drawn or (x,)), *through, *beside, draws=True)
                through, drawn = (features,), (z,)
            else:
                features, _ = step(level, *(beside or (x,)), *through, *drawn)
                beside = (features,)
