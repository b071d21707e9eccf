"""The PyTorch rows of `benchmarks.kalman`: ours, compiled or not, Pyro, torch-kf, the textbook written by hand."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.kalman.problems import FIELDS, Arrays, Cell, serve

Loglik = Callable[[dict[str, Tensor], Tensor], Tensor]


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def torch_program(task: str, cell: Cell, arrays: Arrays, loglik: Loglik, smoother: Loglik | None) -> Any:
    """`loglik(parameters, x)`, its gradient by autograd, and `smoother(parameters, x)` -> means, covariances."""
    p = tensors(arrays)
    x = p.pop("x")
    if task == "smoother" and smoother is None:
        return "no smoother"

    def gradient() -> dict[str, Tensor]:
        leaves = {field: p[field].detach().requires_grad_() for field in FIELDS}
        return dict(zip(FIELDS, torch.autograd.grad(loglik(leaves, x).sum(), list(leaves.values())), strict=True))

    # without the graph: a peer that needs none should not pay for one
    @torch.no_grad()
    def forward() -> Any:
        return loglik(p, x) if task == "likelihood" else smoother(p, x)

    return gradient if task == "gradient" else forward


def at(value: Tensor, t: int, cell: Cell) -> Tensor:
    return value[:, t] if cell.varying else value


# --- ours ------------------------------------------------------------------------------------------------------------


def zoo(task: str, cell: Cell, arrays: Arrays) -> Any:
    from zoo.parts import kalman

    def loglik(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return kalman.marginal_loglik(kalman.Parameters(*(p[field] for field in FIELDS)), x)

    def smoother(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        smoothed = kalman.smoother(kalman.Parameters(*(p[field] for field in FIELDS)), x)
        return smoothed.smoothed_means, smoothed.smoothed_covariances

    return torch_program(task, cell, arrays, loglik, smoother)


def zoo_in_pytorch(task: str, cell: Cell, arrays: Arrays) -> Any:
    """As where numba is not installed."""
    # an import of it then fails, as it does where it is not installed; in a process of its own, since it stays so
    sys.modules["numba"] = None  # type: ignore[assignment]
    return zoo(task, cell, arrays)


# --- by hand ---------------------------------------------------------------------------------------------------------


def by_hand(task: str, cell: Cell, arrays: Arrays) -> Any:
    """The textbook with batched matrices; covariances of shared parameters have no batch axis."""

    def run(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        mean, covariance = p["initial_mean"], p["initial_covariance"]
        mean = mean.expand(len(x), -1)[..., None]
        total, means, covariances = x.new_zeros(len(x)), [], []
        for t, frame in enumerate(x[..., None].unbind(1)):
            if t:
                A = at(p["A"], t, cell)
                mean, covariance = A @ mean, A @ covariance @ A.mT + at(p["Q"], t, cell)
            C = at(p["C"], t, cell)
            projected = C @ covariance
            factor = torch.linalg.cholesky(projected @ C.mT + at(p["R"], t, cell))
            white = torch.linalg.solve_triangular(factor, frame - C @ mean, upper=False)
            gain = torch.linalg.solve_triangular(factor, projected, upper=False)
            log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            total = total - 0.5 * white.square().sum((-2, -1)) - log_det
            mean, covariance = mean + gain.mT @ white, covariance - gain.mT @ gain
            means.append(mean)
            covariances.append(covariance)
        return total - 0.5 * cell.T * cell.data * math.log(2 * math.pi), means, covariances

    def smoother(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        _, means, covariances = run(p, x)
        mean, covariance = means[-1], covariances[-1]
        smoothed = [(mean, covariance)]
        for t in reversed(range(cell.T - 1)):
            A = at(p["A"], t + 1, cell)
            crossed = A @ covariances[t]
            predicted = crossed @ A.mT + at(p["Q"], t + 1, cell)
            gain = torch.cholesky_solve(crossed, torch.linalg.cholesky(predicted)).mT
            mean = means[t] + gain @ (mean - A @ means[t])
            covariance = covariances[t] + gain @ (covariance - predicted) @ gain.mT
            smoothed.append((mean, covariance))
        every_mean, every_covariance = zip(*reversed(smoothed), strict=True)
        return torch.stack(every_mean, 1)[..., 0], torch.stack(every_covariance, 1 if cell.varying else 0)

    return torch_program(task, cell, arrays, lambda p, x: run(p, x)[0], smoother)


# --- Pyro ------------------------------------------------------------------------------------------------------------


def pyro_hmm(task: str, cell: Cell, arrays: Arrays) -> Any:
    """GaussianHMM makes a transition before the first observation, and its vectors are rows."""
    import pyro.distributions as dist

    # its checks of values cost as much as the recursion in small cells
    torch.distributions.Distribution.set_default_validate_args(False)

    def normal(covariance: Tensor, mean: Tensor | None = None) -> dist.MultivariateNormal:
        loc = covariance.new_zeros(covariance.shape[-1]) if mean is None else mean
        return dist.MultivariateNormal(loc, covariance, validate_args=False)

    def loglik(p: dict[str, Tensor], x: Tensor) -> Tensor:
        mean, covariance, A, Q, C, R = (p[field] for field in FIELDS)
        # its first transition leads into z_1, which has to come out as N(m, P). With parameters of every step that is
        # the identity, half of P before it and half of P as its noise. With one A and Q for all steps the state before
        # is the one from which these lead to N(m, P), hence `problem` makes P - Q positive definite
        if cell.varying:
            A = torch.cat([torch.eye(cell.state, dtype=x.dtype).expand_as(A[:, :1]), A[:, 1:]], 1)
            Q = torch.cat([0.5 * covariance[:, None], Q[:, 1:]], 1)
            initial = normal(0.5 * covariance, mean)
        else:
            back = torch.linalg.inv(A)
            covariance = back @ (covariance - Q) @ back.mT
            initial = normal(0.5 * (covariance + covariance.mT), back @ mean)
        hmm = dist.GaussianHMM(initial, A.mT, normal(Q), C.mT, normal(R), validate_args=False, duration=cell.T)
        return hmm.log_prob(x)

    return torch_program(task, cell, arrays, loglik, None)


# --- torch-kf --------------------------------------------------------------------------------------------------------


def torch_kf(task: str, cell: Cell, arrays: Arrays) -> Any:
    """Covariances of shared parameters have no batch axis here either; `filter` takes constant parameters only."""
    from torch_kf import GaussianState, KalmanFilter

    def start(p: dict[str, Tensor]) -> tuple[KalmanFilter, GaussianState]:
        mean, covariance = p["initial_mean"][..., None], p["initial_covariance"]
        mean = mean if cell.varying else mean.expand(cell.batch, -1, -1)
        covariance = covariance if cell.varying else covariance[None]
        return KalmanFilter(p["A"], p["C"], p["Q"], p["R"]), GaussianState(mean, covariance)

    def loglik(p: dict[str, Tensor], x: Tensor) -> Tensor:
        model, state = start(p)
        total = 0.0
        for t, frame in enumerate(x[..., None].unbind(1)):
            if t:
                state = model.predict(state, process_matrix=at(p["A"], t, cell), process_noise=at(p["Q"], t, cell))
            matrix, noise = at(p["C"], t, cell), at(p["R"], t, cell)
            projection = model.project(state, measurement_matrix=matrix, measurement_noise=noise)
            total = total + projection.log_likelihood(frame)
            state = model.update(
                state, frame, projection=projection, measurement_matrix=matrix, measurement_noise=noise
            )
        return total

    def smoother(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        model, state = start(p)
        smoothed = model.rts_smooth(model.filter(state, x.transpose(0, 1)[..., None], return_all=True))
        return smoothed.mean[..., 0].transpose(0, 1), smoothed.covariance[:, 0]

    if task == "smoother" and cell.varying:
        return "its smoother takes constant parameters only"
    return torch_program(task, cell, arrays, loglik, smoother)


ROWS: dict[str, Callable[[str, Cell, Arrays], Any]] = {
    "zoo": zoo,
    "zoo, without numba": zoo_in_pytorch,
    "PyTorch by hand": by_hand,
    "Pyro": pyro_hmm,
    "torch-kf": torch_kf,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=ROWS)
    warnings.simplefilter("ignore")
    serve(ROWS[parser.parse_args().row])


if __name__ == "__main__":
    main()
