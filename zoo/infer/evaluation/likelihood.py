"""Importance-sampled log p(x), nats per datum, with its Monte Carlo error; and bits per dimension.

References: Burda, Grosse and Salakhutdinov 2016 (L_5000).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.infer.per_datum import Terms
from zoo.infer.pieces import MAX_BYTES, pieces
from zoo.infer.reference.inference_data import pareto_k_of_largest, tail_size
from zoo.infer.sites.programs import check_num_particles
from zoo.parts.aside import held, seeded
from zoo.parts.checks import listed
from zoo.parts.door import entered

__all__ = ["LogLikelihood", "bits_per_dim", "log_likelihood"]

# the k-hat up to which importance weights have a usable variance, and the number of data whose k-hat is printed
HEAVY, SHOWN = 0.7, 100


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log p(x) of some data, in nats; tensors are `(batch,)`, in float64.

    Attributes:
        per_datum: log (1/K) sum_k w_k, where w_k is the mean over the sites that the guide has summed out. Its
            expectation lies below log p(x), by about half its squared error.
        per_datum_error: Monte Carlo standard error by the delta method: the relative error of the mean weight.
        elbo: mean log weight of the same draws, the evidence lower bound.
        elbo_error: Monte Carlo standard error of `elbo`.
        num_particles: K; 1 for a pair without latents, whose log p(x) is exact.
        tail: the largest log weights of each datum and below them the least, for `pareto_k`; None of fewer than 30
            particles, and of an estimate that is no plain importance sampling.
    """

    per_datum: Tensor
    per_datum_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    num_particles: int
    tail: Tensor | None = None

    @property
    def mean(self) -> float:
        """The average of log p(x) over the data."""
        return self.per_datum.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over the data, as a sample of a population; NaN for one datum."""
        return standard_error(self.per_datum)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of `mean` for these very data, which more particles would remove."""
        return pooled_error(self.per_datum_error)

    @property
    def effective_sample_size(self) -> Tensor:
        """Kish's effective number of particles for each datum, 1 to K."""
        relative = self.per_datum_error**2 * (self.num_particles - 1)
        return self.num_particles / (1 + relative)

    def pareto_k(self, rows: slice = slice(None)) -> Tensor:
        """Pareto k-hat of the importance weights of some data, all by default: about a millisecond for each.

        Above 0.7 `per_datum_error` is too small by an unknown factor: a few particles make up the estimate.

        Raises:
            ValueError: fewer than 30 particles, or a pair without latents.
        """
        if self.tail is None:
            raise ValueError(f"pareto_k: a fit to the largest of 30 weights or more, got {self.num_particles}")
        some = self.tail[:, rows].cpu()
        return pareto_k_of_largest(some[:-1], some[-1], self.num_particles)

    def __str__(self) -> str:
        return (
            f"log p = {self.mean:.3f} +- {self.standard_error:.3f} nats per datum "
            f"(Monte Carlo +- {self.monte_carlo_error:.3f}), ELBO = {self.elbo.mean().item():.3f}; "
            f"{len(self.per_datum)} data, {self.num_particles} particles{self._weights}"
        )

    @property
    def _weights(self) -> str:
        """The share of data whose weights are too heavy for the errors, in words."""
        if self.tail is None:
            return ""
        # Evenly spaced: k-hat of ten thousand data would take longer than their log p
        k = self.pareto_k(slice(None, None, -(-len(self.per_datum) // SHOWN)))
        of = "" if len(k) == len(self.per_datum) else f" of {len(k)} looked at"
        return f"; k-hat above {HEAVY}: {int((k > HEAVY).sum())}{of}, largest {k.max().item():.2f}"


def log_likelihood(
    model: Callable,
    guide: Callable,
    x: Any,
    *args: Any,
    num_particles: int = 5000,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> LogLikelihood:
    """log p(x_n) = log E_q[p(x_n, z) / q(z | x_n)] for each datum, by importance sampling from the guide.

    Model and guide are run in evaluation mode, without gradients, in pieces of data and particles of about `max_bytes`;
    the size of a piece changes the random draws and nothing else.

    Args:
        model, guide: the pair; see `zoo.infer.terms`.
        x, *args, **kwargs: the arguments of both, in any form that `fit` takes, data on file among them. Tensors whose
            first axis has the length of x are cut along it.
        num_particles: K, 5000 in the literature.
        max_bytes: bound on the intermediate results of one piece (estimated from a small run).
        seed: starts a random stream of the call's own; None uses and advances the caller's.

    Raises:
        ValueError: empty x, `num_particles < 1`, a pair that does not fit together, or log weights that are NaN.
        TypeError: x holds no numbers.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import log_likelihood
        >>> model = VAE(784, 20)
        >>> log_likelihood(model, guides.Amortized(model), torch.zeros(3, 784), num_particles=100).per_datum.shape
        torch.Size([3])
    """
    check_num_particles(num_particles)
    x, args, kwargs = entered((model, guide), x, args, kwargs, on_file=True)
    sums = Sums(len(x), x.device, tail=num_particles)
    with held(model, guide), seeded(seed):
        for rows, _, run in pieces(model, guide, x, args, kwargs, num_particles=num_particles, max_bytes=max_bytes):
            sums.add(rows, run)
    if sums.lost.any():
        raise ValueError(
            f"the log weights of rows {listed(sums.lost.nonzero().flatten().tolist())} are NaN: look at these rows of x"
        )
    return sums.estimates(num_particles) if run.log_ratios else sums.exact()


class Sums:
    """Sums over particles for each datum, from which `LogLikelihood` is made: of w, w^2, log w and (log w)^2.

    Args:
        size, device: of the data.
        tail: number of particles whose largest weights are kept; 0: none are.
    """

    def __init__(self, size: int, device: torch.device, tail: int = 0) -> None:
        self.kept = tail_size(tail) + 1 if tail >= 30 else 0
        self.largest: Tensor | None = None
        # of weights in logarithms, as weights of images span hundreds of nats; in float64, as the error is a small
        # difference of two of the sums
        self.log = torch.full((2, size), -math.inf, dtype=torch.double, device=device)
        self.plain = torch.zeros_like(self.log)

    def add(self, rows: slice | Tensor, run: Terms) -> None:
        """Adds the particles of one run for some rows."""
        # a summed site is no draw, so that each particle has one weight and one ELBO
        weights = run.log_over_summed(run.log_weights)
        if self.kept:
            self._keep(rows, weights)
        log_weights = weights.double()
        elbo = run.over_summed(run.log_weights).double()
        for power in (1, 2):
            self.log[power - 1, rows] = torch.logaddexp(self.log[power - 1, rows], (power * log_weights).logsumexp(0))
            self.plain[power - 1, rows] += (elbo**power).sum(0)

    def _keep(self, rows: slice | Tensor, weights: Tensor) -> None:
        """Keeps the largest log weights of some rows, and the least."""
        if self.largest is None:
            # in the precision of the weights, by which `pareto_k` tells their rounding
            self.largest = weights.new_full((self.kept + 1, self.log.shape[1]), -math.inf)
            self.largest[-1] = math.inf
        known = self.largest[:, rows]
        joined = torch.cat([known[:-1], weights])
        self.largest[:-1, rows] = joined.topk(self.kept, 0).values
        self.largest[-1, rows] = torch.minimum(known[-1], weights.amin(0))

    @property
    def lost(self) -> Tensor:
        """True where the sums are NaN, `(batch,)`."""
        return self.log.isnan().any(0) | self.plain.isnan().any(0)

    def estimates(self, k: int) -> LogLikelihood:
        """The estimates from k particles of each datum."""
        (log_sum, log_squares), (total, squares) = self.log, self.plain
        # one particle says nothing about its own spread
        unbiased = k / (k - 1) if k > 1 else math.nan
        elbo = total / k
        # (sum w^2 / (sum w)^2 - 1/k) is the squared relative error of the mean weight. Equal weights make it 0 up to
        # rounding, which may be negative: hence the clamps
        relative_variance = ((log_squares - 2 * log_sum).exp() - 1 / k).clamp(min=0.0) * unbiased
        elbo_variance = (squares / k - elbo**2).clamp(min=0.0) * unbiased / k
        return LogLikelihood(
            log_sum - math.log(k), relative_variance.sqrt(), elbo, elbo_variance.sqrt(), k, self.largest
        )

    def exact(self) -> LogLikelihood:
        """The log-likelihood of a pair without latents: nothing is drawn, so one particle has no error."""
        none = torch.zeros_like(self.plain[0])
        return LogLikelihood(self.log[0], none, self.plain[0], none, 1)


def bits_per_dim(nats: float | Tensor, data_dim: int, *, levels: int | None = None) -> float | Tensor:
    """-log p / (D log 2), plus log2(levels) for a density: nats per datum in bits per dimension (lower is better).

    A discrete likelihood (Bernoulli, categorical, discretised logistic) is a probability, and needs no `levels`. A
    continuous likelihood of data in [0, 1], dequantised from `levels` grey values as `(k + u) / levels`, is a density:
    a grey value is a bin of width `1 / levels` in each dimension, and its probability is at least the average density
    times the width. A density of data that were not dequantised has no bits per dimension: it can be made as large as
    one likes.

    Args:
        nats: mean log p(x), nats per datum.
        data_dim: D.
        levels: None for a discrete likelihood; 256 for a density of dequantised 8-bit data scaled to [0, 1].

    Raises:
        ValueError: `data_dim < 1` or `levels < 2`.

    Example:
        >>> import math
        >>> from zoo.infer import bits_per_dim
        >>> bits_per_dim(-784 * math.log(2.0), 784)
        1.0
    """
    if data_dim < 1:
        raise ValueError(f"data_dim must be at least 1, got {data_dim}")
    if levels is not None and levels < 2:
        raise ValueError(f"levels counts the grey values before dequantising, at least 2; got {levels}")
    return -nats / (data_dim * math.log(2.0)) + (0.0 if levels is None else math.log2(levels))


def standard_error(values: Tensor) -> float:
    """Standard error of the mean over the data; NaN for a single datum."""
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan


def pooled_error(errors: Tensor) -> float:
    """Standard error of a mean over the data, each of whose terms has its own independent error."""
    return (errors.square().sum().sqrt() / len(errors)).item()
