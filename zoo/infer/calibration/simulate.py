"""Data that a model itself draws, with the latents that they were drawn from."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from zoo.infer.sites.programs import batch_rows, program
from zoo.parts.checks import parameter_of
from zoo.parts.door import entered, signature_of, wanted_by
from zoo.parts.trajectory import StateSpace

__all__ = ["Simulated", "data_like", "simulate"]

# Rows that are drawn at once: a trajectory's intermediate results for thousands of rows are larger than the data.
ROWS = 256
# Relative difference of two sums of the same log densities in single precision.
ROUNDING = 1e-4


@runtime_checkable
class DrawsArguments(Protocol):
    """A model whose sites do not observe its arguments as they stand: it draws its latents and arguments itself."""

    def drawn_arguments(self, x_like: Tensor, **kwargs: Any) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
        """Latents by site, x, and the other arguments: the drawn ones, and those that were given."""
        ...


class Simulated(NamedTuple):
    """Draws from p(x, z). N: rows.

    Attributes:
        latents: site -> `(N, ...)`.
        x, kwargs: the model's arguments, the drawn data in place of those that were given.
        log_likelihood: log p(x | z) of each row, `(N,)`.
    """

    latents: dict[str, Tensor]
    x: Tensor
    kwargs: dict[str, Any]
    log_likelihood: Tensor


def data_like(model: Callable, x_like: Any, num_data: int, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """x and the other arguments with `num_data` rows: those that were given over and over, or zeros as x.

    Raises:
        ValueError: no `x_like` for a model whose `data_dim` does not say the shape of x; an empty one; a mask or
            condition with another number of rows.
        TypeError: `x_like` holds no numbers.
    """
    if x_like is None:
        size = getattr(model, "data_dim", None)
        # a model of sequences makes them of any number of frames
        of_frames = "T" in inspect.signature(getattr(model, "generate", data_like)).parameters
        if not isinstance(size, int) or of_frames or isinstance(model, StateSpace):
            reason = "it has no whole data_dim" if not isinstance(size, int) else "sequences of any number of frames"
            raise ValueError(
                f"simulation_based_calibration: x_like: {type(model).__name__} does not say the shape of its data "
                f"({reason}); give x of that shape, one row or more"
            )
        like = parameter_of(model) if isinstance(model, nn.Module) else None
        x_like = torch.zeros(1, size) if like is None else like.detach().new_zeros(1, size)
        # as many rows as a mask or condition has, so that it is used over and over with them
        _, _, kwargs = entered((model,), x_like, (), kwargs, names=("x_like",))
        most = max((len(v) for v in kwargs.values() if isinstance(v, Tensor) and v.dim()), default=1)
        x_like = x_like.expand(most, -1)
    names = ("x_like", *wanted_by(model).names[1:])
    x_like, others, kwargs = entered((model,), x_like, (), kwargs, names=names)
    # a data set may yield a mask or condition beside x
    kwargs = dict(zip(names[1:], others, strict=False)) | kwargs
    if x_like.dim() == 0 or not len(x_like):
        raise ValueError(f"x_like: expected at least one row, got shape {tuple(x_like.shape)}")
    # a row of the data each, by their names; of others nobody knows
    for name in kwargs.keys() & {"mask", "y", "c"}:
        value = kwargs[name]
        if isinstance(value, Tensor) and value.dim() and len(value) != len(x_like):
            raise ValueError(f"{name}: expected {len(x_like)} rows, as many as x_like, got shape {tuple(value.shape)}")
    rows = torch.arange(num_data, device=x_like.device) % len(x_like)
    (x, *_), keywords = batch_rows(x_like, (), kwargs, rows)
    return x, keywords


@torch.no_grad()
def simulate(model: Callable, x_like: Tensor, kwargs: dict[str, Any]) -> Simulated:
    """Draws latents and data from the model, in the shape of `x_like`; arguments that it does not observe stay.

    A state space that feeds x back draws it frame by frame, by `generate`, all others by `poutine.uncondition`.

    Raises:
        ValueError: a model that cannot generate: it reads x elsewhere than at its site and is no state space, observes
            something that is none of its arguments, observes nothing, or has a latent without a value for each row.
    """
    found = []
    for start in range(0, len(x_like), ROWS):
        (x, *_), keywords = batch_rows(x_like, (), kwargs, slice(start, start + ROWS))
        found.append(_some(model, x, keywords))

    def joined(name: str) -> Any:
        # arguments without a batch axis are the same in all pieces; drawn ones, and those with one, are laid end to end
        given = kwargs.get(name)
        batched = isinstance(given, Tensor) and given.dim() > 0 and len(given) == len(x_like)
        return torch.cat([one.kwargs[name] for one in found]) if batched or given is None else given

    return Simulated(
        {name: torch.cat([one.latents[name] for one in found]) for name in found[0].latents},
        torch.cat([one.x for one in found]),
        {name: joined(name) for name, value in found[0].kwargs.items() if value is not None},
        torch.cat([one.log_likelihood for one in found]),
    )


def _some(model: Callable, x_like: Tensor, kwargs: dict[str, Any]) -> Simulated:
    """As `simulate`, all rows at once."""
    run, N = program(model), len(x_like)
    if isinstance(model, DrawsArguments):
        drawn, x, kwargs = model.drawn_arguments(x_like, **kwargs)
        return Simulated(drawn, x, kwargs, _log_likelihood(_conditioned(run, drawn, x, kwargs), [*drawn], N))
    trace = _traced(poutine.uncondition(run), x_like, kwargs)
    drawn, data = _sites(trace, N)
    x, kwargs = _with_data(model, data, x_like, kwargs)
    again = _conditioned(run, drawn, x, kwargs)
    if not _agree(trace, again):
        # the first run drew x from states that had seen x_like, and not the x that was drawn
        drawn["z"], x = _fed_back(model, [*drawn], x_like, kwargs)
        again = _conditioned(run, drawn, x, kwargs)
    return Simulated(drawn, x, kwargs, _log_likelihood(again, [*drawn], N))


def _traced(run: Callable, x: Tensor, kwargs: dict[str, Any]) -> Any:
    trace = prune_subsample_sites(poutine.trace(run).get_trace(x, **kwargs))
    trace.compute_log_prob()
    return trace


def _conditioned(run: Callable, latents: dict[str, Tensor], x: Tensor, kwargs: dict[str, Any]) -> Any:
    return _traced(poutine.condition(run, data=latents), x, kwargs)


def _samples(trace: Any) -> dict[str, Any]:
    nodes = trace.nodes.items()
    return {n: s for n, s in nodes if s["type"] == "sample" and not s["infer"].get("_deterministic")}


def _sites(trace: Any, N: int) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Latent sites with their draws, and observed sites with the given and the drawn value."""
    drawn, data = {}, {}
    for name, site in _samples(trace).items():
        value = site["value"]
        if site["infer"].get("was_observed"):
            data[name] = site["infer"]["obs"], value
        elif not value.dim() or len(value) != N:
            raise ValueError(
                f"site {name!r}: expected a value for each of {N} rows, got shape {tuple(value.shape)}; a guide is "
                "calibrated on latents in the batch plate"
            )
        else:
            drawn[name] = value
    if not drawn or not data:
        raise ValueError(f"the model has no {'observed' if drawn else 'latent'} site: there is nothing to calibrate")
    return drawn, data


