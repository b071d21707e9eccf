"""Refusals of `fit` that need the pair and its data: guides of other rows, impossible values, lost parameters.

A training takes hours, so an error of its last batch shows before its first step.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.infer import carry as carried
from zoo.infer.call import Purpose, run
from zoo.infer.owned import leaves
from zoo.infer.pair import check_pair, look_at
from zoo.infer.sites.programs import methods_callable
from zoo.infer.training.step.batcher import Batcher
from zoo.infer.training.step.batches import MadeAnew, OwnBatches
from zoo.infer.training.step.parts import Parts, beside
from zoo.parts.aside import aside
from zoo.parts.checks import listed
from zoo.parts.trajectory import StateSpace


@dataclass(frozen=True)
class FirstLook:
    """The results of running the pair beforehand.

    Attributes:
        args, kwargs: the arguments of a batch of the largest size.
        value: the loss of that batch, of the dtype and on the device of the losses to come.
        carry: the state after that batch, where rows go on from batch to batch; else None.
        sizes: rows of a batch, all numbers that occur in an epoch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Tensor
    carry: Any
    sizes: frozenset[int]


def first_look(loss: nn.Module, batcher: Batcher, held_out: Batcher | None, seed: int) -> FirstLook:
    """Runs the pair on a batch of each size, and checks the values of every row of data and validation.

    Modes, buffers and random streams of the training stay as they are. Autoguides make their parameters here, before
    the optimiser asks for them.

    Raises:
        ValueError: the pair cannot be trained on these rows; names the site, the rows or the parameters.
    """
    refuse_rows_of_their_own(batcher, held_out)
    # One batch of each size: the structure of a pair is checked for each shape, and that of an epoch's smaller last
    # batch must not wait for the end of the epoch.
    batches = {len(index): index for index in reversed(batcher.batches(seed, None))}
    refuse_batches_of_one(loss, batches)
    for size in sorted(batches):
        found = _run_batch(loss, batcher, batches[size], seed)
    value = found.value
    if not isinstance(value, Tensor) or value.dim() > 0:
        raise ValueError(f"loss(*batch) must be a tensor without axes, the sum over the batch, got {value!r}")
    if batcher.parts.ours:
        refuse_other_sizes(batcher, held_out, found)
        refuse_strangers(loss, batcher, found, seed)
        look_through(loss, "data", batcher, seed)
        if held_out is not None:
            look_through(loss, "validation", held_out, seed)
    return FirstLook(found.args, found.kwargs, value, found.carry, frozenset(batches))


def _run_batch(loss: nn.Module, batcher: Batcher, batch: Tensor, seed: int) -> FirstLook:
    parts, index = batcher.parts, batcher.mine(batch)
    args, kwargs = batcher.arguments(index, torch.Generator().manual_seed(seed))
    with beside(loss, parts, seed):
        if parts.ours:
            # Before the loss itself: its own check of the values does not know the numbers of the rows.
            look_at_batch("data", batcher, args, kwargs, index)
        value, latents = carried.with_latents(loss, args, kwargs)
        goes_on = carried.is_carried(batcher.rows)
        carry = carried.after(parts.model, latents, args, None, len(index)) if goes_on else None
    return FirstLook(args, kwargs, value, carry, frozenset({len(batch)}))


def refuse_rows_of_their_own(batcher: Batcher, held_out: Batcher | None) -> None:
    """Refuses a pair with parameters for each row where a training would give it other rows, or reorder them.

    Raises:
        ValueError: names guide or model, and how it can be trained.
    """
    parts, num_rows = batcher.parts, len(batcher.rows)
    if parts.indexed and held_out is not None:
        raise ValueError("the guide has parameters for each row of the data (`index`): no validation on other rows")
    # Each epoch's permutation would give every row the mean of all rows' posteriors, silently.
    if parts.whole and (batcher.batch_size < num_rows or held_out is not None or batcher.parallel.world > 1):
        raise ValueError(
            f"{type(parts.guide).__name__} has parameters for each row of the data, in order: give batch_size="
            f"{num_rows} (not {batcher.batch_size}), no validation on other rows, and one process"
        )
    if batcher.drop_last and isinstance(batcher.rows, OwnBatches):
        raise ValueError(f"drop_last: {type(batcher.rows).__name__} chooses its batches itself, and none is left out")
    for source in (batcher, held_out):
        if source is not None:
            carried.refuse_uncarried(parts.model, source.rows)
    if isinstance(parts.model, StateSpace) and parts.model.sizes[0] is not None:
        raise ValueError(
            f"{type(parts.model).__name__} has parameters for {parts.model.sizes[0]} sequences, each its own, and the "
            "batches of a training are in another order: train it on all rows at once (maximum_likelihood, em)"
        )


