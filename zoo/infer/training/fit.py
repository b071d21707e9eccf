"""The training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.infer.training.callbacks import Callback, Calls, check_callbacks
from zoo.infer.training.checkpoint import Folder
from zoo.infer.training.course import Course
from zoo.infer.training.interrupt import Interrupt
from zoo.infer.training.output import Bar, Output
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.preflight import check_arguments
from zoo.infer.training.prepare import data_of, prepared
from zoo.infer.training.settings import Options, describe
from zoo.infer.training.step.batches import batch_size_of
from zoo.parts.aside import streams_kept

# nats per datum of a site below which the guide is the prior, or nearly so
IDLE = 0.01


@dataclass
class Fit:
    """The outcome of `fit`: the records of all epochs, the best of them, the length of the training.

    Printed it is a short report, which names sites that the training does not use.

    Attributes:
        history: one record for each epoch, as in metrics.jsonl: `epoch`, `step`, `train` and `validation` (loss in
            nats per datum; None without validation), `kl` (site -> nats per datum, one draw on the epoch's last
            batch, of its rows where the site is latent), `beta` (KL weight, or site -> weight; None without), `lr` (of
            the parameters that no pattern of `groups` names), `seconds` (so far). With `average`, `train` is of the
            parameters themselves, all else of the averages.
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

    def __str__(self) -> str:
        """The length, the losses and the KL of each site, and once what is worth a look before going on."""
        kept = self.best or {}
        lines = [f"{self.epochs} epochs, {self.step} steps, {self.seconds:.1f} s"]
        if "train" in kept:
            held_out = "" if kept["validation"] is None else f", validation {kept['validation']:.3f}"
            lines.append(f"loss of epoch {kept['epoch']}: {kept['train']:.3f} nats per datum{held_out}")
        kl = kept.get("kl", {})
        if kl:
            lines.append("KL, nats per datum: " + ", ".join(f"{site} {value:.3f}" for site, value in kl.items()))
        # exactly 0 is the KL of a site that the guide leaves to the model (Remembering, PriorBelow)
        idle = [site for site, value in kl.items() if value < IDLE and value != 0]
        if idle:
            lines.append(f"worth a look: KL of {', '.join(idle)} below {IDLE} nats per datum, the data hardly reach it "
                         "(posterior collapse; a warm-up or free bits of `Tempered` may help)")  # fmt: skip
        return "\n".join(lines)


