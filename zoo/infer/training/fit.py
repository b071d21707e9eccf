"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from zoo.infer.training.checkpoint import Folder, load_model, shapes_of, tensors_of
from zoo.infer.training.interrupt import Interrupt
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.preflight import check_arguments
from zoo.infer.training.settings import versions
from zoo.infer.training.step.batches import Rows, rows_of
from zoo.infer.training.step.nonfinite import refuse_nonfinite_parameters
from zoo.infer.training.step.training import Progress, Training
from zoo.parts.aside import streams_kept


@dataclass
class Fit:
    """What a training did.

    Attributes:
        history: one record for each epoch, as in metrics.jsonl: `epoch`, `step`, `train` and `validation` (loss in
            nats per datum; None without validation), `kl` (site -> nats per datum, one draw on the epoch's last
            batch), `beta` (KL weight; None without), `lr`, `seconds` (so far).
        best: the record with the lowest validation loss; without validation the latest.
        epochs: completed.
        step: optimiser steps taken.
        out: the folder.
        interrupted: stopped by Ctrl-C.
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
    """Minimise the mean loss per datum over mini-batches. The parameters of `loss` change in place.

    Args:
        loss: a module whose `loss(*batch)` is the loss summed over the batch, a tensor without axes: `ELBO()(model,
            guide)`. A guide whose `forward` has an argument `index` is given the row numbers of the batch. One of
            Pyro's autoguides has parameters for each row, in order: then `batch_size` must be all of them.
        data: a tensor, a tuple of tensors with a common first axis (None: an argument left out), or an object with
            `__len__` and `batch(index, generator)` (`Rows`). Tensors stay where they are and batches
            are moved to `device`; put small data there yourself to save the transfers. Sequences come as
            `zoo.data.Buckets`, or as `zoo.data.Streams`, whose state is carried from batch to batch (truncated
            back-propagation) and saved in checkpoints.
        steps, epochs: give one. An epoch visits every row once, in an order that depends on `seed` and the epoch;
            its last batch may be smaller. Optimiser steps stop at exactly `steps`, also within an epoch.
        batch_size: rows of a batch, over all processes together.
        optimizer: constructor `parameters -> Optimizer`; by default Adam, fused, with learning rate 1e-3.
        schedule: constructor `optimizer -> LRScheduler`, stepped after every optimiser step (not epoch).
        clip: largest global norm of the gradient of the mean loss.
        validation: held-out data, evaluated after each epoch, untempered and always with the same noise. The
            parameters of the best epoch are kept in model.safetensors, and `loss` holds them when the training ends
            by itself.
        patience: stop after so many epochs without a better validation loss.
        seed: of batch order and noise. The global generators are used, and put back when the training is over. Each
            process adds an offset to the noise's.
        device: where to train, such as "cuda"; by default where the loss is.
        out: folder for config.json, metrics.jsonl, model.safetensors and last.pt, written at the end of each epoch.
            A kill at any moment loses at most the current epoch. The files of an older training there are kept as
            `*.old`.
        resume: go on from `out`/last.pt if there is one; on CPU the result is bit-equal to that of an uninterrupted
            training. `epochs`, `steps` and `patience` may change, other settings must be the same.
        progress: show a bar. It has no influence on the result.
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
        ValueError: bad data or settings; a checkpoint that is damaged, of another pair, or of other settings (which).
        FloatingPointError: the loss is not finite; names site, rows and step. Parameters and checkpoint stay good.
        OSError: `out` cannot be written, found at the start if it is so by then. The loss keeps its parameters.
    """
    rows = rows_of(data)
    held_out = None if validation is None else rows_of(validation, "validation")
    counted = {"steps": (steps, 1), "epochs": (epochs, 1), "batch_size": (batch_size, 1), "patience": (patience, 1)}
    check_arguments(
        loss=loss, whole=counted | {"seed": (seed, 0)}, steps=steps, epochs=epochs, clip=clip, held_out=held_out,
        out=out, needs_out={"resume": resume, "tensorboard": tensorboard}, num_rows=len(rows),
    )  # fmt: skip
    together = Parallel(loss, device, fabric)
    optimizer = optimizer or partial(torch.optim.Adam, lr=1e-3, fused=True)
    training = Training(
        loss, rows, held_out, together, int(seed), int(batch_size), optimizer, schedule, clip, compile, drop_last
    )
    per_epoch = len(training.batches(seed, 0))
    total = int(steps or (epochs or 0) * per_epoch)
    state, interrupted = Progress(), False
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] | None = None

    folder = None if out is None else Folder(out)
    resumed = False
    if folder is not None and resume and folder.last.exists():
        resumed = True
        state = training.restore(folder.load(loss, training.settings))
        history = folder.history(state.epoch)
        if state.step > total:
            done = f"step {state.step}, epoch {state.epoch}"
            raise ValueError(f"{folder.last}: already at {done}; asked to stop at step {total}")
    elif folder is not None and resume and together.rank == 0:
        print(f"{folder.last}: not there yet, starting at the beginning")
    writer = None
    if folder is not None:
        checkpoint = training.checkpoint(state)
        if together.rank == 0:
            folder.probe(checkpoint)
            run = {"epochs": epochs, "steps": steps, "patience": patience, "device": str(together.device)}
            parameters = shapes_of(loss.state_dict())
            config = {"settings": training.settings, "run": run, "versions": versions(), "parameters": parameters}
            folder.start(config, history if resumed else None)
            writer = _tensorboard(folder.path, state.step) if tensorboard else None

    def save(record: dict[str, Any] | None, model: dict[str, Tensor] | None) -> None:
        if folder is not None:
            checkpoint = training.checkpoint(state)  # on every rank, as it gathers their random states
            if together.rank == 0:
                folder.save(checkpoint, model, record)
        if writer is not None and record is not None:
            for name in ("train", "validation", "beta", "lr"):
                if record[name] is not None:
                    writer.add_scalar(name, record[name], record["step"])
            for site, nats in record["kl"].items():
                writer.add_scalar(f"kl/{site}", nats, record["step"])

    def stop() -> bool:
        if together.world == 1:
            return interrupt.seen
        return state.step % 20 == 0 and together.sum(interrupt.seen)[0] > 0  # agreed, or the others would wait forever

    started, due, shown = time.perf_counter() - state.seconds, 0.0, progress and together.rank == 0
    bar = tqdm(total=total, initial=state.step, disable=not shown, unit="step", mininterval=0.5)
    with Interrupt(shared=together.world > 1) as interrupt, bar:
        while state.step < total:
            if patience is not None and state.best and state.epoch - state.best["epoch"] >= patience:
                break
            end = min(per_epoch, state.position + total - state.step)
            try:
                for index in training.batches(seed, state.epoch)[state.position : end]:
                    if stop():
                        break
                    training.step(index, state)
                    if shown:
                        bar.update()
                        if time.perf_counter() > due:
                            due = time.perf_counter() + 0.5
                            bar.set_postfix_str(training.summary(state, history), refresh=False)
                refuse_nonfinite_parameters(loss, f"epoch {state.epoch + 1}, step {state.step}")
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {'' if folder is None else folder.good}") from error
            state.seconds = time.perf_counter() - started
            interrupted = state.position < end
            if interrupted:
                save(None, tensors_of(loss) if folder and (held_out is None or state.best is None) else None)
                break
            record = training.record(state)
            history.append(record)
            if state.position == per_epoch:
                state.epoch, state.position, state.loss, state.rows = state.epoch + 1, 0, 0.0, 0
            improved = held_out is None or state.best is None or _score(record) < _score(state.best)
            if improved:
                state.best = record
                best = tensors_of(loss) if folder is not None or held_out is not None else None
            save(record, best if improved else None)
    if writer is not None:
        writer.close()
    if interrupted and together.rank == 0:
        where = "not saved, for want of out=" if folder is None else f"saved in {folder.last}, resume=True goes on"
        print(f"stopped in epoch {state.epoch + 1} after step {state.step}: {where}")
    elif held_out is not None and state.best and state.best["step"] < state.step:
        if best is not None:
            loss.load_state_dict(best)
        elif folder is not None:  # resumed, and no better since
            load_model(loss, folder.path)
    out = None if folder is None else folder.path
    return Fit(history, state.best, state.epoch, state.step, out, interrupted, state.seconds)


def _score(record: dict[str, Any]) -> float:
    return math.inf if record["validation"] is None else record["validation"]


def _tensorboard(path: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard=True needs the extra: pip install 'pyro-latent-zoo[tensorboard]'") from error
    return SummaryWriter(path / "tensorboard", purge_step=step + 1)
