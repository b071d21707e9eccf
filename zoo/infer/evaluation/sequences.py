"""What a pair is worth on sequences: the three averages of the literature, each with its convention.

For sequences x_1..x_N of T_1..T_N frames, with log p the importance-sampled likelihood and L the evidence lower bound,
papers print, in nats per frame and with the sign of a cost,

    a = sum_i -log p(x_i) / sum_i T_i       importance-sampled, pooled over frames
    b = sum_i -L(x_i) / sum_i T_i           the bound, pooled over frames
    c = 1/N sum_i -L(x_i) / T_i             the bound, mean of the sequences' own means

(Krishnan, Shalit and Sontag 2017 name them so.) On short songs they differ by half a nat for one and the same model,
and other files, first frames and starting states move them further: numbers compare under one convention only, which
therefore is part of what is printed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.utils._pytree import tree_map

from zoo.infer import carry as carried
from zoo.infer.evaluation.likelihood import of_sums, pooled_error, standard_error
from zoo.infer.pair import look_at
from zoo.infer.pieces import bytes_of
from zoo.infer.terms import Terms, terms
from zoo.parts.aside import held, seeded, streams_kept

MAX_BYTES = 2**30  # of all steps of a loop over time: larger pieces, fewer loops

__all__ = ["SequenceLikelihood", "mask_of", "sequence_log_likelihood"]


@dataclass(frozen=True)
class SequenceLikelihood:
    """The values of N sequences, in nats; tensors are `(N,)`.

    Attributes:
        data: the data file and split.
        convention: which frames are scored, and from which state each sequence starts.
        log_p: importance-sampled log p(x_i), float64; `log_p_error` its Monte Carlo standard error.
        bound: the evidence lower bound, mean log weight; `bound_error` its Monte Carlo standard error.
        frames: scored frames T_i, int64.
        num_particles: K.
    """

    data: str
    convention: str
    log_p: Tensor
    log_p_error: Tensor
    bound: Tensor
    bound_error: Tensor
    frames: Tensor
    num_particles: int

    @property
    def a(self) -> float:
        """Importance-sampled, pooled over frames: nats per frame, a cost."""
        return -(self.log_p.sum() / self.frames.sum()).item()

    @property
    def b(self) -> float:
        """The bound, pooled over frames: nats per frame, a cost."""
        return -(self.bound.sum() / self.frames.sum()).item()

    @property
    def c(self) -> float:
        """The bound, mean over sequences of means per frame: nats per frame, a cost."""
        return -(self.bound / self.frames).mean().item()

    @property
    def errors(self) -> tuple[float, float, float]:
        """Standard errors of a, b and c, the sequences being a sample of a population; NaN for one sequence."""
        return self._pooled_error(self.log_p), self._pooled_error(self.bound), standard_error(self.bound / self.frames)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of `a` for these very sequences: what more particles would remove."""
        return pooled_error(self.log_p_error) * len(self.frames) / self.frames.sum().item()

    @property
    def per_sequence(self) -> tuple[float, float]:
        """Mean over sequences of the bound and of log p, each summed over its sequence, as speech tables print them."""
        return self.bound.mean().item(), self.log_p.mean().item()

    def _pooled_error(self, values: Tensor) -> float:
        """Of a ratio of sums."""
        count, frames = len(values), self.frames.double()
        rest = values - frames * (values.sum() / frames.sum())
        return (
            math.sqrt(count / (count - 1) * rest.square().sum().item()) / frames.sum().item() if count > 1 else math.nan
        )

    def __str__(self) -> str:
        shown = [
            f"{name} = {getattr(self, name):.3f} +- {error:.3f}" for name, error in zip("abc", self.errors, strict=True)
        ]
        bound, log_p = self.per_sequence
        return (
            f"{self.data}: {', '.join(shown)} (-log p in nats per frame; a: importance-sampled with "
            f"{self.num_particles} particles, Monte Carlo +- {self.monte_carlo_error:.3f}, pooled over frames; "
            "b: bound, pooled over frames; c: bound, mean of per-sequence means); "
            f"per sequence, summed over its frames: bound {bound:.2f}, log p {log_p:.2f} nats; "
            f"{len(self.frames)} sequences, {int(self.frames.sum())} frames scored; {self.convention}"
        )

    def row(self) -> dict[str, Any]:
        """What a results file holds."""
        bound, log_p = self.per_sequence
        numbers = {name: getattr(self, name) for name in "abc"}
        errors = {f"{name}_error": error for name, error in zip("abc", self.errors, strict=True)}
        return {
            "evaluated": self.data,
            "convention": self.convention,
            **numbers,
            **errors,
            "monte_carlo_error": self.monte_carlo_error,
            "bound_per_sequence": bound,
            "log_p_per_sequence": log_p,
            "num_sequences": len(self.frames),
            "num_frames": int(self.frames.sum()),
            "num_particles": self.num_particles,
        }


