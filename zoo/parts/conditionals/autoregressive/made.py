"""A likelihood of vectors of levels by a masked network."""

from collections.abc import Sequence

import torch
from pyro.distributions import constraints
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn

from zoo.parts.checks import check_counts, widths
from zoo.parts.distributions.autoregressive import Autoregressive, draw_level, levels_support, scaled
from zoo.parts.recorded import Recorded


class MADE(Recorded, nn.Module):
    """p(x | h) = prod_d Categorical(x_d; softmax(network(x_1..x_{d-1}, h)_d)), x in {0, ..., levels - 1}^data_dim.

    One perceptron whose weights are masked, so that output d sees the entries before d alone: a score is one pass, a
    draw is `data_dim` of them. The masks are Pyro's.

    References: Germain et al. 2015.

    Args:
        in_features: size of h; 0: no h, and the module is a density, as `zoo.Density` takes it.
        data_dim: size of x.
        hidden: widths of the hidden layers, none below data_dim.
        levels: of an entry, at least 2.

    Raises:
        ValueError: no width, one below data_dim, or a number below its least.

    Example:
        >>> import torch
        >>> from zoo.parts.conditionals import MADE
        >>> MADE(0, 4, hidden=(8,))().log_prob(torch.ones(3, 4)).shape
        torch.Size([3])
    """

    support: constraints.Constraint

    def __init__(self, in_features: int, data_dim: int, *, hidden: Sequence[int], levels: int = 2) -> None:
        super().__init__()
        check_counts(0, in_features=in_features)
        check_counts(data_dim=data_dim)
        check_counts(2, levels=levels)
        found = widths(hidden)
        # narrower layers leave some outputs without an input; Pyro's own error names no argument
        if not found or min(found) < data_dim:
            raise ValueError(f"hidden: MADE expects widths >= data_dim = {int(data_dim)}, got {found}")
        self.in_features, self.data_dim, self.levels = in_features, data_dim, levels
        self.support = levels_support(levels)
        self.outputs, order = 1 if levels == 2 else levels, torch.arange(data_dim)
        shape = {"hidden_dims": list(found), "param_dims": [self.outputs], "permutation": order}
        self.network = (
            ConditionalAutoRegressiveNN(data_dim, in_features, **shape)
            if in_features else AutoRegressiveNN(data_dim, **shape)
        )  # fmt: skip

    @property
    def like(self) -> Tensor:
        return self.network.layers[-1].bias

    @property
    def rows_at_once(self) -> int:
        """Vectors that a pass without a gradient takes at once."""
        floats = sum(layer.out_features for layer in self.network.layers) + self.data_dim
        return max(1, 2**25 // floats)

    def forward(self, h: Tensor | None = None) -> Autoregressive:
        return Autoregressive(self, h)

    def logits(self, x: Tensor, h: Tensor | None) -> Tensor:
        """Logits `(n, data_dim, outputs)` of vectors `(n, data_dim)` in [-1, 1]."""
        found = self.network(x) if h is None else self.network(x, context=h)
        return found.unsqueeze(-1) if self.outputs == 1 else found.mT

    def draw(self, uniform: Tensor, h: Tensor | None) -> Tensor:
        """Vectors `(n, data_dim)` of levels, by the inverse distribution function of each entry at `uniform`."""
        x = torch.zeros_like(uniform)
        for d in range(self.data_dim):
            x[:, d] = draw_level(self.logits(scaled(x, self.levels), h)[:, d], uniform[:, d])
        return x
