"""The recursions of a hidden Markov chain as loops over time of batched PyTorch, in logarithms, for every device."""

import torch
from torch import Tensor


def forward(initial: Tensor, transition: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z_t | x_{1:t}), `(N, T, K)`, and log p(x_t | x_{1:t-1}), `(N, T)`."""
    filtered, increments = torch.empty_like(scores), torch.empty_like(scores[..., 0])
    predicted = initial
    for t, score in enumerate(scores.unbind(1)):
        joint = predicted + score
        total = joint.logsumexp(-1, keepdim=True)
        # of an impossible frame both are -inf, and their difference would be NaN
        filtered[:, t] = joint - total.clamp(min=torch.finfo(total.dtype).min)
        increments[:, t] = total.squeeze(-1)
        # logsumexp, not a product of probabilities: a state that the data exclude by a thousand nats underflows there,
        # though it may be the only one that leads on in a model with zeros among its transitions
        predicted = (filtered[:, t].unsqueeze(-1) + transition).logsumexp(-2)
    return filtered, increments


def backward(transition: Tensor, scores: Tensor) -> Tensor:
    """log p(x_{t+1:T} | z_t) up to a constant for each frame, `(N, T, K)`; its largest entry is 0."""
    messages = torch.zeros_like(scores)
    for t in range(scores.shape[1] - 2, -1, -1):
        later = scores[:, t + 1] + messages[:, t + 1]
        message = (transition + later.unsqueeze(-2)).logsumexp(-1)
        largest = message.amax(-1, keepdim=True)
        messages[:, t] = message - largest.clamp(min=torch.finfo(largest.dtype).min)
    return messages


def pairs(filtered: Tensor, transition: Tensor, scores: Tensor, messages: Tensor, weight: Tensor) -> Tensor:
    """sum_{n, t} weight_nt p(z_t = j, z_{t+1} = k | x_n), `(K, K)`; weight is `(N, T - 1)`."""
    later = (scores + messages)[:, 1:].unsqueeze(-2)
    joint = filtered[:, :-1].unsqueeze(-1) + transition + later
    probabilities = joint.flatten(-2).softmax(-1).unflatten(-1, transition.shape)
    # a sequence of probability zero has no posterior; its weight is zero, and 0 * NaN is NaN
    weight = weight[..., None, None]
    return torch.where(weight == 0, 0.0, weight * probabilities).sum((0, 1))


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
