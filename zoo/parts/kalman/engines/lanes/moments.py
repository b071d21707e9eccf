"""Filter and smoother of eight sequences at a time.

The smoother is that of `zoo.parts.kalman.moments.Backward`: Bryson & Frazier, and Rauch, Tung & Striebel in the lanes
where the first would lose digits. With f_t, P, r_t and I_t as there,

    E[z_t | x] = f_t + P A' r_t,    Cov(z_t | x) = P - P A' I_t A P,    Cov(z_{t+1}, z_t | x) = (1 - L L' I_t) A P,

where L L' = Cov(z_{t+1} | x_{1:t}).
"""

from typing import Any, NamedTuple

from zoo.parts.kalman.engines.lanes.algebra import (
    add_product,
    cholesky,
    choose_all,
    copy,
    mirror,
    multiply,
    square,
    triangularise,
)
from zoo.parts.kalman.engines.lanes.backward import Gains, begin_future, pull, set_gains, take_future, take_gains
from zoo.parts.kalman.engines.lanes.forward import (
    Sizes,
    add_density,
    ahead_of,
    assemble,
    at_sequences,
    begin,
    begin_density,
    end_density,
    move,
    noise_changes,
    read_chunk,
    run_all,
    run_segment,
    set_root,
    take_block,
)
from zoo.parts.kalman.engines.lanes.memory import CHUNK, clear, rows_of, scatter, take
from zoo.parts.kalman.engines.lanes.vectors import ALL, WIDTH, at, choose, inlined, kernel, part, piece, transposed


class Updated(NamedTuple):
    """Moments of p(z_t | x_{1:t}), and scratch."""

    mean: Any  # f
    covariance: Any  # P
    root: Any  # of P, in Joseph form, n x (n + m)
    half: Any  # L L' C' S^-1/2'
    seen: Any


class Smoothed(NamedTuple):
    """Moments of p(z_t, z_{t+1} | x), and scratch."""

    mean: Any
    covariance: Any
    cross: Any
    moved: Any  # A root
    product: Any
    kept: Any  # 1 - root' A' I A root
    inner: Any  # a root of `kept`
    ahead: Any  # L L'


class Conditional(NamedTuple):
    """The moments of `Smoothed` by the second way, and scratch."""

    mean: Any
    covariance: Any
    cross: Any
    array: Any
    factor: Any
    pull: Any  # J
    change: Any


@piece
def take_updated(pool, n, m):
    return Updated(take(pool, 1, n, 1), take(pool, 1, n, n), take(pool, 1, n, n + m), take(pool, 1, n, m), take(pool, 1, m, n))


@piece
def take_smoothed(pool, n, m):
    k = n + m
    return Smoothed(take(pool, 1, n, 1), take(pool, 1, n, n), take(pool, 1, n, n), take(pool, 1, n, k), take(pool, 1, n, k),
                    take(pool, 1, k, k), take(pool, 1, k, k), take(pool, 1, n, n))  # fmt: skip


@piece
def take_conditional(pool, n, m):
    return Conditional(take(pool, 1, n, 1), take(pool, 1, n, n), take(pool, 1, n, n), take(pool, 1, 2 * n, 2 * n + m),
                       take(pool, 1, 2 * n, 2 * n), take(pool, 1, n, n), take(pool, 1, n, 1))  # fmt: skip


@inlined
def update(block, place, gains, updated):
    """Moments of p(z_t | x_{1:t}) of an entry of the history."""
    work, history, m, n = block.work, block.history, block.sizes.data, block.sizes.state
    spread = part(at(history.factor, place), m, m, n, n)
    multiply(updated.seen, gains.scaled, spread)
    multiply(updated.half, spread, transposed(updated.seen))
    multiply(gains.gain, updated.half, gains.inverse)
    # Joseph: (1 - K C) L beside K R^1/2, with the gain K of this update, is a sum of squares for any gain
    multiply(updated.seen, part(work.g, 0, 0, m, n), spread)
    copy(part(updated.root, 0, 0, n, n), spread)
    add_product(part(updated.root, 0, 0, n, n), gains.gain, updated.seen, -1.0)
    multiply(part(updated.root, 0, n, n, m), gains.gain, part(work.noise_root, 0, 0, m, m))
    square(updated.covariance, updated.root)
    copy(updated.mean, at(history.mean, place))
    add_product(updated.mean, updated.half, at(history.white, place), 1.0)


