"""The recursions of `zoo.parts.kalman.engines.pytorch` as loops compiled by numba, for tensors on the CPU.

The same functions, in the same layout, with the same results to rounding; what they compute is explained there. One
difference in how: parameters that do not change in time make the covariances settle. Once a step changes none of them
by more than its own rounding, nothing that depends on covariances alone is computed again; what is left out is of the
size of the errors that the further steps would have made.
"""

import numpy as np
import torch
from torch import Tensor

from zoo.parts.kalman.engines.small_matrices import (
    EPS,
    add_product,
    add_transposed_product,
    cholesky,
    compiled,
    root_of,
    symmetric,
    triangularise,
)


@compiled
def _roots(covariance, rounding, out, fine):
    for t in range(covariance.shape[0]):
        for p in range(covariance.shape[1]):
            matrix = covariance[t, p]
            if symmetric(matrix) and cholesky(matrix, out[t, p]):  # the common case, at a third of the cost
                fine[t, p] = True
            else:
                fine[t, p] = root_of(matrix, rounding, out[t, p])


@compiled
def _factors(g, noise, noise_root, first, steps, out, settled):
    """Fills out[t, p] = F_t until it settles, and settled[p] with the last t that was filled."""
    rows, state = g.shape[2], g.shape[3]
    data = rows - state
    product, matrix = np.empty((rows, state)), np.empty((rows, rows))
    array = np.empty((rows, state + rows))
    constant = g.shape[0] == 1 and noise.shape[0] == 1
    for p in range(out.shape[1]):
        settled[p] = steps - 1
        for t in range(steps):
            ti, tn = min(t, g.shape[0] - 1), min(t, noise.shape[0] - 1)
            gp, np_ = min(p, g.shape[1] - 1), min(p, noise.shape[1] - 1)
            spread = first[p] if t == 0 else out[t - 1, p, data:, data:]
            product[:] = 0.0
            for i in range(rows):
                for k in range(state):
                    factor = g[ti, gp, i, k]
                    for j in range(k + 1):
                        product[i, j] += factor * spread[k, j]
            for i in range(rows):
                for j in range(i + 1):
                    value = noise[tn, np_, i, j]
                    for k in range(state):
                        value += product[i, k] * product[j, k]
                    matrix[i, j] = value
            if not cholesky(matrix, out[t, p]):
                array[:, :state] = product
                array[:, state:] = noise_root[tn, np_]
                triangularise(array, out[t, p])
            if constant and t > 0:
                same = True
                for i in range(rows):
                    noise_floor = 0.0
                    for j in range(i + 1):
                        noise_floor += out[t, p, i, j] ** 2
                    noise_floor = 2 * EPS * np.sqrt(noise_floor)
                    for j in range(i + 1):
                        same = same and abs(out[t, p, i, j] - out[t - 1, p, i, j]) <= noise_floor
                if same:
                    settled[p] = t
                    break


@compiled
def _means(g, factor, settled, first, y, offset, mean, whitened, increments):
    """Fills mean[t, p] = a_t, whitened[t, p] = w_t, and increments[t, p]."""
    steps, data, sequences = y.shape[0], y.shape[2], y.shape[3]
    for p in range(y.shape[1]):
        gp, cp = min(p, g.shape[1] - 1), min(p, offset.shape[1] - 1)
        mean[0, p] = first[p]
        log_det = 0.0
        for t in range(steps):
            ti, tc = min(t, g.shape[0] - 1), min(t, offset.shape[0] - 1)
            f, gt = factor[min(t, settled[p]), p], g[ti, gp]
            if t <= settled[p]:
                log_det = 0.0
                for i in range(data):
                    log_det += np.log(f[i, i])
            w = whitened[t, p]
            w[:] = y[t, p]
            add_product(w, gt[:data], mean[t, p], -1.0)
            increments[t, p, 0] = -log_det
            for i in range(data):
                for k in range(i):
                    for d in range(sequences):
                        w[i, d] -= f[i, k] * w[k, d]
                for d in range(sequences):
                    w[i, d] /= f[i, i]
                    increments[t, p, 0, d] -= 0.5 * w[i, d] * w[i, d]
            if t + 1 < steps:
                after = mean[t + 1, p]
                after[:] = offset[tc, cp]
                add_product(after, gt[data:], mean[t, p], 1.0)
                add_product(after, f[data:, :data], w, 1.0)


