"""log p(x) of sequences: the three averages of the literature, each with its convention.

For sequences x_1..x_N of T_1..T_N frames, with log p the importance-sampled likelihood and L the evidence lower bound,
papers print, in nats per frame and with the sign of a cost,

    a = sum_i -log p(x_i) / sum_i T_i       importance-sampled, pooled over frames
    b = sum_i -L(x_i) / sum_i T_i           the bound, pooled over frames
    c = 1/N sum_i -L(x_i) / T_i             the bound, mean of the sequences' own means

(Krishnan, Shalit and Sontag 2017 name them so.) On short songs they differ by half a nat for one and the same model,
and other files, first frames and starting states move them further. Numbers compare under one convention only, so the
convention is printed with them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.utils._pytree import tree_map

from zoo.infer.call import Purpose, run
from zoo.infer.carry import after, after_first_frame, keyword
from zoo.infer.evaluation.likelihood import Sums, pooled_error, standard_error
from zoo.infer.pair import look_at
from zoo.infer.per_datum import Terms
from zoo.infer.pieces import bytes_of
from zoo.infer.terms import terms
from zoo.parts.aside import held, seeded, streams_kept
from zoo.parts.checks import check_offers, check_sequences, check_tensor, listed, refuse_unfinite, refuse_unobserved
from zoo.parts.door import OnFile, entered, in_pieces, stand_in
from zoo.parts.trajectory.masks import ends, observed_frames

# bytes of all steps of a loop over time; larger than for vectors, as more particles in a piece mean fewer such loops
MAX_BYTES = 2**30

__all__ = ["SequenceLikelihood", "mask_of", "sequence_log_likelihood"]


@runtime_checkable
class ScoresFrames(Protocol):
    """A model that is given some of the observed frames, and says which it scores."""

    def scored(self, mask: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SequenceLikelihood:
    """Bound and log p of N sequences, in nats; tensors are `(N,)`.

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
        """Standard error of `a` for these very sequences, which more particles would remove."""
        return pooled_error(self.log_p_error) * len(self.frames) / self.frames.sum().item()

    @property
    def per_sequence(self) -> tuple[float, float]:
        """Mean over sequences of the bound and of log p, each summed over its sequence, as speech tables print them."""
        return self.bound.mean().item(), self.log_p.mean().item()

    def _pooled_error(self, values: Tensor) -> float:
        """Standard error of sum_i values_i / sum_i T_i, to first order."""
        # a ratio of sums is no mean: long sequences weigh more, and numerator and denominator vary together
        count, frames = len(values), self.frames.double()
        if count == 1:
            return math.nan
        rest = values - frames * (values.sum() / frames.sum())
        return math.sqrt(count / (count - 1) * rest.square().sum().item()) / frames.sum().item()

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
        """The numbers of a results file, by name."""
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
    x: Any,
    u: Any = None,
    mask: Any = None,
    *,
    data: str,
    first: Any = None,
    streams: int | None = None,
    num_particles: int = 100,
    batch_size: int = 32,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
) -> SequenceLikelihood:
    """The averages a, b and c of the pair's log p and bound over sequences, -log p in nats per frame.

    Sequences are taken in batches of about equal length, without needless padding, in evaluation mode. The estimated
    log p of a long sequence rises for a long time with the number of particles; `smc_log_likelihood` needs few.

    Args:
        model, guide: the pair; with `first` or `streams` they take `carry=` too (`zoo.infer.carry`).
        x: `(N, T, D)`, padded behind; anything, NaN too, where the mask is False. x, u and mask take all forms that
            those of `fit` take, data on file and single series among them.
        u: controls `(N, T, C)`.
        mask: bool `(N, T)`, or `(N, T, D)` for models that take it: True where observed; None: everywhere. A frame
            counts as scored when any of its entries is.
        data: file and split of the data, such as "jsb test (polyphonic_music.npz)"; printed with the numbers.
        first: `(N, D)`, the frame before each sequence, an input and never scored: SRNN's convention. Models that
            take no such frame ignore it.
        streams: carry the state over, as SRNN's own evaluation does: row i + streams starts from the state in which
            row i ended. None: every row starts from the model's start. The carried state is computed from one draw of
            the guide, and log p of a row is conditional on it. Every row of a batch is run to the batch's last observed
            frame; the frames after its own end count as missing.
        num_particles: K.
        batch_size: sequences at a time; with `streams`, that many.
        max_bytes: bound on the intermediate results of one piece of particles (estimated from a run with one).
        seed: starts a random stream of the call's own; None uses and advances the caller's.

    Raises:
        ValueError: no name for the data, shapes that do not fit, a sequence without an observed frame, values that are
            not finite where observed; names sequence and frame. Streams of a model whose state is not carried over.
        TypeError: x, u, mask or first holds no numbers.
    """
    if not isinstance(data, str) or not data.strip():
        raise ValueError("data: expected file and split of the data, in words; without them no two numbers compare")
    if num_particles < 1 or batch_size < 1 or (streams is not None and streams < 1):
        raise ValueError(f"expected at least one particle, sequence and stream, got {num_particles=}, {batch_size=}, "
                         f"{streams=}")  # fmt: skip
    if streams is not None:
        check_offers("streams", model, "carry_on", advice="each of its sequences starts anew")
    x, u, mask, first = sequences(model, guide, x, u, mask, first, on_file=True)
    observed = checked(x, u, mask, first)
    seen = observed_frames(stand_in(x), observed)
    scored = scored_frames(model, seen)
    sums = Sums(len(x), x.device)
    carry = None
    with torch.no_grad(), held(model, guide), seeded(seed):
        for rows, T in in_batches(model, guide, seen, streams or batch_size, in_order=bool(streams)):
            args = tuple(None if v is None else v[rows, :T] for v in (x, u, None if mask is None else observed))
            carry = _begin(model, None if first is None else first[rows], carry, len(rows))
            # an error names the row by its place in x, not in the batch
            look_at(model, guide, args, keyword(carry), rows)
            for run_of_some in _runs(model, guide, args, carry, num_particles, max_bytes):
                sums.add(rows, run_of_some)
            if streams:
                # one draw of its own: a mean over particles of states is no state that the model could be in
                latents = run(model, guide, args, keyword(carry), 1, Purpose(sample_all=True)).latents
                carry = after(model, latents, args, carry, len(rows))
            else:
                carry = None
    refuse_nan_weights(sums.lost)
    found = sums.estimates(num_particles)
    given = int((seen & ~scored).sum())
    convention = ", ".join([
        "first frame given and not scored" if first is not None else "first frame scored",
        *([f"{given} observed frames given and not scored"] if given else []),
        f"state carried from sequence i to i + {streams}" if streams else "each sequence from its own start",
    ])  # fmt: skip
    return SequenceLikelihood(data, convention, found.per_datum, found.per_datum_error, found.elbo, found.elbo_error,
                              scored.sum(1), num_particles)  # fmt: skip