def refuse_batches_of_one(loss: nn.Module, sizes: Iterable[int]) -> None:
    """Refuses a batch of one row for a batch norm in training mode, which has no variance of one row.

    Raises:
        ValueError: names the batch norm.
    """
    norms = [name for name, m in loss.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if norms and 1 in sizes:
        raise ValueError(
            f"batch_size: one row is left over for the last batch, of which the batch norm {norms[0]} has no variance; "
            "choose another batch_size, or drop_last=True"
        )


def refuse_strangers(loss: nn.Module, batcher: Batcher, found: FirstLook, seed: int) -> None:
    """Refuses a pair that uses parameters which the loss does not hold: they would silently not be trained.

    A `pyro.param` is one, and so is a network that a function has in its closure.

    Raises:
        ValueError: gives their shapes.
    """
    held, parts = {id(p) for p in loss.parameters()}, batcher.parts
    # With a graph: the leaves of a value are the only list of parameters that does not depend on how a program has
    # come by them.
    with aside(loss, seed), torch.enable_grad():
        values = [value for part in parts.split(found.args, found.kwargs) for value in _values_of(parts, *part)]
        used = {id(leaf): leaf for value in values for leaf in leaves(value)}
    strangers = [list(leaf.shape) for leaf in used.values() if id(leaf) not in held]
    if strangers:
        raise ValueError(
            f"model or guide use parameters that the loss does not hold, of shapes {listed(strangers)}: they would not "
            "be trained. Make the function with `pyro.param` a PyroModule, or train it with pyro.infer.SVI"
        )


def _values_of(parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that the loss of one part of a batch is made of."""
    purpose = Purpose(point_mass=parts.objective.point_mass, outside=parts.objective.linear)
    found = run(parts.model, parts.guide, args, kwargs, 1, purpose)
    values = [found.log_weights.sum(), found.outside_weights.sum()]
    with methods_callable(parts.guide, registered=False):
        added = parts.objective.added(parts.guide, args, kwargs)
    return values if added is None else [*values, added.sum()]


def refuse_other_sizes(batcher: Batcher, held_out: Batcher | None, found: FirstLook) -> None:
    """Refuses a pair with latents outside the batch plate whose terms would be weighted as those of other data.

    Raises:
        ValueError: the objective does not know the number of data, or knows another; names the site and the number.
    """
    parts, num_data = batcher.parts, len(batcher.rows)
    objective = parts.objective
    args, kwargs = parts.split(found.args, found.kwargs)[0]
    layout = check_pair(parts.model, parts.guide, args, kwargs).layout
    whole = found.sizes == {num_data} and held_out is None
    if not layout.outside or objective.num_data == num_data or (objective.num_data is None and whole):
        return
    said = f"is {objective.num_data}, and the data have {num_data} rows" if objective.num_data else (
        f"is not given, and a batch, or the validation, is not all of the {num_data} rows"
    )  # fmt: skip
    raise ValueError(
        f"site {layout.first_outside!r}: stands outside the batch plate {layout.batch_plate!r}, and num_data {said}: "
        f"its term would get a wrong weight beside those of the data. Give {type(objective.untempered).__name__}(..., "
        f"num_data={num_data})"
    )


def look_through(loss: nn.Module, name: str, batcher: Batcher, seed: int) -> None:
    """Checks the values of every row of a data set, unless they are made anew at every visit.

    Args:
        name: of the data set, for errors.

    Raises:
        ValueError: a value that its site cannot have; names the rows as the data set counts them.
    """
    # an epoch of a simulator may take as long as its training, and none of its rows will be seen again
    if isinstance(batcher.rows, MadeAnew) and batcher.rows.anew:
        return
    generator = torch.Generator().manual_seed(seed)
    # With those that `drop_last` leaves out here: epochs in another order train on them.
    batcher = replace(batcher, drop_last=False)
    with aside(loss, seed):
        for index in batcher.batches(seed, None):
            look_at_batch(name, batcher, *batcher.arguments(index, generator), index)


def look_at_batch(name: str, batcher: Batcher, args: tuple, kwargs: dict, index: Tensor) -> None:
    """Checks the structure of the pair and the values of one batch; errors open with `name`, that of the data set."""
    parts = batcher.parts
    try:
        for some, named, rows in parts.split_with_rows(args, kwargs, index):
            look_at(parts.model, parts.guide, some, named, rows)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def trainable(loss: nn.Module) -> list[nn.Parameter]:
    """The parameters of a loss that require a gradient.

    Raises:
        ValueError: there are none.
    """
    found = [p for p in loss.parameters() if p.requires_grad]
    if not found:
        raise ValueError("the loss has no parameter that requires a gradient")
    return found


def refuse_compiled_sequences(batcher: Batcher) -> None:
    """Refuses a compiled graph for batches whose shapes change or whose state goes on.

    Raises:
        ValueError: the data choose their batches, as buckets and streams do.
    """
    if isinstance(batcher.rows, OwnBatches):
        raise ValueError("compile: a graph has one shape and no state; not for sequences in buckets or streams")
