"""Masks of sequences, True where x is observed: of whole frames `(N, T)`, or of single entries `(N, T, data_dim)`."""

import torch
from torch import Tensor


def filled(x: Tensor, mask: Tensor | None) -> Tensor:
    """x, zero where it is not observed."""
    return x if mask is None else x.masked_fill(~(mask if mask.ndim == x.ndim else mask.unsqueeze(-1)), 0.0)


def entries(x: Tensor, mask: Tensor) -> Tensor:
    """The mask of single entries, the shape of x."""
    return mask if mask.ndim == x.ndim else mask.unsqueeze(-1).expand(x.shape)


def observed_frames(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of whole frames, `(N, T)`: a frame counts as observed where any of its entries is."""
    if mask is None:
        return x.new_ones(x.shape[:-1], dtype=torch.bool)
    return mask.any(-1) if mask.ndim == x.ndim else mask


def ends(x: Tensor, mask: Tensor | None) -> Tensor:
    """The number of frames up to the last observed one, `(N,)`; 0 where none is."""
    count = torch.arange(1, x.shape[-2] + 1, device=x.device)
    return torch.where(observed_frames(x, mask), count, 0).amax(-1)


def until_last(x: Tensor, mask: Tensor) -> Tensor | None:
    """True in the frames up to each sequence's last observed one, `(..., T)`; None where these are all frames."""
    inside = torch.arange(x.shape[-2], device=x.device) < ends(x, mask).unsqueeze(-1)
    # None spares unpadded batches the loop's draws from the transition and the second score of every frame
    return None if bool(inside.all()) else inside
