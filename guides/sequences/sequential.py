"""Guides over sequences, named for what they condition on: `MeanField`, `Filter`, `Smoother`."""

from typing import Any

import torch
from torch import Tensor

from guides.sequences.sequence_guide import SequenceGuide
from guides.sequences.sequence_input import in_reverse
from zoo.parts.trajectory import StateSpace


class MeanField(SequenceGuide):
    """q(z | x) = prod_t q(z_t | x_{1:T}): independent over time; a network reads forwards and one backwards.

    What it loses, whatever its networks: the dependence of z_t on z_{t-1} under the posterior. With `recurrent=0` it
    reads frame t alone. Families that look at p(z_t | s_t) would tie z_t to z_{t-1} and are refused.

    References: Krishnan, Shalit and Sontag 2017 (MF-LR). Arguments: `SequenceGuide`.
    """

    directions = 2
    markov = False

    def __init__(self, model: StateSpace, **options: Any) -> None:
        super().__init__(model, **options)
        if self.family.uses_prior:
            name = type(self.family).__name__
            raise ValueError(f"MeanField: {name} looks at p(z_t | s_t), which depends on z_(t-1): use Filter, Smoother")

    def read(self, values: Tensor, observed: Tensor | None) -> Tensor:
        if not self.recurrences:
            return values
        ahead, back = self.recurrences
        later = in_reverse(back(in_reverse(values, observed))[0], observed)
        return torch.cat([ahead(values)[0], later], -1)


class Filter(SequenceGuide):
    """q(z | x) = prod_t q(z_t | s_t, x_{1:t}): what is known at time t; a network reads forwards.

    It cannot reach the posterior, in which z_t depends on later frames too, but serves where frames come one by one.
    With `recurrent=0` it reads frame t as the model encodes it (SRNN: [f(x_t), d_t]), and the past is what s_t carries:
    the guides of VRNN and of SRNN's filter.

    References: Chung et al. 2015; Fraccaro et al. 2016. Arguments: `SequenceGuide`.
    """

    def read(self, values: Tensor, observed: Tensor | None) -> Tensor:
        return self.recurrences[0](values)[0] if self.recurrences else values


class Smoother(SequenceGuide):
    """q(z | x) = prod_t q(z_t | s_t, x_{t:T}): the posterior's own factorisation; a network reads backwards.

    Under the model z_t depends, given s_t, on nothing of x before t, so that with a family and networks that are rich
    enough q is p(z | x).

    References: Krishnan, Shalit and Sontag 2017 (DKS, ST-R); Fraccaro et al. 2016 (SRNN). Arguments: `SequenceGuide`.
    """

    def __init__(self, model: StateSpace, **options: Any) -> None:
        if options.get("recurrent") == 0:
            raise ValueError("Smoother: recurrent=0 leaves nothing to read later frames with; Filter(recurrent=0) does")
        super().__init__(model, **options)

    def read(self, values: Tensor, observed: Tensor | None) -> Tensor:
        return in_reverse(self.recurrences[0](in_reverse(values, observed))[0], observed)