@compiled
def _adjoint(g, factor, settled, first, mean, whitened, weight, d_g, d_noise, d_first, d_mean, d_y, d_offset):
    """Adds to d_g and d_noise, and fills the rest."""
    steps, state, rows = whitened.shape[0], g.shape[3], g.shape[2]
    data = rows - state
    inverse, gain = np.zeros((data, data)), np.empty((state, data))
    closed, spread_g = np.empty((state, state)), np.empty((rows, state))
    information, product = np.empty((state, state)), np.empty((state, state))
    observed = np.empty((state, state))  # C' S^-1 C
    gained, curvature = np.empty((state, data)), np.empty((rows, rows))
    outer, cross = np.empty((rows, rows)), np.empty((rows, state))
    sequences = whitened.shape[3]
    u, smoothed, half = np.empty((rows, sequences)), np.empty((state, sequences)), np.empty((state, sequences))
    scaled = np.empty((data, state))
    for p in range(whitened.shape[1]):
        gp = min(p, g.shape[1] - 1)
        dgp, dnp = min(p, d_g.shape[1] - 1), min(p, d_noise.shape[1] - 1)
        information[:] = 0.0
        d_mean[p] = 0.0  # holds r while the recursion runs
        total = 0.0
        for d in range(weight.shape[1]):
            total += weight[p, d]
        steady = False
        for t in range(steps - 1, -1, -1):
            ti, dti, dtn = min(t, g.shape[0] - 1), min(t, d_g.shape[0] - 1), min(t, d_noise.shape[0] - 1)
            f, gt = factor[min(t, settled[p]), p], g[ti, gp]
            spread = first[p] if t == 0 else factor[min(t - 1, settled[p]), p, data:, data:]
            if t == steps - 1 or t < settled[p] or g.shape[0] > 1:
                steady = False
                for j in range(data):
                    inverse[j, j] = 1.0 / f[j, j]
                    for i in range(j + 1, data):
                        value = 0.0
                        for k in range(j, i):
                            value -= f[i, k] * inverse[k, j]
                        inverse[i, j] = value / f[i, i]
                gain[:] = 0.0
                add_product(gain, f[data:, :data], inverse, 1.0)
                closed[:] = gt[data:]
                add_product(closed, gain, gt[:data], -1.0)
                scaled[:] = 0.0
                add_product(scaled, inverse, gt[:data], 1.0)
                observed[:] = 0.0
                add_transposed_product(observed, scaled, scaled)
                cross[:] = 0.0
                add_product(cross, gt, spread, 1.0)
                for i in range(rows):
                    for j in range(state):
                        value = 0.0
                        for k in range(j + 1):
                            value += cross[i, k] * spread[j, k]
                        spread_g[i, j] = value
            if not steady:
                gained[:] = 0.0
                add_product(gained, information, gain, 1.0)
                curvature[:data, :data] = 0.0
                add_transposed_product(curvature[:data, :data], inverse, inverse)
                add_transposed_product(curvature[:data, :data], gain, gained)
                curvature[data:, :data] = -gained
                curvature[:data, data:] = -gained.T
                curvature[data:, data:] = information
            r, upper, lower = d_mean[p], d_y[t, p], d_offset[t, p]
            u[data:] = r
            u[:data] = 0.0
            add_transposed_product(u[:data], inverse, whitened[t, p])
            add_product(u[:data], gain.T, r, -1.0)
            r[:] = 0.0
            add_transposed_product(r, gt, u)
            smoothed[:] = mean[t, p]  # and L L' r_{t-1}
            half[:] = 0.0
            add_transposed_product(half, spread, r)
            add_product(smoothed, spread, half, 1.0)
            for i in range(data):
                for d in range(sequences):
                    upper[i, d] = -weight[p, d] * u[i, d]
            for i in range(state):
                for d in range(sequences):
                    lower[i, d] = weight[p, d] * u[data + i, d]
            for i in range(rows):
                side = upper[i] if i < data else lower[i - data]
                sign = -1.0 if i < data else 1.0
                for j in range(i + 1):
                    value = 0.0
                    for d in range(sequences):
                        value += side[d] * u[j, d]
                    outer[i, j] = sign * value
                for j in range(state):
                    value = 0.0
                    for d in range(sequences):
                        value += side[d] * smoothed[j, d]
                    cross[i, j] = sign * value
            add_product(cross, curvature, spread_g, -total)
            for i in range(rows):
                for j in range(state):
                    d_g[dti, dgp, i, j] += cross[i, j]
                for j in range(i + 1):
                    value = 0.5 * (outer[i, j] - total * curvature[i, j])
                    d_noise[dtn, dnp, i, j] += value
                    if j < i:
                        d_noise[dtn, dnp, j, i] += value
            if not steady:
                product[:] = 0.0
                add_product(product, information, closed, 1.0)
                before = information.copy()
                information[:] = observed
                add_transposed_product(information, closed, product)
                steady = True
                for i in range(state):
                    for j in range(state):
                        size = np.sqrt(abs(information[i, i] * information[j, j]))
                        steady = steady and abs(information[i, j] - before[i, j]) <= 2 * EPS * size
        for i in range(state):
            for j in range(state):
                value = -total * information[i, j]
                for d in range(sequences):
                    value += weight[p, d] * d_mean[p, i, d] * d_mean[p, j, d]
                d_first[p, i, j] = 0.5 * value
        d_mean[p] *= weight[p]


