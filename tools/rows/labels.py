"""Rows of MNIST with 100 labels, ten of each class: M1, M2, M1+M2, SDGM and ADGM, for three draws of the labels.

Each takes 40 CPU minutes at most, BIVA 150: a small part of the papers' training. 1,000 training images with labels are
held out: the first minutes of draw 0 chose sizes and KL weights by them, those of draw 1 the learning rate and alpha of
M1+M2, and they chose no epoch; no test image chose anything. The pair is that of the last step, averaged over steps:
`fit` would choose an epoch by its loss, which says little of the error.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import Tensor, nn

import guides
from rows.hierarchies import paired
from rows.pictures import HELD_OUT, mean_of, mnist
from rows.place import cache
from rows.row import Figures, Row, Splits, cosine
from zoo import ADGM, BIVA, M1M2, M2, VAE, WithClass, load_pair
from zoo.data import Binarized, PartlyLabelled, Split, binarize
from zoo.infer import ELBO, SemiSupervised, Tempered, classification_error, log_likelihood
from zoo.parts.aside import aside
from zoo.parts.conditionals import Bernoulli, Normal

NUM_LABELS = 100
#: seeds of the choice of labels
DRAWS = range(3)
#: the row whose latents M1+M2 is a model of
M1 = "mnist-100-vae"
#: latents whose mean varies less over the images are left out, as in the paper's code
USED = 0.1
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)


class Held(NamedTuple):
    """Images and labels that no step sees.

    Attributes:
        valid: of 1,000 training images.
        test: of the test images.
    """

    valid: Split
    test: Split


def images() -> tuple[Split, Held]:
    """The training images with their labels, and those held out."""
    train, test = mnist()
    return train[:-HELD_OUT], Held(train[-HELD_OUT:], test)


def few_labels(draw: int, per_batch: int) -> Splits:
    """59,000 training images as fresh bits, of which 100 keep their labels, and some of these are in each batch."""
    train, held = images()
    return Splits(PartlyLabelled(Binarized(train, labels=True), NUM_LABELS, draw, per_batch=per_batch), None, held)


def no_labels() -> Splits:
    """The same images without labels; bits of those held out choose the epoch."""
    train, held = images()
    return Splits(Binarized(train), binarize(held.valid, seed=123), held)


def few(train: Split, draw: int) -> Split:
    """The images of `few_labels` that keep their labels."""
    return train[PartlyLabelled(Binarized(train, labels=True), NUM_LABELS, draw).labelled]


def m1(splits: Splits) -> nn.Module:
    """The loss of a VAE, 784-600-50."""
    model = VAE(784, 50, (600,), likelihood=partial(Bernoulli, mean=mean_of(splits)))
    return ELBO(analytic_kl=True)(model, guides.Amortized(model, hidden=(600,)))


@dataclass(frozen=True)
class Fall:
    """A KL weight that falls from 4 to 1 over some steps."""

    steps: int

    def __call__(self, step: int) -> float:
        return max(1.0, 4.0 - 3.0 * step / self.steps)


def dear_style(model: nn.Module, guide: nn.Module, styles: Sequence[str], steps: int, alpha: float) -> nn.Module:
    """The loss of a training of so many steps; `styles`: the latents through which x could tell its class to itself.

    Where a style costs no more than a class it carries the class as well, and unlabelled images teach the classifier
    nothing. So it costs more until the classes are found, for half of the training.
    """
    return SemiSupervised(Tempered(ELBO(), kl_weight=dict.fromkeys(styles, Fall(steps // 2))), alpha)(model, guide)


def m2(splits: Splits, *, steps: int, alpha: float) -> nn.Module:
    model = M2(784, 20, 10, (300,), likelihood=partial(Bernoulli, mean=mean_of(splits)))
    return dear_style(model, guides.Labelled(model, hidden=(300,)), ["z"], steps, alpha)


def m1m2(splits: Splits, *, alpha: float) -> nn.Module:
    """The loss of M2 over draws of z_1 from the trained M1, whose parameters stay as they are.

    It is the bound of the whole pair: log p(x | z_1) and log q(z_1 | x) are numbers to M2, so the gradient is that of
    the paper's second stage, and the pair that is saved gives images and log p(x).
    """
    vae, encoder = load_pair(cache() / M1)
    kept = used(encoder, splits.train.rows)
    of_z_1 = M2(len(kept), 50, 10, (300,), likelihood=partial(Normal, heteroscedastic=True), activation=nn.Softplus)
    model = M1M2(vae.requires_grad_(False), of_z_1, kept=kept)
    labelled = guides.Labelled(of_z_1, hidden=(300,), activation=nn.Softplus)
    guide = guides.StackedLabelled(model, encoder.requires_grad_(False), labelled)
    # z_2 carries next to nothing here, and need not cost more
    return SemiSupervised(ELBO(), alpha)(model, guide)


def adgm(splits: Splits, *, skip: bool, steps: int, alpha: float) -> nn.Module:
    """The loss of ADGM; with `skip` of SDGM, in which x depends on a, too."""
    hidden = (300, 300)
    model = ADGM(784, 20, 10, hidden, skip, likelihood=partial(Bernoulli, mean=mean_of(splits)))
    return dear_style(model, guides.Auxiliary(model, hidden=hidden), ["z", "a"] if skip else ["z"], steps, alpha)


def biva(splits: Splits, *, steps: int, alpha: float) -> nn.Module:
    """The loss of a BIVA of three layers under a class, all of whose latents are style."""
    widths = ((300,), (200,), (100,))
    levels = BIVA(784, (32, 16, 8), widths, likelihood=partial(Bernoulli, mean=mean_of(splits)), condition_dim=10)
    model = WithClass(levels)
    guide = guides.Labelled(model, hidden=(300,), levels=guides.Bidirectional(levels, hidden=paired(widths)))
    return dear_style(model, guide, levels.sites, steps, alpha)


@torch.no_grad()
def means(guide: Any, x: Tensor) -> Tensor:
    """The means of M1's posterior, a part of the images at a time."""
    with aside(guide):
        return torch.cat([guide.posterior(part).mean for part in x.split(10_000)])


