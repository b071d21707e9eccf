"""The conditions that draws meet before they are called a reference: R-hat, effective sizes, divergences, modes.

References: Vehtari et al. 2021 (R-hat and ESS, and their limits 1.01 and 400).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES
from zoo.infer.reference.inference_data import InferenceData, diagnose, site_draws, to_inference_data
from zoo.infer.reference.lbfgs import HasLogDensity, ascend
from zoo.infer.reference.modes import STARTS, Modes, connected
from zoo.parts.checks import check_counts, check_least, check_positive

__all__ = ["CHAINS", "MISSED", "Failure", "NotAReference", "Sampling", "check_chains", "check_draws", "unvisited"]

# Fewer chains that agree with each other say little of the places in which none of them is.
CHAINS = 4
# The Laplace mass that a mode without a draw may have: without a mode of this mass log p(x) is 0.01 nats lower.
MISSED = 0.01

# Without a budget of its own a run may grow to eight times its first length, in three more looks at its draws.
GROWTH = 8
# The R-hat of chains with about ten effective draws each. More draws within the budget would not be enough of them, and
# chains in different modes, whose R-hat lies above too, would stay there.
APART = 1.1

Drawn = TypeVar("Drawn")


class Failure(NamedTuple):
    """One statistic beyond its limit: the worst coordinate and its value, and the number of coordinates that fail."""

    statistic: str
    where: str
    value: float
    limit: float
    failing: int

    def say(self, total: int) -> str:
        """The failure in words; `total` is the number of all coordinates."""
        if self.statistic == "missed mode":
            several = f", one of {self.failing} such" if self.failing > 1 else ""
            share = f"{self.value:.3g} of the Laplace mass{several} (at most {self.limit:g})"
            return f"no chain visited {self.where}, of {share}"
        if self.statistic == "divergences":
            return f"{self.failing} transitions diverged, most in {self.where} (at most {self.limit:g})"
        sense = "at least" if "ESS" in self.statistic else "at most"
        return (
            f"{self.statistic} of {self.where} is {self.value:.4g} ({sense} {self.limit:.4g}; "
            f"{self.failing} of {total} coordinates fail)"
        )


class NotAReference(RuntimeError):
    """Error of a sampler's draws, or a grid's sums, that have failed a check and are no reference.

    Attributes:
        failures: the statistics beyond their limits; empty where the time ran out, and for a grid.
        inference_data: the draws in arviz's container; None where the time ran out during the warm-up, and for a grid.
    """

    def __init__(self, message: str, data: InferenceData | None, failures: tuple[Failure, ...] = ()) -> None:
        super().__init__(message)
        self.inference_data = data
        self.failures = failures


@dataclass(frozen=True)
class Sampling:
    """One run of a sampler: its lengths, its limits and its clock, which starts when the object is made.

    Draws that are too few go on, the adapted chains as they are, until they pass their checks or are `max_samples`. A
    look at a statistic that decides about stopping is a stopping rule: draws that would fail may pass at one of several
    looks by chance. The run doubles between looks, so that they are few: log2(max_samples / num_samples) + 1, four
    by default, and whatever fails with probability p at one look fails with at most four times p at some look. All
    draws are kept, from the first on, and equal seeds give equal first draws whatever the budget.

    Attributes:
        sampler: name, kept with the draws as their attribute `sampler`.
        num_samples, warmup: draws of each chain at the first look, and transitions before them that are not kept.
        max_samples: most draws of each chain; None: eight times `num_samples`.
        time_budget: wall-clock seconds for the whole run; None: no limit.
        max_rhat, min_ess, max_divergences: limits of `check_draws`.
        advice: sentence that ends the message of a failure.
    """

    sampler: str
    num_samples: int
    warmup: int
    max_samples: int | None
    time_budget: float | None
    max_rhat: float
    min_ess: float
    max_divergences: int
    advice: str
    started: float = field(default_factory=lambda: time.perf_counter())

    def __post_init__(self) -> None:
        check_counts(0, max_divergences=self.max_divergences)
        # R-hat is 1 at best
        check_least(1.0, max_rhat=self.max_rhat)
        check_least(0.0, min_ess=self.min_ess)
        # infinite seconds are no limit
        if self.time_budget is not None and self.time_budget != math.inf:
            check_positive(time_budget=self.time_budget)

    @property
    def most(self) -> int:
        """Most draws of each chain."""
        return GROWTH * self.num_samples if self.max_samples is None else self.max_samples

    def run(self, transition: Callable[[int], Drawn], finish: Callable[[list[Drawn]], InferenceData]) -> InferenceData:
        """Draws until `finish` takes the draws, or until the budget is spent.

        Args:
            transition: moves every chain once; takes the number of the transition, from 0.
            finish: makes the container of all draws by `deliver`, which checks them.

        Raises:
            NotAReference: the time is over before the first draw after the warm-up, or an error of `finish` that more
                draws will not cure or that stands when the budget is spent.
        """
        kept: list[Drawn] = []
        length = self.num_samples
        while True:
            in_time = self._extend(kept, length, transition)
            try:
                return finish(kept)
            except NotAReference as refusal:
                if not (in_time and length < self.most and _curable(refusal.failures)):
                    raise
            length = min(2 * length, self.most)

    def _extend(self, kept: list[Drawn], length: int, transition: Callable[[int], Drawn]) -> bool:
        """Draws until `kept` has this length; False where the time is over before."""
        done = 0 if not kept else self.warmup + len(kept)
        while done < self.warmup + length:
            found = transition(done)
            done += 1
            if done > self.warmup:
                kept.append(found)
            if self.time_budget is not None and time.perf_counter() - self.started > self.time_budget:
                break
        if not kept:
            raise NotAReference(self._over(f"{done} of {self.warmup} warm-up draws"), None)
        return len(kept) >= length

    def deliver(
        self,
        values: Mapping[str, Tensor],
        sample_stats: Mapping[str, Tensor],
        missed: Failure | None,
        facts: Mapping[str, object],
        per_datum: bool = True,
    ) -> InferenceData:
        """The draws in arviz's container, checked.

        Args:
            values: site -> `(chains, draws, batch, *event)`.
            sample_stats: `diverging` and others, `(chains, draws, ...)`.
            missed: the result of `unvisited`.
            facts: attributes of the posterior group beside the sampler, the seconds and the warm-up.
            per_datum: the third axis of the values is the batch.

        Raises:
            NotAReference: fewer than `num_samples` draws, for which the time was over, or draws that fail the check;
                the draws are in `.inference_data`.
        """
        own = {"sampler": self.sampler, "seconds": time.perf_counter() - self.started, "warmup": self.warmup}
        data = to_inference_data(values, sample_stats=sample_stats, per_datum=per_datum, attrs=own | dict(facts))
        kept = next(iter(values.values())).shape[1]
        if kept < self.num_samples:
            said = self._over(f"{kept} of {self.num_samples} draws of each chain")
            raise NotAReference(f"{said}; they are in .inference_data", data)
        seconds = time.perf_counter() - self.started
        check_draws(
            data,
            missed,
            max_rhat=self.max_rhat,
            min_ess=self.min_ess,
            max_divergences=self.max_divergences,
            advice=f"Spent: {kept} draws of each chain (max_samples={self.most}), {seconds:.3g} s. {self.advice}",
        )
        return data

    def _over(self, done: str) -> str:
        return f"the time budget of {self.time_budget:.3g} s was over after {done}"


def _curable(failures: Sequence[Failure]) -> bool:
    """Tells whether more draws of the same chains may mend every failure."""
    return bool(failures) and all(
        "ESS" in failure.statistic or (failure.statistic == "R-hat" and failure.value <= APART) for failure in failures
    )


def check_chains(chains: int, num_samples: int, warmup: int, least_warmup: int, max_samples: int | None = None) -> None:
    """Refuses fewer than four chains, which cannot be held against each other, or too few draws of each.

    Raises:
        ValueError: names the settings, with the least that each must be.
    """
    check_counts(0, num_samples=num_samples, chains=chains, warmup=warmup)
    if max_samples is not None:
        check_counts(max_samples=max_samples)
    if max_samples is not None and max_samples < num_samples:
        raise ValueError(f"max_samples: expected num_samples = {num_samples} or more, got {max_samples}")
    if num_samples < 4 or chains < CHAINS or warmup < least_warmup:
        raise ValueError(
            f"need num_samples >= 4, chains >= {CHAINS}, warmup >= {least_warmup}; "
            f"got {num_samples}, {chains}, {warmup}"
        )


def check_draws(
    data: InferenceData,
    missed: Failure | None,
    *,
    max_rhat: float,
    min_ess: float,
    max_divergences: int,
    advice: str,
) -> None:
    """Checks R-hat, bulk and tail ESS of every coordinate, the number of diverging transitions, and the modes.

    Args:
        data: the draws, with `sample_stats["diverging"]`.
        missed: the result of `unvisited`; joins the failures.
        max_rhat, min_ess, max_divergences: limits.
        advice: sentence that ends the message.

    Raises:
        NotAReference: names each statistic beyond its limit, with its worst coordinate. In the message an index such
            as `z[5,3]` reads: datum 5, entry 3.
    """
    found = diagnose(site_draws(data))
    failures = [
        missed,
        _worst("R-hat", found.rhat, max_rhat, 1.0),
        _worst("bulk ESS", found.ess_bulk, min_ess, -1.0),
        _worst("tail ESS", found.ess_tail, min_ess, -1.0),
        _diverged(torch.as_tensor(data["sample_stats"]["diverging"].values), max_divergences),
    ]
    kept = tuple(failure for failure in failures if failure is not None)
    if kept:
        total = sum(value.numel() for value in found.rhat.values())
        said = "; ".join(failure.say(total) for failure in kept)
        raise NotAReference(f"not a reference: {said}. {advice} The draws are in .inference_data", data, kept)


def _worst(statistic: str, values: dict[str, Tensor], limit: float, sign: float) -> Failure | None:
    """The coordinate furthest beyond the limit; `sign` is 1 for an upper limit and -1 for a lower one."""
    excess = {name: sign * (value - limit) for name, value in values.items()}
    site = max(excess, key=lambda name: excess[name].max().item())
    if not excess[site].max() > 0:
        return None
    place = excess[site].argmax()
    index = torch.unravel_index(place, values[site].shape)
    where = f"{site}[{','.join(str(int(i)) for i in index)}]" if index else site
    count = sum(int((e > 0).sum()) for e in excess.values())
    return Failure(statistic, where, values[site].flatten()[place].item(), limit, count)


def _diverged(diverging: Tensor, limit: int) -> Failure | None:
    """Diverging transitions `(chains, draws)` or `(chains, draws, batch)` beyond the limit."""
    count = int(diverging.sum())
    if count <= limit:
        return None
    # NUTS moves all data in one trajectory, so its divergences belong to no datum.
    where = f"datum {int(diverging.sum((0, 1)).argmax())}" if diverging.dim() == 3 else "all sites"
    return Failure("divergences", where, count, limit, count)


def unvisited(density: HasLogDensity, modes: Modes, draws: Tensor, max_bytes: int = MAX_BYTES) -> Failure | None:
    """The heaviest mode with a Laplace mass above `MISSED` that no draw is in; None where every such mode has draws.

    A draw belongs to the mode whose own quadratic log density is the highest at the draw. This rule does not need
    Gaussian posteriors: it errs only where the quadratic of another mode is higher at the draws of this one. A mode
    that fails the rule is therefore looked for once more, by ascents that start at draws and take steps of at most the
    draws' standard deviation. The mode counts as visited if such an ascent ends in it or beside it, with no barrier
    between.

    Args:
        density: of the posteriors.
        modes: modes that ascents from other places found.
        draws: `(K, N, d)`, in unconstrained coordinates, all chains; a draw that is not finite counts for no mode.
        max_bytes: bound on the intermediate results of one piece.
    """
    # A posterior whose ascents all end in one mode has no other mode to miss.
    if len(modes.value) == 1:
        return None
    visited = torch.zeros_like(modes.mass, dtype=torch.bool)
    # 256 draws at a time: the distances to all modes, (R, 256, N, d), stay small.
    for piece in draws.split(256):
        fine = piece.isfinite().all(-1)
        nearest = modes.nearest(piece.where(fine.unsqueeze(-1), 0.0))
        visited |= torch.stack([((nearest == r) & fine).any(0) for r in range(len(visited))])
    missed = (modes.mass > MISSED) & ~visited
    if missed.any():
        missed &= ~_reached(density, modes, missed, draws, max_bytes)
    if not missed.any():
        return None
    heaviest, rank = modes.mass.where(missed, 0.0).max(0)
    datum = int(heaviest.argmax())
    with torch.no_grad():
        site = density.constrain(modes.position[rank[datum]][None])
    place = _say({name: value[0, datum] for name, value in site.items()})
    where = f"the mode of datum {datum} at {place}" if modes.value.shape[1] > 1 else f"the mode at {place}"
    return Failure("missed mode", where, heaviest[datum].item(), MISSED, int(missed.sum()))


def _reached(density: HasLogDensity, modes: Modes, missed: Tensor, draws: Tensor, max_bytes: int) -> Tensor:
    """Tells which of the `missed` modes `(R, N)` an ascent from the draws ends in, or beside without a barrier."""
    spread = draws.where(draws.isfinite(), 0.0).std(0).to(modes.ends)
    # Equally spaced over the joined chains, so that every chain gives starts.
    some = draws[:: max(1, len(draws) // STARTS)][:STARTS].to(modes.ends)
    ends, values = ascend(density, some, spread, max_bytes)
    reached = torch.zeros_like(missed)
    for r in missed.any(1).nonzero().flatten().tolist():
        asked = missed[r].expand(values.shape) & (values > -torch.inf)
        there = connected(density, ends, values, modes.position[r], modes.value[r], asked, spread, max_bytes)
        reached[r] = (there & asked).any(0)
    return reached


def _say(values: dict[str, Tensor], most: int = 6) -> str:
    """Some entries of each site, as `z = [0.13, -2.1]`."""
    said = []
    for name, value in values.items():
        entries: Sequence[float] = value.flatten().tolist()
        words = ", ".join(f"{entry:.4g}" for entry in entries[:most]) + (", ..." if len(entries) > most else "")
        said.append(f"{name} = {f'[{words}]' if value.dim() else words}")
    return ", ".join(said[:most]) + (", ..." if len(said) > most else "")
