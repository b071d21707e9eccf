"""The recipes of the comparison: of each system a pair with its objective, in sizes for the digits and for MNIST."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from budget import Budget
from continuous import Adversary, Flow
from gan import GAN
from systems import Latent, Levels

import guides
from zoo import VAE, Density, Hierarchical
from zoo.infer import ELBO, Tempered
from zoo.parts.conditionals import Categorical, FlowPrior, Logit, MAFPrior, PixelCNN


class Sizes(NamedTuple):
    """Sizes of all systems for one set of images.

    Attributes:
        latent: sizes of z_1, z_2, ... of the hierarchy; z of the others is as large as z_1.
        hidden: width of the networks around a latent.
        coupling, masked: number and width of a flow's couplings, and of its masked maps.
        pixels: arguments of a PixelCNN alone; behind a latent it has a layer less.
        adversary: widths of the generator, and from the other end of the critic.
        num_particles, few: draws of a bound; of one that goes through a PixelCNN.
    """

    shape: tuple[int, int]
    num_levels: int
    latent: tuple[int, ...]
    hidden: int
    coupling: tuple[int, int]
    masked: tuple[int, int]
    pixels: dict[str, int]
    adversary: tuple[int, ...]
    num_particles: int
    few: int

    @property
    def data_dim(self) -> int:
        return self.shape[0] * self.shape[1]


SIZES = {
    "digits": Sizes((8, 8), 17, (16, 8), 256, (8, 128), (5, 128), {"channels": 16, "layers": 3, "kernel": 5},
                    (256, 256), 100, 20),
    "mnist": Sizes((28, 28), 16, (32, 16, 8), 256, (8, 256), (4, 784), {"channels": 16, "layers": 4, "kernel": 5},
                   (512, 512), 200, 50),
}  # fmt: skip


def warm(budget: Budget, **bound: bool) -> Tempered:
    """The ELBO, with a KL whose weight rises first: a latent that costs its KL from the start may stay unused."""
    return Tempered(ELBO(**bound), kl_weight=budget.rise, free_bits=0.1)


def vae(sizes: Sizes, budget: Budget) -> Latent:
    # a width of half before the levels of all pixels, which are most of the work
    model = VAE(sizes.data_dim, sizes.latent[0], (sizes.hidden, sizes.hidden // 2),
                likelihood=partial(Categorical, levels=sizes.num_levels))  # fmt: skip
    guide = guides.Amortized(model, hidden=(sizes.hidden,))
    return Latent(warm(budget, analytic_kl=True), model, guide, num_particles=sizes.num_particles)


def hierarchical(sizes: Sizes, budget: Budget) -> Latent:
    hidden = tuple((sizes.hidden >> level,) for level in range(len(sizes.latent)))
    first = (sizes.hidden, sizes.hidden // 2)
    model = Hierarchical(sizes.data_dim, sizes.latent, (first, *hidden[1:]),
                         likelihood=partial(Categorical, levels=sizes.num_levels))  # fmt: skip
    guide = guides.TopDown(model, hidden=hidden)
    return Latent(warm(budget), model, guide, num_particles=sizes.num_particles)


def flow(sizes: Sizes, conditional: FlowPrior | MAFPrior) -> Flow:
    model = Density(sizes.data_dim, Logit(conditional))
    return Flow(ELBO(), model, guides.Empty(model), levels=sizes.num_levels, num_particles=sizes.few)


def coupling(sizes: Sizes, budget: Budget) -> Flow:
    number, width = sizes.coupling
    return flow(sizes, FlowPrior(sizes.data_dim, num_flows=number, hidden=(width, width)))


def masked(sizes: Sizes, budget: Budget) -> Flow:
    number, width = sizes.masked
    return flow(sizes, MAFPrior(sizes.data_dim, num_flows=number, hidden=(width,)))


def pixelcnn(sizes: Sizes, budget: Budget) -> Levels:
    conditional = PixelCNN(0, sizes.data_dim, shape=sizes.shape, levels=sizes.num_levels, **sizes.pixels)
    model = Density(sizes.data_dim, conditional)
    # small batches: a step is dear, and the number of steps counts
    return Levels(ELBO(), model, guides.Empty(model), batch_size=32)


def pixelvae(sizes: Sizes, budget: Budget) -> Latent:
    fewer = sizes.pixels | {"layers": sizes.pixels["layers"] - 1}
    likelihood = partial(PixelCNN, shape=sizes.shape, levels=sizes.num_levels, **fewer)
    model = VAE(sizes.data_dim, sizes.latent[0], (sizes.hidden,), likelihood=likelihood)
    guide = guides.Amortized(model, hidden=(sizes.hidden,))
    return Latent(warm(budget, analytic_kl=True), model, guide, batch_size=32, num_particles=sizes.few)


def gan(sizes: Sizes, budget: Budget) -> Adversary:
    return Adversary(GAN(sizes.data_dim, sizes.latent[0], sizes.adversary), levels=sizes.num_levels)


#: word -> name in the tables, and constructor
SYSTEMS: dict[str, tuple[str, Callable[[Sizes, Budget], Levels | Adversary]]] = {
    "vae": ("VAE", vae),
    "hierarchical": ("Hierarchical + TopDown", hierarchical),
    "coupling": ("coupling flow", coupling),
    "maf": ("masked autoregressive flow", masked),
    "pixelcnn": ("PixelCNN", pixelcnn),
    "pixelvae": ("PixelVAE", pixelvae),
    "gan": ("GAN", gan),
}
