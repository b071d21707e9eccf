"""Simulation-based calibration: true latents ranked among the guide's draws, over data that the model itself draws.

For z from p(z) and x from p(x | z), z and draws from p(z | x) are exchangeable. So the rank of any function of z among
its values at L draws of the guide is uniform on 0..L if the guide is the posterior.

References:
    Talts, Betancourt, Simpson, Vehtari and Gelman 2018 (simulation-based calibration);
    Modrak, Moon, Kim, Buerkner, Huurre, Faltejskova, Gelman and Vehtari 2023 (test quantities that depend on x);
    Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023 (TARP: regions around a random point).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from zoo.infer.calibration.simulate import Simulated, data_like, simulate
from zoo.infer.calibration.uniform import UniformRanks
from zoo.infer.pieces import MAX_BYTES, all_drawn, pieces
from zoo.infer.reference.log_joint import entry_names
from zoo.parts.aside import held, seeded
from zoo.parts.checks import check_counts
from zoo.parts.given.row_numbers import takes_index

__all__ = ["Calibration", "simulation_based_calibration"]

#: latents `(K, n, ...)` by site and data `(n, ...)` -> `(K, n)`
Quantity = Callable[[dict[str, Tensor], Tensor], Tensor]
LIKELIHOOD, DISTANCE = "log p(x | z)", "distance"


@dataclass(frozen=True)
class Calibration:
    """Ranks of true values among a guide's draws, with the law that they have if the guide is the posterior.

    Attributes:
        names: of the quantities that were ranked: coordinates `z[0]`, ..., `log p(x | z)`, `distance`, and others.
        ranks: numbers of draws below the true value, ties broken at random, int64 `(num_data, quantities)`.
        num_draws: L, the largest rank.
        p_values: of each quantity alone, `(quantities,)`: the probability that uniform ranks leave a band as wide as
            the widest that these ranks leave. Exact, and small for ranks that are not uniform.
    """

    names: tuple[str, ...]
    ranks: Tensor
    num_draws: int
    p_values: Tensor

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of quantities: a p-value of all together, however they depend."""
        return min(1.0, self.p_values.min().item() * len(self.names))

    def passes(self, level: float = 0.01) -> bool:
        """The verdict: False if `p_value` is at most `level`, which an exact guide's is with this probability at most.

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        return self.p_value > _checked(level)

    def failing(self, level: float = 0.01) -> list[str]:
        """Names of the quantities whose own p-value is too small for the verdict, the worst first."""
        limit = _checked(level) / len(self.names)
        order = self.p_values.argsort().tolist()
        return [self.names[v] for v in order if self.p_values[v] <= limit]

    @property
    def law(self) -> UniformRanks:
        """The law of the ranks of one quantity."""
        return UniformRanks(len(self.ranks), self.num_draws)

    def __str__(self) -> str:
        width = max(map(len, self.names))
        lines = [f"{name:{width}}  p = {p:.2g}" for name, p in zip(self.names, self.p_values.tolist(), strict=True)]
        verdict = "passes" if self.passes() else f"fails in {', '.join(self.failing())}"
        head = f"calibration over {len(self.ranks)} data, {self.num_draws} draws each: {verdict} at 1 % over all"
        return "\n".join([f"{head} {len(self.names)} quantities (p = {self.p_value:.2g})", *lines])


def simulation_based_calibration(
    model: Callable,
    guide: Callable,
    num_data: int = 1000,
    num_draws: int = 99,
    *,
    x_like: Any = None,
    quantities: Mapping[str, Quantity] | None = None,
    max_coordinates: int = 10,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> Calibration:
    """Ranks the latents of data drawn from the model among the guide's draws given these data.

    Ranked are the coordinates of each latent site; log p(x | z), which alone sees a guide that ignores x and draws from
    the prior; the distance of z from the latents of another datum, in the prior's standard deviations, whose uniform
    ranks are the right coverage of credible regions around random points (TARP); and quantities of the caller's. Mass
    that a guide misses is seen wherever the model draws data from it. An exact guide passes; a guide that passes may
    be wrong in ways that these data are too few, or these quantities too coarse, to show.

    The data are the model's own: a guide trained on other data is judged where it was not trained.

    Args:
        model: a Pyro model that draws its data: by `poutine.uncondition`, or a state space by `generate`.
        guide: an amortised guide; parameters of its own for each row of a data set know nothing of new data.
        num_data: N, data drawn from the model.
        num_draws: L, draws of the guide for each of them.
        x_like: data whose shape, dtype and device the drawn ones have, in any form that `fit` takes; rows are used
            over and over. None: vectors of the model's `data_dim`.
        quantities: name -> function of latents, site -> `(K, n, ...)`, and x `(n, ...)` that gives `(K, n)`.
        max_coordinates: of a site with more, as many are ranked, evenly spaced.
        max_bytes: as in `log_likelihood`.
        seed: starts a random stream of the call's own; None uses and advances the caller's.
        **kwargs: further arguments of model and guide, with as many rows as `x_like`. Those that the model observes
            (labels y) are drawn, others (u, mask) stay.

    Raises:
        ValueError: a count below 1, a model that cannot generate or whose data have no known shape without `x_like`, a
            guide with parameters for each row, a pair that does not fit together, a quantity of another shape or NaN.

    Example:
        >>> import guides
        >>> from zoo import PPCA
        >>> from zoo.infer import simulation_based_calibration
        >>> model = PPCA(5, 2)
        >>> simulation_based_calibration(model, guides.Exact(model), 200, 19, seed=0).passes()
        True
    """
    check_counts(num_data=num_data, num_draws=num_draws, max_coordinates=max_coordinates)
    if isinstance(guide, AutoGuide) or takes_index(guide):
        raise ValueError(
            f"simulation_based_calibration: {type(guide).__name__} has parameters for each row of its data and none "
            "for new data; it takes an amortised guide"
        )
    with held(model, guide), seeded(seed):
        x_like, kwargs = data_like(model, x_like, num_data, kwargs)
        drawn = simulate(model, x_like, kwargs)
        ranked = _Ranked(drawn, quantities or {}, max_coordinates)
        ranks = ranked.ranks(model, guide, num_draws, max_bytes)
    law = UniformRanks(num_data, num_draws)
    p_values = torch.tensor([law.p_value(column) for column in np.asarray(ranks).T], dtype=torch.double)
    return Calibration(ranked.names, ranks, num_draws, p_values)


class _Ranked:
    """The quantities of simulated data, at the true latents and at a guide's draws."""

    def __init__(self, drawn: Simulated, quantities: Mapping[str, Quantity], most: int) -> None:
        self.drawn, self.quantities = drawn, quantities
        self.shown: dict[str, Tensor] = {}
        names: list[str] = []
        for site, value in drawn.latents.items():
            entries = entry_names(site, value.shape[1:])
            self.shown[site] = torch.linspace(0, len(entries) - 1, min(most, len(entries))).round().long()
            names += [entries[int(place)] for place in self.shown[site]]
        self.real = [site for site, value in drawn.latents.items() if value.is_floating_point()]
        flat = self._flat({site: value.unsqueeze(0) for site, value in drawn.latents.items()})
        self.distances = [DISTANCE] if self.real else []
        if self.real:
            # the latents of the next datum are a draw from the prior, independent of this one's
            self.points = flat[0].roll(1, 0)
            # the deviation of the others: were the true value among them, its distance would differ from a draw's
            away, others = flat[0] - flat[0].mean(0), max(len(flat[0]) - 1, 1)
            variance = (away.square().sum(0) - away.square()) / others - (away / others).square()
            # a coordinate that is always the same has no scale, and no distance
            self.scale = torch.where(variance > 0, variance, torch.inf).sqrt()
        if taken := [name for name in quantities if name in (*names, LIKELIHOOD, *self.distances)]:
            raise ValueError(f"quantities: {taken[0]!r} is ranked already; give it another name")
        self.names = (*names, LIKELIHOOD, *self.distances, *quantities)

    def _flat(self, latents: dict[str, Tensor]) -> Tensor:
        """Entries of the real sites side by side, `(K, n, d)`."""
        parts = [latents[site].flatten(2) if latents[site].dim() > 2 else latents[site].unsqueeze(-1)
                 for site in self.real]  # fmt: skip
        return torch.cat(parts, -1) if parts else torch.empty(0)

    def values(self, latents: dict[str, Tensor], log_likelihood: Tensor, rows: slice) -> Tensor:
        """All quantities at latents `(K, n, ...)` of some rows, `(K, n, V)`."""
        found = []
        for site, places in self.shown.items():
            value = latents[site]
            flat = value.reshape(*value.shape[:2], -1)
            found += list(flat[..., places.to(flat.device)].unbind(-1))
        found.append(log_likelihood)
        if self.real:
            found.append(((self._flat(latents) - self.points[rows]) / self.scale[rows]).square().sum(-1))
        for name, quantity in self.quantities.items():
            value = quantity(latents, self.drawn.x[rows])
            if value.shape != log_likelihood.shape:
                raise ValueError(
                    f"quantities: {name!r}: expected shape {tuple(log_likelihood.shape)} of latents "
                    f"{ {site: tuple(z.shape) for site, z in latents.items()} }, got {tuple(value.shape)}"
                )
            found.append(value)
        stacked = torch.stack([value.double() for value in found], -1)
        if stacked.isnan().any():
            lost = stacked.isnan().flatten(0, 1).any(0).nonzero().flatten().tolist()
            raise ValueError(f"{self.names[lost[0]]}: NaN cannot be ranked")
        return stacked

    def ranks(self, model: Callable, guide: Callable, num_draws: int, max_bytes: int) -> Tensor:
        """Draws of the guide below the true values, ties broken at random, int64 `(N, V)`."""
        drawn = self.drawn
        sites = {site: value.unsqueeze(0) for site, value in drawn.latents.items()}
        truth = self.values(sites, drawn.log_likelihood.unsqueeze(0), slice(None))[0]
        below, equal = torch.zeros_like(truth, dtype=torch.long), torch.zeros_like(truth, dtype=torch.long)
        options: dict[str, Any] = {"num_particles": num_draws, "max_bytes": max_bytes, "evaluate": all_drawn}
        for rows, particles, run in pieces(model, guide, drawn.x, (), drawn.kwargs, **options):
            some = {site: value[:, rows] for site, value in sites.items()}
            latents = {site: run.latents[site].expand(particles, *some[site].shape[1:]) for site in some}
            values = self.values(latents, run.log_likelihood.expand(particles, -1), rows)
            below[rows] += (values < truth[rows]).sum(0)
            equal[rows] += (values == truth[rows]).sum(0)
        # a discrete latent equals many draws: its rank is any of theirs with the same probability
        return (below + (torch.rand_like(truth) * (equal + 1)).floor().long()).cpu()


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability between 0 and 1, got {level}")
    return level
