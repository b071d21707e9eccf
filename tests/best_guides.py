"""How near to log p(x) the best guide of each structure comes on linear-Gaussian data, exactly: the oracle of Filter.

The best q = prod_t q(z_t | z_{t-1}, x_{1:t}) in E_{p(x)} KL(q(z|x) || p(z|x)) is found from its end. Step s costs
log q_s - log p(z_s | z_{s-1}) - log p(x_s | z_s). Let W_t(z_t, x_{1:t}) be the least that the steps after t cost on
average over q and over what is unknown at time t, x_{t+1:T}. Then W_T = 0, and

    q_t = p(z_t | z_{t-1}) p(x_t | z_t) exp(-W_t(z_t, x_{1:t})) / Z_t(z_{t-1}, x_{1:t})
    W_{t-1}(z_{t-1}, x_{1:t-1}) = E[-log Z_t(z_{t-1}, x_{1:t}) | x_{1:t-1}]

The posterior would have log E in place of E log: that is what the filter loses. In a linear-Gaussian model W_t is a
quadratic form in z_t and the filter's mean m_t, all that x_{1:t} says of later x. Zero means and no controls here.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.parts import kalman
from zoo.parts.kalman import Parameters


class Step(NamedTuple):
    """q_t = N(z_t; B (z_{t-1}, m_{t-1}, e_t), V), e_t = x_t - E[x_t | x_{1:t-1}] the innovation."""

    weight: Tensor  # B (n, 2 n + m)
    covariance: Tensor  # V (n, n)


def moments(p: Parameters, T: int) -> tuple[Tensor, Tensor]:
    """Of the filter, which do not depend on x: innovations' covariances `(T, m, m)`, gains `(T, n, m)`."""
    found = kalman.filter(p, p.emission_matrix.new_zeros(T, p.data_dim))
    P, C = found.predicted_covariances, p.emission_matrix
    S = C @ P @ C.mT + p.emission_covariance
    return S, P @ C.mT @ torch.linalg.inv(S)


def transitions(p: Parameters, T: int) -> list[tuple[Tensor, Tensor]]:
    """(A_t, Q_t); the start is a transition from nowhere."""
    nowhere = torch.zeros_like(p.transition_matrix), p.initial_covariance
    return [nowhere] + [(p.transition_matrix, p.transition_covariance)] * (T - 1)


def log_det(matrix: Tensor) -> Tensor:
    """Half the log determinant of 2 pi times the matrix."""
    return 0.5 * torch.logdet(2 * math.pi * matrix)


def entropy_of_data(p: Parameters, T: int) -> Tensor:
    """E[-log p(x)], nats."""
    S, _ = moments(p, T)
    return sum(log_det(s) for s in S) + T * p.data_dim / 2


def best_filter(p: Parameters, T: int) -> tuple[Tensor, list[Step]]:
    """E[-ELBO] of the best filter, from the recursion backwards, and the filter."""
    n, m = p.state_dim, p.data_dim
    (S, K), C = moments(p, T), p.emission_matrix
    eye_z, zeros = torch.eye(n), torch.zeros
    W, constant, steps = zeros(2 * n, 2 * n), torch.zeros(()), []
    for t, (A, Q) in reversed(list(enumerate(transitions(p, T)))):
        # everything is linear in v = (z_t; z_{t-1}, m_{t-1}, e_t)
        moved = torch.cat([eye_z, -A, zeros(n, n + m)], -1)  # z_t - A z_{t-1}
        seen = torch.cat([-C, zeros(m, n), C @ A, torch.eye(m)], -1)  # x_t - C z_t
        later = torch.block_diag(eye_z, torch.cat([zeros(n, n), A, K[t]], -1))  # (z_t, m_t)
        form = moved.mT @ torch.linalg.solve(Q, moved) + seen.mT @ torch.linalg.solve(p.emission_covariance, seen)
        form = form + later.mT @ W @ later
        V = torch.linalg.inv(form[:n, :n])
        weight = -V @ form[:n, n:]
        given = form[n:, n:] - form[n:, :n] @ V @ form[:n, n:]
        constant = constant + log_det(Q) + log_det(p.emission_covariance) - log_det(V)
        constant = constant + 0.5 * (S[t] * given[2 * n :, 2 * n :]).sum()
        W = given[: 2 * n, : 2 * n]
        steps.insert(0, Step(weight, V))
    return constant, steps


def expected_loss(p: Parameters, steps: list[Step]) -> Tensor:
    """E[-ELBO] of any linear filter, from moments forwards: shares nothing with the recursion backwards."""
    n, m, T = p.state_dim, p.data_dim, len(steps)
    (S, K), C, total = moments(p, T), p.emission_matrix, torch.zeros(())
    joint = torch.zeros(2 * n, 2 * n)  # covariance of (z_{t-1}, m_{t-1}), x from the model and z from the guide
    for t, ((A, Q), step) in enumerate(zip(transitions(p, T), steps, strict=True)):
        V = step.covariance
        noise = torch.block_diag(joint, S[t], V)  # of (z_{t-1}, m_{t-1}, e_t, the guide's noise)
        z = torch.cat([step.weight, torch.eye(n)], -1)
        mean = torch.cat([torch.zeros(n, n), A, K[t], torch.zeros(n, n)], -1)
        moved = z - torch.cat([A, torch.zeros(n, 2 * n + m)], -1)
        missed = torch.cat([torch.zeros(m, n), C @ A, torch.eye(m), torch.zeros(m, n)], -1) - C @ z
        for error, covariance in ((moved, Q), (missed, p.emission_covariance)):
            total = total + log_det(covariance) + 0.5 * torch.linalg.solve(covariance, error @ noise @ error.mT).trace()
        total = total - log_det(V) - n / 2
        both = torch.cat([z, mean])
        joint = both @ noise @ both.mT
    return total


def filter_gap(p: Parameters, T: int) -> float:
    """E[log p(x) - ELBO] of the best filter, nats for a sequence."""
    return (best_filter(p, T)[0] - entropy_of_data(p, T)).item()


def mean_field_gap(p: Parameters, T: int) -> tuple[float, Tensor]:
    """The same of the best q = prod_t q(z_t | x), and its covariances `(T, n, n)`; they do not depend on x.

    KL(q || N(mu, L^{-1})) is least at the means mu and at covariances that invert L's diagonal blocks.
    """
    n = p.state_dim
    z = torch.zeros(T, n, requires_grad=True)

    def log_joint(flat: Tensor) -> Tensor:
        return kalman.log_joint(p, flat.reshape(T, n), torch.zeros(T, p.data_dim))

    precision = -torch.autograd.functional.hessian(log_joint, z.detach().flatten())
    own = torch.stack([precision[t * n : (t + 1) * n, t * n : (t + 1) * n] for t in range(T)])
    return 0.5 * (torch.logdet(own).sum() - torch.logdet(precision)).item(), torch.linalg.inv(own)
