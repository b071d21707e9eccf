"""The guide of a hierarchy that goes up from the data."""

from collections.abc import Callable
from typing import Any

from guides.levels.hierarchy_guide import HierarchyGuide


class BottomUp(HierarchyGuide):
    """q(z | x) = q(z_1 | x) prod_{l<L} q(z_{l+1} | z_l): each level is drawn before the level above it.

    The posterior of a chain of latents factorises in the same way. But z_1 is drawn before the levels
    above say which z_1 they expect, and deep hierarchies hardly learn to use their upper levels so (Sonderby et al.
    2016). Families that look at p(z_l | h_l) are refused, and a closed-form KL is of the top level alone.

    References: Rezende, Mohamed and Wierstra 2014; Burda, Grosse and Salakhutdinov 2016 (two levels). Arguments:
    `HierarchyGuide`.

    Example:
        >>> import torch, guides
        >>> from zoo import Hierarchical
        >>> guide = guides.BottomUp(Hierarchical(784, (8, 4)), hidden=((200,), (100,)))
        >>> {site: tuple(z.shape) for site, z in guide(torch.zeros(3, 784)).items()}
        {'z_1': (3, 8), 'z_2': (3, 4)}
    """

    sees_data = False

    def climb(self, x: Any, step: Callable[..., tuple[Any, Any]]) -> None:
        for level in range(1, len(self.sites) + 1):
            _, x = step(level, x, draws=True)
