"""The guide of a hierarchy that corrects, level by level, the model's own expectation."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from guides.families import PrecisionWeighted
from guides.levels.has_levels import HasLevels
from guides.levels.hierarchy_guide import Families, HierarchyGuide
from zoo.parts.networks.stages import StageArgument


class Ladder(HierarchyGuide):
    """q(z | x) = prod_l family(z_l; p(z_l | h_l), d_l), d_l = g_l(d_{l-1}), d_0 = x: the prior, corrected by the data.

    The levels above enter through p(z_l | h_l) alone, so the family must look at it: `PrecisionWeighted` (default), the
    product of the prior and of a Gaussian that the data give, or `Residual`.

    References: Sonderby et al. 2016, Ladder Variational Autoencoders. Arguments: `HierarchyGuide`.

    Raises:
        ValueError: besides the reasons of `HierarchyGuide`, a family that ignores the prior.

    Example:
        >>> import torch, guides
        >>> from zoo import Hierarchical
        >>> guide = guides.Ladder(Hierarchical(784, (8, 4)), hidden=((200,), (100,)))
        >>> {site: tuple(z.shape) for site, z in guide(torch.zeros(3, 784)).items()}
        {'z_2': (3, 4), 'z_1': (3, 8)}
    """

    told_above = False

    def __init__(
        self,
        model: HasLevels,
        *,
        family: Families = PrecisionWeighted,
        hidden: Sequence[StageArgument] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        flags: bool = False,
    ) -> None:
        super().__init__(model, family=family, hidden=hidden, activation=activation, flags=flags)
        for site, part in zip(self.sites, self.parts, strict=True):
            if not part.family.uses_prior:
                raise ValueError(f"Ladder: {type(part.family).__name__} ignores p({site} | ...), so that {site} would "
                                 "be independent of the levels above: use TopDown")  # fmt: skip

    def climb(self, x: Any, step: Callable[..., tuple[Any, Any]]) -> None:
        for level in range(1, len(self.sites) + 1):
            x, _ = step(level, x)
