"""Draws in arviz's container and arviz's diagnostics: the one module that knows arviz.

arviz 0.2x keeps draws in its own `InferenceData`, arviz 1.x in an `xarray.DataTree`. Both answer `container[group]`
with the variables of a group and its attributes. Nothing else is read here, so that either container is taken under
either version.

References:
    Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021 (rank-normalised R-hat and ESS);
    Vehtari, Simpson, Gelman, Yao, Gabry 2024 (Pareto smoothed importance sampling).
"""

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Diagnostics",
    "InferenceData",
    "diagnose",
    "ess_mean",
    "is_inference_data",
    "pareto_k",
    "pareto_k_of_largest",
    "pareto_smoothed",
    "site_draws",
    "tail_size",
    "to_inference_data",
]


class InferenceData(Protocol):
    """Draws by groups: an `arviz.InferenceData` (arviz 0.2x) or an `xarray.DataTree` (arviz 1.x)."""

    def __getitem__(self, group: str, /) -> Any: ...


def _arviz() -> ModuleType:
    # Imported at first use: it takes seconds. 0.2x warns on import, once a day, of "a major refactor", its 1.x.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences numpy on 0/0 in constant coordinates and arviz on more chains than draws."""
    # Both are expected here: `diagnose` judges constant coordinates itself, and the lengths are the caller's choice.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "More chains|Found chain dimension", UserWarning)  # 0.2x, 1.x
        yield


def to_inference_data(
    draws: Mapping[str, Tensor],
    *,
    sample_stats: Mapping[str, Tensor] | None = None,
    observed: Mapping[str, Tensor] | None = None,
    predictive: Mapping[str, Tensor] | None = None,
    log_likelihood: Mapping[str, Tensor] | None = None,
    per_datum: bool = True,
    shared: Collection[str] = (),
    attrs: Mapping[str, object] | None = None,
) -> InferenceData:
    """Draws of any sampler in the container of the arviz at hand: `arviz.InferenceData` or `xarray.DataTree`.

    Args:
        draws: site name -> `(chains, draws, batch, *event)`, or `(chains, draws, *event)` with `per_datum=False`.
        sample_stats: name -> `(chains, draws, ...)`, for example `diverging` (bool).
        observed: name -> `(batch, *event)`, kept in the group `observed_data`.
        predictive: name -> `(chains, draws, batch, *event)`, kept in the group `posterior_predictive`.
        log_likelihood: name -> `(chains, draws, batch)` or `(chains, draws, batch, *event)`.
        per_datum: the third axis is the batch and is named `datum`.
        shared: names of values that all data share, which have no such axis all the same.
        attrs: facts about the run (sampler, seconds, settings), kept on the posterior group.

    Returns:
        The container, with those groups that are not empty.
    """
    posterior = {name: _numpy(value) for name, value in draws.items()}

    def axes(name: str, count: int, batched: bool = True) -> list[str]:
        batch = ["datum"] if batched and name not in shared else []
        return batch + _axes(name, count - len(batch))

    dims = {name: axes(name, value.ndim - 2, per_datum) for name, value in posterior.items()}
    stats = {name: _numpy(value) for name, value in (sample_stats or {}).items()}
    dims |= {name: ["datum"] for name, value in stats.items() if per_datum and value.ndim == 3}
    data = {name: _numpy(value) for name, value in (observed or {}).items()}
    dims |= {name: axes(name, value.ndim) for name, value in data.items()}
    replicated = {name: _numpy(value) for name, value in (predictive or {}).items()}
    groups = {
        "posterior": posterior, "sample_stats": stats, "observed_data": data, "posterior_predictive": replicated,
    }  # fmt: skip
    found = _from_dict({group: values for group, values in groups.items() if values}, dims, dict(attrs or {}))
    if log_likelihood:
        # Made apart: x has an event where it is observed and none where it is scored, and dims go by the name.
        scores = {name: _numpy(value) for name, value in log_likelihood.items()}
        dims = {name: axes(name, value.ndim - 2) for name, value in scores.items()}
        scored = _from_dict({"log_likelihood": scores}, dims, {})
        if hasattr(found, "extend"):  # 0.2x
            found.extend(scored)
        else:
            found["log_likelihood"] = scored["log_likelihood"]
    return found


