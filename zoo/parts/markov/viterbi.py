"""The most probable path of a hidden Markov chain."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.markov.chain import Chain, path_log_joint
from zoo.parts.markov.engines import engine_for


class MostProbable(NamedTuple):
    """The result of `viterbi`.

    Attributes:
        path: argmax_z p(z | x), int64 `(..., T)`.
        log_joint: log p(z, x) of that path, nats, `(...)`; -inf where no path explains x, and the path means nothing.
    """

    path: Tensor
    log_joint: Tensor


@torch.no_grad()
def viterbi(chain: Chain) -> MostProbable:
    """The path z of largest p(z, x); of several such paths one (Viterbi 1967).

    The single states of the path are in general not the most probable ones of their frames: these are the argmax of
    `SmoothedStates.smoothed`, which as a path may even have probability zero.
    """
    scores = chain.log_emission
    flat = scores.reshape(-1, *scores.shape[-2:])
    path = engine_for(scores.device).viterbi(chain.log_initial, chain.log_transition, flat).reshape(scores.shape[:-1])
    # scored anew: a sum along the recursion would lose the last digits of a long path in float32
    log_joint = path_log_joint(chain, path)
    # NaN compares with nothing: the path may have passed it by
    steps = chain.log_initial.isnan().any() | chain.log_transition.isnan().any()
    return MostProbable(path, log_joint.masked_fill(scores.isnan().flatten(-2).any(-1) | steps, torch.nan))