def _with_data(
    model: Callable, data: dict[str, tuple[Tensor, Tensor]], x_like: Tensor, kwargs: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """The model's arguments with the drawn values in place of the given ones."""
    first = next(iter(signature_of(model).parameters))
    given_as = {first: x_like} | kwargs
    found: dict[str, Tensor] = {}
    for site, (given, value) in data.items():
        # a program may fill or convert what it observes, which then is no longer the argument itself
        name = site if site in given_as else next((n for n, a in given_as.items() if a is given), None)
        if name is not None and getattr(given_as[name], "shape", None) == value.shape:
            # a class is an integer where it is drawn, and may be asked for as a number
            found[name] = value.to(given_as[name].dtype)
        elif (whole := next((n for n, a in given_as.items() if _is_slice(given, a)), None)) is not None:
            # the rest of the argument stays: a memory of past frames, a row's own settings
            found[whole] = found.get(whole, given_as[whole].clone())
            start = given.storage_offset() - given_as[whole].storage_offset()
            found[whole].as_strided(given.shape, given.stride(), start).copy_(value)
        else:
            wanted = "none of the model's arguments" if name is None else f"a part of the argument {name!r}"
            masked = "; without a mask it may do so" if kwargs.get("mask") is not None else ""
            raise ValueError(
                f"site {site!r}: {type(model).__name__} observes {wanted} ({[*given_as]}); to generate data it must "
                f"observe its arguments or slices of them, under their names or as they are{masked}. A model that "
                "observes something else states drawn_arguments(x_like, ...), as WithMask does"
            )
    x = found.pop(first, x_like)
    return x, kwargs | found


def _is_slice(given: Any, argument: Any) -> bool:
    """Tells whether an observed value is a view of an argument, into a copy of which a drawn one can be written."""
    return (
        isinstance(given, Tensor)
        and isinstance(argument, Tensor)
        and argument.is_contiguous()
        and given.dtype == argument.dtype
        and given.untyped_storage().data_ptr() == argument.untyped_storage().data_ptr()
    )


def _agree(trace: Any, again: Any) -> bool:
    """Tells whether log p(x, z) at the draws is that of the distributions that they were drawn from."""
    made, found = (
        torch.stack([site["log_prob_sum"].double() for site in _samples(one).values()]) for one in (trace, again)
    )
    return bool((made.sum() - found.sum()).abs() <= ROUNDING * (1 + made.abs().sum()))


def _fed_back(model: Callable, latents: list[str], x_like: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """z and x of a state space that reads its own x, frame by frame."""
    if not isinstance(model, StateSpace) or latents != ["z"]:
        raise ValueError(
            f"{type(model).__name__} cannot generate: p(x, z) at its draws is not the density that they were drawn "
            "from, so the program reads x elsewhere than at its site. State spaces alone draw such x, frame by frame"
        )
    z, x = model.generate(len(x_like), x_like.shape[1], kwargs.get("u"))
    return z, x.to(x_like.dtype)


def _log_likelihood(trace: Any, latents: list[str], N: int) -> Tensor:
    """log p(x | z) of each row, `(N,)`: the sum over the observed sites."""
    total = torch.zeros(N)
    for name, site in _samples(trace).items():
        # the latents are conditioned on, so that they count as observed in this run
        if name in latents:
            continue
        value = site["log_prob"]
        # of plates of one size the batch plate is the outermost, which stands first
        batch = next((frame.dim for frame in site["cond_indep_stack"] if frame.size == N), None)
        inner = [d for d in range(-value.dim(), 0) if d != batch]
        total = total.to(value) + (value.sum(inner) if inner else value)
    return total