def used(guide: Any, rows: Binarized) -> list[int]:
    """The latents of M1 whose posterior mean varies from image to image."""
    # 10,000 images say it as well as all
    grey = rows.grey[:10_000].float() / rows.scale
    return (means(guide, grey).std(0) > USED).nonzero()[:, 0].tolist()


def share(wrong: float, split: Split) -> dict[str, float]:
    """A share of a test set as the main figure, with its binomial standard error."""
    return {"test_error": wrong, "error": math.sqrt(wrong * (1 - wrong) / len(split)), "num_test": len(split)}


def bound(model: Any, guide: Any, split: Split) -> dict[str, float]:
    """The ELBO without labels, nats per image, of bits drawn once."""
    found = log_likelihood(model, guide, binarize(split, seed=123), num_particles=1, seed=123).elbo
    return {"elbo": found.mean().item(), "elbo_error": found.std().item() / math.sqrt(len(found))}


def error(guide: Any, split: Split) -> float:
    """The share of grey images whose class the guide does not find."""
    return classification_error(guide, split.images, split.labels, seed=123)


def look(model: Any, guide: Any, splits: Splits) -> Figures:
    """Error and ELBO of the images held out: a point of the learning curve."""
    valid = splits.test.valid
    return {"valid_error": error(guide, valid), "valid_elbo": bound(model, guide, valid)["elbo"]}


def evaluate(model: Any, guide: Any, splits: Splits) -> Figures:
    """Errors of grey images, and the ELBO of the test images without labels."""
    valid, test = splits.test
    return share(error(guide, test), test) | {"valid_error": error(guide, valid)} | bound(model, guide, test)


def evaluate_m1m2(model: Any, guide: Any, splits: Splits) -> Figures:
    """The figures of `evaluate`, and the test error where the class is read off the mean of z_1, as the paper does."""
    test = splits.test.test
    classes = guide.m2.predict(model.modelled(means(guide, test.images)))
    at_mean = (classes.argmax(-1) != test.labels).double().mean().item()
    return evaluate(model, guide, splits) | {"test_error_at_mean": at_mean}