@inlined
def set_kept(block, updated, future, smoothed):
    """A root of 1 - root' A' I_t A root; the bits of the lanes that lose no digits."""
    kept, moved, product = smoothed.kept, smoothed.moved, smoothed.product
    multiply(moved, part(block.work.g, block.sizes.data, 0, moved.rows, moved.rows), updated.root)
    multiply(product, future.information, moved)
    for i in range(kept.rows):
        for j in range(i + 1):
            value = 1.0 if i == j else 0.0
            for k in range(moved.rows):
                value -= moved[k, i] * product[k, j]
            kept[i, j] = value
    good = cholesky(kept, smoothed.inner)
    for i in range(kept.rows):
        # the criterion of `zoo.parts.kalman.moments.backward`: the future has left a thousandth of a variance
        good &= smoothed.inner[i, i] * smoothed.inner[i, i] > 1e-3
    return good


@inlined
def smooth(block, place, updated, future, smoothed):
    """Moments given all of x, by Bryson & Frazier."""
    m, n = block.sizes.data, block.sizes.state
    multiply(smoothed.product, updated.root, smoothed.inner)
    square(smoothed.covariance, smoothed.product)
    multiply(smoothed.cross, part(block.work.g, m, 0, n, n), updated.covariance)
    copy(smoothed.mean, updated.mean)
    add_product(smoothed.mean, transposed(smoothed.cross), future.mean, 1.0)
    square(smoothed.ahead, part(at(block.history.factor, place + 1), m, m, n, n))
    multiply(future.product, future.information, smoothed.cross)
    add_product(smoothed.cross, smoothed.ahead, future.product, -1.0)


@piece
def condition(block, t, updated, smoothed, found):
    """The same by Rauch, Tung & Striebel, from the smoothed moments of z_{t+1}: by factors, for diffuse starts."""
    m, n = block.sizes.data, block.sizes.state
    set_root(block, m, n)
    clear(found.array, 1)
    multiply(part(found.array, 0, 0, n, n + m), part(block.work.g, m, 0, n, n), updated.root)
    copy(part(found.array, 0, n + m, n, n), part(block.work.noise_root, m, m, n, n))
    copy(part(found.array, n, 0, n, n + m), updated.root)
    # the blocks are a root of Cov(z_{t+1} | x_{1:t}), J times that root, and a root of Cov(z_t | x_{1:t}, z_{t+1})
    triangularise(found.array, found.factor)
    for s in range(n):
        j = n - 1 - s
        # a direction without noise says nothing new: its column is zero
        pivot = choose(found.factor[j, j] > 0.0, found.factor[j, j], 1.0)
        for i in range(n):
            value = found.factor[n + i, j]
            for k in range(j + 1, n):
                value -= found.pull[i, k] * found.factor[k, j]
            found.pull[i, j] = value / pivot
    multiply(found.cross, smoothed.covariance, transposed(found.pull))
    square(found.covariance, part(found.factor, n, n, n, n))
    add_product(found.covariance, found.pull, found.cross, 1.0)
    mirror(found.covariance)
    copy(found.change, smoothed.mean)
    add_product(found.change, part(block.work.g, m, 0, n, n), updated.mean, -1.0)
    offset = at(block.frames.offset, ahead_of(block, t))
    for i in range(n):
        found.change[i, 0] -= offset[i, 0]
    copy(found.mean, updated.mean)
    add_product(found.mean, found.pull, found.change, 1.0)


@kernel
def filtering(table, results, sizes, rounding, pool):
    """Predicted and filtered moments, and log p(x_t | x_{1:t-1}) without its constant; True as in `likelihood`."""
    sizes = Sizes(sizes[0], sizes[1], sizes[2], sizes[3], CHUNK)
    block = take_block(pool, table, sizes, rounding)
    n, m = sizes.state, sizes.data
    gains, updated = take_gains(pool, n, m), take_updated(pool, n, m)
    out = (take(pool, CHUNK, 1, 1), take(pool, CHUNK, n, 1), take(pool, CHUNK, n, n), take(pool, CHUNK, n, 1), take(pool, CHUNK, n, n))
    fine = pool[0] <= pool[1]
    for first in range(0, sizes.sequences if fine else 0, WIDTH):
        block = at_sequences(block, first)
        fine &= begin(block) == ALL
        for start in range(0, sizes.steps, CHUNK):
            fine &= run_segment(block, start) == ALL
            count = min(CHUNK, sizes.steps - start)
            for i in range(count):
                fill_filtered(block, start + i, gains, updated, out)
            for k in range(5):
                scatter(rows_of(results, k), first, start, count, out[k])
            move(block.history, 0, block.history, count)
    return fine