def in_batches(
    model: Any, guide: Any, seen: Tensor, size: int, *, in_order: bool = False
) -> Iterator[tuple[Tensor, int]]:
    """Yields batches: row numbers of sequences of about equal length, and the number of frames to the last observed.

    Args:
        seen: bool `(N, T)`, True in the frames of which any entry is observed.
        size: rows of a batch.
        in_order: keep the rows in their order, in place of an order by length.
    """
    N, T = seen.shape
    last = ends(seen.unsqueeze(-1), seen)
    own, own_frames = getattr(model, "sizes", (None, None))
    whole = isinstance(guide, AutoGuide)
    # a model or an autoguide with parameters of each sequence, or of each frame, takes all of them, in their order
    if own is not None or whole:
        size, in_order = N, True
    if own_frames is not None or whole:
        last = torch.full_like(last, T)
    order = torch.arange(N, device=seen.device) if in_order else last.sort(stable=True).indices
    for rows in order.split(size):
        yield rows, int(last[rows].max())


def scored_frames(model: Any, seen: Tensor) -> Tensor:
    """The frames that the model scores, bool `(N, T)`, among those of which any entry is observed.

    Raises:
        ValueError: a sequence without one; names it.
    """
    scored = model.scored(seen) if isinstance(model, ScoresFrames) else seen
    empty = (~scored.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"x: {type(model).__name__} scores no frame of sequences {listed(empty)}, it is given all of "
                         "them: leave them out")  # fmt: skip
    return scored


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


