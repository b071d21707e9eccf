"""Standard errors at a maximum of log p(x): the observed information, and the delta method for constrained values."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.parts.surface import Learned, Surface

# nats: a coordinate of less curvature stands at a bound (the logarithm of a variance that is as good as zero)
_FLAT = 1e-4
# nats: what a step to the maximum of the quadratic model may gain at most, where the module stands at a maximum
_GAIN = 0.01


class Estimates(NamedTuple):
    """Learned values with their errors; a matrix or vector has one entry for each of its numbers.

    Attributes:
        names: such as `level_variance` and `ar[0]`.
        values: `(k,)`.
        covariance: of the values, `(k, k)`. NaN for a value at a bound of its constraint, where log p(x) is not
            quadratic; the others are as if it were known.
        free: number of coordinates that these values have.
    """

    names: tuple[str, ...]
    values: Tensor
    covariance: Tensor
    free: int

    @property
    def standard_errors(self) -> Tensor:
        return self.covariance.diagonal().sqrt()


def estimate(module: nn.Module, log_likelihood: Callable[[], Tensor]) -> Estimates:
    """The learned values of a module at a maximum of `log_likelihood()`, in nats, with their covariance.

    The observed information is minus the second derivative of log p by the unconstrained coordinates, from differences
    of its exact gradient, since the recursions have no second derivative of their own.

    Raises:
        ValueError: nothing is learned; the module is at no maximum, or log p does not depend on some combination of
            values; names the value concerned.
    """
    log_likelihood()  # raises an error of the data; the surface takes such an error for a place without a model
    surface = Surface(module, log_likelihood)
    start = surface.entries()
    try:
        basis = _even_directions(surface)
        information = basis.mT @ torch.stack([_bend(surface, direction) for direction in basis.mT], -1)
        slope = basis.mT @ surface.gradient(surface.at)[1]
    finally:
        surface.write(start)
    information = (information + information.mT) / 2
    kept = information.diagonal() > _FLAT
    scale = torch.where(kept, information.diagonal(), 1.0).abs().sqrt()
    inner = (information / (scale.unsqueeze(-1) * scale))[kept][:, kept]
    values, vectors = torch.linalg.eigh(inner)
    owners = [k for k, n in enumerate(surface.sizes) for _ in range(n)]
    name = lambda weights: surface.learned[owners[int((basis[:, kept] @ weights).abs().argmax())]].name  # noqa: E731
    if (information.diagonal() < -_FLAT).any():
        lowest = basis[:, information.diagonal().argmin()]
        raise _no_maximum(surface.learned[owners[int(lowest.abs().argmax())]].name, "log p(x) curves upwards")
    if len(values) and values[0] < 1e-9:
        why = "log p(x) curves upwards" if values[0] < -1e-6 else "log p(x) does not tell it from the others"
        raise _no_maximum(name(vectors[:, 0]), why)
    inverse = torch.linalg.inv(inner) if len(values) else inner
    pull = (slope / scale)[kept]
    if (gain := 0.5 * (pull @ inverse @ pull).item()) > _GAIN:
        raise _no_maximum(name(inverse @ pull), f"a step would gain {gain:.3g} nats")
    whole = torch.zeros_like(information)
    whole[kept.unsqueeze(-1) & kept] = (inverse / (scale[kept].unsqueeze(-1) * scale[kept])).flatten()
    unknown = (basis[:, ~kept] != 0).any(-1)
    covariance = basis @ whole @ basis.mT * (surface.unit.unsqueeze(-1) * surface.unit)
    return _constrained(surface, covariance, unknown, basis)


def _no_maximum(name: str, why: str) -> ValueError:
    return ValueError(f"{name}: {why} at this value, so there is no standard error; expected a model at a maximum, "
                      "as maximum_likelihood leaves it, and values that the data determine")  # fmt: skip


def _even_directions(surface: Surface) -> Tensor:
    """An orthonormal basis of the coordinates, `(entries, k)`; symmetric directions alone for symmetric matrices."""
    size = len(surface.at)
    eye = torch.eye(size).to(surface.at)
    if not any(surface.symmetric):
        return eye
    values, vectors = torch.linalg.eigh(torch.stack([surface.even(row) for row in eye]))
    return vectors[:, values > 0.5]


def _bend(surface: Surface, direction: Tensor) -> Tensor:
    """The Hessian of -log p times a direction, by differences of the gradient, of fourth order in the step."""
    # the error is step^4 and the rounding resolution / step, so that the fifth root balances them; `Surface.bend`, of
    # second order, is quicker by half and has a third fewer digits
    step = surface.resolution ** (1 / 5)
    near, far = (
        surface.gradient(surface.at + k * step * direction)[1] - surface.gradient(surface.at - k * step * direction)[1]
        for k in (1, 2)
    )
    return (8 * near - far) / (12 * step)


def _constrained(surface: Surface, covariance: Tensor, unknown: Tensor, basis: Tensor) -> Estimates:
    """The values and their covariance J V J', J the derivative of a value by its entries."""
    names: list[str] = []
    values, jacobians = [], []
    for part, entries in zip(surface.learned, surface.entries().split(surface.sizes), strict=True):
        shape = part.value.shape
        names += [f"{part.name}{list(place) if place else ''}" for place in torch.cartesian_prod(
            *(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist()] if shape else [part.name]  # fmt: skip
        flat = lambda e, part=part: _value(part, e).flatten()  # noqa: E731
        jacobians.append(torch.autograd.functional.jacobian(flat, entries))
        values.append(flat(entries).detach())
    jacobian = torch.block_diag(*jacobians)
    found = jacobian @ covariance @ jacobian.mT
    lost = (jacobian[:, unknown] != 0).any(-1)
    found[lost], found[:, lost] = torch.nan, torch.nan
    # a triangular map of a matrix has entries above its diagonal that it does not read
    free = int((jacobian @ basis != 0).any(0).sum())
    return Estimates(tuple(names), torch.cat(values), found, free)


def _value(part: Learned, entries: Tensor) -> Tensor:
    entries = entries.view_as(part.entries)
    return entries if part.transform is None else part.transform(entries)
