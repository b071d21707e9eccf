"""Time and memory of one semi-supervised training step of M2 beside PyTorch written by hand, interleaved.

    python -m benchmarks.label_step              # prints the table, writes results/speed_label_step.json
    python -m benchmarks.label_step --quick      # a smoke run, writes nothing

By hand in two forms: as public codes do it, which repeat x for every class and join it with the class's code; and with
a first layer W x + V y, which multiplies x once. All rows have the same networks and the same fused Adam; before
anything is timed the losses of the two forms, the zoo's, Pyro's and that of a loop over the classes are compared, from
the same weights. Rounds, turns and ratios are those of `benchmarks.vae_step`.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

import guides
from benchmarks.steps import main
from benchmarks.turns import train
from zoo import M2
from zoo.infer import ELBO, SemiSupervised
from zoo.infer.call import Purpose, run
from zoo.infer.training.step.compiled import compiled

CLASSES, ALPHA = 10, 0.1


class Size(NamedTuple):
    data: int
    hidden: int
    latent: int
    # of each kind: with labels, and without
    rows: int
    steps: int = 2


SIZES = {
    "784-500-50, 100 + 100 rows": Size(784, 500, 50, 100),
    "64-64-2, 50 + 50 rows": Size(64, 64, 2, 50, steps=20),
}


def pair(size: Size) -> tuple[M2, guides.Labelled]:
    model = M2(size.data, size.latent, CLASSES, (size.hidden,))
    return model, guides.Labelled(model, hidden=(size.hidden,))


def data(size: Size) -> tuple[Tensor, Tensor]:
    """Bits, and labels of the first half."""
    x = torch.bernoulli(torch.full((2 * size.rows, size.data), 0.2))
    return x, torch.cat([torch.arange(size.rows) % CLASSES, torch.full((size.rows,), -1)])


class Joined(nn.Module):
    """A layer over two inputs side by side; the inputs have all leading axes already."""

    def __init__(self, sizes: tuple[int, int], width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(sizes), width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(torch.cat([x, y], -1))

    def take(self, layers: list[nn.Linear]) -> None:
        self.layer.weight.copy_(torch.cat([layer.weight for layer in layers], 1))
        self.layer.bias.copy_(layers[0].bias)


class Apart(nn.Module):
    """W x + V y + b, broadcast after the products."""

    def __init__(self, sizes: tuple[int, int], width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(sizes[0], width), nn.Linear(sizes[1], width, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.first(x) + self.second(y)

    def take(self, layers: list[nn.Linear]) -> None:
        for own, layer in zip((self.first, self.second), layers, strict=True):
            own.load_state_dict(layer.state_dict())


class ByHand(nn.Module):
    """The semi-supervised bound of M2, log p(z) - log q(z) simplified with pencil and paper."""

    def __init__(self, size: Size, layer: type[Joined] | type[Apart]) -> None:
        super().__init__()
        data, hidden, latent, self.rows, _ = size
        self.classifier = nn.Sequential(nn.Linear(data, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
        self.encoder, self.head = layer((data, CLASSES), hidden), nn.Linear(hidden, 2 * latent)
        self.decoder, self.logits = layer((latent, CLASSES), hidden), nn.Linear(hidden, data)

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        """The bound on log p(x, y) for one-hot y."""
        loc, log_scale = self.head(self.encoder(x, y).relu()).chunk(2, -1)
        noise = torch.randn(loc.shape)
        z = torch.addcmul(loc, log_scale.exp(), noise)
        logits = self.logits(self.decoder(z, y).relu())
        missed = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return (0.5 * (noise * noise - z * z) + log_scale).sum(-1) - missed - math.log(CLASSES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with_label, without = x[: self.rows], x[self.rows :]
        known = y[: self.rows]
        labelled = self.bound(with_label, F.one_hot(known, CLASSES).to(x.dtype)).sum()
        every = torch.eye(CLASSES)
        if isinstance(self.encoder, Joined):
            repeated = without.repeat(CLASSES, 1)
            of_class = self.bound(repeated, every.repeat_interleave(self.rows, 0)).view(CLASSES, self.rows)
        else:
            of_class = self.bound(without, every.unsqueeze(1))
        log_q = self.classifier(without).log_softmax(-1).T
        unlabelled = (log_q.exp() * (of_class - log_q)).sum()
        return ALPHA * F.cross_entropy(self.classifier(with_label), known, reduction="sum") - labelled - unlabelled

    @torch.no_grad()
    def take(self, model: Any, guide: Any) -> None:
        """Copies the weights of a pair of the zoo."""
        (first,) = guide.logits.stage.inputs.layers
        self.classifier[0].load_state_dict(first.state_dict())
        self.classifier[2].load_state_dict(guide.logits.head.state_dict())
        self.encoder.take([*guide.encoder.inputs.layers])
        self.head.load_state_dict(guide.family.head.state_dict())
        self.decoder.take([*model.decoder.stage.inputs.layers])
        self.logits.load_state_dict(model.decoder.head.logits.state_dict())


class WithPyro(nn.Module):
    """The same loss by Pyro's own objective, which sums y out too."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.rows = size.rows
        self.bound = TraceEnum_ELBO(max_plate_nesting=1)(*pair(size))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with_label, known = x[: self.rows], y[: self.rows]
        # Pyro warns of a run in which no site is summed out, as that of the labelled rows
        warnings.filterwarnings("ignore", message="TraceEnum_ELBO found no sample sites")
        trained = ALPHA * self.bound.guide.classifier(with_label).log_prob(known).sum()
        return self.bound(with_label, known) + self.bound(x[self.rows :]) - trained


