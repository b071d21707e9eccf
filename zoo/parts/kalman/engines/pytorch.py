"""The recursions behind `zoo.parts.kalman`, in PyTorch: few loops over time, all else for all times at once.

A step of the model in joint form, with y_t = x_t - D_t u_t - d_t and the offset c_t of z_{t+1}:

    (y_t, z_{t+1}) = G_t z_t + (0, c_t) + nu_t,    G_t = [C_t; A_{t+1}],    Cov nu_t = N_t = blockdiag(R_t, Q_{t+1}).

With L_t L_t' = Cov(z_t | x_{1:t-1}) the one factorisation of a step is F_t F_t' = G_t L_t (G_t L_t)' + N_t, F_t lower
triangular: its blocks are S^1/2 (the innovation's spread), K S^1/2 (K the gain) below it, and L_{t+1}.

Layout: time first, then P groups with parameters of their own; vectors are the columns of `(size, D)`, one for each of
the D sequences that share a group's covariances. A time or group axis of length 1 in g, noise and offset means "the
same everywhere". All in float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# relative asymmetry, and negative eigenvalue, of a covariance that pass for rounding: a product of matrices in float32
# is off by some 1e-7 of its largest terms for each of its sums
ALLOWED = 1e-5


def root(covariance: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """A lower triangular root of each matrix, and True where the matrix is symmetric and positive semi-definite."""
    # entry (i, j) in units of both standard deviations, so that the test does not depend on units
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    size = (diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2)).abs().sqrt()
    fine = ((covariance - covariance.mT).abs() <= ALLOWED * size).flatten(-2).all(-1)
    fine &= torch.isfinite(covariance).flatten(-2).all(-1)
    out, info = torch.linalg.cholesky_ex(covariance)
    if not info.any() and fine.all():
        return out, fine
    # a singular covariance: eigenvalues that are zero to rounding are set to zero, and QR makes the root triangular
    values, vectors = torch.linalg.eigh(torch.where(fine[..., None, None], covariance, 0.0))
    largest = values.abs().amax(-1, keepdim=True)
    fine &= (values >= -ALLOWED * largest).all(-1)
    kept = torch.where(values > rounding * values.shape[-1] * largest, values, 0.0)
    singular = triangularise(vectors * kept.sqrt().unsqueeze(-2))
    return torch.where((info == 0)[..., None, None], out, singular), fine


def triangularise(array: Tensor) -> Tensor:
    """F lower triangular with F F' = array array'; a column that is zero to rounding is zero."""
    factor = torch.linalg.qr(array.mT, mode="r").R.mT
    factor = torch.nn.functional.pad(factor, (0, factor.shape[-2] - factor.shape[-1]))
    if (_diagonal(factor).abs() <= _zero(factor)).any():
        factor = _without_zero_pivots(factor)
    # QR leaves signs open; a diagonal that is not negative makes the factor that of Cholesky where both exist
    return factor * torch.where(_diagonal(factor) < 0, -1.0, 1.0).to(array).unsqueeze(-2)


def _diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1)


def _zero(factor: Tensor) -> Tensor:
    """The size of a pivot of each row that is no more than rounding."""
    return 4 * torch.finfo(factor.dtype).eps * factor.norm(dim=-1)


def _without_zero_pivots(factor: Tensor) -> Tensor:
    """A lower triangular root of the same covariance, whose column is zero where its pivot is."""
    # QR goes on below a pivot of zero: that column may hold a part of the rows after it, which is not lost but moved
    # into the columns to its right
    factor, size = factor.clone(), factor.shape[-1]
    for i in range(size):
        gone = (factor[..., i, i].abs() <= _zero(factor)[..., i])[..., None, None]
        if not gone.any():
            continue
        below = factor[..., i + 1 :, i:]
        again = torch.linalg.qr(below.mT, mode="r").R.mT if i < size - 1 else below[..., 1:]
        factor[..., i + 1 :, i:] = torch.where(gone, torch.nn.functional.pad(again, (1, 0)), below)
        factor[..., i, i:] = torch.where(gone.squeeze(-1), 0.0, factor[..., i, i:])
    return factor


def factors(g: Tensor, noise: Tensor, noise_root: Tensor, initial: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """F_t for all t, `(T, P, rows, rows)`, and for each group the step after which F does not change, `(P,)`.

    initial: L_1, `(P, n, n)`.
    """
    # by Cholesky of the joint covariance, three batched calls a step, and again by QR of [G L, N^1/2] for groups in
    # which Cholesky loses digits or fails: the joint covariance squares the condition number, its root does not (exact
    # observations of a diffuse start: NaN by Cholesky, ten digits by QR)
    data = g.shape[-2] - g.shape[-1]

    def step(t: int, spread: Tensor, groups: slice | Tensor, exact: bool) -> Tensor:
        pick = lambda a: a[min(t, len(a) - 1)] if a.shape[1] == 1 else a[min(t, len(a) - 1), groups]  # noqa: E731
        product = pick(g) @ spread
        if exact:
            root = pick(noise_root)
            return triangularise(torch.cat([product, root.expand(*product.shape[:-1], root.shape[-1])], -1))
        return torch.linalg.cholesky_ex(pick(noise) + product @ product.mT).L

    def filtered(groups: slice | Tensor, exact: bool) -> Tensor:
        out, spread = [], initial[groups]
        constant = len(g) == 1 and len(noise) == 1
        for t in range(steps):
            out.append(step(t, spread, groups, exact))
            spread = out[-1][:, data:, data:]
            # a fixed point to the last bit; looked for rarely, since a GPU has to be waited for
            if constant and t % 32 == 31 and torch.equal(out[-1], out[-2]):
                break
        found = torch.stack(out)
        return torch.cat([found, found[-1:].expand(steps - len(out), *found.shape[1:])])

    found = filtered(slice(None), exact=False)
    # the share of a variance that is left after the coordinates before it: a millionth says that six of sixteen digits
    # are gone. Of NaN the comparison is false
    kept = found.diagonal(dim1=-2, dim2=-1).square() / found.square().sum(-1)
    bad = ~(kept > 1e-6).all(-1).all(0)
    if bad.any():
        found = found.contiguous()
        found[:, bad] = filtered(bad, exact=True)
    return found, torch.full((initial.shape[0],), steps - 1)


def _recursion(act: Callable[[Tensor, Tensor], Tensor], transition: Tensor, offset: Tensor, start: Tensor) -> Tensor:
    """x_0 = start, x_{t+1} = act(transition_t, x_t) + offset_t, in about 2 sqrt(T) steps instead of T."""
    # each step costs the dispatch of a few calls whatever its size, so steps are saved, not work (11 times faster for
    # T = 10,000 and one sequence). T is cut into blocks. One loop runs through all blocks at once, from zero, with the
    # products of their transitions; a second one over the blocks finds their starts. An associative scan takes
    # 2 log2(T) steps, but it combines covariances by inverses, and loses digits that factors keep
    steps = len(offset)
    transition = transition.expand(steps, *transition.shape[1:])
    length = max(1, int(steps**0.5)) if steps > 8 else steps
    count = -(-steps // length)
    pad = count * length - steps
    if pad:
        transition = torch.cat([transition, transition.new_zeros(pad, *transition.shape[1:])])
        offset = torch.cat([offset, offset.new_zeros(pad, *offset.shape[1:])])
    transition, offset = transition.unflatten(0, (count, length)), offset.unflatten(0, (count, length))
    local, products = [offset[:, 0]], [transition[:, 0]]
    for t in range(1, length):
        local.append(act(transition[:, t], local[-1]) + offset[:, t])
        products.append(transition[:, t] @ products[-1])
    starts = [start]
    for block in range(count - 1):
        starts.append(act(products[-1][block], starts[-1]) + local[-1][block])
    found = act(torch.stack(products, 1), torch.stack(starts).unsqueeze(1)) + torch.stack(local, 1)
    return torch.cat([start.unsqueeze(0), found.flatten(0, 1)[:steps]])


def affine(transition: Tensor, offset: Tensor, start: Tensor, backward: bool = False) -> Tensor:
    """x_0 = start, x_{t+1} = transition_t x_t + offset_t, `(T + 1, P, n, D)`; backward: from x_T = start downwards."""
    if backward:
        return affine(transition.flip(0), offset.flip(0), start).flip(0)
    return _recursion(lambda matrix, x: matrix @ x, transition, offset, start)


def congruence(transition: Tensor, offset: Tensor, start: Tensor, backward: bool = False) -> Tensor:
    """X_0 = start, X_{t+1} = transition_t X_t transition_t' + offset_t, `(T + 1, P, n, n)`; or backward."""
    if backward:
        return congruence(transition.flip(0), offset.flip(0), start).flip(0)
    found = _recursion(lambda matrix, x: matrix @ x @ matrix.mT, transition, offset, start)
    return (found + found.mT) / 2


