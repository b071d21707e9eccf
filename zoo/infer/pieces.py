"""Terms of a pair in pieces that fit a memory bound: over data points first, then over particles.

Nothing here is random but the guide's own draws. Every estimator of `zoo.infer.evaluation` and of `compare` is a fold
over these pieces.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.infer.call import Purpose, run
from zoo.infer.pair import look_at
from zoo.infer.per_datum import Terms
from zoo.infer.sites.programs import batch_rows, check_num_particles, has_autoguide
from zoo.infer.terms import terms
from zoo.parts.aside import streams_kept
from zoo.parts.checks import check_least
from zoo.parts.door import OnFile
from zoo.parts.given.row_numbers import takes_index

# about the size of a processor's caches: larger pieces are slower, not faster
MAX_BYTES = 2**25


class Piece(NamedTuple):
    """Terms of the data rows `rows` for one chunk of particles; `particles` counts those of this chunk.

    `terms` is the result of `evaluate` where that is another function.
    """

    rows: slice
    particles: int
    terms: Any


@torch.no_grad()
def pieces(
    model: Callable,
    guide: Callable,
    x: Tensor | OnFile,
    args: tuple,
    kwargs: dict[str, Any],
    *,
    num_particles: int,
    max_bytes: int = MAX_BYTES,
    evaluate: Callable[..., Any] | None = None,
    together: bool = False,
) -> Iterator[Piece]:
    """`terms` of the whole of x with `num_particles` particles, without gradients, in pieces of about `max_bytes`.

    Particles are kept together where possible, because each piece runs the guide's network once for its rows. A guide
    that takes `index` is given the row numbers; one of Pyro's autoguides holds parameters for all rows, so only the
    particles are split. A pair without latents has one particle, as all would be the same.

    Args:
        evaluate: a function of the arguments of `terms`; None: `terms`, of pairs without sites outside the batch plate.
        together: where a latent outside the batch plate makes a draw one of all data, only the particles are split.

    Raises:
        ValueError: `num_particles` or `max_bytes` below 1, an empty x, or an error of `terms`, with the rows of x.
    """
    check_num_particles(num_particles)
    check_least(1, max_bytes=max_bytes)
    if len(x) == 0:
        raise ValueError("x is an empty batch")
    kwargs = with_index(guide, x, kwargs)
    step, particles, num_particles = _sizes((model, guide, x, args, kwargs), num_particles, max_bytes, together)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        inputs, keywords = batch_rows(x, args, kwargs, rows)
        # the probe has checked the structure and the values of its rows; this checks the values of every row
        look_at(model, guide, inputs, keywords, start)
        for done in range(0, num_particles, particles):
            now = min(particles, num_particles - done)
            with _noted(rows):
                found = (evaluate or _each_weighted)(model, guide, *inputs, num_particles=now, **keywords)
            yield Piece(rows, now, found)


def _each_weighted(model: Callable, guide: Callable, *args: Any, num_particles: int, **kwargs: Any) -> Terms:
    return run(model, guide, args, kwargs, num_particles)


def _sizes(call: tuple[Any, Any, Any, tuple, dict[str, Any]], num_particles: int, max_bytes: int,
           together: bool) -> tuple[int, int, int]:  # fmt: skip
    """Rows and particles of a piece, and particles in all.

    They follow from a probe of two rows (all rows of an autoguide) and two particles at most.
    """
    model, guide, x, args, kwargs = call
    whole, size, few = has_autoguide(guide), len(x), min(num_particles, 2)
    probe = slice(0, size if whole else min(size, 2))
    inputs, keywords = batch_rows(x, args, kwargs, probe)
    # the probe must not shift the random stream: numbers would depend on `max_bytes`
    with streams_kept():
        # run twice, as the first run checks the pair, which takes more memory
        found = terms(model, guide, *inputs, num_particles=few, **keywords)
        total = bytes_of(lambda: terms(model, guide, *inputs, num_particles=few, **keywords))
    each = total / (few * len(inputs[0]))
    fit = max(1, int(max_bytes // max(each, 1)))
    num_particles = num_particles if found.log_ratios or found.outside else 1
    if whole or (together and found.outside):
        return size, max(1, fit // size), num_particles
    return max(1, min(size, fit // num_particles)), min(num_particles, fit), num_particles


@contextmanager
def _noted(rows: slice) -> Iterator[None]:
    """A context that adds the rows of the piece in x to an error, which itself counts rows from 0 within the piece."""
    try:
        yield
    except ValueError as error:
        if rows.start > 0:
            error.add_note(
                f"The error is that of rows {rows.start} to {rows.stop - 1} of x; row 0 above is row {rows.start} of x."
            )
        raise


def weighted_draws(
    model: Callable,
    guide: Callable,
    x: Tensor,
    args: tuple,
    kwargs: dict[str, Any],
    *,
    num_particles: int,
    sites: Sequence[str],
    joint: bool = False,
    max_bytes: int = MAX_BYTES,
) -> tuple[Tensor, Tensor]:
    """The guide's draws, entries of the sites side by side, `(K, N, d)`, and their log weights `(K, N)`; on the CPU.

    Sites that the guide marks to be summed out are drawn, so that a draw of z is one of q(z | x) = sum_y q(y, z | x).
    With `joint` the latents of all data are one vector, `(K, 1, d)`.

    Raises:
        ValueError: the guide does not sample one of the sites.
    """
    if joint:
        return _joint_draws((model, guide, x, args, kwargs), num_particles, sites, max_bytes)
    latents: list[list[Tensor]] = []
    weights: list[list[Tensor]] = []
    last = None
    options: dict[str, Any] = {"num_particles": num_particles, "max_bytes": max_bytes, "evaluate": all_drawn}
    for rows, _, found in pieces(model, guide, x, args, kwargs, **options):
        _check_sampled(found, sites)
        # pieces of the same rows follow each other: they are joined along the particles, then all rows along the data
        if rows != last:
            latents.append([])
            weights.append([])
            last = rows
        flat = [found.latents[name].reshape(*found.log_weights.shape, -1) for name in sites]
        latents[-1].append(torch.cat(flat, -1).cpu())
        weights[-1].append(found.log_weights.cpu())
    return torch.cat([torch.cat(p) for p in latents], 1), torch.cat([torch.cat(p) for p in weights], 1)


def _joint_draws(call: tuple[Callable, Callable, Tensor, tuple, dict[str, Any]], num_particles: int,
                 sites: Sequence[str], max_bytes: int) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`weighted_draws` of latents outside the batch plate, which all data share: the particles alone are cut."""
    model, guide, x, args, kwargs = call
    kwargs = with_index(guide, x, kwargs)

    def drawn(now: int) -> Terms:
        return run(model, guide, (x, *args), kwargs, now, Purpose(sample_all=True, outside=True))

    latents, weights, done = [], [], 0
    with torch.no_grad():
        with streams_kept():
            drawn(1)
            step = max(1, int(max_bytes // max(1, bytes_of(lambda: drawn(1)))))
        while done < num_particles:
            found = drawn(min(step, num_particles - done))
            _check_sampled(found, sites)
            total = found.log_weights.sum(-1) + found.outside_weights
            latents.append(torch.cat([found.latents[name].reshape(len(total), -1) for name in sites], -1).cpu())
            weights.append(total.cpu())
            done += len(total)
    return torch.cat(latents).unsqueeze(1), torch.cat(weights).unsqueeze(1)


def _check_sampled(found: Terms, sites: Sequence[str]) -> None:
    if missing := [name for name in sites if name not in found.latents]:
        raise ValueError(f"the guide does not sample the sites {missing} of the reference, but {list(found.latents)}")


def all_drawn(model: Callable, guide: Callable, *args: Any, num_particles: int, **kwargs: Any) -> Terms:
    """As `terms`, with sites that the guide marks to be summed out drawn instead."""
    return run(model, guide, args, kwargs, num_particles, Purpose(sample_all=True))


def with_index(guide: Callable, x: Tensor | OnFile, kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs`, with the row numbers for a guide that takes `index` and was not given them."""
    if "index" in kwargs or not takes_index(guide):
        return kwargs
    return kwargs | {"index": torch.arange(len(x), device=x.device)}


def bytes_of(fn: Callable[[], Any]) -> int:
    """Bytes of all tensors that torch functions return while `fn` runs: a bound on those alive at any time."""
    with _Bytes() as count:
        fn()
    return count.total


class _Bytes(TorchFunctionMode):
    # torch reports the peak of a GPU's memory, and not that of the CPU's
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.total += value.numel() * value.element_size()
        return out
