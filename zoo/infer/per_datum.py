"""`Terms`: the log-likelihood and the log ratios of one run for each datum, and their means under the guide.

A guide may mark a discrete site y to be summed out (`infer={"enumerate": "parallel"}`). Each particle k then stands for
all values of y at once, and the mean over the guide's draws is one under the measure

    mu_k(y) = q(y | ...) / K,      sum_k sum_y mu_k(y) = 1,

with less variance than if y were drawn, and with a gradient through q(y | ...) itself. Objectives are written with
`expectation`, the mean of a quantity under this measure, and `log_expectation`, the logarithm of the mean of its
exponential; without summed sites these are the mean and the log mean exp over the particles.

A site w outside the batch plate has one value for all data. The bound on log p(x_1, ..., x_N) is

    E_q[sum_n log w_n(w) + log p(w) - log q(w)] = sum_n E_q[log w_n(w) + (log p(w) - log q(w)) / N],

so that a bound which is linear in the log weights may share the term of w out among the data (`shared_out`): summed
over a batch of B it is, in expectation over the batches, B / N of the whole, and so is its gradient. The logarithm of
a mean weight is not linear, and such a bound has no share for each datum.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """Log-likelihood and log ratios of one run of a pair, in nats. K: particles, N: data points of the batch.

    Each summed site has an axis for its values, left of the particles: of two, the first drawn by the guide has the
    axis next to the particles. A quantity that does not depend on a summed site may lack its axis, or have it with
    size 1.

    Attributes:
        log_likelihood: log p(x | z), all observed sites together, `(K, N)`; with summed sites `(..., K, N)`.
        log_ratios: for each latent site log p - log q at the guide's sample, `(K, N)`; with summed sites `(..., K, N)`.
        latents: the guide's samples, `(K, N, ...)`; a summed site's are its values, `(values, 1, 1, ...)`.
        summed: for each summed site log q of its values, given what the guide has drawn before, `(..., K, N)`; in the
            guide's order.
        log_score: log q of the sites without a reparameterised sample, all together, `(K, N)`; None where the caller
            did not ask for it. The score estimators of `RLOO` and `VIMCO` differentiate it.
        given: names of latent sites whose values are known in these rows, so that they have no log ratio: a label's.
        outside: for each latent outside the batch plate log p - log q, once for all data, `(K,)`; latents that a guide
            draws together have one together, under their names, `"w, b"`.
        outside_likelihood: log p of the observed sites outside the batch plate, all together, `(K,)`; None without.
        shares: latent outside the batch plate -> the share of its term that `log_ratios` hold, of `shared_out` terms.
        guide: the guide's distribution of each of its sites, with the mask of the site; summed sites included.
    """

    log_likelihood: Tensor
    log_ratios: dict[str, Tensor]
    latents: dict[str, Tensor]
    summed: dict[str, Tensor] = {}  # noqa: RUF012  (a NamedTuple's default, written to by nobody)
    log_score: Tensor | None = None
    given: tuple[str, ...] = ()
    outside: dict[str, Tensor] = {}  # noqa: RUF012
    outside_likelihood: Tensor | None = None
    shares: dict[str, float] = {}  # noqa: RUF012
    guide: dict[str, Any] = {}  # noqa: RUF012

    def shared_out(self, num_data: int) -> "Terms":
        """The terms in which each datum bears 1/num_data of the terms outside the batch plate."""
        rows = self.log_likelihood.shape[-2:]
        shared = {name: (ratio / num_data).unsqueeze(-1).expand(rows) for name, ratio in self.outside.items()}
        found = self._replace(
            log_ratios=self.log_ratios | shared, outside={}, shares=dict.fromkeys(shared, 1 / num_data)
        )
        if self.outside_likelihood is None:
            return found
        log_likelihood = self.log_likelihood + (self.outside_likelihood / num_data).unsqueeze(-1)
        return found._replace(log_likelihood=log_likelihood, outside_likelihood=None)

    @property
    def outside_weights(self) -> Tensor:
        """The terms outside the batch plate, all together, `(K,)`."""
        total = 0.0 if self.outside_likelihood is None else self.outside_likelihood
        return sum(self.outside.values(), self.log_likelihood.new_zeros(self.log_likelihood.shape[-2]) + total)

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z | x), `(K, N)`, given the sites in `outside`; with summed sites `(..., K, N)`."""
        total = self.log_likelihood
        for ratio in self.log_ratios.values():
            total = total + ratio
        return total

    def over_summed(self, values: Tensor) -> Tensor:
        """sum_y q(y | ...) values: the mean over the summed sites, `(K, N)`."""
        return mean_over([*self.summed.values()], values)

    def log_over_summed(self, values: Tensor) -> Tensor:
        """log sum_y q(y | ...) exp(values), `(K, N)`."""
        for log_q in reversed(self.summed.values()):
            if values.dim() == log_q.dim():
                values = (log_q + _where_possible(values, log_q)).logsumexp(0)
        return values

    def expectation(self, values: Tensor) -> Tensor:
        """The mean of values under the guide, over summed sites and particles, `(N,)`."""
        return self.over_summed(values).mean(0)

    def log_expectation(self, values: Tensor) -> Tensor:
        """The logarithm of the mean of exp(values) under the guide, over summed sites and particles, `(N,)`."""
        # weights span hundreds of nats, so that exp of most of them is 0 or inf: logsumexp takes out the largest
        values = self.log_over_summed(values)
        return torch.logsumexp(values, 0) - math.log(len(values))

    def log_ratio_of_site(self, name: str) -> Tensor:
        """log p - log q of a site; of a summed site minus its exact KL, given what the guide has drawn before.

        `(K, N)`, and with summed sites that the guide draws before it `(..., K, N)`.
        """
        if name not in self.summed:
            return self.log_ratios[name]
        return mean_over([*self.summed.values()][[*self.summed].index(name) :], self.log_ratios[name])


def mean_over(summed: Sequence[Tensor], values: Tensor) -> Tensor:
    """The mean of values `(..., K, N)` over summed sites, of which `summed` holds log q, as `Terms.summed` does."""
    for log_q in reversed(summed):
        # without the axis of this site the values do not depend on it, and its probabilities sum to 1
        if values.dim() == log_q.dim():
            values = (log_q.exp() * _where_possible(values, log_q)).sum(0)
    return values


def _where_possible(values: Tensor, log_q: Tensor) -> Tensor:
    """The values, with 0 where q rules the value of the site out.

    There log p - log q is infinite or NaN, and 0 times it would be NaN, in the sum or in its gradient.
    """
    return values.masked_fill(log_q == -math.inf, 0.0)