def sequence_log_likelihood(
    model: Callable,
    guide: Callable,
    x: Tensor,
    u: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    data: str,
    first: Tensor | None = None,
    streams: int | None = None,
    num_particles: int = 100,
    batch_size: int = 32,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
) -> SequenceLikelihood:
    """The averages a, b and c of a pair whose model and guide take `(x, u, mask)`.

    Sequences are taken in batches of about equal length, without the padding that they do not need, in evaluation mode.
    The log p of long ones is far below what it is with more particles; `smc_log_likelihood` needs few.

    Args:
        model, guide: the pair; with `first` or `streams` they take `carry=` too (`zoo.infer.carry`).
        x: `(N, T, D)`, padded behind; anything, NaN too, where the mask is False.
        u: controls `(N, T, C)`.
        mask: bool `(N, T)`, or `(N, T, D)` for models that take it: True where observed; None: everywhere. A frame
            counts as scored when any of its entries is.
        data: what the numbers are of, file and split, such as "jsb test (polyphonic_music.npz)"; it is printed.
        first: `(N, D)`, the frame before each sequence, an input and never scored: SRNN's convention. Models that no
            frame is fed to do without.
        streams: the state at the end of row i is that at the start of row i + streams, as SRNN evaluates (its chunks,
            and its test songs too, one after the other); None: every sequence from its start. The importance weights
            are then given the state, which the guide has drawn. A batch ends with its last observed frame; rows that
            end before go on to there as frames that are missing.
        num_particles: K.
        batch_size: sequences at a time; with `streams`, that many.
        max_bytes: bound on the intermediate results of one piece of particles (estimated from a run with one).
        seed: of a random stream of its own; `None` uses and advances the caller's.

    Raises:
        ValueError: no name for the data, shapes that do not fit, a sequence without an observed frame, values that are
            not finite where observed; they name sequence and frame.
    """
    if not isinstance(data, str) or not data.strip():
        raise ValueError("data: say what the numbers are of, file and split; a number without it cannot be compared")
    if num_particles < 1 or batch_size < 1 or (streams is not None and streams < 1):
        raise ValueError(f"expected at least one particle, sequence and stream, got {num_particles=}, {batch_size=}, "
                         f"{streams=}")  # fmt: skip
    observed = checked(x, u, mask, first)
    seen = observed if observed.dim() == 2 else observed.any(-1)
    sums = torch.zeros(4, len(x), dtype=torch.double, device=x.device)
    sums[:2] = -torch.inf
    carry = None
    with torch.no_grad(), held(model, guide), seeded(seed):
        for rows, T in in_batches(model, guide, seen, streams or batch_size, in_order=bool(streams)):
            args = tuple(None if v is None else v[rows, :T] for v in (x, u, None if mask is None else observed))
            carry = _begin(model, None if first is None else first[rows], carry, len(rows))
            look_at(model, guide, args, carried.keyword(carry), rows)  # the values of every row
            for log_weights in _weights(model, guide, args, carry, num_particles, max_bytes):
                sums[0, rows] = torch.logaddexp(sums[0, rows], log_weights.logsumexp(0))
                sums[1, rows] = torch.logaddexp(sums[1, rows], (2 * log_weights).logsumexp(0))
                sums[2, rows] += log_weights.sum(0)
                sums[3, rows] += log_weights.square().sum(0)
            if streams:
                latents = terms(model, guide, *args, **carried.keyword(carry)).latents
                carry = carried.after(model, latents, args, carry, len(rows))
            else:
                carry = None
    if sums.isnan().any():
        bad = sums.isnan().any(0).nonzero().flatten().tolist()
        raise ValueError(f"the log weights of sequences {bad[:5]} ({len(bad)} in all) are NaN: look at their frames")
    found = of_sums(sums[0], sums[1], sums[2], sums[3], num_particles)
    convention = ", ".join([
        "first frame given and not scored" if first is not None else "first frame scored",
        f"state carried from sequence i to i + {streams}" if streams else "each sequence from its own start",
    ])  # fmt: skip
    return SequenceLikelihood(data, convention, found.per_datum, found.per_datum_error, found.elbo, found.elbo_error,
                              seen.sum(1), num_particles)  # fmt: skip


