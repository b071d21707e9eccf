"""What a pair is worth: importance-sampled log p(x), KL per site and active units. All in nats per datum.

References: Burda, Grosse and Salakhutdinov 2016 (L_5000 and active units).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from zoo.infer.pair import program
from zoo.infer.pieces import MAX_BYTES, batch_rows, pieces, with_index
from zoo.parts.aside import held, seeded

__all__ = ["ActiveUnits", "LogLikelihood", "active_units", "bits_per_dim", "kl_per_site", "log_likelihood"]


@dataclass(frozen=True)
class LogLikelihood:
    """An importance-sampled log p(x), in nats; tensors are `(batch,)`, in float64.

    Attributes:
        per_datum: log (1/K) sum_k w_k. Its expectation lies below log p(x), by about half its squared error.
        per_datum_error: Monte Carlo standard error by the delta method: the relative error of the mean weight.
        elbo: mean log weight of the same draws, the evidence lower bound.
        elbo_error: Monte Carlo standard error of `elbo`.
        num_particles: K.
    """

    per_datum: Tensor
    per_datum_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    num_particles: int

    @property
    def mean(self) -> float:
        """Average over the data."""
        return self.per_datum.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over the data, as a sample of a population; NaN for one datum."""
        return standard_error(self.per_datum)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of `mean` for these very data: what more particles would remove."""
        return pooled_error(self.per_datum_error)

    @property
    def effective_sample_size(self) -> Tensor:
        """Kish's effective number of particles for each datum, 1 to K."""
        relative = self.per_datum_error**2 * (self.num_particles - 1)
        return self.num_particles / (1 + relative)

    def __str__(self) -> str:
        return (
            f"log p = {self.mean:.3f} +- {self.standard_error:.3f} nats per datum "
            f"(Monte Carlo +- {self.monte_carlo_error:.3f}), ELBO = {self.elbo.mean().item():.3f}; "
            f"{len(self.per_datum)} data, {self.num_particles} particles"
        )


