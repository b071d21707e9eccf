"""The likelihood of bits."""

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
    """

    def __init__(self, in_features: int, data_dim: int, *, mean: Tensor | None = None) -> None:
        super().__init__()
        self.logits = nn.Linear(in_features, data_dim)
        if mean is not None:
            with torch.no_grad():
                # the logit of a pixel that is never set is -inf
                self.logits.bias.copy_(torch.logit(mean.clamp(0.001, 0.999)))

    def forward(self, h: Tensor) -> IndependentBernoulli:
        return IndependentBernoulli(self.logits(h))
