"""The recursions of `zoo.parts.kalman.engines.pytorch` as loops compiled by numba, for tensors on the CPU.

The same functions, in the same layout, with the same results to rounding; they are explained there. One thing is done
otherwise: parameters that do not change in time make the covariances settle. Once a step changes none of them by more
than its own rounding, nothing that depends on covariances alone is computed again. The results then differ by about
the rounding errors of the steps left out.
"""

import numpy as np
import torch
from torch import Tensor

from zoo.parts.kalman.engines.compiled_adjoint import fill_adjoint
from zoo.parts.kalman.engines.compiled_smoother import fill_smoothed
from zoo.parts.kalman.engines.small_matrices import (
    EPS,
    add_product,
    cholesky,
    compiled,
    inlined,
    root_of,
    set_times_triangular,
    symmetric,
    triangularise,
)

# Loops over groups, times and sequences, not calls of BLAS: the matrices have a handful of rows, and a call costs more
# than their product.


@compiled
def _roots(covariance, rounding, out, fine):
    for t in range(covariance.shape[0]):
        for p in range(covariance.shape[1]):
            matrix = covariance[t, p]
            if symmetric(matrix) and cholesky(matrix, out[t, p]):  # the common case, at a third of the cost
                fine[t, p] = True
            else:
                fine[t, p] = root_of(matrix, rounding, out[t, p])


@inlined
def _set_joint(product, noise, out):
    """out = product product' + noise, its lower half."""
    for i in range(noise.shape[0]):
        for j in range(i + 1):
            value = noise[i, j]
            for k in range(product.shape[1]):
                value += product[i, k] * product[j, k]
            out[i, j] = value


@inlined
def _are_same(factor, before):
    """Tells whether two factors agree to rounding, row by row in units of the row's length."""
    # the length of row i is the standard deviation of coordinate i, so the test does not depend on units
    for i in range(factor.shape[0]):
        length = 0.0
        for j in range(i + 1):
            length += factor[i, j] ** 2
        for j in range(i + 1):
            if not abs(factor[i, j] - before[i, j]) <= 2 * EPS * np.sqrt(length):
                return False
    return True


@compiled
def _factors(g, noise, noise_root, initial, out, settled):
    """Fills out[t, p] = F_t until it settles, and settled[p] with the last t that was filled."""
    steps, rows, state = out.shape[0], g.shape[2], g.shape[3]
    data = rows - state
    product, joint = np.empty((rows, state)), np.empty((rows, rows))
    array = np.empty((rows, state + rows))
    constant = g.shape[0] == 1 and noise.shape[0] == 1
    for p in range(out.shape[1]):
        settled[p] = steps - 1
        gp, np_ = min(p, g.shape[1] - 1), min(p, noise.shape[1] - 1)
        for t in range(steps):
            ti, tn = min(t, g.shape[0] - 1), min(t, noise.shape[0] - 1)
            spread = initial[p] if t == 0 else out[t - 1, p, data:, data:]
            set_times_triangular(product, g[ti, gp], spread)
            _set_joint(product, noise[tn, np_], joint)
            # where Cholesky's factor would lose digits, Householder's reflections of (G L, N^1/2): they never form the
            # joint covariance, and cost about three times as much
            if not cholesky(joint, out[t, p]):
                array[:, :state] = product
                array[:, state:] = noise_root[tn, np_]
                triangularise(array, out[t, p])
            if constant and t > 0 and _are_same(out[t, p], out[t - 1, p]):
                settled[p] = t
                break


@inlined
def _log_det(factor, data):
    value = 0.0
    for i in range(data):
        value += np.log(factor[i, i])
    return value


@inlined
def _whiten(factor, w, increment):
    """Overwrites w by S^-1/2 w, by forward substitution, and takes half of its squares off the increment."""
    for i in range(w.shape[0]):
        for k in range(i):
            for d in range(w.shape[1]):
                w[i, d] -= factor[i, k] * w[k, d]
        for d in range(w.shape[1]):
            w[i, d] /= factor[i, i]
            increment[d] -= 0.5 * w[i, d] * w[i, d]


@compiled
def _means(model, factor, settled, initial, out):
    """Fills out = mean[t, p] = a_t, whitened[t, p] = w_t, and increments[t, p]. model: G, y and the offset."""
    g, y, offset = model
    mean, whitened, increments = out
    steps, data = y.shape[0], y.shape[2]
    for p in range(y.shape[1]):
        gp, cp = min(p, g.shape[1] - 1), min(p, offset.shape[1] - 1)
        mean[0, p] = initial[p]
        log_det = 0.0
        for t in range(steps):
            ti, tc = min(t, g.shape[0] - 1), min(t, offset.shape[0] - 1)
            f, gt = factor[min(t, settled[p]), p], g[ti, gp]
            if t <= settled[p]:  # logarithms cost as much as the rest of a step of a small model
                log_det = _log_det(f, data)
            w = whitened[t, p]
            w[:] = y[t, p]
            add_product(w, gt[:data], mean[t, p], -1.0)
            increments[t, p, 0] = -log_det
            _whiten(f, w, increments[t, p, 0])
            if t + 1 < steps:
                after = mean[t + 1, p]
                after[:] = offset[tc, cp]
                add_product(after, gt[data:], mean[t, p], 1.0)
                add_product(after, f[data:, :data], w, 1.0)  # K S^1/2 w = K v: the factor holds K S^1/2


