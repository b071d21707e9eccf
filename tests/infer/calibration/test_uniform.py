"""The exact law of uniform ranks against simulated ranks, arithmetic by hand, and arviz's bands."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from zoo.infer.calibration.uniform import UniformRanks


def test_probability_of_leaving_a_band_is_that_of_all_rank_vectors():
    law = UniformRanks(num_data=4, num_draws=3)
    ranks = np.array(list(itertools.product(range(4), repeat=4)))
    smallest = np.array([law.pointwise[range(3), law.counts(row[:, None])[:, 0]].min() for row in ranks])
    for threshold in np.unique(smallest):
        assert law.leaving(threshold * (1 + 1e-9)) == pytest.approx((smallest <= threshold * (1 + 1e-9)).mean())
    assert law.p_value(np.zeros(4, dtype=int)) == pytest.approx((smallest <= smallest[0]).mean())


@pytest.mark.parametrize("level", [0.01, 0.2])
def test_uniform_ranks_leave_the_band_as_often_as_it_says(level):
    law, generator = UniformRanks(num_data=60, num_draws=150), np.random.default_rng(0)
    low, high = law.band(level)
    counts = law.counts(generator.integers(0, 151, (60, 4000)))
    left = ((counts < low[:, None]) | (counts > high[:, None])).any(0)
    exact = law.leaving(law.threshold(level))
    assert exact <= level
    # fails for one seed in 10,000
    assert binomtest(int(left.sum()), 4000, exact).pvalue > 1e-4


@pytest.mark.thorough
def test_band_is_that_of_arviz():
    ecdf = pytest.importorskip("arviz.stats.ecdf_utils")
    law = UniformRanks(num_data=200, num_draws=49)
    low, high = law.band(0.05)
    # arviz's own optimiser ends within a count of the band
    theirs = ecdf.ecdf_confidence_band(200, law.shares, law.shares, prob=0.95, method="optimized")
    assert np.abs(low / 200 - theirs[0]).max() < 1.5 / 200
    assert np.abs(high / 200 - theirs[1]).max() < 1.5 / 200


def test_small_p_values_keep_their_digits():
    law = UniformRanks(num_data=30, num_draws=1)
    # one edge at 1/2: the two-sided p-value of 30 tosses that all fall on one side
    assert law.p_value(np.zeros(30, dtype=int)) == pytest.approx(2 * 0.5**30, rel=1e-6)


def test_edges_are_at_most_a_hundred():
    assert len(UniformRanks(5, 3000).edges) == 100
    assert UniformRanks(5, 4).edges.tolist() == [1, 2, 3, 4]