class Looped(nn.Module):
    """The same loss with the pair run once for each class."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.rows = size.rows
        self.model, self.guide = pair(size)

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        return run(self.model, self.guide, (x, y), {}, 1, Purpose(differentiable=True)).log_weights[0]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with_label, without, known = x[: self.rows], x[self.rows :], y[: self.rows]
        labelled = self.bound(with_label, known) + ALPHA * self.guide.classifier(with_label).log_prob(known)
        log_q = self.guide.classifier(without).logits
        of_class = torch.stack([self.bound(without, torch.full_like(known, c)) for c in range(CLASSES)], -1)
        return -labelled.sum() - (log_q.exp() * (of_class - log_q)).sum()


def zoo_loss(size: Size) -> nn.Module:
    return SemiSupervised(ELBO(), ALPHA)(*pair(size))


def check(size: Size) -> None:
    """Refuses a loss that is another one than the zoo's."""
    # normals come in blocks of 16: with a multiple of these a draw for each class is the same as one for all
    small = size._replace(rows=16)
    x, y = data(small)
    loss, apart, joined = zoo_loss(small), ByHand(small, Apart), ByHand(small, Joined)
    others: list[Any] = [WithPyro(small), Looped(small)]
    for hand in (apart, joined):
        hand.take(loss.model, loss.guide)
    for one, names in zip(others, (("bound.model", "bound.guide"), ("model", "guide")), strict=True):
        for name, part in zip(names, (loss.model, loss.guide), strict=True):
            one.get_submodule(name).load_state_dict(part.state_dict())
    losses, found = [loss, apart, joined, *others], []
    for each in losses:
        each(x, y)  # the first call of a pair draws for its check
        torch.manual_seed(0)
        found.append(each(x, y))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other.to(found[0]), rtol=1e-5, atol=1e-2)
    count = [sum(p.numel() for p in each.parameters()) for each in losses]
    assert len({*count}) == 1, f"parameters: {count}"


def step_of(make: Callable[[Size], nn.Module]) -> Callable[[Size], None]:
    return lambda size: train(make(size), *data(size))


def compiled_loss(size: Size) -> nn.Module:
    return compiled(zoo_loss(size), *data(size))


ROWS: dict[str, Callable[[Size], Any]] = {
    "by hand, W x + V y": step_of(lambda size: ByHand(size, Apart)),
    "by hand, repeated and joined": step_of(lambda size: ByHand(size, Joined)),
    "zoo": step_of(zoo_loss),
    "by hand, W x + V y, compiled": step_of(lambda size: torch.compile(ByHand(size, Apart), fullgraph=True)),
    "zoo, compiled": step_of(compiled_loss),
    "Pyro's TraceEnum_ELBO, the zoo's pair": step_of(WithPyro),
    "a loop over the classes, the zoo's pair": step_of(Looped),
}


if __name__ == "__main__":
    main("benchmarks.label_step", __doc__, SIZES, ROWS, check, key="label_steps")
