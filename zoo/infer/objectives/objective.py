"""Objectives: functionals of the per-datum log weights log w_kn (`zoo.infer.terms`), k = 1..K draws for datum n.

| objective | bound for one datum | reference |
|---|---|---|
| `ELBO` | mean_k log w_k | Jordan et al. 1999; Kingma and Welling 2014 |
| `IWELBO` | log mean_k w_k | Burda et al. 2015 |
| `RenyiELBO` | 1/(1-alpha) log mean_k w_k^(1-alpha) | Li and Turner 2016 |
| `Tempered` | any of them on tempered weights | Higgins et al. 2017; Kingma et al. 2016; Maaloe et al. 2019 |
| `MAP` | no bound: log p(x, z) at a point z | Bishop 2006, section 1.2.5 |

Losses follow Pyro's convention: minus the bound, summed over the batch. Whatever estimates the gradient, the value is
the bound.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from zoo.infer.terms import Terms, run


class Objective(pyro.infer.ELBO):
    """A bound on log p(x), summed over the batch (abstract), for `pyro.infer.SVI` and `objective(model, guide)`.

    A new objective states `bound`, the functional of the terms, and no more.
    """

    analytic_kl = False
    point_mass = False  # whether the guide gives points, as `MAP` wants them, and no densities
    quantity = "bound"  # what the value is, in words, for what is printed
    capturable = True  # whether a captured graph has the gradient: not where hooks or frozen parameters shape it
    captured = False  # set while a graph is captured, whose owner advances the state (`compiled`)

    def __init__(self, num_particles: int = 1) -> None:
        if isinstance(num_particles, bool) or not isinstance(num_particles, Integral) or num_particles < 1:
            raise ValueError(f"{type(self).__name__}: num_particles must be an integer >= 1, got {num_particles!r}")
        super().__init__(num_particles=int(num_particles), vectorize_particles=True)

    @abstractmethod
    def bound(self, terms: Terms) -> Tensor:
        """The bound for each datum in nats, `(N,)`, from terms `(K, N)`."""

    def evaluate(self, terms_of: Callable[..., Terms]) -> Tensor:
        """The bound with the gradient that trains: by default plain differentiation. `terms_of` runs the pair."""
        return self.bound(terms_of(analytic_kl=self.analytic_kl, point_mass=self.point_mass))

    def advance(self) -> None:
        """Called once before each gradient evaluation: where a schedule moves on."""

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound summed over the batch, to be differentiated."""
        return self._loss(model, guide, args, kwargs, registered=False)

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound summed over the batch, a number."""
        with torch.no_grad():
            return self._loss(model, guide, args, kwargs, registered=False).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """`loss`, and its gradient added to the parameters'. What `pyro.infer.SVI` calls."""
        loss = self._loss(model, guide, args, kwargs, registered=True)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def _loss(self, model: Callable, guide: Callable, args: tuple, kwargs: dict, *, registered: bool) -> Tensor:
        training = torch.is_grad_enabled()
        if training and not self.captured:
            self.advance()

        def terms_of(**options: Any) -> Terms:
            options |= {"differentiable": training, "registered": registered}
            return run(model, guide, args, kwargs, self.num_particles, **options)

        return -self.evaluate(terms_of).sum()

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Any:
        return get_importance_trace("flat", math.inf, model, guide, args, kwargs)


class ELBO(Objective):
    """E_q[log p(x, z) - log q(z | x)], the evidence lower bound, averaged over `num_particles` draws.

    Args:
        num_particles: K >= 1.
        analytic_kl: closed-form KL for each latent site, in place of log q - log p at the sample. Refused, with the
            site's name, where there is no closed form and where the guide's order makes it wrong (bottom-up guides).
        sticking: sticking the landing (Roeder et al. 2017): leave out the score of log q, whose expectation is zero;
            the gradient's variance vanishes as q comes to the posterior. Only here, as it is biased for
            importance-weighted bounds. It is left out of the parameters that the guide owns alone; those that it shares
            with the model keep theirs, which cancels against the model's.
    """

    def __init__(self, num_particles: int = 1, analytic_kl: bool = False, sticking: bool = False) -> None:
        super().__init__(num_particles)
        if analytic_kl and sticking:
            raise ValueError(
                "ELBO: `sticking` changes the gradient of log q at the sample, which `analytic_kl` does not use"
            )
        self.analytic_kl, self.sticking, self.capturable = analytic_kl, sticking, not sticking

    def bound(self, terms: Terms) -> Tensor:
        return terms.log_weights.mean(0)

    def evaluate(self, terms_of: Callable[..., Terms]) -> Tensor:
        if self.sticking and torch.is_grad_enabled():
            return self.bound(terms_of(copy=lambda z: z.view_as(z)))
        return super().evaluate(terms_of)


