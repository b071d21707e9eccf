"""The steps, records and checkpoints of a training. `zoo.infer.fit` is the loop over them."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from zoo.infer import carry as carried
from zoo.infer.terms import terms
from zoo.infer.training.callbacks import Calls
from zoo.infer.training.parallel import Parallel
from zoo.infer.training.step.average import Average
from zoo.infer.training.step.batcher import Batcher
from zoo.infer.training.step.nonfinite import culprit, data_rows, refuse_nonfinite_parameters
from zoo.infer.training.step.parts import Parts, beside
from zoo.infer.training.step.stored import storable
from zoo.parts.aside import aside, denormals_flushed, random_state, set_random_state, set_torch_state, torch_state


@dataclass
class Progress:
    """The point that a training has reached.

    Attributes:
        epoch: number of completed epochs.
        step: optimiser steps taken.
        position: number of batches taken in the epoch under way.
        loss, rows: this rank's sum of losses, and its rows, in the epoch under way.
        seconds: wall time, earlier parts of a resumed training included.
        best: the record of the epoch whose model is kept.
    """

    epoch: int = 0
    step: int = 0
    position: int = 0
    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None


@dataclass
class Training:
    """A loss with its optimiser, data and random streams.

    Attributes:
        loss, parts: the loss, and the parts that it consists of.
        batcher, held_out: batches of the data and of the validation data.
        parallel: the processes that train together.
        seed: of this process's noise.
        clip: largest global norm of the gradient; None leaves it alone.
        trained: the parameters that require a gradient.
        optimizer, scheduler: of torch.
        call, stepper: loss and optimiser as a step uses them, compiled and wrapped for several processes.
        weights: rows of a batch -> the factor that makes its loss one per datum.
        settings: as config.json holds them.
        generator: of the batches' own randomness.
        calls: the callbacks.
        average: of the parameters over the steps; None without.
        args, kwargs: the arguments of the latest batch.
        carry_form: any carry of the model, for its structure; None where no state goes on from batch to batch.
        carry: the state after the latest batch.
    """

    loss: nn.Module
    parts: Parts
    batcher: Batcher
    held_out: Batcher | None
    parallel: Parallel
    seed: int
    clip: float | None
    trained: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    call: nn.Module
    stepper: Any
    weights: dict[int, Tensor]
    settings: dict[str, Any]
    generator: torch.Generator
    calls: Calls
    average: Average | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    carry_form: Any = None
    carry: Any = None

    # Where a gradient is exactly 0, as of the weights of a pixel that is always black, Adam's mean of gradients falls
    # until it is denormal, and stays there: half of all means of a BIVA after two hours. Arithmetic with such numbers
    # is done in microcode, and a step takes twice as long.
    @denormals_flushed()
    def step(self, batch: Tensor, progress: Progress) -> None:
        """One optimiser step on the rows `batch` of all processes.

        Raises:
            FloatingPointError: the loss is not finite. Parameters and optimiser are as they were.
        """
        idle, index, weight = self.batcher.is_idle(batch), self.batcher.mine(batch), self._weight(len(batch))
        # Each epoch starts without a carry, so that its loss is that of the same sequences each time.
        going_on = self.carry if progress.position else None
        self.args, self.kwargs = self.batcher.arguments(index, self.generator, going_on)
        noise = torch_state(self.parallel.device)
        # By hand: `zero_grad`, with its hooks and its record for the profiler, takes ten times as long.
        for p in self.trained:
            p.grad = None
        try:
            total = self._evaluate(len(index))
        except ValueError as error:
            # Mostly raised by a distribution that was handed a NaN: reported like a loss that is not finite.
            self._explain(noise, index, progress, "cannot be computed", error)
            error.add_note(f"The batch has the data {data_rows(index)}; row numbers above count from 0 within it.")
            raise
        self.parallel.engine.backward(total, gradient=torch.zeros_like(weight) if idle else weight)
        # The one point of a step that waits for the device. It comes before the update, so that a loss that is not
        # finite leaves the parameters as they were.
        value = total.item()
        if not math.isfinite(value):
            self._explain(noise, index, progress, f"is {value}", None)
        if self.clip is not None:
            self.parallel.engine.clip_gradients(self.call, self.stepper, max_norm=self.clip, error_if_nonfinite=False)
        self.stepper.step()
        if self.average is not None:
            self.average.update()
        if self.scheduler is not None and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        progress.step += 1
        progress.position += 1
        if not idle:
            progress.loss += value
            progress.rows += len(index)

    def _weight(self, size: int) -> Tensor:
        # The batches of a loader's own sampler may have sizes in a later epoch that the first did not have.
        if size not in self.weights:
            some = next(iter(self.weights.values()))
            self.weights[size] = some.new_tensor(self.parallel.world / size)
        return self.weights[size]

    def _evaluate(self, batch: int) -> Tensor:
        if self.carry_form is None:
            return self.call(*self.args, **self.kwargs)
        total, latents = carried.with_latents(self.call, self.args, self.kwargs)
        self.carry = carried.after(self.parts.model, latents, self.args, self.kwargs.get("carry"), batch)
        return total

    def _explain(self, noise: Tensor, index: Tensor, progress: Progress, said: str, error: Exception | None) -> None:
        """Raises FloatingPointError with the reason why the loss is not finite; an error of another kind passes.

        Args:
            noise: state of the random stream before the step, so that its very draws are repeated.
            said: of the loss, such as "is nan".
            error: the error that the loss raised; None of a value.
        """
        at = f"epoch {progress.epoch + 1}, step {progress.step + 1} (batch {progress.position + 1} of the epoch)"
        refuse_nonfinite_parameters(self.loss, f"before {at}")
        set_torch_state(noise, self.parallel.device)
        why = culprit(self.loss, self.args, self.kwargs, index)
        if why or error is None:
            why = why or f"every site is finite when the step is repeated; its data {data_rows(index)}"
            raise FloatingPointError(f"the loss {said} at {at}: {why}") from error

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the loss has the averages of its parameters, if the training has any."""
        return nullcontext() if self.average is None else self.average.in_place()

    def plateau(self, validation: float | None) -> None:
        """Tells `ReduceLROnPlateau`, where that is the schedule, the validation loss of a whole epoch."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(math.inf if validation is None else validation)

    def record(self, progress: Progress) -> dict[str, Any]:
        """The record of the epoch under way, as in metrics.jsonl. The training's random streams do not move."""
        loss, rows = self.parallel.sum(progress.loss, progress.rows)
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train": loss / rows,
            "validation": None if self.held_out is None else self.validate(self.held_out),
            "kl": self._kl() if self.parts.paired else {},
            "beta": self.kl_weight,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": progress.seconds,
        }

    def _kl(self) -> dict[str, float]:
        """Site -> log q - log p in nats, one draw; mean over the rows of the latest batch where the site is latent."""
        found: dict[str, list[Tensor]] = {}
        with aside(self.loss):
            try:
                parts = self.parts.split(self.args, self.kwargs)
                runs = [terms(self.parts.model, self.parts.guide, *args, **kwargs) for args, kwargs in parts]
            except ValueError:
                # A pair for an objective of another kind, with enumerated sites say, has no KL for each site.
                return {}
            for run in runs:
                # of a site outside the batch plate the share of each datum, as in the loss
                rows = getattr(self.parts.objective, "num_data", None) or len(run.log_likelihood[0])
                for site, ratio in run.shared_out(rows).log_ratios.items():
                    found.setdefault(site, []).append(-run.expectation(ratio))
            return {site: torch.cat(ratios).mean().item() for site, ratios in found.items()}

    @property
    def kl_weight(self) -> float | dict[str, float] | None:
        """The KL weight of the step to come, or of each site; None without."""
        return self.parts.objective.kl_weight_now if self.parts.ours else None

    def validate(self, held_out: Batcher) -> float | None:
        """The loss per held-out datum; None if it is not finite."""
        objective = self.parts.objective
        # Untempered: a small KL weight would make the early epochs of a warm-up look the best.
        tempered = self.parts.ours and objective.untempered is not objective
        score = objective.untempered(self.parts.model, self.parts.guide) if tempered else self.loss
        generator, total, count = torch.Generator().manual_seed(self.seed), 0.0, 0.0
        carry, goes_on = None, carried.is_carried(held_out.rows)
        shares = [self.parallel.share(index) for index in held_out.batches(self.seed, None)]
        # The same noise at each epoch: the difference of two epochs is then that of their parameters.
        with beside(self.loss, self.parts, self.seed):
            for mine in filter(len, shares):
                args, kwargs = held_out.arguments(mine, generator, carry)
                value, latents = carried.with_latents(score, args, kwargs)
                total, count = total + value.item(), count + len(mine)
                if goes_on:
                    carry = carried.after(self.parts.model, latents, args, kwargs.get("carry"), len(mine))
        total, count = self.parallel.sum(total, count)
        return total / count if math.isfinite(total) else None

    def checkpoint(self, progress: Progress) -> dict[str, Any]:
        """All that a resumed training needs. Every process calls it, since each has random streams of its own.

        Raises:
            ValueError: the state of optimiser or schedule holds objects that cannot be read back safely.
        """
        mine = {
            "random": random_state(self.parallel.device),
            "generator": self.generator.get_state(),
            "loss": progress.loss,
            "rows": progress.rows,
            "carry": carried.pack(self.carry),
            "callbacks": self.calls.state(),
        }
        return {
            "format": 1,
            "settings": self.settings,
            "loss": self.loss.state_dict(),
            "optimizer": storable(self.optimizer.state_dict(), "optimizer"),
            "schedule": None if self.scheduler is None else storable(self.scheduler.state_dict(), "schedule"),
            "average": None if self.average is None else self.average.state_dict(),
            "objective_step": getattr(self.parts.objective, "step", None),
            "ranks": self.parallel.gather(mine),
            "progress": asdict(progress),
        }

    def restore(self, checkpoint: dict[str, Any], file: Path) -> Progress:
        """Takes over the state of a checkpoint, and returns the point that it had reached.

        Args:
            file: of the checkpoint, for errors.

        Raises:
            ValueError: the checkpoint holds the state of a callback that is missing.
        """
        mine = checkpoint["ranks"][self.parallel.rank]
        # First, since it can refuse. `get`: checkpoints from before there were callbacks have no such entry.
        self.calls.restore(mine.get("callbacks", {}), file)
        self.loss.load_state_dict(checkpoint["loss"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(checkpoint["schedule"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])
        if checkpoint["objective_step"] is not None:
            self.parts.objective.step = checkpoint["objective_step"]
        self.generator.set_state(mine["generator"])
        # `get`: checkpoints from before sequences could be carried have no such entry.
        self.carry = carried.unpack(mine.get("carry"), self.carry_form, self.parallel.device)
        set_random_state(mine["random"], self.parallel.device)
        return Progress(**{**checkpoint["progress"], "loss": mine["loss"], "rows": mine["rows"]})
