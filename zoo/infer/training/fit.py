"""The training loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.infer.training.checkpoint import Folder
from zoo.infer.training.course import Course
from zoo.infer.training.interrupt import Interrupt
from zoo.infer.training.output import Bar, Output
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.preflight import check_arguments
from zoo.infer.training.prepare import prepared
from zoo.infer.training.settings import Options
from zoo.infer.training.step.batches import Rows, rows_of
from zoo.parts.aside import streams_kept


@dataclass
class Fit:
    """The outcome of a training.

    Attributes:
        history: one record for each epoch, as in metrics.jsonl: `epoch`, `step`, `train` and `validation` (loss in
            nats per datum; None without validation), `kl` (site -> nats per datum, one draw on the epoch's last
            batch), `beta` (KL weight, or site -> weight; None without), `lr`, `seconds` (so far).
        best: the record with the lowest validation loss; without validation the latest.
        epochs: number of completed epochs.
        step: number of optimiser steps.
        out: the folder of the files; None without.
        interrupted: Ctrl-C stopped the training.
        seconds: wall time, earlier parts of a resumed training included.
    """

    history: list[dict[str, Any]]
    best: dict[str, Any] | None
    epochs: int
    step: int
    out: Path | None
    interrupted: bool
    seconds: float


@streams_kept()
def fit(
    loss: nn.Module,
    data: Tensor | Sequence[Tensor | None] | Rows,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 128,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    clip: float | None = None,
    validation: Tensor | Sequence[Tensor | None] | Rows | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    compile: bool = False,
    fabric: Any = None,
    tensorboard: bool = False,
    drop_last: bool = False,
) -> Fit:
    """Minimises the mean loss per datum over mini-batches. The parameters of `loss` change in place.

    Args:
        loss: a module whose `loss(*batch)` is the loss summed over the batch, a tensor without axes: `ELBO()(model,
            guide)`. A guide whose `forward` has an argument `index` is given the row numbers of the batch. One of
            Pyro's autoguides has parameters for each row, in order: then `batch_size` must be all of them.
        data: a tensor, a tuple of tensors with a common first axis (None: an argument left out), or an object with
            `__len__` and `batch(index, generator)` (`Rows`). Tensors stay where they are, and batches are moved to
            `device`; put small data there yourself to save the transfers. Sequences come as `zoo.data.Buckets`, or as
            `zoo.data.Streams`, whose state is carried from batch to batch (truncated back-propagation) and saved in
            checkpoints.
        steps, epochs: the length; give one of the two. An epoch visits every row once, in an order that depends on
            `seed` and the epoch; its last batch may be smaller. Optimiser steps stop at exactly `steps`, also within
            an epoch.
        batch_size: rows of a batch, over all processes together.
        optimizer: constructor `parameters -> Optimizer`; by default torch's fused Adam with learning rate 1e-3.
        schedule: constructor `optimizer -> LRScheduler`, stepped after every optimiser step (not epoch).
        clip: largest global norm of the gradient of the mean loss.
        validation: held-out data, evaluated after each epoch, untempered and always with the same noise. The
            parameters of the best epoch are kept in model.safetensors, and `loss` holds them when the training ends
            by itself.
        patience: stop after so many epochs without a better validation loss.
        seed: of batch order and noise; each process adds an offset to the noise's. The training uses the global random
            generators, and puts them back when it is over.
        device: where to train, such as "cuda"; by default where the loss is.
        out: folder for config.json, metrics.jsonl, model.safetensors and last.pt, written at the end of each epoch.
            A kill at any moment loses at most the current epoch. The files of an older training there are kept as
            `*.old`.
        resume: go on from `out`/last.pt if there is one; on a CPU the result is bit-equal to that of an uninterrupted
            training. `epochs`, `steps` and `patience` may change, other settings must be the same.
        progress: show a bar, which has no influence on the result.
        compile: train on a compiled graph, `zoo.infer.training.step.compiled`.
        fabric: a launched `lightning_fabric.Fabric`, with a strategy that replicates the loss. Without it, processes
            started by torchrun (or with `torch.distributed` initialised) train together by DistributedDataParallel.
            The first process writes; resuming, all read.
        tensorboard: also write the records to `out`/tensorboard.
        drop_last: leave out the last batch of an epoch where it is smaller than the others.

    Returns:
        `Fit`. Ctrl-C stops after the current step, saves that very point, says where, and returns with `interrupted`
        set and the latest parameters in `loss`; a second Ctrl-C aborts. Resuming from there is bit-equal as well.

    Raises:
        TypeError: `loss`, `optimizer` or `schedule` is of another kind.
        ValueError: the data or settings cannot be trained with; a checkpoint is damaged, of another pair, or of other
            settings (the error names them).
        FloatingPointError: the loss is not finite; names site, rows and step. Parameters and checkpoint stay good.
        OSError: `out` cannot be written to, found at the start if it is so by then. The loss keeps its parameters.
    """
    rows = rows_of(data)
    held_out = None if validation is None else rows_of(validation, "validation")
    counted = {"steps": (steps, 1), "epochs": (epochs, 1), "batch_size": (batch_size, 1), "patience": (patience, 1)}
    check_arguments(
        loss=loss, whole=counted | {"seed": (seed, 0)}, steps=steps, epochs=epochs, clip=clip, held_out=held_out,
        out=out, needs_out={"resume": resume, "tensorboard": tensorboard}, num_rows=len(rows),
    )  # fmt: skip
    parallel = Parallel(loss, device, fabric)
    # Fused: for a small network a quarter of the time of torch's default, which loops over the parameters in Python.
    optimizer = optimizer or partial(torch.optim.Adam, lr=1e-3, fused=True)
    options = Options(int(batch_size), int(seed), optimizer, schedule, clip, compile, drop_last)
    training = prepared(loss, rows, held_out, parallel, options)
    course = Course(
        training, seed=options.seed, steps=steps, epochs=epochs, patience=patience,
        keeps_models=out is not None or held_out is not None,
    )  # fmt: skip

    # After the pair has been looked over: a training that is refused leaves no folder behind.
    folder = None if out is None else Folder(out)
    resumed = folder is not None and resume and folder.last.exists()
    if folder is not None and resumed:
        course.resume(folder)
    elif folder is not None and resume and parallel.rank == 0:
        print(f"{folder.last}: not there yet, starting at the beginning")
    output = Output(course, folder)
    limits = {"epochs": epochs, "steps": steps, "patience": patience, "device": str(parallel.device)}
    output.start(limits, resumed=resumed, tensorboard=tensorboard)

    bar = Bar(course, shown=progress and parallel.rank == 0)
    with output.naming_the_checkpoint(), Interrupt(shared=parallel.world > 1) as interrupt, bar:
        while not course.finished:
            for batch in course.rest_of_epoch(interrupt):
                course.step(batch)
                bar.step()
            output.save(*course.end_epoch())
    output.close()
    if not course.interrupted:
        course.take_best(folder)
    state, path = course.progress, None if folder is None else folder.path
    return Fit(course.history, state.best, state.epoch, state.step, path, course.interrupted, state.seconds)
