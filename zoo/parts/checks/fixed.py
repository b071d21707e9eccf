"""The check of latents that a caller gives, where a model draws the others."""

from collections.abc import Mapping

from torch import Tensor

from zoo.parts.checks.words import check_tensor


def expand_fixed(
    model: str, sizes: Mapping[str, int], num: int, fixed: Mapping[str, Tensor] | None, like: Tensor | None = None
) -> dict[str, Tensor]:
    """The given latents, a row for each data point.

    Args:
        model: name of the model, for errors.
        sizes: of all latents: site -> size.
        num: number of data points.
        fixed: site -> `(num, size)`, or `(size,)` for all; None: nothing is given.
        like: a parameter of the model; None: it has none.

    Raises:
        TypeError: a value is not a tensor.
        ValueError: an unknown site, or a value of another shape or dtype.
    """
    given = fixed or {}
    for site, value in given.items():
        if site not in sizes:
            raise ValueError(f"fixed: {site!r} is no latent site of {model}, which has {[*sizes]}")
        check_tensor(value, f"fixed[{site!r}]")
        if like is not None and value.dtype != like.dtype:
            raise ValueError(f"fixed[{site!r}]: expected {like.dtype}, as the model's parameters, got {value.dtype}")
        if value.shape not in ((num, sizes[site]), (sizes[site],)):
            raise ValueError(f"fixed[{site!r}]: expected shape ({num}, {sizes[site]}) or ({sizes[site]},), got "
                             f"{tuple(value.shape)}")  # fmt: skip
    return {site: value.expand(num, -1) for site, value in given.items()}
