"""Measures of drawn images and of representations that need no density, so that every kind of system has them.

Images are `(N, D)` in [0, 1], features `(N, d)`. torchmetrics has Frechet distances over a network of one's own, and
brings Inception's weights and its input pipeline along; the formulas are a few lines.
"""

import time
from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from zoo.data import Split
from zoo.parts.aside import seeded


def classifier(train: Split, *, steps: int = 3000, widths: tuple[int, int] = (128, 32), seed: int = 0) -> nn.Sequential:
    """A perceptron that tells the classes of images in [0, 1]; without its last layer it gives features `(N, 32)`."""
    with seeded(seed):
        first, last = widths
        layers = nn.Linear(train.levels.shape[1], first), nn.ReLU(), nn.Linear(first, last), nn.Tanh()
        network = nn.Sequential(*layers, nn.Linear(last, int(train.labels.max()) + 1))
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
        for _ in range(steps):
            rows = torch.randint(len(train), (128,))
            loss = nn.functional.cross_entropy(network(train.images[rows]), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.requires_grad_(False)


def cut(x: Tensor, levels: int) -> Tensor:
    """The levels, as floats, that numbers in (0, 1) stand for, as `zoo.data.Dequantised` makes them."""
    # a density may put some mass beyond the ends, and sigmoids round to 1
    return (levels * x).floor().clamp(0, levels - 1)


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), of means and covariances of two sets of features.

    The squared Frechet distance of two Gaussians with the sets' moments (Heusel et al. 2017), not below 0. It falls
    with the number of draws, so it compares sets of one size.
    """
    a, b = a.double(), b.double()
    values, vectors = torch.linalg.eigh(a.T.cov())
    root = vectors * values.clamp(min=0.0).sqrt() @ vectors.T
    # The product of two covariances is not symmetric, and scipy's `sqrtm` of a singular one is complex; this product
    # has the same eigenvalues and is.
    middle = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp(min=0.0).sqrt().sum()
    spread = a.var(0).sum() + b.var(0).sum() - 2 * middle
    return ((a.mean(0) - b.mean(0)).square().sum() + spread).clamp(min=0.0).item()


def precision_recall(real: Tensor, drawn: Tensor, *, k: int = 3) -> tuple[float, float]:
    """Shares of the draws within the real set's manifold, and of the real set within that of the draws.

    A set's manifold is the union of balls around its features that reach to each one's k-th nearest neighbour of the
    same set (Kynkaanniemi et al. 2019). Few good draws of one class have precision, and little recall.
    """
    return within(drawn, real, k), within(real, drawn, k)


def within(points: Tensor, centres: Tensor, k: int) -> float:
    """The share of the points that lie in a ball around a centre, up to its k-th nearest other centre."""
    # itself, at distance 0, is the first neighbour; a product of matrices would round that distance to 0.01
    reach = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k + 1).values
    return (torch.cdist(points, centres) <= reach).any(1).double().mean().item()


def nearest(images: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest training image, and its row, `(N,)` each."""
    pieces = [torch.cdist(some, train).min(1) for some in images.split(200)]
    return torch.cat([piece.values for piece in pieces]), torch.cat([piece.indices for piece in pieces])


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Accuracy of a logistic regression on (representation, labels), in its own standardised units."""
    found = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return float(found.fit(*(part.numpy() for part in train)).score(*(part.numpy() for part in test)))


def quality(drawn: Tensor, real: Tensor, network: nn.Sequential) -> dict[str, float]:
    """Frechet distance and precision and recall of draws against real images, as many of each."""
    a, b = network[:-1](real), network[:-1](drawn)
    precision, recall = precision_recall(a, b)
    return {"frechet": frechet(a, b), "precision": precision, "recall": recall}


def timed(draw: Callable[[int], Tensor], num: int) -> tuple[Tensor, dict[str, float]]:
    """`num` draws; CPU seconds of one, the median of five, and of all."""
    single = []
    for _ in range(5):
        began = time.process_time()
        draw(1)
        single.append(time.process_time() - began)
    began = time.process_time()
    drawn = draw(num)
    return drawn, {"one": sorted(single)[2], "all": time.process_time() - began, "num": num}
