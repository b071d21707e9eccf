"""Objectives on tempered weights: a weight of the KL, warm-up, free bits, capacities."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from zoo.infer.objectives.elbo import ELBO
from zoo.infer.objectives.iwelbo import IWELBO
from zoo.infer.objectives.objective import Objective
from zoo.infer.objectives.scheduled import Scheduled
from zoo.infer.objectives.semi_supervised import SemiSupervised
from zoo.infer.per_datum import Terms

Weight = float | Callable[[int], float]


class Tempered(Objective):
    """Another objective on tempered weights: log p(x | z) + sum_l kl_weight_l min(log p - log q of site l, -free_bits).

    With a capacity C_l, a site's term is -kl_weight_l |KL_l - C_l| (Burgess et al. 2018): its KL is drawn to C_l.
    The value is the tempered bound; evaluate a model with the untempered one (`.objective`).

    Args:
        objective: the objective that is tempered; it keeps its particles and, where they stay unbiased, its gradient
            estimator.
        kl_weight: a number (beta-VAE: Higgins et al. 2017), or a function of the step (warm-up: Sonderby et al. 2016),
            for all sites; or a mapping from site to number or function, 1 for sites that it does not name. The step
            counts this objective's gradient evaluations, from 0 (take a new objective for a new training); `fit` saves
            and restores it.
        free_bits: nats per latent site (a sequence's whole z is one) below which its KL costs nothing; a number for all
            sites, or a mapping from site to number. Of a site outside the batch plate they are nats for all data.
            Each draw's log ratio is compared, as in BIVA's code; with `analytic_kl` it is the KL itself, as it is of a
            summed site.
        batch_mean: compare the batch's mean KL with `free_bits` (IAF, Kingma et al. 2016) rather than each datum's
            (BIVA); and so with `capacity`.
        capacity: nats per latent site to which its KL is drawn, with the force `kl_weight`, gamma in the paper: a
            number, a function of the step, or a mapping, as `kl_weight` is; sites that a mapping does not name have
            none. Of a site outside the batch plate they are nats for all data. The KL is the mean over the draws of
            log q - log p, whose distance from C is too large on average by its noise; with `analytic_kl` it is the KL
            itself. None: no site has a capacity.

    Attributes:
        step: the number of gradient evaluations so far.
        weight: the KL weight of the latest gradient evaluation, a tensor; of a mapping, an entry for each of its sites.
        nats: the capacity of that evaluation, likewise; None without.
    """

    def __init__(
        self,
        objective: Objective,
        kl_weight: Weight | Mapping[str, Weight] = 1.0,
        free_bits: float | Mapping[str, float] = 0.0,
        batch_mean: bool = False,
        capacity: Weight | Mapping[str, Weight] | None = None,
    ) -> None:
        outer = isinstance(objective, Scheduled | SemiSupervised)
        if outer or isinstance(objective, Tempered) or not isinstance(objective, Objective):
            name = type(objective).__name__
            raise ValueError(
                f"Tempered: expected an untempered objective of the zoo, such as ELBO(), got {name}"
                + (f", which goes around it: {name}(Tempered(...), ...)" if outer else "")
            )
        if isinstance(objective, IWELBO) and objective.gradient == "doubly":
            raise ValueError(
                'Tempered: the "doubly" gradient is that of the untempered bound; use IWELBO(gradient="iwae")'
            )
        if free_bits and isinstance(objective, ELBO) and objective.sticking:
            raise ValueError(
                "Tempered: `sticking` is biased with `free_bits`: the score it leaves out is cut off at the threshold"
            )
        numbers = [*(free_bits.values() if isinstance(free_bits, Mapping) else [free_bits])]
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError(f"Tempered: free_bits must be finite and >= 0, got {free_bits!r}")
        if capacity is not None:
            _check_capacity(objective, free_bits)
        super().__init__(objective.num_particles)
        self.objective, self.kl_weight, self.free_bits, self.batch_mean = objective, kl_weight, free_bits, batch_mean
        self.capacity: Any = capacity
        self._demand_as(objective)
        # a weight that stays away from 1 leaves some of log q in the bound, and so does one that turns its sign
        self.cancels_summed &= capacity is None and (not isinstance(kl_weight, Real) or kl_weight == 1)
        self.step = 0
        # tensors that `advance` changes in place: a captured graph reads them, and so follows the schedules
        self.weight = torch.empty(len(kl_weight) if isinstance(kl_weight, Mapping) else ())
        self.nats = None if capacity is None else torch.empty(len(capacity) if isinstance(capacity, Mapping) else ())
        self._weigh()

    @property
    def untempered(self) -> Objective:
        return self.objective

    @property
    def kl_weight_now(self) -> float | dict[str, float]:
        return self._now(self.kl_weight, "kl_weight")

    def _now(self, given: Weight | Mapping[str, Weight], name: str) -> float | dict[str, float]:
        if isinstance(given, Mapping):
            return {site: self._number(number, f"{name}[{site!r}]") for site, number in given.items()}
        return self._number(given, name)

    def _number(self, weight: Weight, name: str) -> float:
        number = float(weight(self.step) if callable(weight) else weight)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"Tempered: {name} must be finite and >= 0, got {number} at step {self.step}")
        return number

    def _weigh(self) -> None:
        _fill(self.weight, self.kl_weight_now)
        if self.nats is not None:
            _fill(self.nats, self._now(self.capacity, "capacity"))

    def advance(self) -> None:
        self._weigh()
        self.step += 1

    def temper(self, terms: Terms) -> Terms:
        """The terms with weighted log ratios, each cut off at its free bits, or turned towards its capacity."""
        for argument in ("free_bits", "kl_weight", "capacity"):
            given = getattr(self, argument)
            if isinstance(given, Mapping) and (unknown := {*given} - {*terms.log_ratios, *terms.given}):
                sites = [*terms.log_ratios]
                raise ValueError(f"Tempered: {argument} names {sorted(unknown)}, the latent sites are {sites}")
        weights, capacities = self._of_sites(self.kl_weight, self.weight, terms), {}
        if self.nats is not None:
            capacities = self._of_sites(self.capacity, self.nats, terms)
        ratios = {}
        for name, ratio in terms.log_ratios.items():
            free = self.free_bits.get(name, 0.0) if isinstance(self.free_bits, Mapping) else self.free_bits
            free *= terms.shares.get(name, 1.0)
            if free and self.batch_mean:
                ratio = torch.where(terms.expectation(ratio).mean() < -free, ratio, ratio.new_tensor(-free))
            elif free and name in terms.summed:
                # cutting the ratio of each value off would add what no KL has: their mean is the KL that is compared
                ratio = torch.where(terms.log_ratio_of_site(name) < -free, ratio, ratio.new_tensor(-free))
            elif free:
                ratio = ratio.clamp(max=-free)
            if name in capacities:
                ratio = self._towards(capacities[name] * terms.shares.get(name, 1.0), ratio, terms)
            ratios[name] = ratio * weights.get(name, 1.0)
        return terms._replace(log_ratios=ratios)

    @staticmethod
    def _of_sites(given: Weight | Mapping[str, Weight], now: Tensor, terms: Terms) -> dict[str, Tensor]:
        # copied: backward needs the numbers of this evaluation, and the next one overwrites the tensor
        now = now.to(terms.log_likelihood, copy=True)
        return (
            dict(zip(given, now, strict=True)) if isinstance(given, Mapping) else dict.fromkeys(terms.log_ratios, now)
        )

    def _towards(self, capacity: Tensor, ratio: Tensor, terms: Terms) -> Tensor:
        """A log ratio whose mean under the guide is -|KL - capacity|."""
        kl = -terms.expectation(ratio.detach())
        # |KL - C| = sign(KL - C) (KL - C), and the second factor is linear in the log ratios
        return torch.sign((kl.mean() if self.batch_mean else kl) - capacity) * (ratio + capacity)

    def bound(self, terms: Terms) -> Tensor:
        return self.objective.bound(self.temper(terms))


def _check_capacity(objective: Objective, free_bits: float | Mapping[str, float]) -> None:
    """Refuses objectives and settings beside which a capacity has no meaning, or makes the gradient biased."""
    if free_bits:
        raise ValueError("Tempered: `capacity` draws a KL up to C by itself; give `free_bits` or `capacity`")
    if objective.point_mass:
        raise ValueError(f"Tempered: `capacity` is of a KL, and points, as {type(objective).__name__} takes, have none")
    if isinstance(objective, ELBO) and objective.sticking:
        raise ValueError(
            "Tempered: `sticking` is biased with `capacity`: the score it leaves out changes its sign with the draw"
        )


def _fill(tensor: Tensor, now: float | dict[str, float]) -> None:
    # in place: a captured graph reads this very tensor
    if isinstance(now, dict):
        tensor.copy_(torch.tensor([*now.values()]))
    else:
        tensor.fill_(now)