@inlined
def fill_filtered(block, t, gains, updated, out):
    """An entry of the chunk of results."""
    history, sums, m, n, i = block.history, block.work.sums, block.sizes.data, block.sizes.state, t % CHUNK
    assemble(block, t)
    if noise_changes(block):
        set_root(block, 0, m)
    begin_density(sums)
    add_density(at(history.factor, i + 1), at(history.white, i), sums)
    end_density(sums)
    copy(at(out[0], i), part(sums, 2, 0, 1, 1))
    copy(at(out[1], i), at(history.mean, i))
    square(at(out[2], i), part(at(history.factor, i), m, m, n, n))
    set_gains(block.work.g, at(history.factor, i + 1), gains)
    update(block, i, gains, updated)
    copy(at(out[3], i), updated.mean)
    copy(at(out[4], i), updated.covariance)


@kernel
def smoothing(table, results, sizes, rounding, pool):
    """Log-likelihoods without their constant, filtered and smoothed moments; True as in `likelihood`."""
    sizes = Sizes(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
    block = take_block(pool, table, sizes, rounding)
    n, m = sizes.state, sizes.data
    state = take_gains(pool, n, m), take_future(pool, n), take_updated(pool, n, m), take_smoothed(pool, n, m), take_conditional(pool, n, m)
    out = (take(pool, CHUNK, n, 1), take(pool, CHUNK, n, n), take(pool, CHUNK, n, 1), take(pool, CHUNK, n, n), take(pool, CHUNK, n, n))
    fine = pool[0] <= pool[1]
    for first in range(0, sizes.sequences if fine else 0, WIDTH):
        block = at_sequences(block, first)
        fine &= run_all(block, rows_of(results, 0))
        begin_future(state[1])
        for s in range((sizes.steps + sizes.segment - 1) // sizes.segment):
            start = ((sizes.steps - 1) // sizes.segment - s) * sizes.segment
            if s > 0:
                move(block.history, 0, block.saved, start // sizes.segment)
                run_segment(block, start)
            smooth_segment(block, start, state, out, results)
    return fine


@piece
def smooth_segment(block, start, state, out, results):
    """The pass back through a segment."""
    sizes = block.sizes
    stop = min(start + sizes.segment, sizes.steps)
    for s in range(stop - start):
        t = stop - 1 - s
        i = t % CHUNK
        if s == 0 or i == CHUNK - 1:
            read_chunk(block, t - i)
        fill_smoothed(block, t, t - start, state, out)
        if i == 0:
            count = min(CHUNK, sizes.steps - t)
            for k in range(4):
                scatter(rows_of(results, k + 1), block.first, t, count, out[k])
            # nothing comes after the last frame
            scatter(rows_of(results, 5), block.first, t, min(count, sizes.steps - 1 - t), out[4])


@inlined
def fill_smoothed(block, t, place, state, out):
    """An entry of the chunk of results; goes on to what the future says of z_{t-1}."""
    gains, future, updated, smoothed, conditional = state
    i, last = t % CHUNK, t == block.sizes.steps - 1
    assemble(block, t)
    if noise_changes(block):
        set_root(block, 0, block.sizes.data)
    set_gains(block.work.g, at(block.history.factor, place + 1), gains)
    update(block, place, gains, updated)
    copy(at(out[0], i), updated.mean)
    copy(at(out[1], i), updated.covariance)
    if last:
        copy(smoothed.mean, updated.mean)
        copy(smoothed.covariance, updated.covariance)
    else:
        good = set_kept(block, updated, future, smoothed)
        if good != ALL:
            # first, since it starts from the moments of z_{t+1}, which the other way overwrites
            condition(block, t, updated, smoothed, conditional)
        smooth(block, place, updated, future, smoothed)
        if good != ALL:
            choose_all(ALL ^ good, conditional.mean, smoothed.mean)
            choose_all(ALL ^ good, conditional.covariance, smoothed.covariance)
            choose_all(ALL ^ good, conditional.cross, smoothed.cross)
    copy(at(out[2], i), smoothed.mean)
    copy(at(out[3], i), smoothed.covariance)
    copy(at(out[4], i), smoothed.cross)
    pull(gains, at(block.history.white, place), future)
