"""The parts of a training: its optimiser, data and random streams. `zoo.infer.fit` is the loop over them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from zoo.infer import carry as carried
from zoo.infer.objectives import Objective, Tempered
from zoo.infer.pair import look_at, takes_index
from zoo.infer.path import leaves
from zoo.infer.terms import run, terms
from zoo.infer.training.preflight import optimizer_of, refuse_batches_of_one, scheduler_of
from zoo.infer.training.settings import describe, describe_optimizer
from zoo.infer.training.step.batches import Rows, batches_of
from zoo.infer.training.step.compiled import compiled
from zoo.infer.training.step.nonfinite import culprit, data_rows, refuse_nonfinite_parameters
from zoo.parts.aside import aside, random_state, set_random_state, set_torch_state, torch_state


@dataclass
class Progress:
    """Where a training stands: `position` batches into the epoch after `epoch`, with `loss` and `rows` of this rank."""

    epoch: int = 0
    step: int = 0
    position: int = 0
    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None


class Training:
    """A loss with its optimiser, data and random streams: what one step, one epoch's record and one checkpoint need."""

    def __init__(
        self, loss, rows, held_out, together, seed, batch_size, optimizer, schedule, clip, compile, drop_last
    ) -> None:
        self.loss, self.rows, self.held_out, self.together = loss.to(together.device), rows, held_out, together
        self.seed, self.batch_size, self.clip, self.device = together.seed(seed), batch_size, clip, together.device
        self.drop_last = drop_last
        self.indexed, self.elbo = takes_index(getattr(loss, "guide", None)), getattr(loss, "elbo", None)
        self.paired = hasattr(loss, "model") and hasattr(loss, "guide")
        if self.indexed and held_out is not None:
            raise ValueError("the guide has parameters for each row of the data (`index`): no validation on other rows")
        # The first evaluation of each shape checks the pair, which must not happen amid the training (a batch norm
        # would notice), and makes the parameters of autoguides before the optimiser needs them.
        self.model, guide = getattr(loss, "model", None), getattr(loss, "guide", None)
        self.whole = isinstance(self.elbo, Objective) and isinstance(guide, AutoGuide)
        if self.whole and (batch_size < len(rows) or held_out is not None or together.world > 1):
            raise ValueError(
                f"{type(guide).__name__} has parameters for each row of the data, in order: give batch_size={len(rows)}"
                f" (not {batch_size}), no validation on other rows, and one process"
            )
        for source in (rows, held_out):
            carried.refuse_uncarried(self.model, source)
        own = getattr(self.model, "sizes", (None, None))[0]
        if own is not None:
            raise ValueError(
                f"{type(self.model).__name__} has parameters for {own} sequences, each its own, and the batches of a "
                "training are in another order: train it on all rows at once (maximum_likelihood, em)"
            )
        self.carry = self.carry_form = None  # the state that goes on from batch to batch
        sizes = {len(index): index for index in reversed(self.batches(seed, None))}
        refuse_batches_of_one(loss, sizes)
        for size in sorted(sizes):
            index = self.mine(sizes[size])
            self.args, self.kwargs = self.batch(rows, index, torch.Generator().manual_seed(self.seed))
            with self.evaluating():
                if isinstance(self.elbo, Objective):  # before the loss is, whose check does not know the rows
                    self.look_at_batch("data", self.args, self.kwargs, index)
                value, latents = carried.run(loss, self.args, self.kwargs)
                if carried.is_carried(rows):
                    self.carry_form = carried.after(self.model, latents, self.args, None, len(index))
        if not isinstance(value, Tensor) or value.dim() > 0:
            raise ValueError(f"loss(*batch) must be a tensor without axes, the sum over the batch, got {value!r}")
        if isinstance(self.elbo, Objective):
            self.refuse_strangers()
            for name, source in (("data", rows), ("validation", held_out)):
                if source is not None:
                    self.look_through(name, source)
        self.weights = {n: value.new_tensor(together.world / n) for n in sizes}
        self.trained = [p for p in loss.parameters() if p.requires_grad]
        if not self.trained:
            raise ValueError("the loss has no parameter that requires a gradient")
        self.optimizer = optimizer_of(optimizer, self.trained)
        self.settings = {
            "data": {
                "rows": len(rows),
                "batch": [None if t is None else [str(t.dtype), *t.shape[1:]] for t in self.args],
            },
            "validation": None if held_out is None else len(held_out),
            "batch_size": batch_size,
            "seed": seed,
            "clip": clip,
            "compile": compile,
            "processes": together.world,
            "objective": describe(self.elbo if self.elbo is not None else loss),
            "model": describe(getattr(loss, "model", None)),
            "guide": describe(getattr(loss, "guide", None)),
            "optimizer": describe_optimizer(self.optimizer),
        }
        self.scheduler = scheduler_of(schedule, self.optimizer)
        self.settings["schedule"] = describe(self.scheduler)
        if drop_last:
            self.settings["drop_last"] = True
        if compile and (self.carry_form is not None or any(t is None for t in self.args)):
            raise ValueError("compile: a graph has one shape and no state; not for sequences in buckets or streams")
        call = compiled(loss, *self.args, **self.kwargs) if compile else loss
        self.call, self.stepper = together.wrap(call, self.optimizer)
        self.generator = torch.Generator().manual_seed(self.seed)
        pyro.set_rng_seed(self.seed)  # last, so that nothing above has a say in the noise

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """An evaluation beside the training; with gradients for Pyro's own objectives, which give nothing without."""
        pyros = isinstance(self.elbo, pyro.infer.ELBO) and not isinstance(self.elbo, Objective)
        with aside(self.loss, self.seed), torch.set_grad_enabled(pyros):
            yield

    def refuse_strangers(self) -> None:
        """A parameter that the loss does not hold (a `pyro.param`, a network in a closure) would silently not train."""
        held = {id(p) for p in self.loss.parameters()}
        with aside(self.loss, self.seed), torch.enable_grad():
            point_mass = self.elbo.point_mass
            found = run(self.loss.model, self.loss.guide, self.args, self.kwargs, 1, point_mass=point_mass)
            value = found.log_weights.sum()
        strangers = [list(leaf.shape) for leaf in leaves(value) if id(leaf) not in held]
        if strangers:
            raise ValueError(
                f"model or guide use parameters that the loss does not hold, of shapes {strangers[:5]}: they would not "
                "be trained. Make the function with `pyro.param` a PyroModule, or train it with pyro.infer.SVI"
            )

    def look_through(self, name: str, source: Rows) -> None:
        """Checks the values of every row before the training spends time on them."""
        generator = torch.Generator().manual_seed(self.seed)
        with aside(self.loss, self.seed):
            for index in self.batches(self.seed, None, source):
                args, kwargs = self.batch(source, index, generator)
                self.look_at_batch(name, args, kwargs, index)

    def look_at_batch(self, name: str, args: tuple, kwargs: dict, index: Tensor) -> None:
        try:
            look_at(self.loss.model, self.loss.guide, args, kwargs, index)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def batch(
        self, source: Rows, index: Tensor, generator: torch.Generator, carry: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a batch; `carry`: the state to go on from, None where the sequences begin."""
        found = source.batch(index, generator)
        if not isinstance(found, tuple | list):
            raise TypeError(f"batch(index, generator): expected a tuple of tensors, got {type(found).__name__}")
        args = tuple([t if t is None else t.to(self.device, non_blocking=True) for t in found])
        rows = next(len(t) for t in args if t is not None)
        if rows != len(index):
            raise ValueError(f"batch(index, generator): asked for {len(index)} rows, got {rows}")
        kwargs = {"index": index.to(self.device, non_blocking=True)} if self.indexed else {}
        if carry is None and self.model is not None:
            carry = carried.opening(self.model, source, index, self.device)
        return args, kwargs | carried.keyword(carry)

    def mine(self, index: Tensor) -> Tensor:
        """This rank's rows of a global batch; if there are fewer rows than ranks, one to take part with, weight 0."""
        return self.together.share(index) if len(index) > self.together.rank else index[:1]

    def batches(self, seed: int, epoch: int | None, source: Rows | None = None) -> list[Tensor]:
        source = self.rows if source is None else source
        if self.whole:
            return [torch.arange(len(source), device=getattr(source, "device", "cpu"))]
        return batches_of(source, self.batch_size, seed, epoch, drop_last=self.drop_last and source is self.rows)

    def step(self, index: Tensor, progress: Progress) -> None:
        """One optimiser step on a global batch."""
        mine, weight = self.mine(index), self.weights[len(index)]
        idle = len(index) <= self.together.rank
        if idle:
            weight = torch.zeros_like(weight)
        going_on = self.carry if progress.position else None
        self.args, self.kwargs = self.batch(self.rows, mine, self.generator, going_on)
        noise = torch_state(self.device)
        for p in self.trained:
            p.grad = None
        try:
            if self.carry_form is None:
                total = self.call(*self.args, **self.kwargs)
            else:
                total, latents = carried.run(self.call, self.args, self.kwargs)
                self.carry = carried.after(self.model, latents, self.args, self.kwargs.get("carry"), len(mine))
        except ValueError as error:  # of a distribution that was handed a NaN, most often
            self.explain(noise, mine, progress, "cannot be computed", error)
            error.add_note(f"The batch has the data {data_rows(mine)}; row numbers above count from 0 within it.")
            raise
        self.together.backward(total, weight)
        value = total.item()  # the one point per step that waits for the device; the update comes after it
        if not math.isfinite(value):
            self.explain(noise, mine, progress, f"is {value}", None)
        if self.clip is not None:
            self.together.clip(self.call, self.stepper, self.trained, self.clip)
        self.stepper.step()
        if self.scheduler is not None:
            self.scheduler.step()
        progress.step += 1
        progress.position += 1
        if not idle:
            progress.loss += value
            progress.rows += len(mine)

    def explain(self, noise: Tensor, index: Tensor, progress: Progress, what: str, error: Exception | None) -> None:
        """FloatingPointError saying why the loss is not finite; nothing if it was an error of another kind."""
        at = f"epoch {progress.epoch + 1}, step {progress.step + 1} (batch {progress.position + 1} of the epoch)"
        refuse_nonfinite_parameters(self.loss, f"before {at}")
        set_torch_state(noise, self.device)  # the very draws
        why = culprit(self.loss, self.args, self.kwargs, index)
        if why or error is None:
            why = why or f"every site is finite when the step is repeated; its data {data_rows(index)}"
            raise FloatingPointError(f"the loss {what} at {at}: {why}") from error

    def record(self, progress: Progress) -> dict[str, Any]:
        """The epoch's record; nothing in it moves the training's random streams."""
        loss, rows = self.together.sum(progress.loss, progress.rows)
        kl = {}
        if self.paired:
            with aside(self.loss):
                try:
                    ratios = terms(self.loss.model, self.loss.guide, *self.args, **self.kwargs).log_ratios
                    kl = {site: -ratio.mean().item() for site, ratio in ratios.items()}
                except ValueError:
                    pass  # a pair for another kind of objective (enumerated sites, say): no KL per site
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train": loss / rows,
            "validation": None if self.held_out is None else self.validate(),
            "kl": kl,
            "beta": getattr(self.elbo, "kl_weight_now", None),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": progress.seconds,
        }

    def summary(self, progress: Progress, history: list[dict[str, Any]]) -> str:
        """For the bar: the epoch's mean loss so far, the KL of the epoch before, the KL weight."""
        mean, quantity = progress.loss / max(progress.rows, 1), getattr(self.elbo, "quantity", "bound")
        parts = [f"{mean:.3f} nats" if quantity == "bound" else f"{quantity} {-mean:.3f} nats"]
        if history and history[-1]["kl"]:
            parts.append(f"KL {sum(history[-1]['kl'].values()):.2f}")
        if getattr(self.elbo, "kl_weight_now", None) is not None:
            parts.append(f"beta {self.elbo.kl_weight_now:.3g}")
        return ", ".join(parts)

    def validate(self) -> float | None:
        """The loss per held-out datum, with the same noise each time; None if it is not finite.

        Untempered: a warm-up would flatter the early epochs.
        """
        tempered = isinstance(self.elbo, Tempered)
        score = self.elbo.objective(self.loss.model, self.loss.guide) if tempered else self.loss
        generator, total, count = torch.Generator().manual_seed(self.seed), 0.0, 0
        carry, goes_on = None, carried.is_carried(self.held_out)
        with self.evaluating():
            for index in batches_of(self.held_out, min(self.batch_size, len(self.held_out)), self.seed, None):
                mine = self.together.share(index)
                if len(mine):
                    args, kwargs = self.batch(self.held_out, mine, generator, carry)
                    value, latents = carried.run(score, args, kwargs)
                    total, count = total + value.item(), count + len(mine)
                    if goes_on:
                        carry = carried.after(self.model, latents, args, kwargs.get("carry"), len(mine))
        total, count = self.together.sum(total, count)
        return total / count if math.isfinite(total) else None

    def checkpoint(self, progress: Progress) -> dict[str, Any]:
        mine = {
            "random": random_state(self.device),
            "generator": self.generator.get_state(),
            "loss": progress.loss,
            "rows": progress.rows,
            "carry": carried.pack(self.carry),
        }
        return {
            "format": 1,
            "settings": self.settings,
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.scheduler is None else self.scheduler.state_dict(),
            "objective_step": getattr(self.elbo, "step", None),
            "ranks": self.together.gather(mine),
            "progress": asdict(progress),
        }

    def restore(self, checkpoint: dict[str, Any]) -> Progress:
        self.loss.load_state_dict(checkpoint["loss"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(checkpoint["schedule"])
        if checkpoint["objective_step"] is not None:
            self.elbo.step = checkpoint["objective_step"]
        mine = checkpoint["ranks"][self.together.rank]
        self.generator.set_state(mine["generator"])
        self.carry = carried.unpack(mine.get("carry"), self.carry_form, self.device)
        set_random_state(mine["random"], self.device)
        return Progress(**{**checkpoint["progress"], "loss": mine["loss"], "rows": mine["rows"]})
