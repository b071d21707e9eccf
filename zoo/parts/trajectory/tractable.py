"""State spaces whose posterior has a closed form, and the refusal of those without one."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from zoo.parts.kalman import Forecast


@runtime_checkable
class Tractable(Protocol):
    """A state space with p(z | x) in closed form: `Forecasts` hands its questions to these methods (`LGSSM`).

    `values` are those of parameters that have a prior, by name.
    """

    def exact_sample(self, num: int, T: int, u: Tensor | None = None, **values: Tensor) -> tuple[Tensor, Tensor]:
        """Draws of the model: z `(num, T, latent_dim)` and x `(num, T, data_dim)`."""
        ...

    def exact_draws(
        self, x: Tensor, num: int, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draws given the observed entries: z `(num, N, T, latent_dim)`; x `(num, N, T, data_dim)`, gaps filled."""
        ...

    def exact_forecast(
        self, x: Tensor, k: int, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor
    ) -> Forecast:
        """The moments of the k frames after each sequence's last observed one."""
        ...

    def exact_imputation(self, x: Tensor, mask: Tensor, u: Tensor | None = None, **values: Tensor) -> Tensor:
        """x with E[x_missing | x_observed] in its missing entries."""
        ...


def exactly(model: Any) -> Tractable:
    """The model, as one that answers without a guide.

    Raises:
        ValueError: its posterior has no closed form.
    """
    if not isinstance(model, Tractable):
        # a posterior may be exact where what follows from it is none, since the matrices to come depend on x
        exact = hasattr(model, "posterior")
        lacks, take = ("forecast", "guides.Exact(model)") if exact else ("posterior", "a guide of it")
        raise ValueError(f"guide: missing, and {type(model).__name__} has no {lacks} in closed form; give guide=, "
                         f"{take}, whose draws of z are then used")  # fmt: skip
    return model


def refuse_unused(model: Any, values: dict[str, Tensor]) -> None:
    """Refuses values of priors, for a computation that reads the model's own parameters.

    Raises:
        ValueError: names the first of them.
    """
    if values:
        raise ValueError(f"{min(values)}: not used by draws of a {type(model).__name__}, which take the parameters "
                         "that the model has")  # fmt: skip