def _runs(
    model: Callable, guide: Callable, args: tuple, carry: Any, num_particles: int, max_bytes: int
) -> Iterator[Terms]:
    """The terms of all particles, in pieces of about `max_bytes`."""

    def some(count: int) -> Terms:
        return terms(model, guide, *args, num_particles=count, **keyword(carry))

    # neither run may shift the random stream; the first one checks the pair, which takes more memory, so two
    with streams_kept():
        some(1)
        each = bytes_of(lambda: some(1))
    piece = max(1, min(num_particles, max_bytes // max(each, 1)))
    for done in range(0, num_particles, piece):
        yield some(min(piece, num_particles - done))


def _begin(model: Any, first: Tensor | None, carry: Any, count: int) -> Any:
    """The carry of a batch: None, one made of the first frames, or the carried one with the first frames as its x."""
    if carry is None:
        return None if first is None else after_first_frame(model, first)
    # the last batch may have fewer streams
    carry = tree_map(lambda v: v[:count], carry)
    return carry if first is None or not hasattr(carry, "_replace") else carry._replace(x=first)


def sequences(
    model: Any, guide: Any, x: Any, u: Any, mask: Any, first: Any, *, on_file: bool = False
) -> tuple[Any, Any, Tensor | None, Tensor | None]:
    """x, u, mask and first as tensors; x and u may stay on file."""
    # left out where it is None, since a data set may yield them beside x
    given = (u, mask) if mask is not None else () if u is None else (u,)
    found, more, rest = entered((model, guide), x, given, {"first": first}, names=("x", "u", "mask"), on_file=on_file)
    controls, observed = (*more, None, None)[:2]
    return found, controls, *(v[:] if isinstance(v, OnFile) else v for v in (observed, rest["first"]))


def checked(x: Tensor | OnFile, u: Tensor | OnFile | None, mask: Tensor | None, first: Tensor | None) -> Tensor:
    """Checks x, u, mask and first; returns the mask, True for all frames where there is none."""
    check_sequences(stand_in(x), None, None, stand_in(u), mask)
    if first is not None:
        _check_first(x, first)
    observed = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    refuse_unobserved(observed, ": leave it out, as there is nothing to score")
    # also under `pyro.enable_validation(False)`: an evaluation takes minutes, and its numbers are printed
    if isinstance(x, Tensor):
        refuse_unfinite(x, observed)
        return observed
    for start, some in in_pieces(x):
        refuse_unfinite(some, observed[start : start + len(some)], start=start)
    return observed


def _check_first(x: Tensor | OnFile, first: Tensor) -> None:
    check_tensor(first, "first")
    if first.shape != (len(x), x.shape[-1]):
        raise ValueError(f"first: expected shape ({len(x)}, {x.shape[-1]}), got {tuple(first.shape)}")
    if not first.isfinite().all():
        row = int((~first.isfinite()).any(-1).nonzero()[0])
        raise ValueError(f"first: NaN or infinite, first for sequence {row}, counted from 0")


def refuse_nan_weights(lost: Tensor) -> None:
    """Refuses log weights of which some are NaN; `lost` `(N,)` says in which sequences.

    Raises:
        ValueError: names the sequences.
    """
    if lost.any():
        bad = listed(lost.nonzero().flatten().tolist())
        raise ValueError(f"the log weights of sequences {bad} are NaN: look at their frames")
