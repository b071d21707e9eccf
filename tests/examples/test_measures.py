"""Measures of the comparison against closed forms, scipy, and sets whose answers are known."""

import sys
from pathlib import Path

import numpy
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import measures

from zoo.data import Split, load


def draws(num, dim, seed, scale=1.0):
    return scale * torch.randn(num, dim, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_is_that_of_scipy():
    a = draws(50, 4, 0) @ draws(4, 4, 1)
    b = draws(70, 4, 2) @ draws(4, 4, 3) + 1.0
    ca, cb = numpy.cov(a.numpy().T), numpy.cov(b.numpy().T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + numpy.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert measures.frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert measures.frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_moved_and_stretched_set():
    """Along each axis (m_a - m_b)^2 + (s_a - s_b)^2; a feature that never varies makes both covariances singular."""
    a = torch.cat([draws(40, 3, 0), torch.zeros(40, 1)], 1)
    stretch, shift = torch.tensor([1.0, 2.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 0.0, 3.0])
    # columns that are not correlated at all, so that the covariances commute
    a = torch.linalg.qr(a[:, :3] - a[:, :3].mean(0)).Q
    a = torch.cat([a, torch.zeros(40, 1)], 1)
    expected = (shift**2).sum() + (a.std(0) ** 2 * (stretch - 1) ** 2).sum()
    assert measures.frechet(a, a * stretch + shift) == pytest.approx(expected.item(), rel=1e-6)
    assert measures.frechet(a, a) == pytest.approx(0.0, abs=1e-7)


def test_precision_and_recall_of_known_sets():
    """Draws from one of two clusters have precision and half the recall; far away they have neither."""
    low, high = draws(60, 2, 0, 0.1), draws(60, 2, 1, 0.1) + 50.0
    real = torch.cat([low, high])
    assert measures.precision_recall(real, real) == (1.0, 1.0)
    precision, recall = measures.precision_recall(real, low[torch.arange(60)])
    assert precision == 1.0
    assert recall == 0.5
    assert measures.precision_recall(real, draws(30, 2, 2) + 1000.0) == (0.0, 0.0)
    precision, recall = measures.precision_recall(low, real)
    assert (precision < 0.6, recall) == (True, 1.0)


def test_a_ball_reaches_to_the_kth_other_centre():
    """Centres at 0, 1, 3 on a line: with k = 1 their balls reach 1, 1 and 2."""
    centres, points = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[-1.5], [-0.9], [4.9], [5.1]])
    assert measures.within(points, centres, 1) == 0.5
    assert measures.within(points, centres, 2) == 1.0


def test_the_nearest_image_of_a_copy_is_its_original():
    train = torch.rand(500, 16, generator=torch.Generator().manual_seed(0))
    distance, row = measures.nearest(train[[7, 450]] + torch.tensor([[0.0], [0.01]]), train)
    assert row.tolist() == [7, 450]
    # cdist multiplies matrices where there are many, and rounds squares of distances
    torch.testing.assert_close(distance, torch.tensor([0.0, 0.04]), atol=3e-3, rtol=0.0)


def test_a_probe_reads_classes_where_they_are_linear():
    labels = torch.arange(300) % 3
    code = nn.functional.one_hot(labels) * 5.0 + draws(300, 3, 0)
    assert measures.probe((code[:200], labels[:200]), (code[200:], labels[200:])) > 0.95
    # of 100 labels by chance, 1/3 with a standard deviation of 0.047
    assert measures.probe((draws(200, 3, 1), labels[:200]), (draws(100, 3, 2), labels[200:])) < 0.55


def test_the_classifier_is_the_same_each_time_and_leaves_the_generator_alone():
    digits = load("digits").train[:200]
    state = torch.get_rng_state()
    first, second = (measures.classifier(digits, steps=60) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(digits.images), second(digits.images))
    assert (first(digits.images).argmax(1) == digits.labels).double().mean() > 0.8
    found = measures.quality(digits.images, digits.images, first)
    assert (found["precision"], found["recall"]) == (1.0, 1.0)
    assert found["frechet"] < 1e-6


def test_draws_are_timed_one_by_one_and_all_at_once():
    asked = []
    split = Split(torch.zeros(9, 2, dtype=torch.uint8), None, 2)

    def draw(num):
        asked.append(num)
        return split.images[:num]

    drawn, seconds = measures.timed(draw, 9)
    assert asked == [1, 1, 1, 1, 1, 9]
    assert len(drawn) == seconds["num"] == 9
    assert seconds["one"] >= 0.0
