"""A training made ready for its first step."""

from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import nn

from zoo.infer.training.callbacks import Calls
from zoo.infer.training.optimizers import groups_of, optimizer_of, scheduler_of
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.preflight_data import first_look, refuse_compiled_sequences, trainable
from zoo.infer.training.settings import Options, describe, describe_optimizer, describe_schedule, settings_of
from zoo.infer.training.step.average import Average
from zoo.infer.training.step.batcher import Batcher
from zoo.infer.training.step.batches import Rows, rows_of
from zoo.infer.training.step.compiled import compiled
from zoo.infer.training.step.parts import holds_rows, parts_of, wanted_of
from zoo.infer.training.step.training import Training
from zoo.parts.aside import aside


def data_of(
    loss: Any, data: Any, validation: Any, batch_size: int | None, steps: int | None
) -> tuple[Rows, Rows | None]:
    """The data and validation of a training as rows, in the form that the loss wants; arguments as in `fit`.

    Raises:
        TypeError, ValueError: as in `rows_of`.
    """
    wanted = wanted_of(loss)
    rows = rows_of(data, wanted=wanted, batch_size=batch_size, most=steps)
    if validation is None:
        return rows, None
    return rows, rows_of(validation, "validation", wanted, batch_size=batch_size)


def prepared(
    loss: nn.Module, rows: Rows, held_out: Rows | None, parallel: Parallel, options: Options, calls: Calls
) -> Training:
    """Looks the pair and its data over, makes the optimiser, and seeds the global generators.

    Raises:
        TypeError, ValueError: the pair, the data or the optimiser cannot be trained with.
    """
    loss, parts, seed = loss.to(parallel.device), parts_of(loss), parallel.seed(options.seed)
    if parts.whole:
        # All rows at once, which sets the autoguide up: its prototype tells which latents have a row of parameters.
        args, kwargs = Batcher(rows, parts, parallel, len(rows)).arguments(torch.arange(len(rows)), _generator(seed))
        with aside(loss, seed):
            # a pair whose objective splits the rows never sees all of them together
            parts = replace(parts, whole=holds_rows(parts, *parts.split(args, kwargs)[0]))
    batcher = Batcher(rows, parts, parallel, options.batch_size, options.drop_last)
    validation = None if held_out is None else Batcher(held_out, parts, parallel, options.batch_size)
    seen = first_look(loss, batcher, validation, seed)
    # After the first look, in which autoguides make their parameters.
    trained = trainable(loss)
    optimizer = optimizer_of(options.optimizer, groups_of(loss, options.groups))
    settings = settings_of(loss, batcher, validation, seen.args, options)
    # Before the schedule is made: it changes the learning rate, and a resumed training compares the one it was given.
    settings["optimizer"] = describe_optimizer(optimizer)
    scheduler = scheduler_of(options.schedule, optimizer, validated=held_out is not None)
    settings["schedule"] = describe_schedule(scheduler)
    # Only where they are set: checkpoints from before these options existed stay valid.
    later = {"drop_last": options.drop_last, "groups": options.groups, "average": options.average}
    settings |= {name: describe(value) for name, value in later.items() if value}
    call = loss
    if options.compile:
        refuse_compiled_sequences(batcher)
        call = compiled(loss, *seen.args, **seen.kwargs)
    call, stepper = parallel.engine.setup(call, optimizer)
    # The mean over the ranks of their shares' sums, times this weight, is the mean over all rows of the batch.
    weights = {size: seen.value.new_tensor(parallel.world / size) for size in seen.sizes}
    average = None if options.average is None else Average(loss, options.average)
    generator = _generator(seed)
    # Last, so that nothing above has a say in the training's noise.
    pyro.set_rng_seed(seed)
    return Training(
        loss=loss, parts=parts, batcher=batcher, held_out=validation, parallel=parallel, seed=seed, clip=options.clip,
        trained=trained, optimizer=optimizer, scheduler=scheduler, call=call, stepper=stepper, weights=weights,
        settings=settings, generator=generator, calls=calls, average=average, args=seen.args, kwargs=seen.kwargs,
        carry_form=seen.carry,
    )  # fmt: skip


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
