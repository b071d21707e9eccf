"""Rows of hierarchies on MNIST: five levels on dynamic bits, feature maps on static bits, IWAE's two layers.

Plans end a little before their budget on this project's machine (28 to 36 ms a step of the five-level chain).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import guides
from rows.pictures import dynamic_mnist, mean_of, static_mnist
from rows.place import cache
from rows.row import Figures, Row, Script, Splits, cosine
from rows.scored import scored
from zoo import BIVA, Hierarchical
from zoo.infer import ELBO, IWELBO, Tempered, kl_per_site, load_model, log_likelihood
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import Maps, ResidualStage, ToPicture

#: widths of the levels' networks upwards, and sizes of z_1..z_5 (Sonderby et al. 2016)
WIDTHS = ((512, 512), (256, 256), (128, 128), (64, 64), (64, 64))
LATENTS = (64, 32, 16, 8, 4)
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Rise:
    """A KL weight that rises from nearly 0 to 1 over some steps."""

    steps: int

    def __call__(self, step: int) -> float:
        return min(1.0, 1e-3 + step / self.steps)


def downwards(hidden: Sequence[Any]) -> tuple[Any, ...]:
    """The widths of the model's networks, which run the other way than the guide's."""
    return tuple(widths[::-1] for widths in hidden)


def paired(hidden: Sequence[Any]) -> tuple[Any, ...]:
    """An entry for each level of BIVA, whose layers but the top have two."""
    return (*(entry for entry in hidden[:-1] for _ in "bt"), hidden[-1])


def chain(splits: Splits, skip: bool = False) -> Hierarchical:
    return Hierarchical(784, LATENTS, downwards(WIDTHS), skip, likelihood=partial(Bernoulli, mean=mean_of(splits)))


def five_levels(
    splits: Splits, guide: Callable[..., Any], *, steps: int, skip: bool = False, plain: bool = False
) -> nn.Module:
    """The loss of a chain of five levels; `plain` leaves out warm-up and free bits."""
    model = chain(splits, skip)
    bound = ELBO() if plain else Tempered(ELBO(), kl_weight=Rise(steps // 5), free_bits=0.5)
    return bound(model, guide(model, hidden=WIDTHS))


def biva(splits: Splits, *, steps: int) -> nn.Module:
    model = BIVA(784, LATENTS, downwards(WIDTHS), likelihood=partial(Bernoulli, mean=mean_of(splits)))
    # at half a nat the levels above z_2 stay shut
    bound = Tempered(ELBO(), kl_weight=Rise(steps // 5), free_bits=1.0)
    return bound(model, guides.Bidirectional(model, hidden=paired(WIDTHS)))


def stage(maps: Maps) -> Callable[..., nn.Module]:
    return partial(ResidualStage, maps=maps, blocks=1, activation=nn.LeakyReLU)


#: feature maps of the levels, upwards
STAGES = (stage(Maps(14, 14, 16)), *[stage(Maps(7, 7, 32))] * 3)


def convolutional(splits: Splits, *, steps: int, both_ways: bool) -> nn.Module:
    """The loss of LVAE+ (four levels) or BIVA (three layers) of feature maps."""
    likelihood = partial(Bernoulli, mean=mean_of(splits), layer=ToPicture)
    model: Any
    if both_ways:
        model = BIVA(Maps(28, 28), (32, 16, 8), STAGES[:3], likelihood=likelihood)
        guide, free_bits = guides.Bidirectional(model, hidden=paired(STAGES[:3])), 1.0
    else:
        model = Hierarchical(Maps(28, 28), (32, 24, 16, 8), STAGES, True, likelihood=likelihood)
        guide, free_bits = guides.TopDown(model, hidden=STAGES), 0.5
    return Tempered(ELBO(), kl_weight=Rise(steps // 5), free_bits=free_bits)(model, guide)


def two_layers(splits: Splits, *, num_particles: int, start: str | None = None) -> nn.Module:
    """IWAE's two layers (Burda et al. 2016): 100 and 50 latents, 200-200 and 100-100 tanh."""
    widths = ((200, 200), (100, 100))
    model = Hierarchical(
        784, (100, 50), widths, likelihood=partial(Bernoulli, mean=mean_of(splits)), activation=nn.Tanh
    )
    loss = IWELBO(num_particles)(model, guides.BottomUp(model, hidden=widths, activation=nn.Tanh))
    if start is not None:
        load_model(loss, cache() / start)
    return loss