def evaluate_m1(model: Any, guide: Any, splits: Splits) -> Figures:
    """The ELBO, and test errors of scikit-learn's classifiers for each draw of the labels, on pixels and on means.

    The settings are scikit-learn's own: 100 labels leave little to choose by.
    """
    (train, _), test = images(), splits.test.test
    columns = used(guide, splits.train)
    features = {
        "pixels": lambda split: split.images.numpy(),
        "M1": lambda split: means(guide, split.images)[:, columns].numpy(),
    }
    classifiers = {"logistic regression": partial(LogisticRegression, max_iter=1000), "SVM": SVC}
    labelled = [few(train, draw) for draw in DRAWS]
    errors = {
        f"{name}, {classifier}": [
            1 - make().fit(read(part), part.labels.numpy()).score(read(test), test.labels.numpy()) for part in labelled
        ]
        for name, read in features.items()
        for classifier, make in classifiers.items()
    }
    found = bound(model, guide, test)
    return found | {"error": found["elbo_error"], "num_test": len(test), "used": len(columns), "classifiers": errors}


def test_error(model: Any, guide: Any, splits: Splits) -> float:
    return error(guide, splits.test.test)


def elbo(model: Any, guide: Any, splits: Splits) -> float:
    return bound(model, guide, splits.test.test)["elbo"]


FACTS = {
    "data": "mnist, 100 labels, dynamic bits",
    "held_out": "1,000 training images with labels: chose sizes, weights and rates in the first minutes of a draw",
}


def rows(word: str, system: str, build: Callable[..., nn.Module], *, steps: int, per_batch: int,
         **rest: Any) -> list[Row]:  # fmt: skip
    """A row for each draw of the labels, which is the seed of the training as well."""
    options: dict[str, Any] = {
        "evaluate": evaluate, "look": look, "every": 1, "figure": "test_error", "unit": "share of the test images",
        "check": ("test_error", test_error), "optimizer": ADAM, "batch_size": 200, "minutes": 40,
        # without a schedule: averaged over steps, and the end of the curve says how much longer runs would bring
        "settings": {"average": 0.999},
    }  # fmt: skip
    return [
        Row(name=f"mnist-100-{word}-{draw}", system=system, data=partial(few_labels, draw, per_batch), build=build,
            steps=steps, seed=draw, facts=FACTS | {"draw": draw}, **options | rest)
        for draw in DRAWS
    ]  # fmt: skip


def dear(word: str, system: str, build: Callable[..., nn.Module], *, steps: int, **rest: Any) -> list[Row]:
    """Rows whose style costs more at first; batches are half labelled, with alpha, as in the code of Maaloe et al."""
    return rows(word, system, partial(build, steps=steps, alpha=50.0), steps=steps, per_batch=100, **rest)


ROWS = [
    Row(name=M1, system="VAE + Amortized", data=no_labels, build=m1, evaluate=evaluate_m1, steps=60_000, minutes=40,
        figure="elbo", check=("elbo", elbo), batch_size=200, optimizer=ADAM, schedule=partial(cosine, last=1e-5),
        facts=FACTS),
    *dear("m2", "M2 + Labelled", m2, steps=12_000),
    # ten labels in a batch of 200, where Kingma's weight of log q(y | x) is alpha = 1.9: with half of the batch
    # labelled the error on the images held out fell by far less in the first minutes
    *rows("m1m2", "M1M2 + StackedLabelled", partial(m1m2, alpha=20.0), steps=36_000, per_batch=10, after=M1,
          evaluate=evaluate_m1m2, optimizer=partial(torch.optim.Adam, lr=3e-3, fused=True)),
    *dear("sdgm", "ADGM(skip=True) + Auxiliary (SDGM)", partial(adgm, skip=True), steps=14_000),
    *dear("adgm", "ADGM + Auxiliary", partial(adgm, skip=False), steps=22_000),
    # of one draw of the labels, as long as the budget of a row is
    *dear("biva", "WithClass(BIVA) + Labelled(Bidirectional)", biva, steps=40_000, minutes=150)[:1],
]  # fmt: skip
