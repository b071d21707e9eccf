"""The chance that an entry is observed, by its own value."""

import torch
from torch import Tensor, nn

from zoo.parts.distributions import IndependentBernoulli
from zoo.parts.recorded import Recorded


class SelfMasking(Recorded, nn.Module):
    """p(m | x) = prod_i Bernoulli(m_i; sigmoid(w_i (x_i - b_i))): an entry's own value says how likely it is observed.

    References: Ipsen, Mattei and Frellsen 2021, section 3; Mohan, Thoemmes and Pearl 2018.

    Args:
        data_dim: size of x.
        sign: of the w_i, where it is known: -1, large values tend to be missing; 1, small ones. Then w_i is the sign
            times an exponential. None: w_i is any number, and starts at 0.

    Raises:
        ValueError: a sign other than -1, 1 and None.
    """

    def __init__(self, data_dim: int, *, sign: int | None = None) -> None:
        super().__init__()
        if sign not in (None, -1, 1):
            raise ValueError(f"sign: expected -1, 1 or None, got {sign!r}")
        self.sign = sign
        self.rate = nn.Parameter(torch.zeros(data_dim))
        # the logit of an entry in the middle of its data, and not b itself, of which nothing is known while w is 0
        self.offset = nn.Parameter(torch.zeros(data_dim))

    @property
    def weight(self) -> Tensor:
        """w, `(data_dim,)`; -w_i b_i is `offset`."""
        return self.rate if self.sign is None else self.sign * self.rate.exp()

    def forward(self, x: Tensor) -> IndependentBernoulli:
        return IndependentBernoulli(torch.addcmul(self.offset, self.weight, x))
