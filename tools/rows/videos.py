"""Rows of videos of a ball: the Kalman VAE on four sets and on one with controls, and four systems beside it.

The KVAE has an hour of CPU on each set, for three seeds on `box`, and the others ten minutes. Its recipe: a start at
constant velocity and with the code at principal components of blurred frames, dynamics that are trained on this code
first, and a KL weight that falls from 4 to 1.
Its networks are perceptrons, but for one row of convolutions, of which an hour has a third of the steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from sklearn.decomposition import PCA
from torch import Tensor, nn

import guides
from rows.labels import Fall
from rows.place import cache
from rows.row import Figures, Row, Splits, cosine
from rows.video_figures import (
    KVAE_READING,
    STATE_SPACE_READING,
    Components,
    Held,
    Reading,
    component_reading,
    elbo,
    evaluate,
    figures_of,
    look,
)
from zoo import DMM, KVAE, LGSSM, SRNN, MixedDynamics, start_at_components
from zoo.data import Sequences, load
from zoo.infer import ELBO, Tempered, fit, load_model
from zoo.parts.conditionals import Bernoulli
from zoo.parts.kalman import Parameters
from zoo.parts.mixed_dynamics import RandomWalk, Velocity
from zoo.parts.networks import ConvolutionalDecoder, ConvolutionalEncoder, Maps, ToPicture, mlp

KVAE_SYSTEM = "KVAE + KalmanSmoother"
#: steps that end a little before the budgets of an hour and of ten minutes
STEPS, CONVOLUTIONAL, DEEP, LINEAR = 60_000, 20_000, 9_000, 55_000
#: the row of the paper's first stage
BEGUN = "box-kvae_paper_begun"
#: the paper's largest norm of the gradient, 150, where log p(x | a) has a weight of 0.3
CLIP = 500.0
SETS = ("box", "box_gravity", "pong", "polygon")
PICTURE = Maps(32, 32)
#: sizes of a and z as in the paper; a quarter of its 32 filters, so that an hour has some 20,000 steps
CODE, LATENT, FILTERS = 2, 4, (8, 8, 8)
#: sequences of a batch, and batches of an epoch
BATCH, EPOCH = 32, 157


def videos(room: str, blind: bool = False) -> Splits:
    """The videos of a set, for `fit` as bytes; `blind`: without the controls."""
    data = load(room)
    train, valid, test = (without_controls(part) if blind else part for part in (data.train, data.valid, data.test))
    return Splits(train, valid, Held(room, valid, test))


def without_controls(part: Sequences) -> Sequences:
    return Sequences(part.frames, part.lengths, part.columns, num_levels=part.num_levels, truth=part.truth)


class Gaps:
    """Videos of which half have a gap, as data for `fit`: up to 12 frames after the first 3 to 7 are not seen.

    Of frames that were never missing in training the guides of DMM and SRNN make nothing in a test.
    """

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
        """`(x, u, mask)` of the sequences `index`, with gaps drawn anew."""
        x, u, _ = self.sequences.batch(index, generator)
        begin, length, gap = (
            torch.randint(low, high, (len(index), 1), generator=generator) for low, high in ((3, 8), (1, 13), (0, 2))
        )
        frame = torch.arange(x.shape[1])
        return x, u, (frame < begin) | (frame >= begin + length) | (gap == 0)


def gappy(room: str) -> Splits:
    """The videos of a set with gaps in the training part."""
    splits = videos(room)
    return splits._replace(train=Gaps(splits.train))


def mean_frame(train: Any) -> Tensor:
    """The mean of some training frames, from which a decoder's last layer starts."""
    sequences = train.sequences if isinstance(train, Gaps) else train
    return sequences[:500].frames.float().mean(0)


class Nets(NamedTuple):
    """The networks of a KVAE, and the numbers of features that the encoder and the decoder make."""

    encoder: nn.Module
    context: int
    decoder: nn.Module
    features: int
    layer: Callable[[int, int], nn.Module]


def convolutional() -> Nets:
    encoder, decoder = ConvolutionalEncoder(PICTURE, FILTERS), ConvolutionalDecoder(CODE, PICTURE, FILTERS)
    return Nets(encoder, encoder.size, decoder, decoder.size, partial(ToPicture, kernel=1))


def perceptrons() -> Nets:
    return Nets(mlp(PICTURE, (128,)), 128, mlp(CODE, (128,)), 128, nn.Linear)