def evaluate(model: Any, guide: Any, splits: Splits, *, num_particles: int = 1000) -> Figures:
    """L_1, L_K and the KL of each site on all test images, nats per image."""
    found, minutes = scored(model, guide, splits.test, num_particles=num_particles, seed=123)
    return {
        "L_1": found.elbo.mean().item(),
        f"L_{num_particles}": found.mean,
        "error": found.standard_error,
        "monte_carlo_error": found.monte_carlo_error,
        "kl": {site: value.mean().item() for site, value in kl_per_site(model, guide, splits.test).items()},
        "num_test": len(splits.test),
        # of all pieces, also those of runs before a kill
        "scoring_cpu_minutes": round(minutes, 4),
    }


def bound(model: Any, guide: Any, splits: Splits) -> float:
    """L_1 on all test images, one draw for each."""
    return log_likelihood(model, guide, splits.test, num_particles=1, seed=123).elbo.mean().item()


def row(name: str, system: str, build: Callable[..., nn.Module], *, steps: int, minutes: float, **rest: Any) -> Row:
    """A row of 128 images a step, Adam from 1e-3 along a cosine."""
    options: dict[str, Any] = {
        "data": dynamic_mnist, "evaluate": evaluate, "figure": "L_1000", "check": ("L_1", bound),
        "optimizer": ADAM, "schedule": partial(cosine, last=1e-5), "settings": {"drop_last": True},
    }  # fmt: skip
    facts = {"data": "mnist, dynamic bits"} | rest.pop("facts", {})
    return Row(name=name, system=system, build=build, steps=steps, minutes=minutes, facts=facts, **options | rest)


def five(name: str, system: str, guide: Callable[..., Any], *, steps: int = 100_000, minutes: float = 60,
         **rest: Any) -> Row:  # fmt: skip
    return row(f"mnist-5-{name}", system, partial(five_levels, guide=guide, steps=steps, **rest), steps=steps,
               minutes=minutes)  # fmt: skip


def maps(name: str, system: str, *, steps: int, both_ways: bool) -> Row:
    return row(
        f"static-maps-{name}", system, partial(convolutional, steps=steps, both_ways=both_ways), steps=steps,
        minutes=90, data=static_mnist, batch_size=64, optimizer=partial(torch.optim.Adamax, lr=2e-3),
        facts={"data": "binarized_mnist"},
    )  # fmt: skip


ROWS: list[Row | Script] = [
    five("top-down", "Hierarchical + TopDown", guides.TopDown),
    five("ladder", "Hierarchical + Ladder (LVAE)", guides.Ladder),
    five("bottom-up", "Hierarchical + BottomUp", guides.BottomUp),
    five("skip", "Hierarchical(skip=True) + TopDown (LVAE+)", guides.TopDown, skip=True),
    row("mnist-5-biva", "BIVA + Bidirectional", partial(biva, steps=57_000), steps=57_000, minutes=60),
    five("plain", "Hierarchical + TopDown, neither warm-up nor free bits", guides.TopDown, steps=15_500, minutes=10,
         plain=True),
    five("short", "Hierarchical + TopDown, as long as the row without warm-up", guides.TopDown, steps=15_500,
         minutes=10),
    maps("skip", "Hierarchical(skip=True) + TopDown of feature maps (LVAE+)", steps=72_000, both_ways=False),
    maps("biva", "BIVA + Bidirectional of feature maps", steps=52_000, both_ways=True),
    row("mnist-iwae-2-1", "Hierarchical + BottomUp, two layers, ELBO", partial(two_layers, num_particles=1),
        steps=130_000, minutes=45, batch_size=100, evaluate=partial(evaluate, num_particles=5000),
        figure="L_5000"),
    row("mnist-iwae-2-50", "Hierarchical + BottomUp, two layers, IWELBO(50)",
        partial(two_layers, num_particles=50, start="mnist-iwae-2-1"), steps=12_000, minutes=45, batch_size=100,
        after="mnist-iwae-2-1", evaluate=partial(evaluate, num_particles=5000),
        figure="L_5000"),
    # of the best of the five
    Script(name="mnist-5-bottom-up-L_5000", script="tools/many_particles.py",
           line="--row mnist-5-bottom-up --num-particles 5000"),
]  # fmt: skip