def _from_dict(groups: dict[str, dict[str, np.ndarray]], dims: dict[str, list[str]], facts: dict[str, object]) -> Any:
    with _quiet():
        # The signature tells the versions apart: 0.2x takes groups by name, 1.x one dictionary of groups.
        if "posterior" in inspect.signature(_arviz().from_dict).parameters:
            return _arviz().from_dict(**groups, dims=dims, posterior_attrs=facts)
        return _arviz().from_dict(groups, dims=dims, attrs={"posterior": facts} if facts else None)


def is_inference_data(value: object) -> bool:
    """Tells an arviz container with a posterior group from anything else."""
    # By the names of its classes, without importing arviz: a caller without draws should not wait for the import.
    return any(
        (c.__name__, c.__module__.split(".")[0]) in (("InferenceData", "arviz"), ("DataTree", "xarray"))
        for c in type(value).__mro__
    ) and hasattr(value, "posterior")


def site_draws(inference_data: InferenceData, sites: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The posterior group as tensors: site -> `(chains, draws, batch, *event)`.

    Args:
        inference_data: an arviz container.
        sites: names and order of the sites; None: all, in the order of the container.

    Raises:
        ValueError: the container has no draws of a site.
    """
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
    """Rank-normalised split R-hat, bulk and tail ESS (Vehtari et al. 2021) of every coordinate.

    A coordinate that never moved in some chain, or holds a NaN, has R-hat infinite and ESS 0. Of a single chain the two
    halves are compared. Takes about 4 ms a coordinate.

    Args:
        draws: site -> `(chains, draws, ...)`.
    """
    out = Diagnostics({}, {}, {})
    for name, value in draws.items():
        flat = value.detach().double().cpu()
        if len(flat) == 1:
            half = flat.shape[1] // 2
            flat = torch.cat([flat[:, :half], flat[:, half : 2 * half]])
        # arviz answers 1 or NaN for a constant, and either would let a stuck chain pass.
        moved = (flat != flat[:, :1]).any(1).all(0) & flat.isfinite().all(1).all(0)
        rhat = _statistic(flat, lambda data: _arviz().rhat(data, method="rank"))
        bulk = _statistic(flat, lambda data: _arviz().ess(data, method="bulk"))
        # The quantiles are named, because the defaults of the two versions differ.
        tail = _statistic(flat, lambda data: _arviz().ess(data, method="tail", prob=(0.05, 0.95)))
        out.rhat[name] = torch.where(moved & rhat.isfinite(), rhat, torch.inf)
        out.ess_bulk[name] = torch.where(moved & bulk.isfinite(), bulk, 0.0)
        out.ess_tail[name] = torch.where(moved & tail.isfinite(), tail, 0.0)
    return out


def ess_mean(draws: Tensor) -> Tensor:
    """ESS for the mean of each coordinate of draws `(chains, draws, ...)`, for the standard error of that mean."""
    return _statistic(draws.double(), lambda data: _arviz().ess(data, method="mean"))


def _statistic(draws: Tensor, statistic: Callable[[InferenceData], Any]) -> Tensor:
    """One of arviz's statistics of draws `(chains, draws, ...)`, for each coordinate."""
    with _quiet():
        found = statistic(to_inference_data({"value": draws}, per_datum=False))
    return torch.as_tensor(np.array(found["value"].values))


def pareto_k(log_weights: Tensor) -> Tensor:
    """Pareto k-hat of importance weights, per datum.

    Below 0.7 the weights *as drawn* have a usable variance. k-hat says nothing about mass that no draw came near, so
    that k-hat alone is never a verdict.

    Args:
        log_weights: `(num_particles, batch)`, log p(x, z) - log q(z), not normalised.

    Returns:
        `(batch,)`; `-inf` where all weights are equal (the guide is the posterior), `inf` where one is NaN or
        +inf, or where the largest weights do not make a tail: four or fewer lie above the rest.

    Raises:
        ValueError: weights that are not `(num_particles, batch)`, or fewer than 30 particles.
    """
    if log_weights.dim() != 2:
        raise ValueError(f"expected log weights of shape (num_particles, batch), got {tuple(log_weights.shape)}")
    if len(log_weights) < 30:
        raise ValueError(f"Pareto k-hat is a fit to the largest fifth of the weights: {len(log_weights)} are too few")
    weights = log_weights.detach().double().T.contiguous()
    finite = weights.max(1).values.isfinite() & ~weights.isnan().any(1)
    # Equal weights, computed in the precision of the input, differ by rounding alone, and the fit would find a tail in
    # the rounding.
    noise = 64 * torch.finfo(log_weights.dtype).eps * weights.abs().max(1).values.clamp(min=1.0)
    equal = weights.max(1).values - weights.min(1).values <= noise
    k = torch.full((len(weights),), torch.inf, dtype=torch.double)
    k[finite & equal] = -torch.inf
    size = tail_size(len(log_weights))
    ordered = weights.sort(-1).values
    tail = (ordered[:, -size:] > ordered[:, -size - 1 : -size]).sum(-1) > 4
    rows = (finite & ~equal & tail).nonzero().flatten()
    if len(rows):
        k[rows] = _psis(weights[rows], size)[1]
    return torch.where(k.isnan(), torch.inf, k)


def tail_size(num_particles: int) -> int:
    """Number of the largest weights that k-hat is fitted to: min(3 sqrt(K), K / 5), as Vehtari et al. 2024 have it."""
    return int(3 * math.sqrt(num_particles)) if num_particles > 225 else num_particles // 5


def pareto_k_of_largest(largest: Tensor, least: Tensor, num_particles: int) -> Tensor:
    """As `pareto_k`, from the `tail_size` + 1 largest log weights of each datum and the least one.

    Args:
        largest: in descending order, `(tail_size + 1, batch)`.
        least: `(batch,)`.
        num_particles: of all weights.
    """
    # k-hat depends on the weights above the last of these alone; the others lie anywhere below.
    others = largest[-1:].expand(num_particles - len(largest) - 1, -1)
    return pareto_k(torch.cat([largest, others, least.unsqueeze(0)]))


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed log weights, normalised over the particles, `(num_particles, batch)`, and k-hat `(batch,)`.

    Weights whose largest make no tail stay as they are.

    Raises:
        ValueError: as `pareto_k`.
    """
    k = pareto_k(log_weights)
    weights = log_weights.detach().double().cpu().log_softmax(0)
    rows = k.isfinite().nonzero().flatten()
    if len(rows):
        weights[:, rows] = _psis(weights[:, rows].T.contiguous(), tail_size(len(weights)))[0].T
    return weights, k


def _psis(log_weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Arviz's smoothed log weights and k-hat of log weights `(batch, num_particles)`, from the `size` largest."""
    with _quiet():
        if hasattr(_arviz(), "psislw"):  # 0.2x
            # 0.2x rounds the size of the tail up, 1.x down; a relative efficiency of next to 1 gives 1.x's size.
            efficiency = log_weights.shape[1] * (3 / size) ** 2 * (1 + 1e-9)
            weights, k = _arviz().psislw(_numpy(log_weights).copy(), efficiency)
            return torch.as_tensor(np.array(weights)), torch.as_tensor(np.atleast_1d(k))
        # 1.x takes log likelihoods, the negative of the log weights.
        draws = to_inference_data({"value": -log_weights.T.unsqueeze(0)})["posterior"]["value"]
        weights, k = draws.azstats.psislw(dim=["chain", "draw"])
        ordered = weights.transpose("datum", "chain", "draw").values
        return torch.as_tensor(ordered[:, 0].copy()), torch.as_tensor(np.array(k.values))


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _axes(name: str, count: int) -> list[str]:
    return [f"{name}_dim_{i}" for i in range(count)]
