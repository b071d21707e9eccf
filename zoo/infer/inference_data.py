"""Draws to `arviz.InferenceData` and arviz's diagnostics: the one module that knows arviz.

arviz takes seconds to import and warns on import about its next major version, so it is imported on first use and that
one warning is silenced here.

References:
    Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021 (rank-normalised R-hat and ESS);
    Vehtari, Simpson, Gelman, Yao, Gabry 2024 (Pareto smoothed importance sampling).
"""

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = [
    "Diagnostics",
    "diagnose",
    "ess_mean",
    "is_inference_data",
    "pareto_k",
    "posterior_draws",
    "to_inference_data",
]


@functools.cache
def _arviz() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "ArviZ is undergoing a major refactor", once a day
        import arviz
    return arviz


@contextmanager
def _quiet() -> Iterator[None]:
    """Without numpy's remarks on 0/0 in constant coordinates and arviz's on more chains than draws: both expected."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "More chains", UserWarning)
        yield


def to_inference_data(
    draws: Mapping[str, Tensor],
    *,
    sample_stats: Mapping[str, Tensor] | None = None,
    observed: Mapping[str, Tensor] | None = None,
    per_datum: bool = True,
    attrs: Mapping[str, object] | None = None,
) -> "InferenceData":
    """Draws of any sampler as an `arviz.InferenceData`.

    Args:
        draws: site name -> `(chains, draws, batch, *event)`, or `(chains, draws, *event)` with `per_datum=False`.
        sample_stats: name -> `(chains, draws, ...)`, for example `diverging` (bool).
        observed: name -> `(batch, *event)`, kept in the group `observed_data`.
        per_datum: name the third axis `datum`.
        attrs: facts about the run (sampler, seconds, settings), kept on the posterior group.
    """
    posterior = {name: _numpy(value) for name, value in draws.items()}
    first = ["datum"] if per_datum else []
    dims = {name: first + _axes(name, value.ndim - 2 - len(first)) for name, value in posterior.items()}
    stats = {name: _numpy(value) for name, value in (sample_stats or {}).items()}
    dims |= {name: ["datum"] for name, value in stats.items() if per_datum and value.ndim == 3}
    data = {name: _numpy(value) for name, value in (observed or {}).items()}
    dims |= {name: ["datum", *_axes(name, value.ndim - 1)] for name, value in data.items()}
    with _quiet():
        return _arviz().from_dict(
            posterior=posterior,
            sample_stats=stats or None,
            observed_data=data or None,
            dims=dims,
            posterior_attrs=dict(attrs or {}),
        )


def is_inference_data(value: object) -> bool:
    """Whether `value` is an `arviz.InferenceData`, without importing arviz to find out."""
    return any(c.__name__ == "InferenceData" and c.__module__.startswith("arviz") for c in type(value).__mro__)


def posterior_draws(inference_data: "InferenceData", sites: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The posterior group as tensors: site -> `(chains, draws, batch, *event)`, in the order of `sites`."""
    posterior = inference_data["posterior"]
    known = [str(name) for name in posterior.data_vars]
    names = known if sites is None else list(sites)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"the InferenceData has no draws of {missing}; it has {sorted(known)}")
    return {name: torch.as_tensor(np.array(posterior[name].values)) for name in names}


class Diagnostics(NamedTuple):
    """R-hat and effective sample sizes of every coordinate: site -> `(batch, *event)`."""

    rhat: dict[str, Tensor]
    ess_bulk: dict[str, Tensor]
    ess_tail: dict[str, Tensor]


def diagnose(draws: Mapping[str, Tensor]) -> Diagnostics:
    """Rank-normalised split R-hat, bulk and tail ESS (Vehtari et al. 2021) of draws `(chains, draws, ...)`.

    A coordinate that never moved in some chain, or holds a NaN, has R-hat infinite and ESS 0: arviz's answers for a
    constant are 1 or NaN, and either would let a stuck chain pass. Of a single chain the two halves are compared. Costs
    about 4 ms a coordinate.
    """
    arviz = _arviz()
    out = Diagnostics({}, {}, {})
    for name, value in draws.items():
        flat = value.detach().double().cpu()
        if len(flat) == 1:
            half = flat.shape[1] // 2
            flat = torch.cat([flat[:, :half], flat[:, half : 2 * half]])
        moved = (flat != flat[:, :1]).any(1).all(0) & flat.isfinite().all(1).all(0)
        with _quiet():
            data = arviz.from_dict(posterior={name: flat.numpy()})
            rhat = torch.as_tensor(np.array(arviz.rhat(data)[name].values))
            bulk = torch.as_tensor(np.array(arviz.ess(data, method="bulk")[name].values))
            tail = torch.as_tensor(np.array(arviz.ess(data, method="tail")[name].values))
        out.rhat[name] = torch.where(moved & rhat.isfinite(), rhat, torch.inf)
        out.ess_bulk[name] = torch.where(moved & bulk.isfinite(), bulk, 0.0)
        out.ess_tail[name] = torch.where(moved & tail.isfinite(), tail, 0.0)
    return out


def ess_mean(draws: Tensor) -> Tensor:
    """ESS for the mean of each coordinate of `(chains, draws, ...)`: the one its standard error needs."""
    with _quiet():
        data = _arviz().from_dict(posterior={"value": _numpy(draws).astype(np.float64)})
        return torch.as_tensor(np.array(_arviz().ess(data, method="mean")["value"].values))


def pareto_k(log_weights: Tensor) -> Tensor:
    """Pareto k-hat of importance weights, per datum.

    Below 0.7 the weights *as drawn* have a usable variance; it says nothing about mass that no draw came near, so it
    is never a verdict alone.

    Args:
        log_weights: `(num_particles, batch)`, log p(x, z) - log q(z), not normalised.

    Returns:
        `(batch,)`; `-inf` where all weights are equal (the guide is the posterior), `inf` where one is NaN or
        +inf, or where too few tail draws (at most four distinct) are left to fit the tail.
    """
    if log_weights.dim() != 2:
        raise ValueError(f"expected log weights of shape (num_particles, batch), got {tuple(log_weights.shape)}")
    if len(log_weights) < 25:
        raise ValueError(f"Pareto k-hat is a fit to the largest fifth of the weights: {len(log_weights)} are too few")
    weights = log_weights.detach().double().T.contiguous()
    finite = weights.max(1).values.isfinite() & ~weights.isnan().any(1)
    # what rounding alone would give: equal weights computed in the precision of the input
    noise = 64 * torch.finfo(log_weights.dtype).eps * weights.abs().max(1).values.clamp(min=1.0)
    equal = weights.max(1).values - weights.min(1).values <= noise
    k = torch.full((len(weights),), torch.inf, dtype=torch.double)
    k[finite & equal] = -torch.inf
    rows = (finite & ~equal).nonzero().flatten()
    if len(rows):
        with _quiet():
            k[rows] = torch.as_tensor(np.atleast_1d(_arviz().psislw(weights[rows].numpy())[1]))
    return torch.where(k.isnan(), torch.inf, k)


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _axes(name: str, count: int) -> list[str]:
    return [f"{name}_dim_{i}" for i in range(count)]
