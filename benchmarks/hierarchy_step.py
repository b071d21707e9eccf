"""Time and memory of one training step of a ladder, of LVAE+ and of BIVA, against PyTorch written by hand, interleaved.

    python -m benchmarks.hierarchy_step              # prints the tables, writes results/speed_hierarchy_step.json
    python -m benchmarks.hierarchy_step --quick      # a smoke run, writes nothing
    python -m benchmarks.hierarchy_step --memory     # the peak of log_likelihood with K = 5000 under several bounds

Both sides have the same networks and the same fused Adam; before anything is timed their losses are compared, from the
same weights and noises. A row without `once` runs every network of the model twice. Rounds, turns and ratios are those
of `benchmarks.vae_step`.
"""

from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import guides
from benchmarks.steps import main
from benchmarks.turns import peak_of, train
from zoo import BIVA, Hierarchical
from zoo.infer import ELBO, IWELBO, log_likelihood
from zoo.infer.training.step.compiled import compiled
from zoo.parts.once import Once

LATENTS = (64, 32, 16, 8, 4)
WIDTHS = ((512, 512), (256, 256), (128, 128), (64, 64), (64, 64))


class Size(NamedTuple):
    kind: str
    batch: int
    particles: int = 1
    steps: int = 4


SIZES = {
    "ladder, batch 128": Size("ladder", 128),
    "ladder, batch 256": Size("ladder", 256, steps=3),
    "LVAE+, batch 128": Size("skip", 128),
    "BIVA, batch 128": Size("biva", 128, steps=3),
    "ladder, IWELBO(50), batch 16": Size("ladder", 16, 50, steps=1),
}


def pair(kind: str) -> tuple[nn.Module, guides.HierarchyGuide]:
    down = tuple(tuple(reversed(widths)) for widths in WIDTHS)
    if kind == "biva":
        model: nn.Module = BIVA(784, LATENTS, down)
        up = [*chain.from_iterable((widths, widths) for widths in WIDTHS[:-1]), WIDTHS[-1]]
        return model, guides.Bidirectional(model, hidden=up)
    model = Hierarchical(784, LATENTS, down, kind == "skip")
    return model, (guides.TopDown if kind == "skip" else guides.Ladder)(model, hidden=WIDTHS)


def net(sizes: list[int], widths: tuple[int, ...]) -> nn.Module:
    """A perceptron of several inputs; a plain chain of layers for one."""
    rest: list[nn.Module] = [nn.ReLU()]
    for before, width in pairwise(widths):
        rest += [nn.Linear(before, width), nn.ReLU()]
    if len(sizes) == 1:
        return nn.Sequential(nn.Linear(sizes[0], widths[0]), *rest)
    return Sum(sizes, widths[0], nn.Sequential(*rest))


class Sum(nn.Module):
    def __init__(self, sizes: list[int], width: int, rest: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, width, bias=i == 0) for i, n in enumerate(sizes))
        self.rest = rest

    def forward(self, *inputs: Tensor) -> Tensor:
        total = self.layers[0](inputs[0])
        for layer, v in zip(self.layers[1:], inputs[1:], strict=True):
            total = total + layer(v)
        return self.rest(total)


