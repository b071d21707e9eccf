"""The law of uniform ranks: exact p-values and simultaneous bands of their cumulative distribution.

Ranks of N data are independent and uniform on 0..L if the guide is the posterior. Let C_i be the number of ranks below
e_i, for edges e_1 < ... < e_m. Each C_i is binomial with probability e_i / (L + 1). The statistic is the smallest
two-sided binomial p-value over the edges, and the band of a level holds all counts whose p-value is above one threshold
(Saeilynoja et al. 2022).

The probability that some C_i leaves its band is exact, by one pass over the edges: the increments of the C_i are
multinomial, that is, independent Poisson variables given their sum. arviz has bands (`ecdf_confidence_band` of 0.2x,
`ecdf_pit` of 1.x, names and arguments differ), and neither p-values nor ranks with ties; the tests compare with its
band.

References: Saeilynoja, Buerkner and Vehtari 2022.
"""

import numpy as np

__all__ = ["UniformRanks"]

# More edges see narrower dents, and take longer; 100 is the number that Saeilynoja et al. recommend for the display.
EDGES = 100
# Halvings of the logarithm of a threshold: the band's level is then within a thousandth of the one asked for.
HALVINGS = 16


class UniformRanks:
    """The law of the counts of `num_data` independent ranks, uniform on 0..`num_draws`.

    Attributes:
        edges: e_1..e_m, whole numbers between 1 and `num_draws`, at most 100, evenly spaced.
    """

    def __init__(self, num_data: int, num_draws: int) -> None:
        # imported at first use: it changes the process's warning filters
        from scipy.stats import binom

        self.num_data = num_data
        count = min(num_draws, EDGES)
        self.edges = np.unique(np.linspace(0, num_draws + 1, count + 2).round().astype(int)[1:-1])
        self.shares = self.edges / (num_draws + 1)
        law = binom(num_data, self.shares[:, None])
        counts = np.arange(num_data + 1)
        # two-sided p-values of every count at every edge, (m, N + 1)
        self.pointwise = np.minimum(1.0, 2 * np.minimum(law.cdf(counts), law.sf(counts - 1)))

    def counts(self, ranks: np.ndarray) -> np.ndarray:
        """Numbers of ranks below each edge: `(N, V)` -> `(m, V)`."""
        return (ranks[None] < self.edges[:, None, None]).sum(1)

    def p_value(self, ranks: np.ndarray) -> float:
        """Probability that uniform ranks have a statistic as small as that of ranks `(N,)`."""
        found = self.counts(ranks[:, None])[:, 0]
        smallest = self.pointwise[np.arange(len(self.edges)), found].min()
        # the statistic is one of finitely many numbers, and rounding must not put it on the other side of itself
        return self.leaving(smallest * (1 + 1e-9))

    def leaving(self, threshold: float) -> float:
        """Probability that some count has a two-sided p-value of at most `threshold`."""
        from scipy.stats import poisson

        kept = self.pointwise > threshold
        shares = np.diff(self.shares, prepend=0.0)
        steps = np.arange(self.num_data + 1)
        inside, left = np.zeros(self.num_data + 1), 0.0
        inside[0] = 1.0
        # The mass that leaves at each edge is added up, not that which stays subtracted from one: a p-value of 1e-12
        # keeps its digits.
        for share, before, keep in zip(shares, self.shares, kept, strict=True):
            first, last = np.flatnonzero(inside)[[0, -1]]
            window = inside[first : last + 1]
            moved = np.zeros_like(inside)
            moved[first:] = np.convolve(window, poisson.pmf(steps[: len(steps) - first], self.num_data * share))[
                : len(steps) - first
            ]
            # given the sum: what is left over falls into the cells that are still to come
            rest = poisson.pmf(self.num_data - steps, self.num_data * (1 - before))
            left += float((moved * rest)[~keep].sum())
            inside = np.where(keep, moved, 0.0)
            if not inside.any():
                break
        return min(1.0, left / poisson.pmf(self.num_data, self.num_data))

    def threshold(self, level: float) -> float:
        """The largest threshold, up to a thousandth, whose band uniform ranks leave with probability `level` at most.

        The counts are whole numbers, so that the probability may lie below the level.
        """
        # one edge alone leaves its band with at most `threshold`, and all together with at most m times as much
        low, high = np.log(level / len(self.edges)), np.log(level)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.leaving(np.exp(middle)) <= level else (low, middle)
        return float(np.exp(low))

    def band(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest count at each edge, `(m,)`, within which all counts stay with probability 1 - level."""
        kept = self.pointwise > self.threshold(level)
        return kept.argmax(1), self.num_data - kept[:, ::-1].argmax(1)
