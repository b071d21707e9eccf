"""State that a model carries from one chunk of its sequences to the next: truncated back-propagation through time.

Rows with `carried = True` (`zoo.data.Streams`) give chunks of parallel sequences, one batch after the other; rows with
`first(index)` know the frame before each sequence, an input that is not scored. What a model must offer for it is
`carry_on(z, x, ..., carry=...)`, the state after a chunk, and `given(x)`, that after a known first frame x; model
and guide take the keyword `carry`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

if TYPE_CHECKING:
    from zoo.infer.training.step.batches import Rows

SITE = "z"  # of every sequence model: its whole trajectory


class Latents(Messenger):
    """Keeps the latent values of the run inside, whatever objective runs the pair."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]) is not _Subsample and not msg["is_observed"]:
            self.values[msg["name"]] = msg["value"]


def is_carried(rows: "Rows | None") -> bool:
    """Whether these rows are chunks that go on from batch to batch."""
    return bool(getattr(rows, "carried", False))


def refuse_uncarried(model: Any, rows: "Rows | None") -> None:
    """ValueError where the rows go on from batch to batch and the model cannot."""
    if is_carried(rows) and not (getattr(model, "carries", True) and callable(getattr(model, "carry_on", None))):
        raise ValueError(
            f"these rows are chunks that go on from batch to batch, and {type(model).__name__} carries no state "
            "(`carry_on`); give whole sequences, such as zoo.data.Buckets"
        )


def opening(model: Any, rows: "Rows", index: Tensor, device: torch.device) -> Any:
    """The carry of sequences that begin: None, or that of their known first frames, if rows and model have such."""
    known: Any = getattr(rows, "first", None)
    first = known(index) if callable(known) else None
    return None if first is None else given(model, first.to(device))


def given(model: Any, first: Tensor) -> Any:
    """The carry of sequences whose first frame, `(N, data_dim)`, is known; None of a model that no frame is fed to."""
    if not (getattr(model, "carries", True) and callable(getattr(model, "given", None))):
        return None
    return model.given(first)  # with its graph: the state before the first frame is learned


def after(model: Any, latents: dict[str, Tensor], args: tuple, carry: Any, batch: int) -> Any:
    """The carry after a chunk of arguments `args`, detached, from the guide's draw (of several particles the first).

    Raises:
        ValueError: the guide has drawn no trajectory `z`, or the model makes no state of tensors of it.
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
    """What a checkpoint holds: the tensors alone, which `torch.load(weights_only=True)` reads."""
    return None if carry is None else [leaf.cpu() for leaf in tree_flatten(carry)[0]]


def unpack(leaves: list[Tensor] | None, like: Any, device: torch.device) -> Any:
    """The carry of `pack`, in the form of another of the same model."""
    return None if leaves is None else tree_unflatten([leaf.to(device) for leaf in leaves], tree_flatten(like)[1])


def keyword(carry: Any) -> dict[str, Any]:
    """`carry=...`, left out where sequences begin: models without the keyword need none."""
    return {} if carry is None else {"carry": carry}


def run(call: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of a loss, and the latents that it drew."""
    with Latents() as kept:
        value = call(*args, **kwargs)
    return value, kept.values
