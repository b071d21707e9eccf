"""The abstract objective: runs a pair, and makes a loss of a functional of its terms."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from zoo.infer.call import Purpose, run
from zoo.infer.closed_form import closed_form
from zoo.infer.pair import look_at
from zoo.infer.per_datum import Terms
from zoo.infer.sites.programs import check_num_particles, methods_callable
from zoo.parts.checks import check_counts

# the arguments of model and guide for some rows of a batch, by position and by keyword
Part = tuple[tuple[Any, ...], dict[str, Any]]


class Objective(pyro.infer.ELBO):
    """A bound on log p(x), summed over the batch (abstract), for `pyro.infer.SVI` and `objective(model, guide)`.

    A new objective states `bound`, the functional of the terms, and no more; a schedule moves on in `advance`, and an
    objective that treats some rows in another way than others states its `parts`.

    Attributes:
        analytic_kl: True if minus the closed-form KL takes the place of log p - log q.
        point_mass: True if the guide gives points, as `MAP` wants them, and no densities.
        score: True if the bound differentiates `Terms.log_score`, so that sites without a reparameterised sample serve.
        cancels_summed: True if log q of summed sites cancels in the bound, so that no gradient trains it.
        linear: True if the bound is linear in the log weights, so that each datum can bear a share of the term of a
            site outside the batch plate; False refuses such sites.
        num_data: number of data N of which each bears 1/N of that term; None: the batch is all of the data.
        quantity: the value in words, for printing.
        path: runs the pair for a gradient that is not the plain one (`zoo.infer.path.sticking`, `doubly`); None for
            plain differentiation. It works by hooks and frozen parameters, which a captured graph does not hold.
    """

    analytic_kl = False
    point_mass = False
    score = False
    cancels_summed = False
    linear = False
    num_data: int | None = None
    quantity = "bound"
    path: Callable[..., Terms] | None = None

    def __init__(self, num_particles: int = 1, *, num_data: int | None = None) -> None:
        particles = check_num_particles(num_particles, f"{type(self).__name__}: ")
        if num_data is not None:
            check_counts(num_data=num_data)
            self.num_data = num_data
        super().__init__(num_particles=particles, vectorize_particles=True)

    def _demand_as(self, objective: "Objective") -> None:
        """Makes the demands on pairs that another objective makes, which this one is built around."""
        self.analytic_kl, self.path, self.score = objective.analytic_kl, objective.path, objective.score
        self.point_mass, self.quantity = objective.point_mass, objective.quantity
        self.cancels_summed = objective.cancels_summed
        self.linear, self.num_data = objective.linear, objective.num_data

    @abstractmethod
    def bound(self, terms: Terms) -> Tensor:
        """The bound for each datum in nats, `(N,)`, from terms `(K, N)`; with summed sites `(..., K, N)`."""

    def advance(self) -> None:
        """A hook, called once before each gradient evaluation."""

    def parts(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
        """A hook: the parts into which the rows of a batch are split; the bound is the sum of theirs.

        Every tensor with an entry for each row is cut. `fit` adds the keyword `index`, the numbers of the rows in the
        data, and reads it in the parts: its errors name these numbers.
        """
        return [(args, kwargs)]

    def added(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """A hook: nats that the objective adds to the bound of each row of a part, `(N,)`; None for none."""
        return None

    @property
    def untempered(self) -> "Objective":
        """The objective without weights of the KL, by which models are compared."""
        return self

    @property
    def kl_weight_now(self) -> float | dict[str, float] | None:
        """The KL weight of the next gradient evaluation; of several sites, site -> weight; None without."""
        return None

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound summed over the batch, to be differentiated."""
        if torch.is_grad_enabled():
            self.advance()
        return self._loss_of(model, guide, args, kwargs)

    def _loss_of(
        self, model: Callable, guide: Callable, args: tuple[Any, ...], kwargs: dict[str, Any], registered: bool = False
    ) -> Tensor:
        parts = self.parts(guide, args, kwargs)
        try:
            return self.loss_of_parts(model, guide, parts, registered=registered)
        except ValueError:
            if len(parts) > 1:
                self._look_at_parts(model, guide, args, kwargs)
            raise

    def _look_at_parts(self, model: Callable, guide: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises the error of a batch in parts once more, with the numbers of its rows in the batch."""
        data = args[0] if args else next(iter(kwargs.values()))
        numbered = {"index": torch.arange(len(data), device=data.device), **kwargs}
        for part, named in self.parts(guide, args, numbered):
            rows = named["index"] if "index" in kwargs else named.pop("index")
            look_at(model, guide, part, named, rows)

    def loss_of_parts(self, model: Callable, guide: Callable, parts: list[Part], *, registered: bool = False) -> Tensor:
        """Minus the bounds of a batch's `parts`, summed over their rows; moves no schedule.

        Args:
            registered: call PyroModules through Pyro's parameter store, as `pyro.infer.SVI` requires.
        """
        rows = sum(len(args[0]) for args, _ in parts) if len(parts) > 1 else None
        losses = [self._loss_of_part(model, guide, *part, rows, registered=registered) for part in parts]
        return sum(losses[1:], losses[0])

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound summed over the batch, a number without gradient."""
        with torch.no_grad():
            return self._loss_of(model, guide, args, kwargs).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """`loss`, after adding its gradient to `.grad` of the parameters; the method that `pyro.infer.SVI` calls."""
        if torch.is_grad_enabled():
            self.advance()
        loss = self._loss_of(model, guide, args, kwargs, registered=True)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def _loss_of_part(
        self, model: Callable, guide: Any, args: tuple, kwargs: dict, rows: int | None, *, registered: bool
    ) -> Tensor:
        """Minus the bound of one part; `rows` counts those of the whole batch, None where the part is the batch."""
        training = torch.is_grad_enabled()
        purpose = Purpose(
            differentiable=training,
            score=self.score,
            point_mass=self.point_mass,
            cancels_summed=self.cancels_summed,
            registered=registered,
            outside=self.linear,
        )
        terms_of = closed_form if self.analytic_kl else self.path if training and self.path is not None else run
        terms = terms_of(model, guide, args, kwargs, self.num_particles, purpose)
        alone = not terms.outside and terms.outside_likelihood is None
        bound = self.bound(terms if alone else self._shared_out(terms, rows))
        if bound.dim() != 1:
            raise ValueError(
                f"{type(self).__name__}.bound: expected (N,), got {tuple(bound.shape)}. With a summed site terms are "
                "(..., K, N): take terms.expectation(...) and terms.log_expectation(...) in place of means over axis 0"
            )
        # the guide's own methods are called here, so here it must see the store, or not see it, as its program does
        with methods_callable(guide, registered):
            added = self.added(guide, args, kwargs)
        return -bound.sum() if added is None else -bound.sum() - added.sum()

    def _shared_out(self, terms: Terms, rows: int | None) -> Terms:
        """The terms in which each datum bears its share of those outside the batch plate."""
        batch = rows or terms.log_likelihood.shape[-1]
        if self.num_data is not None and self.num_data < batch:
            raise ValueError(f"{type(self).__name__}: num_data is {self.num_data}, and the batch has {batch} rows")
        return terms.shared_out(self.num_data or batch)

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Any:
        # abstract in Pyro's class, and called by its own losses alone
        return get_importance_trace("flat", math.inf, model, guide, args, kwargs)
