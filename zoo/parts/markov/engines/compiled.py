"""The recursions of `zoo.parts.markov.engines.pytorch` as loops compiled by numba, for tensors on the CPU, in float64.

A step adds probabilities, relative to the largest, and takes K logarithms in place of K^2 exponentials. Where the sum
is so small that terms may have underflowed, that one sum is computed from the logarithms.
"""

import numpy as np
import torch
from torch import Tensor

from zoo.parts.kalman.engines.small_matrices import compiled, inlined

# terms below 1e-308 are lost: of a larger sum that is less than 1e-100 of its value
SAFE = 1e-200


@inlined
def _larger(a, b):
    # NaN if one of them is: `max` may return the other, and a NaN of the model would end as a probability of zero
    return a if a > b or a != a else b


@inlined
def _largest(values):
    largest = -np.inf
    for value in values:
        largest = _larger(largest, value)
    return largest


@inlined
def _log_sum(a, b):
    """log sum_i exp(a_i + b_i); -inf where all terms are zero."""
    largest = -np.inf
    for i in range(a.shape[0]):
        largest = _larger(largest, a[i] + b[i])
    if largest == -np.inf:
        return largest
    total = 0.0
    for i in range(a.shape[0]):
        total += np.exp(a[i] + b[i] - largest)
    return largest + np.log(total)


@inlined
def _relative(logs, weights):
    """Fills the weights with exp(logs - their largest), zeros where all are impossible; returns the largest."""
    largest = _largest(logs)
    for k in range(logs.shape[0]):
        weights[k] = np.exp(logs[k] - largest) if largest != -np.inf else 0.0
    return largest


@inlined
def _add_product(logs, largest, weights, matrix, log_matrix, out):
    """out_i = log sum_j matrix_ij exp(logs_j), where the weights are exp(logs - largest)."""
    for i in range(out.shape[0]):
        total = 0.0
        for j in range(weights.shape[0]):
            total += matrix[i, j] * weights[j]
        out[i] = largest + np.log(total) if total > SAFE else _log_sum(log_matrix[i], logs)


@inlined
def _normalise(values, total):
    """Takes the total off the values; an impossible frame has -inf in both, and their difference would be NaN."""
    if total != -np.inf:
        for k in range(values.shape[0]):
            values[k] -= total


@compiled
def _forward(initial, transition, scores, filtered, increments):
    K = scores.shape[2]
    # transposed, so that the inner loop reads neighbours
    log_matrix = np.ascontiguousarray(transition.T)
    matrix, weights = np.exp(log_matrix), np.empty(K)
    for n in range(scores.shape[0]):
        largest = 0.0
        for t in range(scores.shape[1]):
            now = filtered[n, t]
            if t == 0:
                now[:] = initial
            else:
                # the weights that normalised the step before serve this one too: half of the exponentials
                _add_product(filtered[n, t - 1], largest, weights, matrix, log_matrix, now)
            now += scores[n, t]
            largest, sum_of_weights = _relative(now, weights), 0.0
            for k in range(K):
                sum_of_weights += weights[k]
            increments[n, t] = largest + np.log(sum_of_weights)
            _normalise(now, increments[n, t])
            largest = -np.log(sum_of_weights)


@compiled
def _backward(transition, scores, messages):
    T, K = scores.shape[1:]
    matrix, weights, later = np.exp(transition), np.empty(K), np.empty(K)
    for n in range(scores.shape[0]):
        messages[n, T - 1] = 0.0
        for t in range(T - 2, -1, -1):
            later[:] = scores[n, t + 1]
            later += messages[n, t + 1]
            largest = _relative(later, weights)
            _add_product(later, largest, weights, matrix, transition, messages[n, t])
            _normalise(messages[n, t], _largest(messages[n, t]))


