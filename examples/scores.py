"""Scores of images under a pair, by which strange ones are told from familiar ones, and how well they do.

A score is a name and a number for each image: large numbers are strange where the name is a difference of bounds,
`L - L>k`, and small ones elsewhere.
"""

import math
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

import guides
from zoo.infer import log_likelihood
from zoo.parts.hierarchy import Hierarchy

Scores = dict[str, Tensor]
MEASURES = {"auroc": roc_auc_score, "average_precision": average_precision_score}


def scores_of(model: Any, guide: Any, x: Tensor, shape: tuple[int, ...], num_particles: int, seed: int) -> Scores:
    """Name -> its values for the rows of x, in nats: log p(x), L, of hierarchies L^{>k} and L - L^{>k}; log p + C.

    log p(x) + C(x) is the log ratio of the pair's probability of an image to that of a compressor, exp(-C) (Serra et
    al. 2020): a plain image is probable under any model, and its short code takes that away.
    """
    found = log_likelihood(model, guide, x, num_particles=num_particles, seed=seed)
    upper, differences = {}, {}
    for k in range(1, len(model.layers) if isinstance(model, Hierarchy) else 1):
        below = guides.PriorBelow(guide, k)
        upper[f"L>{k}"] = log_likelihood(model, below, x, num_particles=num_particles, seed=seed).elbo
        differences[f"L - L>{k}"] = found.elbo - upper[f"L>{k}"]
    ratio = {"log p + C": found.per_datum + complexity(x, shape)}
    return {"log p": found.per_datum, "L": found.elbo} | upper | differences | ratio


def complexity(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """C(x): nats of the shorter code of each image, zlib's or PNG's, as Serra et al. take the shortest of several."""
    pixels = x.to(torch.uint8).numpy()
    # bits as black and white: filters of PNG do not care, and other programs can show what is coded
    pixels = pixels * 255 if pixels.max() <= 1 else pixels
    lengths = [min(map(len, codes(image.reshape(shape)))) for image in pixels]
    return 8 * math.log(2) * torch.tensor(lengths, dtype=torch.float64)


def codes(image: Any) -> tuple[bytes, bytes]:
    """The image by zlib and by PNG, both at their best."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return zlib.compress(image.tobytes(), 9), file.getvalue()


def judged(found: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """Measure -> strange set -> score -> its value in telling that set from the familiar one, the first.

    Measures are the area under the ROC curve, and the average precision, which is the share of strange images among
    all where a score tells nothing.

    Raises:
        ValueError: a set without images: there are no two classes to tell apart; names the set.
    """
    familiar, *strange = found
    if empty := [label for label, scores in found.items() if not all(map(len, scores.values()))]:
        raise ValueError(f"expected familiar and strange images, got none of {', '.join(empty)}")
    return {name: {label: judge(measure, found[familiar], found[label]) for label in strange}
            for name, measure in MEASURES.items()}  # fmt: skip


def judge(measure: Any, familiar: Scores, strange: Scores) -> dict[str, float]:
    """The measure of each score."""
    labels = [0] * len(familiar["L"]) + [1] * len(strange["L"])
    signs = {name: 1 if " - " in name else -1 for name in familiar}
    return {n: float(measure(labels, sign * torch.cat([familiar[n], strange[n]]))) for n, sign in signs.items()}
