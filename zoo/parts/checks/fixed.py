"""The check of latents that a caller gives, where a model draws the others."""

from collections.abc import Mapping

from torch import Tensor


def expand_fixed(
    model: str, sizes: Mapping[str, int], num: int, fixed: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The given latents, a row for each data point.

    Args:
        model: name of the model, for errors.
        sizes: of all latents: site -> size.
        num: number of data points.
        fixed: site -> `(num, size)`, or `(size,)` for all; None: nothing is given.

    Raises:
        ValueError: an unknown site, or a value of another shape.
    """
    given = fixed or {}
    for site, value in given.items():
        if site not in sizes:
            raise ValueError(f"fixed: {site!r} is no latent site of {model}, which has {[*sizes]}")
        if value.shape not in ((num, sizes[site]), (sizes[site],)):
            raise ValueError(f"fixed[{site!r}]: expected shape ({num}, {sizes[site]}) or ({sizes[site]},), got "
                             f"{tuple(value.shape)}")  # fmt: skip
    return {site: value.expand(num, -1) for site, value in given.items()}