class ByHand(nn.Module):
    """The bound of a pair, log p(z) - log q(z) simplified with pencil and paper; noises in the zoo's order."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.particles, self.kind = size.particles, size.kind
        last, width = len(LATENTS) - 1, [widths[-1] for widths in WIDTHS]
        # of each layer but the top, the width of the path from above
        path = [widths[0] for widths in WIDTHS[1:]]
        biva, skip = size.kind == "biva", size.kind == "skip"
        up: list[list[int]] = [[784], *([n] for n in width[:-1])]
        if biva:
            # z, bu and td below a level that is drawn; td below, bu and z beside one that is not
            up = [[784], [784, width[0], LATENTS[0]]]
            for n in range(1, last):
                up += [[LATENTS[n - 1], width[n - 1], width[n - 1]], [width[n - 1], width[n], LATENTS[n]]]
            up.append([width[last - 1], width[last - 1], LATENTS[last - 1]])
        # the layer of each level: two levels for each but the top in BIVA
        layers = [n for n in range(last) for _ in range(1 + biva)] + [last]
        told = [k for k, n in enumerate(layers) if n < last and (skip or (biva and k % 2))]
        self.ups = nn.ModuleList(net(sizes, WIDTHS[n]) for sizes, n in zip(up, layers, strict=True))
        self.heads = nn.ModuleList(nn.Linear(width[n], 2 * LATENTS[n]) for n in layers)
        self.told = nn.ModuleDict(
            {str(k): nn.Linear(path[layers[k]], 2 * LATENTS[layers[k]], bias=False) for k in told}
        )
        self.priors = nn.ModuleList(nn.Linear(path[n], 2 * LATENTS[n]) for n in layers[:-1])
        down = [[LATENTS[n]] * (1 + biva) + [path[n]] * (biva or skip) for n in range(last)]
        self.downs = nn.ModuleList(map(net, [*down, [LATENTS[last]]], [widths[::-1] for widths in WIDTHS]))
        self.logits = nn.Linear(WIDTHS[0][0], 784)

    def draw(self, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        shape = loc.shape if self.particles == 1 else (self.particles, *loc.shape[-2:])
        noise = torch.randn(shape)
        return torch.addcmul(loc, log_scale.exp(), noise), noise

    def forward(self, x: Tensor) -> Tensor:
        ratio, h = self.by_pairs(x) if self.kind == "biva" else self.by_levels(x)
        logits = self.logits(h)
        if self.particles == 1:
            return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") - ratio.sum()
        missed = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return len(x) * torch.tensor(self.particles).log() - torch.logsumexp(ratio - missed, 0).sum()

    def ratio(self, z: Tensor, noise: Tensor, log_scale: Tensor, prior: tuple[Tensor, Tensor] | None) -> Tensor:
        """log p(z) - log q(z) of a draw: the constants cancel."""
        if prior is None:
            return (0.5 * (noise * noise - z * z) + log_scale).sum(-1)
        away = (z - prior[0]) * (-prior[1]).exp()
        return (0.5 * (noise * noise - away * away) + log_scale - prior[1]).sum(-1)

    def by_levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        said, h = [], x
        for up, head in zip(self.ups, self.heads, strict=True):
            h = up(h)
            said.append(head(h))
        total, path = torch.zeros(()), None
        for level in range(len(said) - 1, -1, -1):
            parameters, prior = said[level], None
            if path is not None:
                prior = self.priors[level](path).chunk(2, -1)
                if self.kind == "skip":
                    parameters = parameters + self.told[str(level)](path)
            loc, log_scale = parameters.chunk(2, -1)
            if self.kind == "ladder":
                own = -2 * log_scale
                mean, given = (torch.zeros_like(loc), torch.zeros_like(own)) if prior is None else (
                    prior[0], -2 * prior[1])  # fmt: skip
                loc = torch.lerp(*torch.broadcast_tensors(mean, loc, torch.sigmoid(own - given)))
                log_scale = -0.5 * torch.logaddexp(own, given)
            z, noise = self.draw(loc, log_scale)
            total = total + self.ratio(z, noise, log_scale, prior)
            path = self.downs[level](*((z, path) if self.kind == "skip" and path is not None else (z,)))
        return total, path

    def by_pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last = len(LATENTS) - 1
        said: list[Tensor] = []
        drawn: list[tuple[Tensor, Tensor, Tensor]] = []
        bu = td = z = None
        for layer in range(last):
            bu = self.ups[2 * layer](*((x,) if layer == 0 else (z, bu, td)))
            loc, log_scale = self.heads[2 * layer](bu).chunk(2, -1)
            z, noise = self.draw(loc, log_scale)
            drawn.append((z, noise, log_scale))
            td = self.ups[2 * layer + 1](x if layer == 0 else td, bu, z)
            said.append(self.heads[2 * layer + 1](td))
        loc, log_scale = self.heads[-1](self.ups[-1](td, bu, z)).chunk(2, -1)
        top, noise = self.draw(loc, log_scale)
        total, path = self.ratio(top, noise, log_scale, None), self.downs[last](top)
        for layer in range(last - 1, -1, -1):
            loc, log_scale = (said[layer] + self.told[str(2 * layer + 1)](path)).chunk(2, -1)
            z, noise = self.draw(loc, log_scale)
            total = total + self.ratio(z, noise, log_scale, self.priors[2 * layer + 1](path).chunk(2, -1))
            total = total + self.ratio(*drawn[layer], self.priors[2 * layer](path).chunk(2, -1))
            path = self.downs[layer](drawn[layer][0], z, path)
        return total, path

    @torch.no_grad()
    def take(self, model: Any, guide: Any) -> None:
        """Copies the weights of a pair of the zoo."""
        for own, stage in zip([*self.downs, *self.ups], [*model.stages, *(p.stage for p in guide.parts)], strict=True):
            for mine, theirs in zip(own.parameters(), stage.parameters(), strict=True):
                mine.copy_(theirs)
        for index, (own, part) in enumerate(zip(self.heads, guide.parts, strict=True)):
            own.load_state_dict(part.head.layers[0].state_dict())
            if str(index) in self.told:
                # BIVA's z_l^TD sees the path alone
                self.told[str(index)].weight.copy_(part.head.layers[1].weight)
        for own, theirs in zip(self.priors, model.conditionals, strict=True):
            own.weight.copy_(torch.cat([theirs.loc.weight, theirs.scale_weight]))
            own.bias.copy_(torch.cat([theirs.loc.bias, theirs.log_scale]))
        self.logits.load_state_dict(model.emission.logits.state_dict())


def zoo_loss(size: Size) -> nn.Module:
    return (ELBO() if size.particles == 1 else IWELBO(size.particles))(*pair(size.kind))


def check(size: Size) -> None:
    """Refuses a hand-written loss that is another one than the zoo's."""
    x, loss, hand = data(size)[:4], zoo_loss(size), ByHand(size)
    hand.take(loss.model, loss.guide)
    loss(x)
    found = []
    for each in (loss, hand):
        torch.manual_seed(0)
        found.append(each(x))
    torch.testing.assert_close(found[0], found[1].to(found[0]), rtol=1e-4, atol=1e-2)
    count = [sum(p.numel() for p in each.parameters()) for each in (loss, hand)]
    assert count[0] == count[1], f"parameters: {count[0]} of the zoo's, {count[1]} by hand"


