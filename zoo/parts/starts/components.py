"""Principal components of blurred pictures, at which the code of an encoder and a decoder starts."""

from typing import Any

import torch
from torch import Tensor

from zoo.parts.aside import streams_kept
from zoo.parts.checks import check_counts, check_offers, check_positive, check_shape, mean_of, parameter_of
from zoo.parts.networks import Maps

# Components are of at most so many frames, evenly spaced: 64 MiB of pictures of 32 x 32.
MOST = 16_384
# Frames of a step, and Adam's learning rate.
BATCH, RATE = 256, 3e-3


def start_at_components(
    model: Any,
    guide: Any,
    x: Tensor,
    *,
    picture: Maps | None = None,
    blur: int = 15,
    scale: float = 2.0,
    steps: int = 200,
    seed: int = 0,
) -> None:
    """Trains the encoder of a Kalman VAE on principal components of blurred frames, and the decoder on their inverse.

    A code of things that move has to be untwisted: one that is twisted at the start of a training stays so, while the
    bound looks fine. Frames in which a thing moves by more than its own width are all equally far from each other, and
    their components say little of its place; those of frames that are blurred widely are close to it. No label is used.

    Args:
        model: a `KVAE`.
        guide: its `KalmanSmoother`.
        x: frames `(..., data_dim)`, all observed, in any dtype: those of a `Sequences`, for instance.
        picture: `Maps` of a frame; None: `model.data_dim`, if that is one.
        blur: odd width of the box over which pictures are averaged, twice; 1: no blur, and x need not be pictures.
        scale: standard deviation of each entry of the code. 2 suits the variances of `MixedDynamics`: a thing that
            crosses the picture in ten frames moves in each by a few standard deviations of a transition.
        steps: of Adam, each on 256 of the frames.
        seed: of components and steps. The caller's random numbers stay where they were.

    Raises:
        TypeError: x is not a tensor.
        ValueError: another pair, a guide of another code's size or of a family without a mean, or a pair without a
            parameter to train; x of another size; NaN; no more frames than the code has entries, or frames that vary in
            fewer directions; `blur` even, or without `Maps`.

    Example:
        >>> import torch, guides
        >>> from zoo import KVAE, MixedDynamics, start_at_components
        >>> from zoo.parts.conditionals import Bernoulli
        >>> from zoo.parts.networks import Maps, mlp
        >>> picture = Maps(8, 8)
        >>> model = KVAE(MixedDynamics(2, 4), mlp(2, (16,)), Bernoulli(16, picture), picture)
        >>> guide = guides.KalmanSmoother(model, encoder=mlp(picture, (16,)), context=16)
        >>> start_at_components(model, guide, torch.rand(50, 64).round(), blur=3, steps=5)
    """
    for half, needed in ((model, ("code_dim", "decode")), (guide, ("codes",))):
        check_offers("start_at_components", half, *needed, advice="it serves a KVAE and its KalmanSmoother")
    check_counts(blur=blur, steps=steps)
    check_positive(scale=scale)
    with streams_kept(seed), torch.enable_grad():
        frames = _checked(x, model)
        code = _components(frames, model.code_dim, _picture(model, picture, blur), blur)
        _train(model, guide, frames, scale * code, steps)


def _picture(model: Any, picture: Maps | None, blur: int) -> Maps:
    """The `Maps` of a frame."""
    if blur % 2 == 0:
        raise ValueError(f"blur: expected an odd width, so that a box has a middle, got {blur}")
    found = model.data_dim if picture is None else picture
    if blur == 1:
        return Maps(1, 1, model.data_dim)
    if not isinstance(found, Maps) or found != model.data_dim:
        raise ValueError(f"picture: expected Maps(height, width) of {int(model.data_dim)} entries, to blur frames as "
                         f"pictures, got {found!r}; blur=1 takes frames as they are")  # fmt: skip
    return found


def _checked(x: Tensor, model: Any) -> Tensor:
    """Frames `(M, data_dim)` of the model's dtype, some of them where they are many."""
    check_shape(x, model.data_dim, None)
    like = parameter_of(model)
    frames = x.reshape(-1, model.data_dim)
    # even where frames stand in the order of time: a step that is no multiple of a sequence's length sees all ages
    frames = frames[torch.linspace(0, len(frames) - 1, min(len(frames), MOST)).round().long()].to(like)
    if not frames.isfinite().all():
        raise ValueError("x: NaN or infinite; give observed frames alone, x[mask]")
    return frames


def _components(frames: Tensor, size: int, picture: Maps, blur: int) -> Tensor:
    """The first components of the frames, each of mean 0 and variance 1, `(M, size)`."""
    # imported here, since they are slow and no other function needs them
    from scipy.ndimage import uniform_filter
    from sklearn.decomposition import PCA

    if len(frames) <= size:
        raise ValueError(f"x: expected more frames than the {size} entries of the code, got {len(frames)}")
    blurred = frames.cpu().numpy().reshape(-1, picture.height, picture.width, picture.channels)
    # twice: a box of a box has no edge, at which a component would jump. What is outside a picture counts as 0
    for _ in range(2 if blur > 1 else 0):
        blurred = uniform_filter(blurred, (1, blur, blur, 1), mode="constant")
    found = PCA(size, whiten=True, random_state=0)
    code = found.fit_transform(blurred.reshape(len(frames), -1))
    variances = found.explained_variance_
    if not variances[-1] > 1e-9 * max(1.0, variances[0]):
        raise ValueError(f"x: the frames vary in fewer than {size} directions, the entries of the code")
    return torch.as_tensor(code).to(frames)


def _train(model: Any, guide: Any, frames: Tensor, code: Tensor, steps: int) -> None:
    """Adam on squared errors of the encoder's mean and on log p(x | a), a around the components as q(a | x) is."""
    trained = [p for half in (guide, model) for p in half.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("start_at_components: no parameter of model and guide has requires_grad=True")
    optimizer = torch.optim.Adam(trained, RATE)
    for _ in range(steps):
        rows = torch.randint(len(frames), (BATCH,), device="cpu")
        # sequences of one frame
        x, target = frames[rows].unsqueeze(1), code[rows].unsqueeze(1)
        # q(a | x) reads no controls, but a model that has some refuses to do without
        u = x.new_zeros(*x.shape[:2], model.control_dim) if model.control_dim else None
        q = guide.codes(x, u)
        mean = mean_of("guide", q)
        if mean.shape != target.shape:
            raise ValueError(f"guide: expected codes of {target.shape[-1]} entries, as the model has, "
                             f"got {mean.shape[-1]}")  # fmt: skip
        # the decoder learns from codes as wide as those that it will be given; the width itself is not trained yet
        drawn = target + (q.sample() - mean).detach()
        error = (mean - target).square().sum() - model.decode(drawn).log_prob(x).sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    optimizer.zero_grad()
