"""Errors over the number of labels: M2 and SDGM, which learn from all digits, beside classifiers of the labelled alone.

Each number of labels is drawn several times; the lines are means over the draws, the bands a standard error to both
sides. Logistic regression and the support vector machine of scikit-learn see the same labelled digits and no others.

    python examples/few_labels.py
    python examples/few_labels.py --numbers 20 100 --draws 2
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyro
import torch
import tyro
from report import Report
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import guides
from zoo import ADGM, M2
from zoo.data import Binarized, PartlyLabelled, load
from zoo.infer import ELBO, SemiSupervised, classification_error, fit


def m2(dim: int) -> tuple[Any, Any]:
    model = M2(dim, 10, num_classes=10, hidden=(128,))
    return model, guides.Labelled(model, hidden=(128,))


def sdgm(dim: int) -> tuple[Any, Any]:
    model = ADGM(dim, 10, 10, (128,), skip=True)
    return model, guides.Auxiliary(model, hidden=(128,))


PAIRS: dict[str, Callable[[int], tuple[Any, Any]]] = {"M2": m2, "SDGM": sdgm}
LABELS_ALONE = {"logistic regression": partial(LogisticRegression, max_iter=1000), "support vector machine": SVC}


def errors(num_labels: int, seed: int, *, alpha: float, steps: int) -> dict[str, float]:
    """The error of each classifier on the held-out digits, for one draw of the labels."""
    digits = load("digits")
    # nothing is chosen by the held-out digits, so that both splits are there to be counted
    images = torch.cat([digits.valid.images, digits.test.images])
    labels = torch.cat([digits.valid.labels, digits.test.labels])
    train = PartlyLabelled(Binarized(digits.train, labels=True), num_labels, seed)
    few = digits.train[train.labelled]
    found = {}
    for name, build in PAIRS.items():
        pyro.set_rng_seed(seed)
        model, guide = build(digits.data_dim)
        cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
        fit(SemiSupervised(ELBO(), alpha)(model, guide), train, steps=steps, batch_size=200, seed=seed, average=0.998,
            schedule=cosine, progress=False)  # fmt: skip
        found[name] = classification_error(guide, images, labels, seed=1)
    for name, classifier in LABELS_ALONE.items():
        fitted = classifier().fit(few.images.numpy(), few.labels.numpy())
        found[name] = 1 - fitted.score(images.numpy(), labels.numpy())
    return found


def main(
    *,
    numbers: tuple[int, ...] = (20, 50, 100, 200),
    draws: int = 3,
    alpha: float = 20.0,
    steps: int = 2000,
    seed: int = 0,
    out: Path = Path("runs/few_labels"),
) -> None:
    """Trains each pair for each number of labels and each draw of them, and draws the errors."""
    torch.set_num_threads(1)
    table: dict[str, dict[int, torch.Tensor]] = {}
    for number in numbers:
        found = [errors(number, seed + draw, alpha=alpha, steps=steps) for draw in range(draws)]
        for name in found[0]:
            table.setdefault(name, {})[number] = 100 * torch.tensor([one[name] for one in found])
    figure, ax = plt.subplots(figsize=(6.0, 3.8), layout="constrained")
    for (name, errors_of), style in zip(table.items(), ("o-", "s-", "^--", "v--"), strict=True):
        mean = torch.tensor([errors_of[number].mean() for number in numbers])
        error = torch.tensor([errors_of[number].std() / len(errors_of[number]) ** 0.5 for number in numbers])
        (line,) = ax.plot(numbers, mean, style, label=name)
        ax.fill_between(numbers, mean - error, mean + error, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xscale="log", xlabel="labels", ylabel="error on held-out digits, %", ylim=(0, None))
    ax.set_xticks(numbers, [str(number) for number in numbers])
    ax.minorticks_off()
    ax.legend(frameon=False)
    page = Report(out, "Errors over the number of labels", f"{draws} draws of the labels, {steps} steps")
    page.table({
        name: ", ".join(f"{number}: {errors_of[number].mean():.1f} %" for number in numbers)
        for name, errors_of in table.items()
    })  # fmt: skip
    page.figure("few_labels", figure, "Digits without labels teach what a class looks like.")
    print(f"wrote {page.write()}")


if __name__ == "__main__":
    tyro.cli(main)