def data(size: Size) -> Tensor:
    return torch.bernoulli(torch.full((size.batch, 784), 0.2))


def without_sharing(size: Size) -> None:
    # The handler then answers nothing, and every marked call is a call.
    Once.answer = lambda _, fn, args, kwargs: fn(*args, **kwargs)  # type: ignore[method-assign]
    train(zoo_loss(size), data(size))


ROWS: dict[str, Callable[[Size], Any]] = {
    "by hand": lambda size: train(ByHand(size), data(size)),
    "zoo": lambda size: train(zoo_loss(size), data(size)),
    "zoo, without `once`": without_sharing,
    "by hand, compiled": lambda size: train(torch.compile(ByHand(size), fullgraph=True), data(size)),
    "zoo, compiled": lambda size: train(compiled(zoo_loss(size), data(size)), data(size)),
}


def memory() -> None:
    """Prints the peak of the tensors in `log_likelihood` of eight images with K = 5000, by bound."""
    model, guide = pair("ladder")
    x = data(Size("ladder", 8))
    for max_bytes in (2**23, 2**25, 2**27):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            log_likelihood(model, guide, x, num_particles=5000, max_bytes=max_bytes, seed=0)
        peak = peak_of(profiler)
        print(f"bound {max_bytes / 1e6:7.1f} MB: peak {peak / 1e6:7.1f} MB", flush=True)


if __name__ == "__main__":
    main("benchmarks.hierarchy_step", __doc__, SIZES, ROWS, check, key="hierarchy_steps", alone={"memory": memory})