@inlined
def _add_pairs(before, matrix, later, weight, room, out):
    """Adds the step's probabilities to out, times the weight. Returns False, and adds none, where they underflow."""
    left, right = room
    _relative(before, left)
    _relative(later, right)
    total = 0.0
    for j in range(left.shape[0]):
        for k in range(left.shape[0]):
            total += left[j] * matrix[j, k] * right[k]
    if not total > SAFE:
        return False
    for j in range(left.shape[0]):
        factor = weight / total * left[j]
        for k in range(left.shape[0]):
            out[j, k] += factor * matrix[j, k] * right[k]
    return True


@inlined
def _add_pairs_by_logs(before, transition, later, weight, out):
    """The same from logarithms."""
    logs = before.reshape(-1, 1) + transition + later
    largest = logs.max()
    total = np.exp(logs - largest).sum()
    out += weight / total * np.exp(logs - largest)


@compiled
def _pairs(filtered, transition, scores, messages, weight, out):
    K = scores.shape[2]
    matrix, room, later = np.exp(transition), (np.empty(K), np.empty(K)), np.empty(K)
    for n in range(scores.shape[0]):
        for t in range(scores.shape[1] - 1):
            # also a sequence of probability zero, which has no posterior
            if weight[n, t] == 0.0:
                continue
            later[:] = scores[n, t + 1]
            later += messages[n, t + 1]
            if not _add_pairs(filtered[n, t], matrix, later, weight[n, t], room, out):
                _add_pairs_by_logs(filtered[n, t], transition, later, weight[n, t], out)


@inlined
def _best_step(best, transition, after, came_from):
    """after_k = max_j best_j + transition_jk, and the j of each."""
    for k in range(after.shape[0]):
        after[k], came_from[k] = -np.inf, 0
        for j in range(best.shape[0]):
            if best[j] + transition[j, k] > after[k]:
                after[k], came_from[k] = best[j] + transition[j, k], j


@compiled
def _viterbi(initial, transition, scores, path):
    T, K = scores.shape[1:]
    came_from = np.empty((T, K), np.int32)
    best, after = np.empty(K), np.empty(K)
    for n in range(scores.shape[0]):
        best[:] = initial + scores[n, 0]
        for t in range(1, T):
            _best_step(best, transition, after, came_from[t])
            best[:] = after
            best += scores[n, t]
        path[n, T - 1] = np.argmax(best)
        for t in range(T - 1, 0, -1):
            path[n, t - 1] = came_from[t, path[n, t]]


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    # float64, in which a step of a few states costs no more than in float32; contiguous: a loop is compiled once for
    # each combination of memory layouts, which takes seconds
    return tuple(a.detach().double().contiguous().numpy() for a in tensors)


def forward(initial: Tensor, transition: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z_t | x_{1:t}), `(N, T, K)`, and log p(x_t | x_{1:t-1}), `(N, T)`, in float64."""
    filtered = torch.empty(scores.shape, dtype=torch.float64)
    increments = torch.empty(scores.shape[:-1], dtype=torch.float64)
    _forward(*_arrays(initial, transition, scores), filtered.numpy(), increments.numpy())
    return filtered, increments


def backward(transition: Tensor, scores: Tensor) -> Tensor:
    """log p(x_{t+1:T} | z_t) up to a constant for each frame, `(N, T, K)`, in float64; its largest entry is 0."""
    messages = torch.empty(scores.shape, dtype=torch.float64)
    _backward(*_arrays(transition, scores), messages.numpy())
    return messages


def pairs(filtered: Tensor, transition: Tensor, scores: Tensor, messages: Tensor, weight: Tensor) -> Tensor:
    """sum_{n, t} weight_nt p(z_t = j, z_{t+1} = k | x_n), `(K, K)`, in float64; weight is `(N, T - 1)`."""
    out = torch.zeros(transition.shape, dtype=torch.float64)
    _pairs(*_arrays(filtered, transition, scores, messages, weight), out.numpy())
    return out


def viterbi(initial: Tensor, transition: Tensor, scores: Tensor) -> Tensor:
    """argmax_z p(z | x), `(N, T)`."""
    path = torch.empty(scores.shape[:-1], dtype=torch.int64)
    _viterbi(*_arrays(initial, transition, scores), path.numpy())
    return path
