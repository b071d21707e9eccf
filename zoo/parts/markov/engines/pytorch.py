"""The recursions of a hidden Markov chain as loops over time of batched PyTorch, in logarithms, for every device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(initial: Tensor, transition: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z_t | x_{1:t}), `(N, T, K)`, and log p(x_t | x_{1:t-1}), `(N, T)`."""
    T, length = scores.shape[1], _block_length(scores)
    if length == T:
        return _filter(initial, transition, scores)
    blocks = _in_blocks(scores, length)
    steps = _block_steps(transition, blocks)
    firsts = [initial.expand_as(scores[:, 0])]
    for step in steps.unbind(1)[:-1]:
        first = (firsts[-1].unsqueeze(-1) + step).logsumexp(-2)
        firsts.append(_less(first, first.logsumexp(-1, keepdim=True)))
    found = _filter(torch.stack(firsts, 1).flatten(0, 1), transition, blocks.flatten(0, 1))
    filtered, increments = (value.unflatten(0, blocks.shape[:2]).flatten(1, 2)[:, :T] for value in found)
    return filtered, increments


def backward(transition: Tensor, scores: Tensor) -> Tensor:
    """log p(x_{t+1:T} | z_t) up to a constant for each frame, `(N, T, K)`; its largest entry is 0."""
    T, length = scores.shape[1], _block_length(scores)
    if length == T:
        return _messages(torch.zeros_like(scores[:, 0]), transition, scores)
    blocks = _in_blocks(scores, length)
    steps = _block_steps(transition, blocks)
    lasts = [torch.zeros_like(scores[:, 0])]
    # log p(all later frames | z at the first frame of the block behind), then one step of A to the end of the block
    after = lasts[0]
    for step in steps.unbind(1)[:0:-1]:
        after = (step + after.unsqueeze(-2)).logsumexp(-1)
        after = _less(after, after.amax(-1, keepdim=True))
        last = (transition + after.unsqueeze(-2)).logsumexp(-1)
        lasts.append(_less(last, last.amax(-1, keepdim=True)))
    found = _messages(torch.stack(lasts[::-1], 1).flatten(0, 1), transition, blocks.flatten(0, 1))
    # frames that fill the last block up are missing ones behind the end: the message to the true end is zero too
    return found.unflatten(0, blocks.shape[:2]).flatten(1, 2)[:, :T]


def _filter(initial: Tensor, transition: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The forward recursion, frame by frame; initial is `(K,)` or `(N, K)`."""
    filtered, increments = torch.empty_like(scores), torch.empty_like(scores[..., 0])
    predicted = initial
    for t, score in enumerate(scores.unbind(1)):
        joint = predicted + score
        total = joint.logsumexp(-1, keepdim=True)
        filtered[:, t] = _less(joint, total)
        increments[:, t] = total.squeeze(-1)
        # logsumexp, not a product of probabilities: a state that the data exclude by a thousand nats underflows there,
        # though it may be the only one that leads on in a model with zeros among its transitions
        predicted = (filtered[:, t].unsqueeze(-1) + transition).logsumexp(-2)
    return filtered, increments


def _messages(last: Tensor, transition: Tensor, scores: Tensor) -> Tensor:
    """The backward recursion, frame by frame, from the message to the last frame, `(N, K)`."""
    messages = torch.empty_like(scores)
    messages[:, -1] = last
    for t in range(scores.shape[1] - 2, -1, -1):
        later = scores[:, t + 1] + messages[:, t + 1]
        message = (transition + later.unsqueeze(-2)).logsumexp(-1)
        messages[:, t] = _less(message, message.amax(-1, keepdim=True))
    return messages


# A long sequence costs one dispatch for each frame and operation, and its few numbers hardly more. In blocks of about
# sqrt(T) frames all blocks take a step at once: first the product of each block's K x K steps, then from block to block
# the state at its first frame, then the recursion within all blocks. That is K times the work in a fiftieth of the
# dispatches (Pyro's `DiscreteHMM` halves the number of matrices log T times, for the likelihood alone).


def _block_length(scores: Tensor) -> int:
    """The frames of a block; T itself where the products would cost more than the dispatches that they save."""
    N, T, K = scores.shape
    return max(2, math.isqrt(T)) if T >= 32 and N * K**3 <= 4096 else T


def _in_blocks(scores: Tensor, length: int) -> Tensor:
    """The scores as `(N, blocks, length, K)`, filled up with missing frames behind."""
    return F.pad(scores, (0, 0, 0, -scores.shape[1] % length)).unflatten(1, (-1, length))


def _block_steps(transition: Tensor, blocks: Tensor) -> Tensor:
    """log p(x of the block, z at the next block's first frame = k | z at its own = j), up to a constant for each."""
    step = blocks[:, :, 0].unsqueeze(-1) + transition
    for t in range(1, blocks.shape[2]):
        step = ((step + blocks[:, :, t].unsqueeze(-2)).unsqueeze(-1) + transition).logsumexp(-2)
        step = _less(step, step.amax((-2, -1), keepdim=True))
    return step


def _less(logs: Tensor, total: Tensor) -> Tensor:
    """logs - total; of an impossible frame both are -inf, and the difference stays -inf."""
    return logs - total.clamp(min=torch.finfo(total.dtype).min)


def pairs(filtered: Tensor, transition: Tensor, scores: Tensor, messages: Tensor, weight: Tensor) -> Tensor:
    """sum_{n, t} weight_nt p(z_t = j, z_{t+1} = k | x_n), `(K, K)`; weight is `(N, T - 1)`."""
    probabilities = pair_probabilities(filtered, transition, scores, messages)
    # a sequence of probability zero has no posterior; its weight is zero, and 0 * NaN is NaN
    weight = weight[..., None, None]
    return torch.where(weight == 0, 0.0, weight * probabilities).sum((0, 1))


def pair_probabilities(filtered: Tensor, transition: Tensor, scores: Tensor, messages: Tensor) -> Tensor:
    """p(z_t = j, z_{t+1} = k | x), `(N, T - 1, K, K)`."""
    later = (scores + messages)[:, 1:].unsqueeze(-2)
    joint = filtered[:, :-1].unsqueeze(-1) + transition + later
    return joint.flatten(-2).softmax(-1).unflatten(-1, transition.shape)


def viterbi(initial: Tensor, transition: Tensor, scores: Tensor) -> Tensor:
    """argmax_z p(z | x), `(N, T)`."""
    T = scores.shape[1]
    best = initial + scores[:, 0]
    came_from = []
    for t in range(1, T):
        best, previous = (best.unsqueeze(-1) + transition).max(-2)
        came_from.append(previous)
        best = best + scores[:, t]
        best = best - best.amax(-1, keepdim=True)
    path = [best.argmax(-1)]
    for previous in reversed(came_from):
        path.append(previous.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1))
    return torch.stack(path[::-1], -1)