def kvae(
    splits: Splits, *, bound: Any, nets: Callable[[], Nets], num_components: int = 3, start: Any | None = None
) -> nn.Module:
    """The loss of a KVAE; `start`: the paper's, where the code starts anywhere as well."""
    train = splits.train
    control_dim = 0 if train.controls is None else train.controls.shape[-1]
    dynamics = MixedDynamics(CODE, LATENT, control_dim, num_components=num_components, start=start or Velocity())
    encoder, context, decoder, features, layer = nets()
    model = KVAE(dynamics, decoder, Bernoulli(features, PICTURE, mean=mean_frame(train), layer=layer), PICTURE)
    guide = guides.KalmanSmoother(model, encoder=encoder, context=context, family=guides.BoundedDiagonal)
    if start is None:
        start_at_components(model, guide, train.frames)
        begin_dynamics(model, guide, train)
    return bound(model, guide)


def begin_dynamics(model: KVAE, guide: Any, train: Sequences, steps: int = 800) -> None:
    """Trains the dynamics alone on codes of some training videos.

    A code bends itself near the walls for dynamics that do not know them yet, and stays bent when they do.
    """
    some = train[:2000]
    with torch.no_grad():
        codes = torch.cat([guide.codes(part.values, part.u).sample() for part in in_parts(some)])
    fit(
        ELBO()(model.dynamics, guides.Exact(model.dynamics)), (codes, some.u), steps=steps, batch_size=BATCH,
        optimizer=partial(torch.optim.Adam, lr=4e-3, fused=True), progress=False,
    )  # fmt: skip


def in_parts(sequences: Sequences) -> list[Sequences]:
    """The sequences in parts of 500, whose pictures as floats are 40 MB."""
    return [sequences[rows] for rows in torch.arange(len(sequences)).split(500)]