class IWELBO(Objective):
    """E_q[log (1/K) sum_k w_k], the importance-weighted bound of Burda et al. 2015, one for each datum.

    Args:
        num_particles: K >= 1; the bound rises to log p(x) with K.
        gradient: "iwae" differentiates the bound; "doubly" reparameterises the score of log q a second time (Tucker et
            al. 2018): the same expectation, with a signal-to-noise ratio of the encoder's gradient that does not fall
            with K. Right for hierarchical guides too: the weights multiply the gradient at *copies* of the samples, and
            the guide's own chain is left alone. Of a guide without parameters of its own (an exact posterior), or with
            sites marked `from_model`, it is "iwae". Of one that owns some and shares others with the model it is
            unbiased, but for those shared the score of log q is left out, which would cancel against the model's: near
            the posterior their gradient is noisier than that of "iwae", which is then the better choice.
    """

    def __init__(self, num_particles: int, gradient: str = "iwae") -> None:
        super().__init__(num_particles)
        if gradient not in ("iwae", "doubly"):
            raise ValueError(f'IWELBO: gradient must be "iwae" or "doubly", got {gradient!r}')
        self.gradient, self.capturable = gradient, gradient == "iwae"

    def bound(self, terms: Terms) -> Tensor:
        return torch.logsumexp(terms.log_weights, 0) - math.log(self.num_particles)

    def evaluate(self, terms_of: Callable[..., Terms]) -> Tensor:
        if self.gradient == "iwae" or not torch.is_grad_enabled():
            return super().evaluate(terms_of)
        weights: list[Tensor] = []  # known after the copies are scored; the hooks run later still, in backward

        def copy(z: Tensor) -> Tensor:
            z = z.view_as(z)
            batch = (self.num_particles, -1) if self.num_particles > 1 else (-1,)
            z.register_hook(lambda g: g * weights[0].reshape(*batch, *(1,) * (g.dim() - len(batch))))
            return z

        terms = terms_of(copy=copy, weighted=True)
        weights.append(torch.softmax(terms.log_weights.detach(), 0))
        return self.bound(terms)


class MAP(Objective):
    """log p(x, z) at the guide's point z, the log joint: maximum a posteriori for the latents. No bound on log p(x).

    The guide draws every continuous latent from a Delta: `pyro.infer.autoguide.AutoDelta`, or an encoder's output. The
    maximum depends on the coordinates in which z is written. `log_likelihood` and the bounds refuse such a guide.
    """

    point_mass = True
    quantity = "log joint"

    def __init__(self) -> None:
        super().__init__(1)

    def bound(self, terms: Terms) -> Tensor:
        return terms.log_weights.mean(0)


class RenyiELBO(Objective):
    """1/(1 - alpha) log mean_k w_k^(1 - alpha), the variational Renyi bound of Li and Turner 2016.

    alpha = 1 is the ELBO (the limit), alpha = 0 the IWELBO; it falls as alpha rises. `-math.inf` is VR-max, max_k log
    w_k, and `math.inf` VR-min, min_k log w_k. For alpha < 0 it is no lower bound on log p(x), for 0 < alpha it is;
    estimates are biased at finite K.

    Args:
        alpha: any real number or +-infinity.
        num_particles: K >= 1.
    """

    def __init__(self, alpha: float, num_particles: int) -> None:
        super().__init__(num_particles)
        if math.isnan(alpha):
            raise ValueError("RenyiELBO: alpha is NaN")
        self.alpha = float(alpha)

    def bound(self, terms: Terms) -> Tensor:
        log_weights, power = terms.log_weights, 1 - self.alpha
        if power == 0:
            return log_weights.mean(0)
        if math.isinf(power):
            return log_weights.amax(0) if power > 0 else log_weights.amin(0)
        mean = log_weights.mean(0)
        exponents = power * (log_weights - mean)
        far = (torch.logsumexp(exponents, 0) - math.log(self.num_particles)) / power
        near = torch.log1p(torch.expm1(exponents.clamp(-1, 1)).mean(0)) / power  # no cancellation as alpha nears 1
        return mean + torch.where(exponents.abs().amax(0) < 1, near, far)