def in_batches(
    model: Any, guide: Any, seen: Tensor, size: int, *, in_order: bool = False
) -> Iterator[tuple[Tensor, int]]:
    """Rows of about equal length, and the frames up to their last observed one; `seen` `(N, T)`: where any is."""
    N, T = seen.shape
    last = torch.arange(1, T + 1, device=seen.device).mul(seen).amax(1)
    own, own_frames = getattr(model, "sizes", (None, None))
    whole = isinstance(guide, AutoGuide)
    if own is not None or whole:  # parameters of their own: in their order, all at once
        size, in_order = N, True
    if own_frames is not None or whole:
        last = torch.full_like(last, T)
    order = torch.arange(N, device=seen.device) if in_order else last.sort(stable=True).indices
    for rows in order.split(size):
        yield rows, int(last[rows].max())


def mask_of(lengths: Tensor, T: int) -> Tensor:
    """The mask `(N, T)` of padded sequences: True in the first `lengths[i]` frames.

    Raises:
        ValueError: a length below 1 or above T; names the sequence.
    """
    whole = isinstance(lengths, Tensor) and not (lengths.is_floating_point() or lengths.dtype == torch.bool)
    if not whole or lengths.dim() != 1:
        got = f"{lengths.dtype} {tuple(lengths.shape)}" if isinstance(lengths, Tensor) else type(lengths).__name__
        raise ValueError(f"lengths: expected a tensor (N,) of whole numbers, got {got}")
    wrong = ((lengths < 1) | (lengths > T)).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"lengths: sequence {wrong[0]} has {int(lengths[wrong[0]])} frames, expected 1 to T = {T}")
    return torch.arange(T, device=lengths.device) < lengths.unsqueeze(-1)


def _weights(
    model: Callable, guide: Callable, args: tuple, carry: Any, num_particles: int, max_bytes: int
) -> Iterator[Tensor]:
    """The log weights `(k, batch)` of all particles, in pieces of about `max_bytes`, in float64."""

    def run(count: int) -> Terms:
        return terms(model, guide, *args, num_particles=count, **carried.keyword(carry))

    with streams_kept():  # the first checks the pair, which costs more; neither shifts the random stream
        run(1)
        each = bytes_of(lambda: run(1))
    piece = max(1, min(num_particles, max_bytes // max(each, 1)))
    for done in range(0, num_particles, piece):
        yield run(min(piece, num_particles - done)).log_weights.double()


def _begin(model: Any, first: Tensor | None, carry: Any, count: int) -> Any:
    """The state that a batch starts from: None, that of its known frames, or the one carried on, with these frames."""
    if carry is None:
        return None if first is None else carried.after_first_frame(model, first)
    carry = tree_map(lambda v: v[:count], carry)
    return carry if first is None or not hasattr(carry, "_replace") else carry._replace(x=first)


def checked(x: Tensor, u: Tensor | None, mask: Tensor | None, first: Tensor | None) -> Tensor:
    """The mask, after all that can be wrong with the data is refused."""
    if not isinstance(x, Tensor) or x.dim() != 3 or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected a tensor (N, T, D) with at least one sequence and one frame, got {got}")
    for name, value in (("u", u), ("mask", mask), ("first", first)):
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if u is not None and u.shape[:2] != x.shape[:2]:
        raise ValueError(f"u: expected shape ({len(x)}, {x.shape[1]}, control_dim), got {tuple(u.shape)}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape not in (x.shape[:2], x.shape)):
        raise ValueError(
            f"mask: expected torch.bool of shape {tuple(x.shape[:2])} or {tuple(x.shape)}, True where x is observed, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if first is not None and first.shape != (len(x), x.shape[-1]):
        raise ValueError(f"first: expected shape ({len(x)}, {x.shape[-1]}), got {tuple(first.shape)}")
    if first is not None and not first.isfinite().all():
        row = int((~first.isfinite()).any(-1).nonzero()[0])
        raise ValueError(f"first: NaN or infinite, first for sequence {row}, counted from 0")
    observed = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    empty = (~observed.flatten(1).any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask: sequence {empty[0]} has no observed frame ({len(empty)} such in all)")
    bad = (~x.isfinite() & (observed if observed.dim() == 3 else observed.unsqueeze(-1))).any(-1).nonzero().tolist()
    if bad:
        sequence, frame = bad[0]
        raise ValueError(f"x: sequence {sequence}, frame {frame} is NaN or infinite and not masked ({len(bad)} such)")
    return observed
