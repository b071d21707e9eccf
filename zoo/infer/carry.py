"""The state that a model carries from one chunk of its sequences to the next: truncated back-propagation through time.

Three parties take part. Rows with `carried = True` (`zoo.data.Streams`) are chunks of parallel sequences, and each
batch goes on where the batch before it ended. Rows with `first(index)` know the frame before each sequence, an input
that is not scored. A model has `carry_on(z, x, ..., carry=...)`, the state after a chunk, and `given(x)`, the state
after a known first frame x; its `forward` and the guide's take the keyword `carry`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from zoo.parts.trajectory import StateSpace

# A sequence model draws its whole trajectory at one site of this name.
SITE = "z"


@runtime_checkable
class CarriesOn(Protocol):
    """A model that states its carry after a chunk, from the chunk's trajectories z and arguments."""

    def carry_on(self, z: Tensor, *args: Any, carry: Any) -> Any: ...


@runtime_checkable
class TakesFirstFrame(Protocol):
    """A model that states the carry of sequences whose first frame, `(N, data_dim)`, is known."""

    def given(self, x: Tensor) -> Any: ...


@runtime_checkable
class GoesOn(Protocol):
    """Rows that say whether each batch goes on where the one before it ended."""

    carried: bool


@runtime_checkable
class KnowsFirstFrames(Protocol):
    """Rows that know the frames before their sequences, `(N, data_dim)`, or None where this data set has none."""

    def first(self, index: Tensor) -> Tensor | None: ...


class Latents(Messenger):
    """Keeps the latent values of the program that runs under it, whatever objective runs the pair."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]) is not _Subsample and not msg["is_observed"]:
            # The guide's draw comes first, and the model's replay repeats the value: the last one is the same.
            self.values[msg["name"]] = msg["value"]


def is_carried(rows: Any) -> bool:
    """Tells whether these rows are chunks that go on from batch to batch."""
    return isinstance(rows, GoesOn) and bool(rows.carried)


def takes_chunks(model: Any) -> bool:
    """Tells whether a model may be given a sequence in chunks: a `StateSpace` states it in `carries`; others may."""
    return not isinstance(model, StateSpace) or model.carries


def carries_on(model: Any) -> bool:
    """Tells whether a model makes the carry that its next chunk starts from."""
    return takes_chunks(model) and isinstance(model, CarriesOn)


def refuse_uncarried(model: Any, rows: Any) -> None:
    """Refuses rows that go on from batch to batch for a model that carries no state.

    Raises:
        ValueError: names the model.
    """
    if is_carried(rows) and not carries_on(model):
        raise ValueError(
            f"these rows are chunks that go on from batch to batch, and {type(model).__name__} carries no state "
            "(`carry_on`); give whole sequences, such as zoo.data.Buckets"
        )


def opening(model: Any, rows: Any, index: Tensor, device: torch.device) -> Any:
    """The carry with which sequences begin, made of their known first frames; None if rows or model have none."""
    first = rows.first(index) if isinstance(rows, KnowsFirstFrames) else None
    return None if first is None else after_first_frame(model, first.to(device))


def after_first_frame(model: Any, first: Tensor) -> Any:
    """The carry of sequences whose first frame, `(N, data_dim)`, is known; None if the model takes no such frame."""
    if not takes_chunks(model) or not isinstance(model, TakesFirstFrame):
        return None
    # The carry keeps its graph, since the model learns the state before the first frame.
    return model.given(first)


def after(model: Any, latents: dict[str, Tensor], args: tuple, carry: Any, batch: int) -> Any:
    """The carry after a chunk, detached: the next chunk starts from it, and no gradient goes back through it.

    Args:
        model: a model that carries (`refuse_uncarried`).
        latents: the guide's draws of the chunk, from `with_latents`; of several particles the first is carried on.
        args: the chunk's arguments, x first.
        carry: the carry that the chunk started from.
        batch: number of sequences.

    Raises:
        ValueError: no trajectory `z` among the draws, or one of another batch; `carry_on` returns no tensors.
    """
    if SITE not in latents:
        raise ValueError(f"site {SITE!r}: nothing was drawn there, so no state can be carried; sites are {[*latents]}")
    z = latents[SITE].detach()
    z = z[(0,) * (z.dim() - 3)]
    if len(z) != batch:
        raise ValueError(f"carry: expected trajectories of {batch} sequences, got shape {tuple(z.shape)}")
    with torch.no_grad():
        carry = model.carry_on(z, *args, carry=carry)
    leaves, _ = tree_flatten(carry)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ValueError(f"carry_on of {type(model).__name__}: expected tensors in tuples, got {type(carry).__name__}")
    return tree_map(torch.Tensor.detach, carry)


def pack(carry: Any) -> list[Tensor] | None:
    """The tensors of a carry, for a checkpoint."""
    # The tensors without their NamedTuple, which `torch.load(weights_only=True)` refuses.
    return None if carry is None else [leaf.cpu() for leaf in tree_flatten(carry)[0]]


def unpack(leaves: list[Tensor] | None, like: Any, device: torch.device) -> Any:
    """The carry whose tensors `pack` returned, in the form of `like`, another carry of the same model."""
    return None if leaves is None else tree_unflatten([leaf.to(device) for leaf in leaves], tree_flatten(like)[1])


def keyword(carry: Any) -> dict[str, Any]:
    """`carry=...` for a call of model or guide; nothing for None, so that models without the keyword serve too."""
    return {} if carry is None else {"carry": carry}


def with_latents(call: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of `call(*args, **kwargs)`, a loss, and the latents that it drew: site -> value."""
    with Latents() as kept:
        value = call(*args, **kwargs)
    return value, kept.values
