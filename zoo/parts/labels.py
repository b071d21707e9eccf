"""Classes of data points: coded for networks, asked for in generation, inferred by guides."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical
from torch import Tensor

from zoo.parts.checks import check_counts, check_labels, check_tensor, expand_fixed, parameter_of


def one_hot(y: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """Classes `(...)` as vectors `(..., num_classes)` of a one and zeros, in dtype and on the device of `like`."""
    # torch's own, `F.one_hot`, reads the largest class: a wait for the device, and a break in a compiled graph
    return (y.unsqueeze(-1) == torch.arange(num_classes, device=like.device)).to(like.dtype)


def over_classes(logits: Tensor) -> Categorical:
    """The distribution over classes `(...)` with logits `(..., num_classes)`."""
    # objectives look at the values of all sites; torch's own look, at each construction, would be one more
    return Categorical(logits=logits, validate_args=False)


def checked_logits(logits: Tensor, num_classes: int, *inputs: Tensor) -> Tensor:
    """The logits that a classifier makes of its inputs, one for each class and each row.

    Raises:
        ValueError: another shape, which would broadcast, and count a row several times.
    """
    expected = (*torch.broadcast_shapes(*(part.shape[:-1] for part in inputs)), num_classes)
    if logits.shape != expected:
        raise ValueError(f"classifier: expected logits of shape {expected}, one for each class, got "
                         f"{tuple(logits.shape)}")  # fmt: skip
    return logits


def draws_of_classes(num_draws: int | None, training: bool) -> int:
    """The number of draws of a classifier that is a mean over them: by default one in training mode, else 100."""
    if num_draws is None:
        return 1 if training else 100
    check_counts(num_draws=num_draws)
    return num_draws


def mean_over_draws(classes: Categorical) -> Categorical:
    """The mean of distributions over classes along their first axis."""
    # by log probabilities, as the probability of a class that all draws rule out would be rounded to zero
    return over_classes(classes.logits.logsumexp(0))


@torch.no_grad()
def probabilities(
    classifier: Callable[..., Categorical], x: Tensor, *beside: Tensor | None, at_once: int = 10_000
) -> Tensor:
    """q(y | x) as probabilities, `(N, C)`, for `at_once` rows of x at a time, to bound the memory.

    Args:
        beside: further arguments of the classifier, a row for each of x, or None.
    """
    # no batch axis, or none at all, is the classifier's to refuse
    if not isinstance(x, Tensor) or x.ndim != 2 or any(b is not None and len(b) != len(x) for b in beside):
        return classifier(x, *beside).probs
    rows = [slice(start, start + at_once) for start in range(0, len(x), at_once)] or [slice(None)]
    return torch.cat([classifier(x[r], *(b if b is None else b[r] for b in beside)).probs for r in rows])


def predicted(
    classifier: Callable[..., Categorical], x: Tensor, num_draws: int, mask: Tensor | None, c: Tensor | None
) -> Tensor:
    """`probabilities` of a classifier `(x, num_draws, mask, c)` that is a mean over draws."""
    check_counts(num_draws=num_draws)
    at_once = max(1, 10_000 // num_draws)
    return probabilities(lambda rows, *beside: classifier(rows, num_draws, *beside), x, mask, c, at_once=at_once)


@torch.no_grad()
def generate_classes(
    model: Any,
    sizes: Mapping[str, int],
    y: Tensor | None,
    num: int | None,
    fixed: Mapping[str, Tensor] | None,
    c: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Latents and x drawn by a model's own program, given classes.

    Args:
        model: has `class_prior()`, `num_classes`, `data_dim`, and a site `x`.
        sizes: of the latents besides y: site -> size.
        y: classes, `(N,)`; None: drawn from p(y).
        num: N, where y is None.
        fixed: latents that are given, as `expand_fixed` takes them.
        c: the condition, where the model takes one: a row for each, or one for all.

    Returns:
        The latents with y, site -> `(N, ...)`, and x, `(N, data_dim)`.

    Raises:
        TypeError, ValueError: neither or both of y and num; wrong classes, as `check_labels`; as `expand_fixed`.
    """
    if (y is None) == (num is None):
        raise ValueError(f"generate: expected y or num, one of the two, got y = {y} and num = {num}")
    if num is not None:
        check_counts(num=num)
        y = model.class_prior().sample((num,))
    rows = len(y) if isinstance(y, Tensor) and y.ndim else 1
    check_labels(y, rows, model.num_classes)
    check_counts(num=rows)
    like: Any = parameter_of(model)
    given = {"y": y} | expand_fixed(type(model).__name__, sizes, rows, fixed, like)
    # y is a condition, and no argument: `uncondition` would draw an argument anew, and give other classes
    program = poutine.condition(poutine.uncondition(model.forward), given)
    condition = {}
    if c is not None:
        check_tensor(c, "c")
        one_for_all = c.ndim == 0 or (c.ndim == 1 and c.is_floating_point())
        condition = {"c": c.expand(rows, *c.shape) if one_for_all else c}
    sites = poutine.trace(program).get_trace(like.new_zeros(rows, model.data_dim), **condition).nodes
    return {name: sites[name]["value"] for name in ("y", *sizes)}, sites["x"]["value"]
