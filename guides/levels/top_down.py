"""The guide of a hierarchy that comes down from the top, in the model's own order."""

from collections.abc import Callable
from typing import Any

from guides.levels.hierarchy_guide import HierarchyGuide


class TopDown(HierarchyGuide):
    """q(z | x) = prod_l q(z_l | h_l, d_l), d_l = g_l(d_{l-1}), d_0 = x: a deterministic path up, then draws downwards.

    h_l is the model's own summary of the levels above, so guide and model share the network that makes it. The
    posterior of a hierarchy without `skip` factorises in the same way: with families and networks that are rich
    enough, q is p(z | x).

    References: Kingma et al. 2016 (bidirectional inference); Maaloe et al. 2019 (LVAE+, where the model has `skip`).
    Arguments: `HierarchyGuide`.

    Example:
        >>> import torch, guides
        >>> from zoo import Hierarchical
        >>> guide = guides.TopDown(Hierarchical(784, (8, 4)), hidden=((200,), (100,)))
        >>> {site: tuple(z.shape) for site, z in guide(torch.zeros(3, 784)).items()}
        {'z_2': (3, 4), 'z_1': (3, 8)}
    """

    def climb(self, x: Any, step: Callable[..., tuple[Any, Any]]) -> None:
        for level in range(1, len(self.sites) + 1):
            x, _ = step(level, x)
