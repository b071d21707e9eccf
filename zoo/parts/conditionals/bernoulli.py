"""The likelihood of bits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.parts.distributions import IndependentBernoulli
from zoo.parts.recorded import Recorded


class Bernoulli(Recorded, nn.Module):
    """p(x | h) = prod_i Bernoulli(x_i; sigmoid(W h + b)_i), x in {0, 1}^data_dim.

    References: Burda, Grosse and Salakhutdinov 2016 (IWAE), for the start of b.

    Args:
        in_features: size of h.
        data_dim: size of x.
        mean: the data's mean `(data_dim,)`, in [0, 1]. b starts at its logit; None: b starts as in torch.
        layer: constructor `(in_features, data_dim) -> Module` of W h + b, b being its `bias`: `nn.Linear`, for feature
            maps `zoo.parts.networks.ToPicture`.

    Raises:
        ValueError: a mean of another shape, or outside [0, 1].
    """

    #: the support of x, known before a network runs
    support = IndependentBernoulli.support

    def __init__(
        self,
        in_features: int,
        data_dim: int,
        *,
        mean: Tensor | None = None,
        layer: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        self.logits = layer(in_features, data_dim)
        if mean is not None:
            # a mean of bytes, 0 to 255, would be clamped to 0 and 1
            if mean.shape != (data_dim,) or not ((mean >= 0) & (mean <= 1)).all():
                got = f"shape {tuple(mean.shape)}, values from {mean.min():.3g} to {mean.max():.3g}"
                raise ValueError(f"mean: expected shape ({int(data_dim)},), values in [0, 1], got {got}")
            bias: Any = self.logits.bias
            with torch.no_grad():
                # the logit of a pixel that is never set is -inf
                bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def forward(self, h: Tensor) -> IndependentBernoulli:
        return IndependentBernoulli(self.logits(h))