@compiled
def _affine(transition, offset, first, backward, out):
    """Fills out with x_0 = first, x_{t+1} = transition_t x_t + offset_t; or, backward, from the last step down."""
    steps = out.shape[0] - 1
    for p in range(out.shape[1]):
        out[steps if backward else 0, p] = first[p]
        for s in range(steps):
            t = steps - 1 - s if backward else s
            source, target = (t + 1, t) if backward else (t, t + 1)
            out[target, p] = offset[t, p]
            add_product(out[target, p], transition[min(t, transition.shape[0] - 1), p], out[source, p], 1.0)


@compiled
def _congruence(transition, offset, first, backward, out):
    """The same for X_{t+1} = transition_t X_t transition_t' + offset_t."""
    steps, state = out.shape[0] - 1, out.shape[3]
    product = np.empty((state, state))
    for p in range(out.shape[1]):
        out[steps if backward else 0, p] = first[p]
        for s in range(steps):
            t = steps - 1 - s if backward else s
            source, target = (t + 1, t) if backward else (t, t + 1)
            matrix = transition[min(t, transition.shape[0] - 1), p]
            product[:] = 0.0
            add_product(product, matrix, out[source, p], 1.0)
            for i in range(state):
                for j in range(i + 1):
                    value = 0.5 * (offset[t, p, i, j] + offset[t, p, j, i])
                    for k in range(state):
                        value += product[i, k] * matrix[j, k]
                    out[target, p, i, j] = value
                    out[target, p, j, i] = value


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [(a.detach() if a.requires_grad else a).contiguous().numpy() for a in tensors]


def root(covariance: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """A root of each covariance `(T, P, n, n)`, and whether there is one."""
    out = torch.empty(covariance.shape, dtype=torch.float64)
    fine = torch.empty(covariance.shape[:2], dtype=torch.bool)
    _roots(*_arrays(covariance), rounding, out.numpy(), fine.numpy())
    return out, fine


def factors(g: Tensor, noise: Tensor, noise_root: Tensor, first: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """F_t until it settles, and for each group the step at which it does."""
    out = torch.empty(steps, len(first), g.shape[-2], g.shape[-2], dtype=torch.float64)
    settled = torch.empty(len(first), dtype=torch.int64)
    _factors(*_arrays(g, noise, noise_root, first), steps, out.numpy(), settled.numpy())
    return out, settled


def means(
    g: Tensor, factor: Tensor, settled: Tensor, first: Tensor, y: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """a_t, w_t and log p(x_t | x_{1:t-1}) without its constant."""
    mean = torch.empty(*y.shape[:2], g.shape[-1], y.shape[-1], dtype=torch.float64)
    whitened = torch.empty(y.shape, dtype=torch.float64)
    increments = torch.empty(*y.shape[:2], 1, y.shape[3], dtype=torch.float64)
    _means(*_arrays(g, factor, settled, first, y, offset, mean, whitened, increments))
    return mean, whitened, increments


def adjoint(
    g: Tensor,
    factor: Tensor,
    settled: Tensor,
    first: Tensor,
    mean: Tensor,
    whitened: Tensor,
    weight: Tensor,
    steps: int,
) -> tuple[Tensor, ...]:
    """The gradient with respect to G, N, P_1, m_1, y and the offset."""
    rows, state = g.shape[2:]
    groups = len(first)
    d_g = torch.zeros(steps, groups, rows, state, dtype=torch.float64)
    d_noise = torch.zeros(steps, groups, rows, rows, dtype=torch.float64)
    rest = [torch.empty_like(a) for a in (first, mean[0], whitened, mean)]
    _adjoint(*_arrays(g, factor, settled, first, mean, whitened, weight, d_g, d_noise, *rest))
    return d_g, d_noise, *rest


def affine(transition: Tensor, offset: Tensor, first: Tensor, backward: bool = False) -> Tensor:
    """x_{t+1} = transition_t x_t + offset_t from x_0 = first, or backward."""
    out = torch.empty(len(offset) + 1, *first.shape, dtype=torch.float64)
    _affine(*_arrays(transition, offset, first), backward, out.numpy())
    return out


def congruence(transition: Tensor, offset: Tensor, first: Tensor, backward: bool = False) -> Tensor:
    """X_{t+1} = transition_t X_t transition_t' + offset_t from X_0 = first, or backward."""
    out = torch.empty(len(offset) + 1, *first.shape, dtype=torch.float64)
    _congruence(*_arrays(transition, offset, first), backward, out.numpy())
    return out
