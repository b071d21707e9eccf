"""Expected statistics of a hidden Markov chain: the E-step of Baum and Welch."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts.markov.chain import Chain
from zoo.parts.markov.engines import engine_for
from zoo.parts.markov.forward_backward import both_ways


class ExpectedCounts(NamedTuple):
    """The result of `expected_counts`.

    Attributes:
        initial: expected number of sequences that start in state k, `(K,)`.
        transitions: expected number of steps from j to k, `(K, K)`.
        smoothed: p(z_t = k | x_n), `(N, T, K)`.
        log_evidence: log p(x_n), nats, `(N,)`.
    """

    initial: Tensor
    transitions: Tensor
    smoothed: Tensor
    log_evidence: Tensor


@torch.no_grad()
def expected_counts(chain: Chain, ends: Tensor | None = None) -> ExpectedCounts:
    """Expected counts of starts and steps, given all of x.

    Args:
        chain: with scores `(N, T, K)`.
        ends: frames up to each sequence's last observed one, `(N,)`; steps into later frames are not counted. None: T.

    Raises:
        ValueError: as `smooth_states`.
    """
    scores = chain.log_emission
    filtered, increments, messages = both_ways(chain)
    smoothed = (filtered + messages).softmax(-1)
    counted = torch.ones_like(increments)
    if ends is not None:
        # a step into padding tells nothing: counted, it would repeat the present row of the matrix, and slow EM down
        counted = (torch.arange(scores.shape[1], device=scores.device) < ends.unsqueeze(-1)).to(increments.dtype)
    engine = engine_for(scores.device)
    transitions = engine.pairs(filtered, chain.log_transition, scores, messages, counted[:, 1:])
    initial = (counted[:, :1] * smoothed[:, 0]).sum(0)
    return ExpectedCounts(initial, transitions, smoothed, increments.sum(-1))
