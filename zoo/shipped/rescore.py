"""A pair that ships, scored again on its fixed rows: the same number, one within the error, or another.

The rows, the number of particles and the seed are those of the folder, so that on one machine and version of torch the
draws are the same, and two numbers differ by rounding. Another machine or version may draw other numbers from the same
seed; the two are then independent estimates on the same rows, and differ by their Monte Carlo errors. The rows being
the same, the error of the data as a sample has no part in it.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.infer import LogLikelihood, log_likelihood
from zoo.shipped.shelf import Shipped, columns

#: A sum of n numbers is off by at most n roundings of its parts, and networks and data of the shelf add up to about a
#: thousand at a time: the roundings allowed, of a figure and of the nat by which figures near 0 are off.
ROUNDINGS = 1000
#: Standard errors of the difference of two independent estimates: one beyond four comes once in 16,000 figures.
ERRORS = 4.0

SAME, AGREES, DIFFERS, SKIPPED, REFUSED = "same", "agrees", "DIFFERS", "skipped", "REFUSED"
VERDICTS, FAILURES = (SAME, AGREES, DIFFERS, SKIPPED, REFUSED), (DIFFERS, REFUSED)


@dataclass(frozen=True)
class Rescored:
    """A figure found again.

    Attributes:
        name: of the pair.
        recorded, recorded_error: the folder's figure, and its Monte Carlo error; NaN where it was refused.
        found, found_error: those of this run; NaN where there is none.
        precision: the relative rounding of the pair's numbers, half of torch's eps.
        seconds: of the run.
        missing: the rows that are not on this machine, and how to get them; empty where it was scored.
        fault: the file that has changed, or is of a newer zoo; empty where there is none.
    """

    name: str
    recorded: float = math.nan
    recorded_error: float = math.nan
    found: float = math.nan
    found_error: float = math.nan
    precision: float = 0.0
    seconds: float = 0.0
    missing: str = ""
    fault: str = ""

    @property
    def reason(self) -> str:
        """The reason why there is no figure; empty where there is one."""
        return self.fault or self.missing

    @property
    def rounding(self) -> float:
        """The difference that rounding alone explains, in nats."""
        return ROUNDINGS * self.precision * (abs(self.recorded) + 1.0)

    @property
    def allowed(self) -> float:
        """The difference that rounding and other draws explain, in nats."""
        return self.rounding + ERRORS * math.hypot(self.recorded_error, self.found_error)

    @property
    def verdict(self) -> str:
        """SAME up to rounding, AGREES up to the Monte Carlo errors, or DIFFERS; SKIPPED or REFUSED without a figure."""
        if self.reason:
            return REFUSED if self.fault else SKIPPED
        apart = abs(self.found - self.recorded)
        # each comparison with NaN is False, and a figure that is NaN differs
        return SAME if apart <= self.rounding else AGREES if apart <= self.allowed else DIFFERS


def scored(model: Any, guide: Any, arguments: dict[str, Any], num_particles: int, seed: int) -> LogLikelihood:
    """log p of the rows, as score.json records it and `rescore` finds it again."""
    x, *_ = arguments.values()
    rest = {name: value for name, value in arguments.items() if name != "x"}
    return log_likelihood(model, guide, x, num_particles=num_particles, seed=seed, **rest)


def rescore(shipped: Shipped) -> Rescored:
    """Scores a pair on its fixed rows, or says why it has no figure: one broken folder hides no other.

    A pair whose rows neither ship nor are on this machine is skipped; one whose folder has other bytes is refused.
    """
    began = time.process_time()
    try:
        score, (model, guide) = shipped.score, shipped.load()
    except (ValueError, FileNotFoundError) as error:
        return Rescored(shipped.name, fault=str(error))
    recorded = Rescored(shipped.name, score["value"], score["monte_carlo_error"])
    try:
        arguments = shipped.data()
    except FileNotFoundError as error:
        return replace(recorded, missing=str(error))
    except ValueError as error:
        return replace(recorded, fault=str(error))
    found = scored(model, guide, arguments, score["num_particles"], score["seed"])
    dtype = next((p.dtype for half in (model, guide) for p in half.parameters()), torch.get_default_dtype())
    return replace(
        recorded, found=found.mean, found_error=found.monte_carlo_error, precision=torch.finfo(dtype).eps / 2,
        seconds=time.process_time() - began,
    )  # fmt: skip


def report(found: Sequence[Rescored]) -> str:
    """A table of figures, a line for each pair, and below it the reasons of those without a figure."""
    rows = [("name", "recorded", "found", "apart", "allowed", "verdict", "seconds")]
    for at in found:
        figures = ("", "", "", at.verdict, "") if at.reason else (
            f"{at.found:.4f}", f"{abs(at.found - at.recorded):.1e}", f"{at.allowed:.1e}", at.verdict,
            f"{at.seconds:.1f}",
        )  # fmt: skip
        rows.append((at.name, "" if math.isnan(at.recorded) else f"{at.recorded:.4f}", *figures))
    counts = Counter(at.verdict for at in found)
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    reasons = [f"\n{at.name}, {at.verdict}: {at.reason}" for at in found if at.reason]
    return "\n".join([*columns(rows), totals, *reasons])