class Tempered(Objective):
    """Another objective on tempered weights: log p(x | z) + kl_weight sum_l min(log p - log q of site l, -free_bits).

    The value is the tempered bound; evaluate a model with the untempered one (`.objective`).

    Args:
        objective: the objective that is tempered; it keeps its particles and, where they stay unbiased, its gradient
            estimator.
        kl_weight: a number (beta-VAE: Higgins et al. 2017), or a function of the step (warm-up: Sonderby et al. 2016).
            The step counts this objective's gradient evaluations, from 0 (take a new objective for a new training);
            `fit` saves and restores it.
        free_bits: nats per latent site (a sequence's whole z is one) below which its KL costs nothing; a number for all
            sites, or a mapping from site to number.
            Each draw's log ratio is compared, as in BIVA's code; with `analytic_kl` it is the KL itself.
        batch_mean: compare the batch's mean KL with `free_bits` (IAF, Kingma et al. 2016) rather than each datum's
            (BIVA).
    """

    def __init__(
        self,
        objective: Objective,
        kl_weight: float | Callable[[int], float] = 1.0,
        free_bits: float | Mapping[str, float] = 0.0,
        batch_mean: bool = False,
    ) -> None:
        if isinstance(objective, Tempered) or not isinstance(objective, Objective):
            raise ValueError(
                f"Tempered: expected an untempered objective of the zoo, such as ELBO(), got {type(objective).__name__}"
            )
        if isinstance(objective, IWELBO) and objective.gradient == "doubly":
            raise ValueError(
                'Tempered: the "doubly" gradient is that of the untempered bound; use IWELBO(gradient="iwae")'
            )
        if free_bits and getattr(objective, "sticking", False):
            raise ValueError(
                "Tempered: `sticking` is biased with `free_bits`: the score it leaves out is cut off at the threshold"
            )
        numbers = [*(free_bits.values() if isinstance(free_bits, Mapping) else [free_bits])]
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError(f"Tempered: free_bits must be finite and >= 0, got {free_bits!r}")
        super().__init__(objective.num_particles)
        self.objective, self.kl_weight, self.free_bits, self.batch_mean = objective, kl_weight, free_bits, batch_mean
        self.analytic_kl, self.capturable = objective.analytic_kl, objective.capturable
        self.point_mass, self.quantity = objective.point_mass, objective.quantity
        self.step = 0
        self.weight = torch.tensor(self.kl_weight_now)  # changed in place, so that a captured graph sees the schedule

    @property
    def kl_weight_now(self) -> float:
        """The weight of the next gradient evaluation."""
        weight = float(self.kl_weight(self.step) if callable(self.kl_weight) else self.kl_weight)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"Tempered: kl_weight must be finite and >= 0, got {weight} at step {self.step}")
        return weight

    def advance(self) -> None:
        self.weight.fill_(self.kl_weight_now)
        self.step += 1

    def temper(self, terms: Terms) -> Terms:
        """The terms with weighted, free-bitted log ratios."""
        if isinstance(self.free_bits, Mapping) and (unknown := set(self.free_bits) - set(terms.log_ratios)):
            raise ValueError(f"Tempered: free_bits names {sorted(unknown)}, the latent sites are {[*terms.log_ratios]}")
        ratios, weight = {}, self.weight.to(terms.log_likelihood, copy=True)  # copied: the next step overwrites it
        for name, ratio in terms.log_ratios.items():
            free = self.free_bits.get(name, 0.0) if isinstance(self.free_bits, Mapping) else self.free_bits
            if free and self.batch_mean:
                ratio = torch.where(ratio.mean() < -free, ratio, ratio.new_tensor(-free))
            elif free:
                ratio = ratio.clamp(max=-free)
            ratios[name] = ratio * weight
        return terms._replace(log_ratios=ratios)

    def bound(self, terms: Terms) -> Tensor:
        return self.objective.bound(self.temper(terms))

    def evaluate(self, terms_of: Callable[..., Terms]) -> Tensor:
        return self.objective.evaluate(lambda **options: self.temper(terms_of(**options)))
