"""Scores of perfect, rotated and noise codes, their invariances, and what they refuse."""

import math

import numpy as np
import pytest
import torch

from zoo.data.simulated.shapes import shapes
from zoo.infer import beta_vae_score, dci, mig, sap

SCORES = {
    "mig": lambda z, v: mig(z, v).score,
    "sap": lambda z, v: sap(z, v).score,
    "disentanglement": lambda z, v: dci(z, v).disentanglement,
    "completeness": lambda z, v: dci(z, v).completeness,
    "informativeness": lambda z, v: dci(z, v).informativeness,
    "beta": lambda z, v: beta_vae_score(z, v, points=200).score,
}
# every combination ten times: the empirical information between two factors is 0
FACTORS = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5), torch.arange(10))[:, :3]


def turned():
    """Standardised factors turned by the orthogonal matrix whose entries are all 1/3 or 2/3 in size."""
    v = FACTORS.double()
    return (v - v.mean(0)) / v.std(0) @ (torch.eye(3) - 2 / 3).double()


@pytest.mark.parametrize("name", SCORES)
def test_a_perfect_code_scores_1(name):
    # a code that is constant takes nothing away
    codes = torch.cat([FACTORS, torch.ones(len(FACTORS), 1) / 3], 1)
    assert SCORES[name](codes, FACTORS) == pytest.approx(1.0, abs=1e-9)
    # and neither does another order, or another sign
    assert SCORES[name](-codes.flip(1), FACTORS) == pytest.approx(1.0, abs=1e-9)


def test_a_perfect_code_of_shapes_scores_1():
    factors = shapes(2000).factors
    assert dci(factors, factors).disentanglement == pytest.approx(1.0, abs=1e-3)
    # factors drawn at random say a little of each other, by chance
    assert mig(factors, factors).score == pytest.approx(1.0, abs=0.05)


def test_a_code_that_is_constant_scores_0():
    """That of a posterior that has collapsed to the prior."""
    codes = torch.full((600, 2), 0.3)
    assert mig(codes, FACTORS).score == sap(codes, FACTORS).score == 0
    found = dci(codes, FACTORS)
    assert (found.disentanglement, found.completeness) == (0, 0)
    assert found.informativeness < 0.4
    assert beta_vae_score(codes, FACTORS, points=100).score == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "most"), [("mig", 0.3), ("sap", 0.4), ("disentanglement", 0.6), ("completeness", 0.6)]
)
def test_a_rotated_code_scores_low(name, most):
    assert SCORES[name](turned(), FACTORS) < most


# R^2 of noise is about 1/N, the information of 20 bins about 19 * 4 / 2N nats
@pytest.mark.parametrize(
    ("name", "most"), [("mig", 0.05), ("sap", 0.03), ("disentanglement", 0.1), ("completeness", 0.1)]
)
def test_noise_scores_0(name, most):
    assert 0 <= SCORES[name](torch.randn(600, 3, generator=torch.Generator().manual_seed(0)), FACTORS) < most


def test_noise_is_told_by_chance():
    noise = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    assert dci(noise, FACTORS).informativeness < 0.4
    # four standard deviations of a share of 300 test points above 1/3: one failure in 30,000 seeds
    assert beta_vae_score(noise, FACTORS, points=200).score < 1 / 3 + 4 * math.sqrt(2 / 9 / 300)


@pytest.mark.parametrize("name", ["mig", "sap"])
def test_order_and_sign_of_codes_do_not_count(name):
    codes = turned() + torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
    assert SCORES[name](-codes.flip(1), FACTORS) == pytest.approx(SCORES[name](codes, FACTORS), abs=1e-12)


def test_information_is_the_sum_over_the_joint():
    random = np.random.RandomState(0)
    codes, factors = random.randint(3, size=(500, 2)), random.randint(4, size=(500, 2))
    joint = np.zeros((3, 4))
    np.add.at(joint, (codes[:, 1], factors[:, 0]), 1 / 500)
    p, q = joint.sum(1, keepdims=True), joint.sum(0)
    expected = (joint * np.log(joint / (p * q))).sum() / -(q * np.log(q)).sum()
    assert mig(codes, factors, bins=3).table[1, 0] == pytest.approx(expected, rel=1e-12)


def test_sap_is_the_squared_correlation():
    codes, factors = turned().numpy(), FACTORS.numpy()
    assert sap(codes, factors).table[0, 2] == pytest.approx(np.corrcoef(codes[:, 0], factors[:, 2])[0, 1] ** 2)


@pytest.mark.parametrize("score", [mig, sap, dci, beta_vae_score])
def test_each_prints_its_table(score):
    lines = str(score(FACTORS, FACTORS)).splitlines()
    assert len(lines) == 1 + 3 + 1 + 1
    assert lines[0].split()[-2:] == ["factor", "2"]


@pytest.mark.parametrize("score", [mig, sap, dci, beta_vae_score])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (FACTORS, FACTORS[:, :1], r"factors: expected \(N, columns\) with two or more columns, got \(600, 1\)"),
        (FACTORS[:, 0], FACTORS, r"codes: expected .* got \(600,\)"),
        (FACTORS[:0], FACTORS[:0], r"codes: expected .* got \(0, 3\)"),
        (FACTORS, torch.ones(600, 2), r"factors: columns \[0, 1\] have one value each"),
        (FACTORS, torch.stack([FACTORS[:, 0], torch.arange(600)], 1), r"columns \[1\] have a value of its own in each"),
        (FACTORS[:9], FACTORS, "a code for each row of factors, got 9, 600"),
        (torch.full((600, 3), math.nan), FACTORS, "codes: expected finite numbers, row 0"),
    ],
)
def test_bad_input_is_refused(score, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        score(codes, factors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mig(FACTORS, FACTORS, bins=1), "bins: expected a whole number, at least 2, got 1"),
        (lambda: dci(FACTORS, FACTORS, trees=0), "trees: expected a whole number, at least 1, got 0"),
        (lambda: beta_vae_score(FACTORS, FACTORS, pairs=0), "pairs: expected a whole number, at least 1, got 0"),
        (lambda: beta_vae_score(FACTORS, FACTORS, points=1), "points: expected a whole number, at least 2, got 1"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
