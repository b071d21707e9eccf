"""What draws must pass to be called a reference: R-hat, effective sizes, divergences, and every mode visited.

References: Vehtari et al. 2021 (R-hat and ESS, and their limits 1.01 and 400).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.infer.pieces import MAX_BYTES
from zoo.infer.reference.inference_data import InferenceData, diagnose, posterior_draws
from zoo.infer.reference.modes import STARTS, Density, Modes, ascend, connected

__all__ = ["CHAINS", "MISSED", "Failure", "NotAReference", "check_chains", "check_draws", "unvisited"]

CHAINS = 4  # at least; fewer that agree say little of where they are not
MISSED = 0.01  # Laplace mass of a mode that no chain visited, at most


class Failure(NamedTuple):
    """One statistic that is beyond its limit: its worst site and coordinate, and in how many coordinates it fails."""

    statistic: str
    where: str
    value: float
    limit: float
    failing: int

    def say(self, total: int) -> str:
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
    """A sampler's draws that must not be used as a reference.

    Attributes:
        failures: the statistics beyond their limits, each with its worst site and coordinate (empty: the time ran out).
        inference_data: what was drawn, in arviz's container; None if the time ran out during the warm-up.
    """

    def __init__(self, message: str, data: InferenceData | None, failures: tuple[Failure, ...] = ()) -> None:
        super().__init__(message)
        self.inference_data = data
        self.failures = failures


def check_draws(
    data: InferenceData,
    missed: Failure | None,
    *,
    max_rhat: float,
    min_ess: float,
    max_divergences: int,
    advice: str,
) -> None:
    """Raises `NotAReference` unless every coordinate passes R-hat, bulk and tail ESS, few transitions diverged, and no
    mode was missed.

    In messages an index such as `z[5,3]` reads: datum 5, entry 3.
    """
    draws = posterior_draws(data)
    failures = [missed] if missed else []
    found = diagnose(draws)
    for statistic, values, limit, sign in (
        ("R-hat", found.rhat, max_rhat, 1.0),
        ("bulk ESS", found.ess_bulk, min_ess, -1.0),
        ("tail ESS", found.ess_tail, min_ess, -1.0),
    ):
        excess = {name: sign * (value - limit) for name, value in values.items()}
        site = max(excess, key=lambda name: excess[name].max().item())
        if excess[site].max() > 0:
            index = torch.unravel_index(excess[site].argmax(), values[site].shape)
            where = f"{site}[{','.join(str(int(i)) for i in index)}]" if index else site
            worst = values[site].flatten()[excess[site].argmax()].item()
            count = sum(int((e > 0).sum()) for e in excess.values())
            failures.append(Failure(statistic, where, worst, limit, count))
    diverging = torch.as_tensor(data["sample_stats"]["diverging"].values)
    if int(diverging.sum()) > max_divergences:
        where = "all sites"
        if diverging.dim() == 3:
            where = f"datum {int(diverging.sum((0, 1)).argmax())}"
        failures.append(Failure("divergences", where, int(diverging.sum()), max_divergences, int(diverging.sum())))
    if failures:
        total = sum(value.numel() for value in found.rhat.values())
        said = "; ".join(f.say(total) for f in failures)
        raise NotAReference(
            f"not a reference: {said}. {advice} The draws are in .inference_data", data, tuple(failures)
        )


def check_chains(chains: int, num_samples: int, warmup: int, least_warmup: int) -> None:
    """Raises ValueError unless there are chains enough to be held against each other, and draws of each."""
    if num_samples < 4 or chains < CHAINS or warmup < least_warmup:
        raise ValueError(
            f"need num_samples >= 4, chains >= {CHAINS}, warmup >= {least_warmup}; "
            f"got {num_samples}, {chains}, {warmup}"
        )


def unvisited(density: Density, modes: Modes, draws: Tensor, max_bytes: int = MAX_BYTES) -> Failure | None:
    """The heaviest mode above `MISSED` in which no draw is, if there is one.

    A draw is in the mode whose own quadratic log density is the highest there. That needs no Gaussian posterior, only
    that another mode's is not higher still where this one's draws are. A mode that would be missed by that rule is
    looked for again by ascents from the draws themselves, of steps no longer than their standard deviation: one that
    ends there, or beyond no barrier, has visited it.

    Args:
        density: of the posteriors.
        modes: what was found from elsewhere.
        draws: `(K, N, d)`, in unconstrained coordinates, all chains; a draw that is not finite counts for none.
    """
    if len(modes.value) == 1:
        return None
    visited = torch.zeros_like(modes.mass, dtype=torch.bool)
    for piece in draws.split(256):
        fine = piece.isfinite().all(-1)
        nearest = modes.nearest(piece.where(fine.unsqueeze(-1), 0.0))
        visited |= torch.stack([((nearest == r) & fine).any(0) for r in range(len(visited))])
    missed = (modes.mass > MISSED) & ~visited
    if missed.any():
        spread = draws.where(draws.isfinite(), 0.0).std(0).to(modes.ends)
        some = draws[:: max(1, len(draws) // STARTS)][:STARTS].to(modes.ends)
        ends, values = ascend(density, some, spread, max_bytes)
        for r in missed.any(1).nonzero().flatten().tolist():
            asked = missed[r].expand(values.shape) & (values > -torch.inf)
            there = connected(density, ends, values, modes.position[r], modes.value[r], asked, spread, max_bytes)
            missed[r] &= ~(there & asked).any(0)
    if not missed.any():
        return None
    heaviest, rank = modes.mass.where(missed, 0.0).max(0)
    datum = int(heaviest.argmax())
    with torch.no_grad():
        site = density.constrain(modes.position[rank[datum]][None])
    place = _say({name: value[0, datum] for name, value in site.items()})
    where = f"the mode of datum {datum} at {place}" if modes.value.shape[1] > 1 else f"the mode at {place}"
    return Failure("missed mode", where, heaviest[datum].item(), MISSED, int(missed.sum()))


def _say(values: dict[str, Tensor], most: int = 6) -> str:
    """Some entries of each site, as `z = [0.13, -2.1]`."""
    said = []
    for name, value in values.items():
        entries: Sequence[float] = value.flatten().tolist()
        words = ", ".join(f"{entry:.4g}" for entry in entries[:most]) + (", ..." if len(entries) > most else "")
        said.append(f"{name} = {f'[{words}]' if value.dim() else words}")
    return ", ".join(said[:most]) + (", ..." if len(said) > most else "")