def log_likelihood(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *args: Any,
    num_particles: int = 5000,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> LogLikelihood:
    """log p(x_n) = log E_q[p(x_n, z) / q(z | x_n)] for each datum, by importance sampling from the guide.

    Both are run in evaluation mode, without gradients, in pieces of data and particles of about `max_bytes`; the
    piece size changes the random draws and nothing else.

    Args:
        model, guide: the pair; see `zoo.infer.terms`.
        x, *args, **kwargs: their arguments. Tensors whose first axis has the length of x are cut along it.
        num_particles: K, 5000 in the literature.
        max_bytes: bound on the intermediate results of one piece (estimated from a small run).
        seed: of a random stream of its own; `None` uses and advances the caller's.

    Raises:
        ValueError: empty x, `num_particles < 1`, or a pair that does not fit together.

    Example:
        >>> import torch, guides
        >>> from zoo import VAE
        >>> from zoo.infer import log_likelihood
        >>> model = VAE(784, 20)
        >>> log_likelihood(model, guides.Amortized(model), torch.zeros(3, 784), num_particles=100).per_datum.shape
        torch.Size([3])
    """
    first = torch.full((len(x),), -math.inf, dtype=torch.double, device=x.device)  # log sum w
    second = first.clone()  # log sum w^2
    total, squares = torch.zeros_like(first), torch.zeros_like(first)
    with held(model, guide), seeded(seed):
        for rows, _, run in pieces(model, guide, x, args, kwargs, num_particles=num_particles, max_bytes=max_bytes):
            log_weights = run.log_weights.double()
            first[rows] = torch.logaddexp(first[rows], log_weights.logsumexp(0))
            second[rows] = torch.logaddexp(second[rows], (2 * log_weights).logsumexp(0))
            total[rows] += log_weights.sum(0)
            squares[rows] += (log_weights**2).sum(0)
    if first.isnan().any():
        bad = first.isnan().nonzero().flatten().tolist()
        raise ValueError(f"the log weights of rows {bad[:5]} ({len(bad)} in all) are NaN: look at these rows of x")
    return of_sums(first, second, total, squares, num_particles)


def of_sums(first: Tensor, second: Tensor, total: Tensor, squares: Tensor, k: int) -> LogLikelihood:
    """From what k particles add up to, each `(batch,)`: log sum w, log sum w^2, sum log w, sum (log w)^2."""
    unbiased = k / (k - 1) if k > 1 else math.nan  # one particle says nothing about its own spread
    elbo = total / k
    relative_variance = ((second - 2 * first).exp() - 1 / k).clamp(min=0.0) * unbiased
    elbo_variance = (squares / k - elbo**2).clamp(min=0.0) * unbiased / k
    return LogLikelihood(first - math.log(k), relative_variance.sqrt(), elbo, elbo_variance.sqrt(), k)


def bits_per_dim(nats: float | Tensor, data_dim: int, *, levels: int | None = None) -> float | Tensor:
    """Log-likelihood in nats per datum -> bits per dimension (lower is better).

    The rule: a discrete likelihood (Bernoulli, categorical, discretised logistic) is a probability, and costs
    `-log p / (D log 2)` bits. A continuous likelihood of data in [0, 1], dequantised from `levels` grey values as
    `(k + u) / levels`, is a density: each of its D dimensions is a bin of width `1 / levels` in which the probability
    is at least the average density times the width, so `+ log2(levels)`. A density of data that was not dequantised
    has no bits per dimension: it can be made as large as one likes.

    Args:
        nats: mean log p(x), nats per datum.
        data_dim: D.
        levels: None for a discrete likelihood; 256 for a density of dequantised 8-bit data scaled to [0, 1].

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


def kl_per_site(
    model: Callable,
    guide: Callable,
    x: Tensor,
    *args: Any,
    num_particles: int = 100,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, Tensor]:
    """E_q[log q(z_l | ...) - log p(z_l | ...)] of each latent site, by Monte Carlo: site -> `(batch,)`, nats.

    The sites add up to KL(q(z | x) || p(z)). For a site whose model parents the guide draws after it this is not
    itself a KL divergence and may be negative.
    """
    out: dict[str, Tensor] = {}
    with held(model, guide), seeded(seed):
        for rows, _, run in pieces(model, guide, x, args, kwargs, num_particles=num_particles, max_bytes=max_bytes):
            for name, ratio in run.log_ratios.items():
                site = out.setdefault(name, torch.zeros(len(x), dtype=torch.double, device=x.device))
                site[rows] -= ratio.double().sum(0) / num_particles
    return out


class ActiveUnits(NamedTuple):
    """Burda's rule for one site: variance over the data of the posterior mean, and where it is above the threshold.

    Both have the shape of one latent, `(*event)`.
    """

    variance: Tensor
    active: Tensor


def active_units(
    guide: Callable,
    x: Tensor,
    *args: Any,
    threshold: float = 0.01,
    num_particles: int = 100,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, ActiveUnits]:
    """Which latent dimensions the guide uses: Var_x(E_q[z | x]) > threshold, for each latent site.

    The posterior mean is the average over particles of the site's own mean where its distribution has one (one
    latent layer: no Monte Carlo error), and of its draws otherwise. The variance that this average owes to Monte
    Carlo is subtracted, so that an unused unit does not count as active because few particles were drawn; it may
    therefore come out slightly below 0.

    Args:
        guide: any guide; the model is not needed.
        x, *args, **kwargs: its arguments; at least two data.
        threshold: 0.01 in the literature.
    """
    if len(x) < 2:
        raise ValueError(f"active_units takes a variance over the data: {len(x)} are too few")
    if num_particles < 2:
        raise ValueError(f"num_particles must be at least 2, to tell data from noise; got {num_particles}")
    means: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    with held(guide), seeded(seed), torch.no_grad():
        step = len(x) if isinstance(guide, AutoGuide) else 256
        keywords = with_index(guide, x, kwargs)
        for start in range(0, len(x), step):
            inputs, named = batch_rows(x, args, keywords, slice(start, start + step))
            for name, values in _site_means(guide, inputs, named, num_particles):
                means.setdefault(name, []).append(values.mean(0))
                noise.setdefault(name, []).append(values.var(0) / num_particles)
    out = {}
    for name, chunks in means.items():
        variance = torch.cat(chunks).var(0) - torch.cat(noise[name]).mean(0)
        out[name] = ActiveUnits(variance, variance > threshold)
    return out


def _site_means(guide: Callable, inputs: tuple, named: dict, num_particles: int) -> Iterator[tuple[str, Tensor]]:
    """For each latent site its conditional means (or draws), `(K, batch, *event)`, in float64."""
    call = program(guide)
    plain = poutine.trace(call).get_trace(*inputs, **named)
    frames = [f for site in plain.nodes.values() if site["type"] == "sample" for f in site["cond_indep_stack"]]
    dim = min((f.dim for f in frames if f.vectorized), default=-1) - 1
    with pyro.plate("num_particles", num_particles, dim=dim):
        trace = poutine.trace(call).get_trace(*inputs, **named)
    for name in trace.stochastic_nodes:
        site = trace.nodes[name]
        if site["infer"].get("is_auxiliary") or site_is_subsample(site):
            continue
        batch = [f.dim for f in site["cond_indep_stack"] if f.size == len(inputs[0]) and f.name != "num_particles"]
        if not batch:
            raise ValueError(
                f"site {name!r}: stands outside the batch plate, so it has no posterior mean for each datum"
            )
        value, event = site["value"], site["fn"].event_dim
        with suppress(NotImplementedError):  # a flow has no mean: its draws do
            value = site["fn"].mean.expand(value.shape)
        yield name, value.double().movedim(batch[-1] - event, 1)


def standard_error(values: Tensor) -> float:
    """Of the mean over the data; NaN for a single datum."""
    return (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.nan


def pooled_error(errors: Tensor) -> float:
    """Standard error of a mean over the data of which each term has its own independent error."""
    return (errors.square().sum().sqrt() / len(errors)).item()
