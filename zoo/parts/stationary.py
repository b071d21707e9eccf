"""The coefficients of stationary autoregressions and of invertible moving averages, as constraints of parameters.

    PyroParam(torch.zeros(2), constraint=stationary)

References: Barndorff-Nielsen & Schou 1973 (partial autocorrelations), Monahan 1984, Jones 1987 (the Jacobian). The map
from the reals is that of statsmodels with the sign of its argument changed.
"""

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to


class _Coefficients(constraints.Constraint):
    """Vectors c with 1 - sign (c_1 L + ... + c_p L^p) != 0 for |L| <= 1."""

    event_dim = 1

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def check(self, value: Tensor) -> Tensor:
        # roots outside the unit circle if and only if all partial autocorrelations lie within (-1, 1): no roots needed
        return (_partial(self.sign * value).abs() < 1).all(-1)


#: y_t = c_1 y_{t-1} + ... + c_p y_{t-p} + e_t is stationary
stationary = _Coefficients(1.0)
#: y_t = e_t + c_1 e_{t-1} + ... + c_q e_{t-q} is invertible
invertible = _Coefficients(-1.0)


def _coefficients(partial: Tensor) -> Tensor:
    """Durbin and Levinson's recursion: partial autocorrelations in (-1, 1) to coefficients."""
    found = partial[..., :0]
    for k in range(partial.shape[-1]):
        last = partial[..., k : k + 1]
        found = torch.cat([found - last * found.flip(-1), last], -1)
    return found


def _partial(coefficients: Tensor) -> Tensor:
    """Partial autocorrelations of coefficients: the inverse of `_coefficients`."""
    found: list[Tensor] = []
    for _ in range(coefficients.shape[-1]):
        last, rest = coefficients[..., -1:], coefficients[..., :-1]
        found.insert(0, last)
        coefficients = (rest + last * rest.flip(-1)) / (1 - last**2)
    return torch.cat(found, -1) if found else coefficients


class StationaryTransform(Transform):
    """Maps reals x to partial autocorrelations x / sqrt(1 + x^2), these to coefficients, times the factor, 1 or -1."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, factor: float = 1.0, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.factor, self.codomain = factor, _Coefficients(factor)

    def with_cache(self, cache_size: int = 1) -> "StationaryTransform":
        return StationaryTransform(self.factor, cache_size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StationaryTransform) and other.factor == self.factor

    def __hash__(self) -> int:
        return hash(self.factor)

    def _call(self, x: Tensor) -> Tensor:
        # x / sqrt(1 + x^2), as statsmodels has it, not tanh: it comes close to its bounds like 1 / x^2, so that a start
        # near a unit root keeps a gradient
        return self.factor * _coefficients(x / (1 + x**2).sqrt())

    def _inverse(self, y: Tensor) -> Tensor:
        partial = _partial(self.factor * y)
        return partial / (1 - partial**2).sqrt()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # the recursion's factor of partial autocorrelation k (Jones 1987), times that of x -> x / sqrt(1 + x^2)
        order = torch.arange(1, x.shape[-1] + 1, device=x.device)
        partial = x / (1 + x**2).sqrt()
        recursion = (order // 2) * torch.log1p(-partial) + ((order - 1) // 2) * torch.log1p(partial)
        return (recursion - 1.5 * torch.log1p(x**2)).sum(-1)


@biject_to.register(_Coefficients)
@transform_to.register(_Coefficients)
def _transform(constraint: _Coefficients) -> StationaryTransform:
    return StationaryTransform(constraint.sign)