@compiled
def _affine(transition, offset, start, backward, out):
    """Fills out, T + 1 columns, with x_0 = start, x_{t+1} = transition_t x_t + offset_t.

    Backward: x_T = start, x_t = transition_t x_{t+1} + offset_t.
    """
    steps = out.shape[0] - 1
    for p in range(out.shape[1]):
        out[steps if backward else 0, p] = start[p]
        for s in range(steps):
            t = steps - 1 - s if backward else s
            source, target = (t + 1, t) if backward else (t, t + 1)
            out[target, p] = offset[t, p]
            add_product(out[target, p], transition[min(t, transition.shape[0] - 1), p], out[source, p], 1.0)


@inlined
def _set_congruent(matrix, product, offset, t, p, out, target):
    """out[target, p] = product matrix' + offset[t, p], symmetric to the last bit."""
    # one half is computed and mirrored: asymmetry by rounding would grow from step to step
    for i in range(product.shape[0]):
        for j in range(i + 1):
            value = 0.5 * (offset[t, p, i, j] + offset[t, p, j, i])
            for k in range(product.shape[0]):
                value += product[i, k] * matrix[j, k]
            out[target, p, i, j] = value
            out[target, p, j, i] = value


@compiled
def _congruence(transition, offset, start, backward, out):
    """The same as `_affine` for X_{t+1} = transition_t X_t transition_t' + offset_t."""
    steps, state = out.shape[0] - 1, out.shape[3]
    product = np.empty((state, state))
    for p in range(out.shape[1]):
        out[steps if backward else 0, p] = start[p]
        for s in range(steps):
            t = steps - 1 - s if backward else s
            source, target = (t + 1, t) if backward else (t, t + 1)
            matrix = transition[min(t, transition.shape[0] - 1), p]
            product[:] = 0.0
            add_product(product, matrix, out[source, p], 1.0)
            _set_congruent(matrix, product, offset, t, p, out, target)


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    # contiguous: a loop is compiled once for each combination of memory layouts, which takes seconds
    return tuple((a.detach() if a.requires_grad else a).contiguous().numpy() for a in tensors)


def root(covariance: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """A lower triangular root of each matrix `(T, P, n, n)`, and True where the matrix is a covariance."""
    out = torch.empty(covariance.shape, dtype=torch.float64)
    fine = torch.empty(covariance.shape[:2], dtype=torch.bool)
    _roots(*_arrays(covariance), rounding, out.numpy(), fine.numpy())
    return out, fine


def factors(g: Tensor, noise: Tensor, noise_root: Tensor, initial: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """F_t until it settles, and for each group the step at which F settles."""
    out = torch.empty(steps, len(initial), g.shape[-2], g.shape[-2], dtype=torch.float64)
    settled = torch.empty(len(initial), dtype=torch.int64)
    _factors(*_arrays(g, noise, noise_root, initial), out.numpy(), settled.numpy())
    return out, settled


def means(
    g: Tensor, factor: Tensor, settled: Tensor, initial: Tensor, y: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """a_t, w_t and log p(x_t | x_{1:t-1}) without its constant."""
    mean = torch.empty(*y.shape[:2], g.shape[-1], y.shape[-1], dtype=torch.float64)
    whitened = torch.empty(y.shape, dtype=torch.float64)
    increments = torch.empty(*y.shape[:2], 1, y.shape[3], dtype=torch.float64)
    _means(_arrays(g, y, offset), *_arrays(factor, settled, initial), _arrays(mean, whitened, increments))
    return mean, whitened, increments


def adjoint(
    g: Tensor,
    factor: Tensor,
    settled: Tensor,
    initial: Tensor,
    mean: Tensor,
    whitened: Tensor,
    weight: Tensor,
    steps: int,
) -> tuple[Tensor, ...]:
    """The gradient with respect to G, N, P_1, m_1, y and the offset."""
    rows, state = g.shape[2:]
    groups = len(initial)
    d_g = torch.zeros(steps, groups, rows, state, dtype=torch.float64)
    d_noise = torch.zeros(steps, groups, rows, rows, dtype=torch.float64)
    rest = [torch.empty_like(a) for a in (initial, mean[0], whitened, mean)]
    solution = _arrays(g, factor, settled, initial, mean, whitened)
    fill_adjoint(solution, *_arrays(weight), _arrays(d_g, d_noise), _arrays(*rest))
    return d_g, d_noise, *rest


def smoothed(
    g: Tensor, noise_root: Tensor, initial: Tensor, forward: tuple[Tensor, ...], offset: Tensor
) -> tuple[Tensor, ...]:
    """Filtered means and covariances, smoothed ones, and Cov(z_{t+1}, z_t | x).

    forward: F_t, the steps at which it settles, a_t and w_t.
    """
    (steps, groups, state, sequences) = forward[2].shape
    sizes = [(steps, state, sequences), (steps, state, state)] * 2 + [(steps - 1, state, state)]
    out = [torch.empty(length, groups, *event, dtype=torch.float64) for length, *event in sizes]
    fill_smoothed(_arrays(g, noise_root, initial, *forward, offset), _arrays(*out))
    return tuple(out)


def affine(transition: Tensor, offset: Tensor, start: Tensor, backward: bool = False) -> Tensor:
    """x_{t+1} = transition_t x_t + offset_t from x_0 = start, or backward."""
    out = torch.empty(len(offset) + 1, *start.shape, dtype=torch.float64)
    _affine(*_arrays(transition, offset, start), backward, out.numpy())
    return out


def congruence(transition: Tensor, offset: Tensor, start: Tensor, backward: bool = False) -> Tensor:
    """X_{t+1} = transition_t X_t transition_t' + offset_t from X_0 = start, or backward."""
    out = torch.empty(len(offset) + 1, *start.shape, dtype=torch.float64)
    _congruence(*_arrays(transition, offset, start), backward, out.numpy())
    return out