@streams_kept()
def fit(
    loss: nn.Module,
    data: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    drop_last: bool = False,
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    clip: float | None = None,
    average: float | None = None,
    validation: Any = None,
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    device: str | torch.device | None = None,
    compile: bool = False,
    fabric: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
) -> Fit:
    """Minimises the mean loss per datum over mini-batches. The parameters of `loss` change in place.

    Args:
        loss: a module whose `loss(*batch)` is the loss summed over the batch, a tensor without axes: `ELBO()(model,
            guide)`. A guide whose `forward` has an argument `index` is given the row numbers of the batch. One of
            Pyro's autoguides has parameters for each row, in order: then `batch_size` must be all of them.
        data: a tensor, an array of numpy, a table of pandas or polars, nested lists, or a tuple of such with a common
            first axis (None: an argument left out); an array on file, of which rows are read when they are needed; a
            `Dataset` or `DataLoader` of torch that yields the arguments, as one tensor, a tuple, or a dictionary by
            their names; an object with `__len__` and `batch(index, generator)` (`Rows`). Numbers become those of the
            parameters where that loses nothing, and are refused otherwise. Tensors stay where they are, and batches are
            moved to `device`; put small data there yourself to save the transfers. Sequences come as
            `zoo.data.Buckets`, or as `zoo.data.Streams`, whose state is carried from batch to batch (truncated
            back-propagation) and saved in checkpoints; one series alone needs no batch axis.
        steps, epochs: the length; give one of the two. An epoch visits every row once, in an order that depends on
            `seed` and the epoch; its last batch may be smaller. Optimiser steps stop at exactly `steps`, also within
            an epoch.
        batch_size: rows of a batch, over all processes together; None: 128, all rows where there are fewer, or those of
            a `DataLoader`.
        drop_last: leave out the last batch of an epoch where it is smaller than the others. Data that choose their own
            batches refuse it.
        optimizer: constructor `parameters -> Optimizer`, or one of pyro.optim; by default torch's fused Adam with
            learning rate 1e-3.
        groups: options of the optimiser for parameters by name: `{"guide.*": {"lr": 1e-4}, "*.bias": {"weight_decay":
            0.0}}`. Patterns are those of `fnmatch`, names those of `loss.named_parameters()`. A parameter takes the
            options of all patterns that match it; two values of one option are refused. The optimiser's first group
            are the parameters that no pattern names; each set of patterns is a further one, in the order of the
            parameters. To keep parameters fixed, call their `requires_grad_(False)`: a learning rate of 0 would still
            compute their gradients.
        schedule: constructor `optimizer -> LRScheduler`, stepped after every optimiser step (not epoch); it moves the
            learning rate of every group. `torch.optim.lr_scheduler.ReduceLROnPlateau` is stepped at the end of each
            epoch with the loss of `validation`.
        clip: largest global norm of the gradient of the mean loss.
        average: decay, such as 0.999, of an exponential moving average of the parameters over the steps
            (`zoo.infer.training.step.average`). The averages are what is validated, saved in model.safetensors and
            given to `loss` at the end, after an error too; the steps go on from the parameters themselves.
        validation: held-out data, evaluated after each epoch, untempered and always with the same noise. The
            parameters of the best epoch are kept in model.safetensors, and `loss` holds them when the training ends
            by itself.
        patience: stop after so many epochs without a better validation loss.
        callbacks: code of your own, called at the start, after each step and at the end of each epoch, which may end
            the training: `zoo.infer.Callback`.
        seed: of batch order and noise; each process adds an offset to the noise's. The training uses the global random
            generators, and puts them back when it is over.
        device: where to train, such as "cuda"; by default where the loss is.
        compile: train on a compiled graph, `zoo.infer.training.step.compiled`.
        fabric: a launched `lightning_fabric.Fabric`, with a strategy that replicates the loss. Without it, processes
            started by torchrun (or with `torch.distributed` initialised) train together by DistributedDataParallel.
            The first process writes; resuming, all read.
        out: folder for config.json, metrics.jsonl, model.safetensors and last.pt, written at the end of each epoch.
            A kill at any moment loses at most the current epoch. The files of an older training there are kept as
            `*.old`. `zoo.load_pair(out)` builds the pair again without its script; a line says so where it cannot.
        resume: go on from `out`/last.pt if there is one; on a CPU the result is bit-equal to that of an uninterrupted
            training. `epochs`, `steps`, `patience` and `callbacks` may change, other settings must be the same, those
            of the schedule too. The point at which `steps` ended an earlier part within an epoch was validated as well,
            and may be the best.
        progress: show a bar, which has no influence on the result.
        tensorboard: also write the records to `out`/tensorboard.

    Returns:
        `Fit`. Ctrl-C stops after the current step, saves that very point, says where, and returns with `interrupted`
        set and the latest parameters in `loss`; a second Ctrl-C aborts. Resuming from there is bit-equal as well.

    Raises:
        TypeError: `loss`, `optimizer`, `groups`, `schedule` or `callbacks` is of another kind.
        ValueError: the data or settings cannot be trained with; a checkpoint is damaged, of another pair, or of other
            settings (the error names them).
        FloatingPointError: the loss is not finite; names site, rows and step. Parameters and checkpoint stay good.
        OSError: `out` cannot be written to, found at the start if it is so by then. The loss keeps its parameters.
    """
    rows, held_out = data_of(loss, data, validation, batch_size, steps)
    counted = {"steps": (steps, 1), "epochs": (epochs, 1), "batch_size": (batch_size, 1), "patience": (patience, 1)}
    check_arguments(
        loss=loss, whole=counted | {"seed": (seed, 0)}, steps=steps, epochs=epochs, clip=clip, average=average,
        held_out=held_out, out=out, needs_out={"resume": resume, "tensorboard": tensorboard}, num_rows=len(rows),
    )  # fmt: skip
    calls = Calls(check_callbacks(callbacks))
    parallel = Parallel(loss, device, fabric)
    # Fused: for a small network a quarter of the time of torch's default, which loops over the parameters in Python.
    optimizer = optimizer or partial(torch.optim.Adam, lr=1e-3, fused=True)
    size = batch_size_of(batch_size, rows, drop_last=drop_last)
    options = Options(size, int(seed), optimizer, schedule, clip, compile, drop_last, groups, average)
    training = prepared(loss, rows, held_out, parallel, options, calls)
    # After the pair has been looked over: a training that is refused leaves no folder behind.
    folder = None if out is None else Folder(out)
    course = Course(training, seed=options.seed, steps=steps, epochs=epochs, patience=patience, folder=folder)
    resumed = folder is not None and resume and folder.last.exists()
    if folder is not None and resumed:
        course.resume(folder)
    elif folder is not None and resume and parallel.rank == 0:
        print(f"{folder.last}: not there yet, starting at the beginning")
    output = Output(course, folder)
    limits = {"epochs": epochs, "steps": steps, "patience": patience, "device": str(parallel.device),
              "callbacks": calls.callbacks}  # fmt: skip
    output.start(describe(limits), resumed=resumed, tensorboard=tensorboard)

    bar = Bar(course, shown=progress and parallel.rank == 0)
    with output.naming_the_checkpoint(), course.giving_averages(), bar, Interrupt(parallel.world > 1) as interrupt:
        course.start()
        while not course.finished:
            for batch in course.rest_of_epoch(interrupt):
                course.step(batch)
                bar.step()
            output.save(course.end_epoch())
    output.close()
    course.finish()
    state, path = course.progress, None if folder is None else folder.path
    return Fit(course.history, state.best, state.epoch, state.step, path, course.interrupted, state.seconds)
