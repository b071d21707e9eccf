"""A value as a function of one vector, the learned parameters of a module, for `zoo.parts.ascent` to climb."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

#: errors of `value()` for parameters of no model, such as an indefinite covariance
NO_MODEL = (ValueError, torch.linalg.LinAlgError)


class Learned(NamedTuple):
    """A learned parameter: the name by which its module knows it, its entries, and the map from these to its value."""

    name: str
    entries: nn.Parameter
    constraint: Constraint | None
    transform: Any  # of torch.distributions; None where entries are values

    @property
    def value(self) -> Tensor:
        """The constrained value."""
        return self.entries if self.transform is None else self.transform(self.entries)


class Surface:
    """-value() as a function of coordinates, a float64 vector: the unconstrained entries of all that is learned.

    Coordinates are free of scale, so that one length of step suits all. A constraint's map makes them so (the logarithm
    of a variance); an entry without constraint is divided by the root mean square of its tensor.

    Args:
        module: its parameters that require a gradient make the coordinates, unconstrained where it is a `PyroModule`
            with constraints.
        value: the scalar, a function of the module's parameters.

    Attributes:
        learned: the parameters.
        symmetric: for each parameter, True if it is a covariance without a constraint: its entries are kept symmetric.
        at: coordinates of the parameters at the start, or at the last call of `units`.
        resolution: the largest machine epsilon of the parameters' dtypes.

    Raises:
        ValueError: nothing requires a gradient; a value is not finite, or stands on the bound of its constraint.
    """

    def __init__(self, module: nn.Module, value: Callable[[], Tensor]) -> None:
        self.value = value
        self.learned = [_learned(module, name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not self.learned:
            raise ValueError("nothing is learned: expected values that are nn.Parameter or PyroParam")
        for part in self.learned:
            if not torch.isfinite(part.entries).all():
                raise ValueError(f"{part.name}: expected a start that is finite and within its constraint, got "
                                 f"{part.value.detach().tolist()}")  # fmt: skip
        self.sizes = [part.entries.numel() for part in self.learned]
        self.resolution = max(torch.finfo(part.entries.dtype).eps for part in self.learned)
        # a covariance without a constraint has no model off the symmetric matrices: a step of L-BFGS that leaves them
        # by rounding would end at a wall, and differences of gradients need a model on both sides
        self.symmetric = [False] * len(self.learned)
        self.units()
        if any(map(_is_even, self.learned)):
            self.symmetric = [_is_even(part) and self._only_even(k) for k, part in enumerate(self.learned)]
            self.place(self.at)

    def _only_even(self, k: int) -> bool:
        """Tells whether the k-th parameter, a matrix, has no model once it is a little asymmetric."""
        parts = list(self.at.split(self.sizes))
        off = torch.ones(self.learned[k].entries.shape).triu(1).to(self.at)
        parts[k] = parts[k] + 0.01 * off.flatten()
        return self.loss(torch.cat(parts)) == torch.inf

    def even(self, vector: Tensor) -> Tensor:
        """The vector of entries, each matrix that has to be symmetric replaced by its symmetric part."""
        if not any(self.symmetric):
            return vector
        parts = list(vector.split(self.sizes))
        for k in [k for k, only in enumerate(self.symmetric) if only]:
            matrix = parts[k].view(self.learned[k].entries.shape)
            parts[k] = ((matrix + matrix.mT) / 2).flatten()
        return torch.cat(parts)

    def units(self) -> None:
        """Sets the units of the coordinates by the present parameters, and `at` to their coordinates."""
        scales = [1.0 if part.transform is not None else _size(part.entries) for part in self.learned]
        entries = self.entries()
        self.unit = torch.cat([entries.new_full((n,), s) for n, s in zip(self.sizes, scales, strict=True)])
        self.at = entries / self.unit

    def entries(self) -> Tensor:
        """A copy of all entries of the parameters."""
        return torch.cat([part.entries.detach().flatten().double() for part in self.learned])

    @torch.no_grad()
    def write(self, entries: Tensor) -> None:
        """Writes these entries into the parameters."""
        for part, new in zip(self.learned, self.even(entries).split(self.sizes), strict=True):
            part.entries.copy_(new.view_as(part.entries))

    def place(self, at: Tensor) -> None:
        """Writes these coordinates into the parameters."""
        self.write(at * self.unit)

    def loss(self, at: Tensor) -> float:
        """-value() at these coordinates; infinite where there is no model."""
        if not torch.isfinite(at).all():
            return torch.inf
        self.place(at)
        try:
            with torch.no_grad():
                found = -self.value().item()
        except NO_MODEL:
            return torch.inf
        return found if abs(found) < torch.inf else torch.inf

    def gradient(self, at: Tensor) -> tuple[float, Tensor]:
        """-value() and its gradient by the coordinates; infinity and zeros if not finite or if there is no model."""
        nothing = torch.inf, torch.zeros_like(at)
        if not torch.isfinite(at).all():
            return nothing
        self.place(at)
        parameters = [part.entries for part in self.learned]
        try:
            with torch.enable_grad():
                loss = -self.value()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        except NO_MODEL:
            return nothing
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        grad = self.even(torch.cat([g.flatten().double() for g in flat])) * self.unit
        if not (torch.isfinite(loss) and torch.isfinite(grad).all()):
            return nothing
        return loss.item(), grad

    def bend(self, at: Tensor, direction: Tensor) -> Tensor | None:
        """The Hessian times a direction of length 1, by differences; None where one side has no model."""
        # a central difference of gradients: eps^(1/3) balances its rounding, eps / step, and its error, step^2
        step = self.resolution ** (1 / 3)
        (one, ahead), (other, behind) = self.gradient(at + step * direction), self.gradient(at - step * direction)
        return None if max(one, other) == torch.inf else (ahead - behind) / (2 * step)

    def noise(self) -> Tensor:
        """A random direction, the same one always."""
        generator = torch.Generator().manual_seed(0)
        return self.even(torch.randn(len(self.at), generator=generator, dtype=torch.float64).to(self.at))

    def bounded(self) -> list[int]:
        """Indices of the coordinates of parameters under a constraint; at its bound they are infinite."""
        owner = [k for k, n in enumerate(self.sizes) for _ in range(n)]
        return [i for i, k in enumerate(owner) if self.learned[k].transform is not None]

    @torch.no_grad()
    def rescaled(self, at: Tensor, factors: dict[int, float]) -> Tensor:
        """The coordinates `at`, with the distance of parameter k from its bound multiplied by factors[k]."""
        parts = list((at * self.unit).split(self.sizes))
        for k, factor in factors.items():
            _, entries, constraint, transform = self.learned[k]
            try:
                new = transform.inv(_scaled(transform(parts[k].view_as(entries)), constraint, factor))
            except NO_MODEL:
                new = torch.full_like(entries, torch.nan)
            parts[k] = new.flatten().double()
        return torch.cat(parts) / self.unit

    def scales(self) -> list[int]:
        """Indices of the parameters whose distance from their bound may be any positive number, such as variances."""
        return [k for k, part in enumerate(self.learned) if _has_scale(part)]

    def explain(self, gradient: Tensor, count: int) -> str:
        """The text of an error: the parameter with the largest entry of the gradient, its value, the derivative by it.

        gradient: of the loss by the coordinates, at the present parameters.
        count: factor that makes nats of `value()`.
        """
        entry = int(gradient.nan_to_num(torch.inf).abs().argmax())
        k = next(k for k in range(len(self.sizes)) if entry < sum(self.sizes[: k + 1]))
        part, by_entries = self.learned[k], -count * (gradient / self.unit).split(self.sizes)[k]
        value = part.value.detach().flatten()
        if part.transform is not None:
            # from the derivative by entries to the derivative by the value: dL/dvalue = J'^-1 dL/dentries
            flat = lambda entries: part.transform(entries.view_as(part.entries)).flatten()  # noqa: E731
            slope = torch.autograd.functional.jacobian(flat, part.entries.detach().flatten()).double()
            if len(slope) == slope.shape[1] and torch.equal(slope, slope.diagonal().diag_embed()):
                by_entries = by_entries / slope.diagonal()
            else:
                by_entries = torch.linalg.pinv(slope).mT @ by_entries
        place = entry - sum(self.sizes[:k]) if len(value) == self.sizes[k] else int(by_entries.abs().argmax())
        where = f" (entry {place} of {len(value)})" if len(value) > 1 else ""
        return f"{part.name}: no maximum was reached, its value is {value[place]:.6g}{where}, the derivative by it " \
               f"{by_entries[place]:.3g} nats"  # fmt: skip


def _learned(module: nn.Module, name: str, entries: nn.Parameter) -> Learned:
    name = name.removesuffix("_unconstrained")
    owner, _, leaf = name.rpartition(".")
    part = module.get_submodule(owner)
    constraint, _ = part._pyro_params.get(leaf, (None, None)) if isinstance(part, PyroModule) else (None, None)
    # `constraints.real` and its like map entries to themselves: such a parameter is one without a constraint
    transform = None if constraint is None else transform_to(constraint)
    if transform is not None and _is_identity(transform, entries.detach()):
        transform = None
    return Learned(name, entries, constraint, transform)


def _is_identity(transform: Any, like: Tensor) -> bool:
    """Tells whether a map leaves entries as they are."""
    # tried at 0 and -1: a softplus leaves large entries as they are
    tried = [torch.zeros_like(like), torch.full_like(like, -1.0)]
    values = [transform(entries) for entries in tried]
    return all(v.shape == e.shape and torch.equal(v, e) for v, e in zip(values, tried, strict=True))


def _is_even(part: Learned) -> bool:
    """Tells whether a parameter is a matrix without a constraint, symmetric to rounding in single precision."""
    shape, values = part.entries.shape, part.entries.detach()
    square = part.transform is None and len(shape) > 1 and shape[-1] == shape[-2] > 1
    return square and bool(((values - values.mT).abs() <= 1e-5 * values.abs().max()).all())


def _size(entries: Tensor) -> float:
    """The root mean square of the entries; 1 where that is zero or not finite."""
    size = entries.detach().double().square().mean().sqrt().item()
    return size if 0 < size < torch.inf else 1.0


def _scaled(value: Tensor, constraint: Any, factor: float) -> Tensor:
    """A value with its distance from the bound of its constraint, else from 0, times the factor."""
    bound = getattr(constraint, "lower_bound", getattr(constraint, "upper_bound", 0.0))
    return bound + (value - bound) * factor


def _has_scale(part: Learned) -> bool:
    """Tells whether a parameter stays within its constraint when it is multiplied, counted from its bound."""
    if part.transform is None:
        return False
    value = part.value.detach()
    return all(bool(part.constraint.check(_scaled(value, part.constraint, f)).all()) for f in (1e-3, 1.0, 1e3))
