"""Frames that need no model, beside those that a model predicts from its memory of a walk, and their errors.

Frames are `(N, T, data_dim)`, of which the first tau of each walk are memorised and the later ones predicted. How much
of the true places a model's states tell is `zoo.data.simulated.tracking.linear_r2`.
"""

import torch
from torch import Tensor


def squared_errors(predicted: Tensor, frames: Tensor) -> Tensor:
    """The squared error of each predicted frame, mean over its pixels: `(N, T - tau)`.

    Args:
        predicted, frames: `(N, T - tau, data_dim)`; frames without noise, where a model predicts noisy ones.

    Raises:
        ValueError: frames of another shape.
    """
    if predicted.shape != frames.shape:
        raise ValueError(f"predicted: expected shape {tuple(frames.shape)} as the frames, got {tuple(predicted.shape)}")
    return (predicted - frames).square().mean(-1)


def mean_seen(frames: Tensor, tau: int) -> Tensor:
    """The mean of each walk's memorised frames in place of every later one."""
    _refuse_tau(frames, tau)
    return frames[:, :tau].mean(1, keepdim=True).expand_as(frames[:, tau:])


def nearest_seen(frames: Tensor, places: Tensor, tau: int) -> Tensor:
    """The memorised frame whose true place is the nearest one, in place of each later frame.

    Args:
        places: true states, `(N, T, any)`; of poses the heading as cosine and sine, so that a turn leads back.

    Raises:
        ValueError: tau below 1, or not below T; places of other walks.
    """
    if places.shape[:2] != frames.shape[:2]:
        raise ValueError(
            f"places: expected shape {(*frames.shape[:2], 'any')} as the frames, got {tuple(places.shape)}"
        )
    nearest = _distances(places, tau).argmin(-1)
    return frames[:, :tau].gather(1, nearest.unsqueeze(-1).expand(-1, -1, frames.shape[-1]))


def been_there(places: Tensor, tau: int, within: float = 1e-3) -> Tensor:
    """Tells of each later frame if a memorised one was seen from its place, bool `(N, T - tau)`.

    No memory tells of the others more than their neighbourhood does.

    Args:
        places: as in `nearest_seen`.
        within: distance below which places are one.

    Raises:
        ValueError: tau below 1, or not below T.
    """
    return _distances(places, tau).amin(-1) < within


def _distances(places: Tensor, tau: int) -> Tensor:
    """Distances of the later places from the memorised ones, `(N, T - tau, tau)`."""
    _refuse_tau(places, tau)
    # by differences: the fast form, |a|^2 + |b|^2 - 2 ab, takes places at hand for different
    return torch.cdist(places[:, tau:], places[:, :tau], compute_mode="donot_use_mm_for_euclid_dist")


def _refuse_tau(frames: Tensor, tau: int) -> None:
    if not 0 < tau < frames.shape[1]:
        raise ValueError(f"tau: expected 1 to {frames.shape[1] - 1} memorised frames of {frames.shape[1]}, got {tau}")
