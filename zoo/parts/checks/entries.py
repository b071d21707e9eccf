"""The check of the values of data that are vectors."""

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.parts.checks.rows import check_shape
from zoo.parts.checks.words import listed


def check_data(x: Tensor, data_dim: int, like: Tensor, mask: Tensor | None = None) -> Tensor:
    """Checks x as `check_shape` does, and its observed values for NaN and infinity.

    Returns:
        x, with zeros in the entries that are missing.

    Raises:
        ValueError: as `check_shape`; NaN or infinite observed entries, with their rows; not under
            `pyro.enable_validation(False)`.
    """
    check_shape(x, data_dim, like, mask)
    if mask is not None:
        # a masked density of NaN is zero, but its gradient is NaN
        x = x.masked_fill(~mask, 0.0)
    # a look at values waits for the device: a caller who has checked the data once may switch validation off
    if dist.is_validation_enabled():
        bad = ~torch.isfinite(x.detach()).all(-1)
        if bad.any():
            rows = bad.flatten().nonzero().flatten().tolist()
            hint = "; say which entries are missing with mask=~x.isnan()" if mask is None else ""
            raise ValueError(
                f"x: NaN or infinite values in {len(rows)} of {bad.numel()} rows (rows {listed(rows)}){hint}"
            )
    return x
