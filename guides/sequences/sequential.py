"""Guides of sequences, named for the frames that they condition on: `MeanField`, `Filter`, `Smoother`."""

import torch
from torch import Tensor

from guides.sequences.sequence_guide import SequenceGuide
from guides.sequences.sequence_input import in_reverse


class MeanField(SequenceGuide):
    """q(z | x) = prod_t q(z_t | x_{1:T}): independent over time; one network reads forwards and one backwards.

    Whatever its networks, it loses the dependence of z_t on z_{t-1} under the posterior. With `recurrent=0` it reads
    frame t alone. Families that look at p(z_t | s_t) would tie z_t to z_{t-1} and are refused.

    References: Krishnan, Shalit and Sontag 2017 (MF-LR). Arguments: `SequenceGuide`.
    """

    directions = 2
    markov = False
    prior_allowed = False

    def read(self, values: Tensor, mask: Tensor | None) -> Tensor:
        if not self.recurrences:
            return values
        ahead, back = self.recurrences
        later = in_reverse(back(in_reverse(values, mask))[0], mask)
        return torch.cat([ahead(values)[0], later], -1)


class Filter(SequenceGuide):
    """q(z | x) = prod_t q(z_t | s_t, x_{1:t}): all that is known at time t; a network reads forwards.

    It cannot reach the posterior, in which z_t depends on later frames too. It serves where frames come one by one.
    With `recurrent=0` it reads frame t as the model encodes it (SRNN: [f(x_t), d_t]), and s_t carries the past: the
    guides of VRNN and of SRNN's filter.

    References: Chung et al. 2015; Fraccaro et al. 2016. Arguments: `SequenceGuide`.
    """

    def read(self, values: Tensor, mask: Tensor | None) -> Tensor:
        return self.recurrences[0](values)[0] if self.recurrences else values


class Smoother(SequenceGuide):
    """q(z | x) = prod_t q(z_t | s_t, x_{t:T}): the posterior's own factorisation; a network reads backwards.

    Given s_t, z_t depends under the model on no frame before t. With a family and networks that are rich enough, q is
    therefore p(z | x).

    References: Krishnan, Shalit and Sontag 2017 (DKS, ST-R); Fraccaro et al. 2016 (SRNN). Arguments: `SequenceGuide`.
    """

    needs_recurrence = True

    def read(self, values: Tensor, mask: Tensor | None) -> Tensor:
        return in_reverse(self.recurrences[0](in_reverse(values, mask))[0], mask)
