"""Objectives on tempered weights: a weight of the KL, warm-up, free bits."""

import math
from collections.abc import Callable, Mapping

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
            (BIVA).

    Attributes:
        step: the number of gradient evaluations so far.
        weight: the KL weight of the latest gradient evaluation, a tensor; of a mapping, an entry for each of its sites.
    """

    def __init__(
        self,
        objective: Objective,
        kl_weight: Weight | Mapping[str, Weight] = 1.0,
        free_bits: float | Mapping[str, float] = 0.0,
        batch_mean: bool = False,
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
        super().__init__(objective.num_particles)
        self.objective, self.kl_weight, self.free_bits, self.batch_mean = objective, kl_weight, free_bits, batch_mean
        self._demand_as(objective)
        # a weight that stays away from 1 leaves some of log q in the bound
        self.cancels_summed &= not isinstance(kl_weight, float | int) or kl_weight == 1
        self.step = 0
        # a tensor that `advance` changes in place: a captured graph reads it, and so follows the schedule
        self.weight = torch.empty(len(kl_weight) if isinstance(kl_weight, Mapping) else ())
        self._weigh()

    @property
    def untempered(self) -> Objective:
        return self.objective

    @property
    def kl_weight_now(self) -> float | dict[str, float]:
        if isinstance(self.kl_weight, Mapping):
            return {site: self._number(weight, f"kl_weight[{site!r}]") for site, weight in self.kl_weight.items()}
        return self._number(self.kl_weight, "kl_weight")

    def _number(self, weight: Weight, name: str) -> float:
        number = float(weight(self.step) if callable(weight) else weight)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"Tempered: {name} must be finite and >= 0, got {number} at step {self.step}")
        return number

    def _weigh(self) -> None:
        # in place: a captured graph reads this very tensor
        now = self.kl_weight_now
        if isinstance(now, dict):
            self.weight.copy_(torch.tensor([*now.values()]))
        else:
            self.weight.fill_(now)

    def advance(self) -> None:
        self._weigh()
        self.step += 1

    def temper(self, terms: Terms) -> Terms:
        """The terms with weighted log ratios, each cut off at its free bits."""
        for argument in ("free_bits", "kl_weight"):
            given = getattr(self, argument)
            if isinstance(given, Mapping) and (unknown := {*given} - {*terms.log_ratios, *terms.given}):
                sites = [*terms.log_ratios]
                raise ValueError(f"Tempered: {argument} names {sorted(unknown)}, the latent sites are {sites}")
        # copied: backward needs the weight of this evaluation, and the next one overwrites the tensor
        ratios, weight = {}, self.weight.to(terms.log_likelihood, copy=True)
        of_site = dict(zip(self.kl_weight, weight, strict=True)) if isinstance(self.kl_weight, Mapping) else {}
        others = 1.0 if isinstance(self.kl_weight, Mapping) else weight
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
            ratios[name] = ratio * of_site.get(name, others)
        return terms._replace(log_ratios=ratios)

    def bound(self, terms: Terms) -> Tensor:
        return self.objective.bound(self.temper(terms))