def recipe(splits: Splits, *, steps: int, nets: Callable[[], Nets] = perceptrons, num_components: int = 3) -> nn.Module:
    """The loss of a KVAE by the recipe of the notes."""
    bound = Tempered(ELBO(), kl_weight=Fall(3 * steps // 5))
    return kvae(splits, bound=bound, nets=nets, num_components=num_components)


def papers(splits: Splits, *, begun: str | None = None) -> nn.Module:
    """The loss of a KVAE by the paper's start and weights; the weights alpha are held fixed until it is `begun`."""
    # reconstruction at 0.3 of its weight, as the paper has it, is the same objective but for a factor
    loss = kvae(splits, bound=Tempered(ELBO(), kl_weight=1 / 0.3), nets=perceptrons, start=RandomWalk())
    if begun is None:
        loss.model.dynamics.alpha.requires_grad_(False)
    else:
        load_model(loss, cache() / begun)
    return loss


def staircase(optimizer: torch.optim.Optimizer, steps: int, *, epochs: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The paper's schedule: the learning rate falls by 15 % after so many epochs."""
    return torch.optim.lr_scheduler.StepLR(optimizer, epochs * EPOCH, 0.85)


@dataclass(frozen=True)
class Opening:
    """A KL weight that rises from 0.05 to 1 over some steps."""

    steps: int

    def __call__(self, step: int) -> float:
        return min(1.0, 0.05 + step / self.steps)


def deep_chain(splits: Splits, *, recurrent: bool, steps: int) -> nn.Module:
    """The loss of an SRNN (`recurrent`) or a DMM with a smoother."""
    likelihood = partial(Bernoulli, mean=mean_frame(splits.train))
    if recurrent:
        model: Any = SRNN(1024, 8, recurrent=64, hidden=(128,), likelihood=likelihood)
    else:
        model = DMM(1024, 8, hidden=(128,), transition_hidden=(64,), likelihood=likelihood)
    guide = guides.Smoother(model, recurrent=64, hidden=(64,))
    return Tempered(ELBO(), kl_weight=Opening(steps // 2))(model, guide)


def components_of(train: Sequences, num: int = 32) -> Components:
    """The principal components of some training frames."""
    frames = train[:1000].frames[::2].float()
    found = PCA(num, random_state=0).fit(frames.numpy())
    scale = float(found.explained_variance_.mean() ** 0.5)
    return Components(torch.from_numpy(found.mean_), torch.from_numpy(found.components_), scale)


def component_videos(room: str) -> Splits:
    """The principal components of the videos of a set; those held out stay pictures."""
    train, valid, held = videos(room)
    components = components_of(train)
    parts = [torch.cat([components.of(part.values) for part in in_parts(whole)]) for whole in (train, valid)]
    return Splits(*parts, (held, components))


def linear(splits: Splits, *, latent_dim: int = 32) -> nn.Module:
    """The loss of a linear-Gaussian model of principal components, all of whose parameters are learned."""
    size = splits.train.shape[-1]
    covariance = partial(PyroParam, constraint=constraints.positive_definite)
    model = LGSSM(
        Parameters,
        initial_mean=nn.Parameter(torch.zeros(latent_dim)),
        initial_covariance=covariance(torch.eye(latent_dim)),
        transition_matrix=nn.Parameter(0.9 * torch.eye(latent_dim) + 0.05 * torch.randn(latent_dim, latent_dim)),
        transition_covariance=covariance(0.1 * torch.eye(latent_dim)),
        emission_matrix=nn.Parameter(torch.eye(size, latent_dim) + 0.02 * torch.randn(size, latent_dim)),
        emission_covariance=covariance(0.1 * torch.eye(size)),
    )
    return ELBO()(model, guides.Empty(model))


def evaluate_linear(model: Any, guide: Any, splits: Splits) -> Figures:
    """The figures of `evaluate`, but for the bound: log p of components is no log p of bits."""
    held, components = splits.test
    figures = figures_of(component_reading(components), model, guide, splits._replace(test=held))
    return figures | {"smoothed": figures["pixels"]["12"]["smoothed"]}


def in_both_forms(model: KVAE, guide: Any) -> tuple[KVAE, Any]:
    """The pair over (z_t, a_t) of the same parameters, which draws and forecasts."""
    latent = KVAE(model.dynamics, model.decoder, model.likelihood, model.data_dim, marginal=False)
    smoother = guides.KalmanSmoother(latent, encoder=guide.encoder, context=guide.context)
    smoother.family = guide.family
    return latent, smoother


def row(name: str, room: str, system: str, build: Callable[..., nn.Module], *, steps: int, minutes: float,
        reading: Reading = KVAE_READING, rate: float = 5e-3, **rest: Any) -> Row:  # fmt: skip
    """A row of batches of 32 videos, Adam along a cosine; the ELBO of the validation set chooses the epoch."""
    options: dict[str, Any] = {
        "data": partial(videos, room), "evaluate": partial(evaluate, reading=reading), "figure": "elbo",
        "unit": "nats per frame", "check": ("elbo", elbo), "look": partial(look, reading=reading), "every": 10,
        "optimizer": partial(torch.optim.Adam, lr=rate, fused=True), "schedule": partial(cosine, last=1e-5),
        "batch_size": BATCH, "settings": {"clip": CLIP}, "facts": {"data": room},
    }  # fmt: skip
    return Row(name=f"{room}-{name}", system=system, build=build, steps=steps, minutes=minutes, **options | rest)


def hour(room: str, seed: int = 0) -> Row:
    """The KVAE by the recipe."""
    return row(f"kvae-{seed}", room, KVAE_SYSTEM, partial(recipe, steps=STEPS), steps=STEPS, minutes=60, seed=seed)


def papers_training() -> list[Row]:
    """The paper's training on `box` in its two stages, with the networks of the other rows."""
    stages = {"rate": 7e-3, "schedule": partial(staircase, epochs=20)}
    return [
        row("kvae_paper_begun", "box", f"{KVAE_SYSTEM}, the paper's first ten epochs, alpha fixed", papers,
            steps=10 * EPOCH, minutes=10, **stages),
        row("kvae_paper", "box", f"{KVAE_SYSTEM}, the paper's training", partial(papers, begun=BEGUN),
            steps=STEPS, minutes=60, after=BEGUN, **stages),
    ]  # fmt: skip


def pushed(word: str, system: str, *, blind: bool) -> Row:
    """The KVAE on the ball that is pushed, half an hour."""
    return row(word, "box_pushed", f"{KVAE_SYSTEM}, {system}", partial(recipe, steps=STEPS // 2), steps=STEPS // 2,
               minutes=30, data=partial(videos, "box_pushed", blind))  # fmt: skip


def others(room: str) -> list[Row]:
    """The KVAE with one component and three other systems, ten minutes each."""
    deep = {"data": partial(gappy, room), "reading": STATE_SPACE_READING, "rate": 2e-3, "steps": DEEP, "minutes": 10}
    return [
        row("kvae_one", room, "KVAE (K = 1) + KalmanSmoother", partial(recipe, steps=STEPS // 6, num_components=1),
            steps=STEPS // 6, minutes=10),
        row("lgssm", room, "LGSSM of 32 principal components", linear, steps=LINEAR, minutes=10, rate=2e-3,
            data=partial(component_videos, room), evaluate=evaluate_linear, look=None, check=None, figure="smoothed",
            unit="pixels"),
        row("dmm", room, "DMM + Smoother", partial(deep_chain, recurrent=False, steps=DEEP), **deep),
        row("srnn", room, "SRNN + Smoother", partial(deep_chain, recurrent=True, steps=DEEP), **deep),
    ]  # fmt: skip


ROWS = [
    *(hour("box", seed) for seed in range(3)),
    *(hour(room) for room in SETS[1:]),
    *(line for room in SETS for line in others(room)),
    row("kvae_convolutional", "box", f"{KVAE_SYSTEM}, convolutional",
        partial(recipe, steps=CONVOLUTIONAL, nets=convolutional), steps=CONVOLUTIONAL, minutes=60),
    *papers_training(),
    pushed("kvae", "pushes known", blind=False),
    pushed("kvae_blind", "pushes unknown", blind=True),
]  # fmt: skip
