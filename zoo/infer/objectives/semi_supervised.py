"""An objective for data of which some have labels."""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.infer.objectives.objective import Objective, Part
from zoo.infer.objectives.scheduled import Scheduled
from zoo.infer.per_datum import Terms
from zoo.infer.sites.programs import batch_rows
from zoo.parts.door import signature_of


@runtime_checkable
class HasClassifier(Protocol):
    """A guide that states q(y | x), a distribution over the classes for each row of x."""

    def classifier(self, x: Tensor) -> Any: ...


class SemiSupervised(Objective):
    """sum_labelled [bound(x, y) + alpha log q(y | x)] + sum_unlabelled bound(x), for labels that some data lack.

    A batch is `(x, y)` with int64 labels y, -1 where the label is unknown; a batch without y, or with None, has no
    labels. The labelled rows are bounded with y observed, a bound on log p(x, y), the others without y, a bound on
    log p(x). In all the value stays a lower bound, since log q(y | x) <= 0. The order of the rows does not matter.

    **Conventions of alpha.** Kingma et al. count each of N data once and take alpha = 0.1 N / N_l for N_l labels.
    Batches that hold labelled rows r times as often as the data do, as those of `zoo.data.PartlyLabelled`, weigh the
    bound of a labelled row r times already: alpha = 0.1 N / (N_l r) there gives log q(y | x) Kingma's weight. (One
    labelled row for each unlabelled one means r = (N - N_l) / N_l, so that alpha is about 0.1.) The code of Maaloe et
    al. has batches of that kind and alpha = 0.1 N / N_l, 50 for 100 labels of MNIST.

    References: Kingma et al. 2014 (equation 9); Maaloe et al. 2016.

    Args:
        objective: the bound of both kinds of rows; `Tempered(...)` too, whose schedule moves once for each batch,
            whose `batch_mean` is one over the rows of each kind, and whose weight and free bits of the label, named
            as the argument is, are those of the rows without one.
        alpha: weight of log q(y | x) of a labelled row; at 0 the bounds alone. Otherwise the guide has `classifier(x)`,
            whose result has the method `log_prob(y)`.
        label: name of the argument y of model and guide, given by position or by keyword.

    Raises:
        ValueError: alpha is negative, infinite or NaN; another `SemiSupervised` or a `Scheduled` inside. At each call:
            the guide has no argument of that name, or no `classifier`, or one that gives no distribution for each row;
            labels that are not int64, or not one for each row.

    Example:
        >>> from zoo.infer import ELBO, SemiSupervised, Tempered
        >>> warm = Tempered(ELBO(), kl_weight=lambda step: min(1.0, step / 1000))
        >>> SemiSupervised(warm, alpha=0.1).kl_weight_now
        0.0
    """

    def __init__(self, objective: Objective, alpha: float, label: str = "y") -> None:
        if isinstance(objective, Scheduled):
            raise ValueError(
                "SemiSupervised: expected an objective without Scheduled, which goes around it: "
                "Scheduled(SemiSupervised(...), ...)"
            )
        if isinstance(objective, SemiSupervised) or not isinstance(objective, Objective):
            raise ValueError(
                "SemiSupervised: expected an objective of the zoo that knows no labels, such as ELBO(), got "
                f"{type(objective).__name__}"
            )
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"SemiSupervised: alpha must be finite and >= 0, got {alpha!r}")
        super().__init__(objective.num_particles)
        self.objective, self.alpha, self.label = objective, float(alpha), label
        self._demand_as(objective)
        # an importance-weighted bound does not train q(y | x); labels do
        self.cancels_summed &= self.alpha == 0

    @property
    def untempered(self) -> Objective:
        inner = self.objective.untempered
        return self if inner is self.objective else SemiSupervised(inner, self.alpha, self.label)

    @property
    def kl_weight_now(self) -> float | dict[str, float] | None:
        return self.objective.kl_weight_now

    @property
    def step(self) -> int | None:
        """The step of the schedule inside; None without. `fit` saves and restores it."""
        return getattr(self.objective, "step", None)

    @step.setter
    def step(self, step: int) -> None:
        self.objective.step = step  # type: ignore[attr-defined]

    def advance(self) -> None:
        self.objective.advance()

    def bound(self, terms: Terms) -> Tensor:
        # a KL weight or free bits may name the label, which is a latent site of the other rows alone
        given = () if self.label in terms.log_ratios else (self.label,)
        return self.objective.bound(terms._replace(given=given))

    def parts(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
        """The labelled rows with their labels, and the others with None in place of y; a kind without rows is left out.

        Raises:
            ValueError: the guide takes no label, or these are no labels.
        """
        if not args:
            # the data by name, as any bound takes them; the label is looked for behind them
            first = self._names(guide)[0]
            if first not in kwargs:
                raise TypeError(f"SemiSupervised: expected the data, by position or as {first!r}, got {[*kwargs]}")
            args, kwargs = (kwargs[first],), {name: value for name, value in kwargs.items() if name != first}
        y = self._labels(guide, args, kwargs)
        if y is None:
            return [(args, kwargs)]
        if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != args[0].shape[:1]:
            found = f"{y.dtype}, shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{self.label}: expected an int64 class for each row, -1 where the label is unknown, shape "
                f"({len(args[0])},); got {found}"
            )
        known = y != -1
        # one look at the values, not two: each makes a device wait
        num_known = int(known.sum())
        if num_known == len(y):
            return [(args, kwargs)]
        if num_known == 0:
            return [_without(y, args, kwargs)]
        labelled, others = known.nonzero()[:, 0], known.logical_not().nonzero()[:, 0]
        (x, *rest), named = _without(y, args, kwargs)
        return [batch_rows(args[0], args[1:], kwargs, labelled), batch_rows(x, tuple(rest), named, others)]

    def added(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        y = self._labels(guide, args, kwargs)
        if y is None or self.alpha == 0:
            return None
        if not isinstance(guide, HasClassifier):
            raise ValueError(
                f"SemiSupervised: {type(guide).__name__} has no method classifier(x), the q({self.label} | x) that "
                "labels train; give it one, or take alpha=0"
            )
        (x, *rest), named = _without(y, args, kwargs)
        beside = {**dict(zip(self._names(guide)[1:], rest, strict=False)), **named}
        # a mask and a condition, for a classifier that takes them
        read = signature_of(guide.classifier).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in read.values()):
            beside = {name: value for name, value in beside.items() if name in read}
        beside = {name: value for name, value in beside.items() if value is not None}
        log_q = guide.classifier(x, **beside).log_prob(y)
        # any other shape would broadcast, and count a label several times without a word
        if log_q.shape != y.shape:
            raise ValueError(f"SemiSupervised: expected classifier(x) to give a distribution for each row, batch shape "
                             f"{tuple(y.shape)}, got {tuple(log_q.shape)}")  # fmt: skip
        return self.alpha * log_q

    def _labels(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        if self.label in kwargs:
            return kwargs[self.label]
        place = self._place(guide)
        return args[place] if place < len(args) else None

    def _place(self, guide: Any) -> int:
        """The position of the label among the arguments of a guide."""
        names = self._names(guide)
        # a guide that takes any argument would be given the labels, and they would not be found: no row had a label
        if self.label not in names:
            raise ValueError(
                f"SemiSupervised: {type(guide).__name__} has no argument of the name {self.label!r}, but {names}; give "
                "the argument's name as `label`"
            )
        return names.index(self.label)

    def _names(self, guide: Any) -> list[str]:
        """The arguments of a guide; of one that binds them by its model's names, those of the model."""
        program, found = guide, _parameters(guide)
        # a model around another, such as `WithMask`, takes the arguments of that one
        while self.label not in found and "args" in found:
            inside = getattr(program, "inner", getattr(program, "model", None))
            if inside is None:
                break
            program, found = inside, _parameters(inside)
        return found


def _parameters(program: Any) -> list[str]:
    return [*signature_of(program).parameters]


def _without(y: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Part:
    """The arguments with None in place of the labels y."""
    # None, and not left out: arguments behind y keep their places
    return tuple(None if v is y else v for v in args), {name: None if v is y else v for name, v in kwargs.items()}
