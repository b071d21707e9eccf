"""Digits of which few have labels: M2 beside classifiers that see the labels alone, and its posterior over classes.

M2 learns from every digit, and so does its classifier q(y | x). Logistic regression sees the labelled digits alone, as
pixels or, M1, as the posterior means of a VAE of all digits. Then digits that might be one of two classes: the overlay
holds q(z | x) = sum_y q(y | x) q(z | x, y) against the true posterior, in which y is summed too; the titles have the
probabilities of the two classes by q(y | x), and by the model itself, p(y | x).

    python examples/labels.py
    python examples/labels.py --num-labels 20 --alpha 1
"""

from pathlib import Path

import pyro
import torch
import tyro
from report import Report
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import guides
from zoo import M2, VAE
from zoo.data import Binarized, PartlyLabelled, binarize, load
from zoo.infer import (
    ELBO,
    NotAReference,
    SemiSupervised,
    classification_error,
    compare,
    fit,
    grid_reference,
    hmc_reference,
    plot_images,
    plot_overlay,
    plot_reliability,
    terms,
)


@torch.no_grad()
def classes_of_model(model: M2, guide: guides.Labelled, x: Tensor) -> Tensor:
    """p(y | x) by importance sampling, `(N, C)`: the weights of each class, its draws of z taken together."""
    found = terms(model, guide, x, num_particles=5000)
    return (found.summed["y"] + found.log_weights).logsumexp(1).softmax(0).T


@torch.no_grad()
def analogies(model: M2, guide: guides.Labelled, images: Tensor, labels: Tensor) -> Tensor:
    """A row for each image: the image, and every class in its style z, that of q(z | x, y), `(N * (C + 1), D)`."""
    style = guide.posterior(images, labels).mean
    every = model.likelihood(torch.arange(model.num_classes).unsqueeze(-1), style).mean
    return torch.cat([images.unsqueeze(0), every]).transpose(0, 1).flatten(0, 1)


def main(
    *,
    num_labels: int = 50,
    alpha: float = 0.2,
    latent_dim: int = 2,
    hidden: tuple[int, ...] = (128,),
    epochs: int = 400,
    num_checked: int = 4,
    draws: int = 2000,
    seed: int = 0,
    out: Path = Path("runs/labels"),
) -> None:
    """Trains M2 and M1, holds their errors beside those of logistic regression, compares the posterior."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    digits = load("digits")
    train = PartlyLabelled(Binarized(digits.train, labels=True), num_labels, seed)
    few, test = digits.train[train.labelled], digits.test
    training = {"epochs": epochs, "batch_size": 100, "seed": seed, "progress": False}
    model = M2(digits.data_dim, latent_dim, num_classes=10, hidden=hidden)
    guide = guides.Labelled(model, hidden=hidden)
    fit(SemiSupervised(ELBO(), alpha)(model, guide), train, **training)

    # M1: a VAE of all digits without a label, and a classifier of its posterior means
    vae = VAE(digits.data_dim, 16, hidden)
    encoder = guides.Amortized(vae, hidden=hidden)
    fit(ELBO(analytic_kl=True)(vae, encoder), Binarized(digits.train), **training)
    features = {"pixels": lambda images: images, "M1": lambda images: encoder.posterior(images).mean.detach()}
    page = Report(out, "Digits of which few have labels", f"{num_labels} labels of {len(digits.train)} digits")
    errors, predictions = {}, {}
    for name, of in features.items():
        regression = LogisticRegression(max_iter=1000).fit(of(few.images), few.labels)
        errors[f"logistic regression of {name}"] = 1 - regression.score(of(test.images), test.labels)
        predictions[name] = (torch.tensor(regression.predict_proba(of(test.images))), test.labels)
    errors["M2"] = classification_error(guide, test.images, test.labels)
    predictions["M2"] = (guide.predict(test.images), test.labels)
    page.heading(f"Errors on {len(test)} digits")
    page.table({name: f"{100 * error:.1f} %" for name, error in errors.items()})
    page.figure("reliability", plot_reliability(predictions), "Is a classifier right as often as it says?")

    # the digits that are most nearly of two classes
    x = binarize(test, seed=seed)
    x = x[guide.predict(x).topk(2).values[:, 1].topk(num_checked).indices]
    said, true = guide.predict(x), classes_of_model(model, guide, x)
    titles = []
    for q, p in zip(said, true, strict=True):
        titles.append("\n".join(f"{y}: q {q[y]:.1f}, p {p[y]:.1f}" for y in q.topk(2).indices.tolist()))
    references = [grid_reference(model, x, points=257)]
    try:
        references.append(hmc_reference(model, x, num_samples=draws, warmup=draws // 2, seed=seed))
    except NotAReference as refusal:
        # draws that failed their checks are no reference; they stay in refusal.inference_data
        page.preformatted(str(refusal))
    page.heading("The posterior of digits that might be one of two")
    for reference in references:
        page.preformatted(str(compare(guide, reference, x, seed=seed)))
    overlay = plot_overlay(guide, references, x, image_shape=digits.shape, titles=titles)
    page.figure("labels", overlay, "The guide's contours over the exact posterior of z, y summed out.")

    rows = analogies(model, guide, test.images[:8], test.labels[:8])
    page.figure("analogies", plot_images(rows, digits.shape, columns=11), "Each digit's style in every class.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
