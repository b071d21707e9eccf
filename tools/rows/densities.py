"""Rows of autoregressive decoders on static MNIST: PixelCNN alone, PixelVAE, VLAE; exact nats, or L_K with the KL.

Reported for larger networks, as quoted by a later paper's table and unverified here: PixelCNN 81.30, PixelVAE 79.66
(its first version), VLAE 79.03 nats. Plans end a
little before their budget of 45 CPU minutes on this project's machine.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

import guides
from rows.hierarchies import ADAM, Rise, evaluate, row
from rows.pictures import static_mnist
from rows.row import Figures, Row, Splits
from zoo import VAE, Density
from zoo.infer import ELBO, Tempered, log_likelihood
from zoo.parts.conditionals import MAFPrior, PixelCNN

PIXELS = partial(PixelCNN, shape=(28, 28))
HIDDEN = (400, 200)
#: nats of a KL below which a decoder does without its latents
IGNORED = 0.5


def pixel_cnn(splits: Splits) -> nn.Module:
    model = Density(784, PIXELS(0, 784, channels=24, layers=4, kernel=5))
    return ELBO()(model, guides.Empty(model))


def pixel_vae(splits: Splits, *, steps: int) -> nn.Module:
    model = VAE(784, 32, HIDDEN[::-1], likelihood=partial(PIXELS, channels=24, layers=3, kernel=5))
    # a decoder of pixels learns without z, if z costs its KL from the start
    bound = Tempered(ELBO(analytic_kl=True), kl_weight=Rise(steps // 5), free_bits=0.05)
    return bound(model, guides.Amortized(model, hidden=HIDDEN))


def vlae(splits: Splits, *, steps: int) -> nn.Module:
    """Its decoder sees three pixels around, so the shape of a digit has to go through z."""
    prior = MAFPrior(32, num_flows=4, hidden=(256,))
    likelihood = partial(PIXELS, channels=24, layers=1, kernel=7)
    model = VAE(784, 32, HIDDEN[::-1], likelihood=likelihood, prior=prior)
    bound = Tempered(ELBO(), kl_weight=Rise(steps // 5), free_bits=0.05)
    return bound(model, guides.Amortized(model, hidden=HIDDEN))


def evaluate_exact(model: Any, guide: Any, splits: Splits) -> Figures:
    """log p of all test images, exact."""
    found = log_likelihood(model, guide, splits.test, num_particles=1)
    some = exact(model, guide, splits)
    return {
        "log_p": found.mean,
        "log_p_1000": some,
        "error": found.standard_error,
        "kl": {},
        "num_test": len(splits.test),
    }


def evaluate_latent(model: Any, guide: Any, splits: Splits) -> Figures:
    """L_1, L_100 and the KL of each site, and in words of a decoder that ignores z."""
    figures = evaluate(model, guide, splits, num_particles=100)
    return figures | {"remark": remark(figures["kl"])}


def remark(kl: dict[str, float]) -> str:
    """A sentence on the sites that the decoder ignores; empty where it ignores none."""
    ignored = [f"{site} (KL {nats:.2f} nats)" for site, nats in kl.items() if nats < IGNORED]
    return f"The decoder ignores {' and '.join(ignored)}." if ignored else ""


def exact(model: Any, guide: Any, splits: Splits) -> float:
    """log p of 1,000 test images."""
    return log_likelihood(model, guide, splits.test[:1000], num_particles=1).mean


def static(name: str, system: str, build: Callable[..., nn.Module], *, steps: int, published: float,
           **rest: Any) -> Row:  # fmt: skip
    """A row of 50 images a step, 45 CPU minutes; the paper's number is reported, not verified."""
    facts = {"data": "binarized_mnist", "published": published}
    options: dict[str, Any] = {"evaluate": evaluate_latent, "figure": "L_100"} | rest
    return row(f"static-{name}", system, build, steps=steps, minutes=45, data=static_mnist, batch_size=50,
               optimizer=ADAM, facts=facts, **options)  # fmt: skip


#: steps that fit into 45 minutes
LONE, WITH_LATENT, LOCAL = 10_000, 12_000, 40_000

ROWS: list[Row] = [
    static("pixelcnn", "PixelCNN, 4 layers of 24 maps", pixel_cnn, steps=LONE, published=81.30,
           evaluate=evaluate_exact, figure="log_p", check=("log_p_1000", exact)),
    static("pixelvae", "PixelVAE, 3 layers of 24 maps, 32 latents", partial(pixel_vae, steps=WITH_LATENT),
           steps=WITH_LATENT, published=79.66),
    static("vlae", "VLAE, 1 layer of 24 maps, 32 latents, MAFPrior", partial(vlae, steps=LOCAL), steps=LOCAL,
           published=79.03),
]  # fmt: skip