def gains(g: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S^-1/2, K and A - K C, from G and F."""
    data = g.shape[-2] - g.shape[-1]
    identity = torch.eye(data, dtype=g.dtype, device=g.device)
    inverse = torch.linalg.solve_triangular(factor[..., :data, :data], identity, upper=False)
    gain = factor[..., data:, :data] @ inverse
    return inverse, gain, g[..., data:, :] - gain @ g[..., :data, :]


def means(
    g: Tensor, factor: Tensor, settled: Tensor, initial: Tensor, y: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The filter's means, innovations and likelihood.

    Returns:
        a_t = E[z_t | x_{1:t-1}], `(T, P, n, D)`; w_t = S^-1/2 (y_t - C a_t), white under the model, `(T, P, m, D)`; and
        log p(x_t | x_{1:t-1}) without its constant, `(T, P, 1, D)`.
    """
    inverse, gain, closed = gains(g, factor)
    mean = affine(closed, gain @ y + offset, initial)[:-1]
    whitened = inverse @ (y - g[..., : y.shape[-2], :] @ mean)
    log_det = inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None, None]
    return mean, whitened, log_det - 0.5 * whitened.square().sum(-2, keepdim=True)


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
    """The gradient of sum_{p, d} weight log p(x_{p, d}) with respect to G, N, P_1, m_1, y and the offset.

    With u_t the derivative with respect to the mean of (y_t, z_{t+1}) given x_{1:t-1}, and Omega_t = -(its second
    derivative), both by a recursion from the last step down,

        u_t = (S^-1 v_t - K' r_t, r_t),    r_{t-1} = G' u_t,    r_T = 0,
        Omega_t = [[S^-1 + K' I_t K, -K' I_t], [-I_t K, I_t]],
        I_{t-1} = C' S^-1 C + (A - K C)' I_t (A - K C),    I_T = 0,

    the derivatives are (Fisher's identity; Koopman & Shephard 1992)

        dN = (u u' - Omega) / 2,    dG = u E[z_t | x]' - Omega G P_t,    E[z_t | x] = a_t + P_t r_{t-1}.

    steps: 1 where G and N are constant in time, for the sums over time; else T.
    """
    data = whitened.shape[-2]
    inverse, gain, closed = gains(g, factor)
    scaled = inverse @ g[..., :data, :]
    observed = scaled.mT @ scaled
    r = affine(closed.mT, scaled.mT @ whitened, torch.zeros_like(mean[0]), backward=True)
    information = congruence(closed.mT, observed, torch.zeros_like(initial), backward=True)
    u = torch.cat([inverse.mT @ whitened - gain.mT @ r[1:], r[1:]], -2)
    gained = information[1:] @ gain
    upper = torch.cat([inverse.mT @ inverse + gain.mT @ gained, -gained.mT], -1)
    curvature = torch.cat([upper, torch.cat([-gained, information[1:]], -1)], -2)
    spread = torch.cat([initial.unsqueeze(0), factor[:-1, :, data:, data:]])
    smoothed = mean + spread @ (spread.mT @ r[:-1])
    total = weight.sum(-1)[:, None, None]
    weighted = weight.unsqueeze(-2) * u
    d_noise = (weighted @ u.mT - total * curvature) / 2
    d_g = weighted @ smoothed.mT - total * curvature @ (g @ spread) @ spread.mT
    if steps == 1:
        d_noise, d_g = d_noise.sum(0, keepdim=True), d_g.sum(0, keepdim=True)
    d_mean = weight.unsqueeze(-2) * r[0]
    d_covariance = (d_mean @ r[0].mT - total * information[0]) / 2
    return d_g, d_noise, d_covariance, d_mean, -weighted[..., :data, :], weighted[..., data:, :]
