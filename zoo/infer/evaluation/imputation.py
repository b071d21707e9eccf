"""Missing entries of vectors filled by a pair: E[x_missing | x_observed], and draws from p(x_missing | x_observed).

Each particle z of the guide has the weight w = p(x_observed, z) / q(z | x_observed), and p(x_missing | z, x_observed)
is the model's own conditional: its means and draws, weighted by w, are those of p(x_missing | x_observed) as the
particles grow in number, whatever the guide.

References: Mattei and Frellsen 2019 (MIWAE), section 4; Ipsen, Mattei and Frellsen 2021, section 3.3.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.infer.call import Purpose, run
from zoo.infer.pieces import MAX_BYTES, pieces
from zoo.parts.around import Seen
from zoo.parts.aside import held, seeded
from zoo.parts.checks import check_counts, check_gaps, check_rows, check_tensor
from zoo.parts.distributions.observed import given_observed
from zoo.parts.door import entered
from zoo.parts.given.conditions import program_arguments
from zoo.parts.given.gaps import central_interval

__all__ = ["Imputation", "ImputationDraws", "impute", "sample_imputation"]


class Imputation(NamedTuple):
    """Data whose gaps are filled by their conditional means.

    Attributes:
        x: the data, with E[x_missing | x_observed] in the gaps, `(N, data_dim)`; observed entries as they were.
        error: Monte Carlo standard error of the means, by the delta method; 0 for observed entries.
        effective_sample_size: Kish's effective number of particles for each datum, `(N,)`. Where it is a few, neither
            means nor errors are to be trusted: more particles, or a better guide.
    """

    x: Tensor
    error: Tensor
    effective_sample_size: Tensor


class ImputationDraws(NamedTuple):
    """Data whose gaps are filled by draws, by sampling importance resampling.

    Attributes:
        x: `(num_draws, N, data_dim)`, observed entries as they were.
        effective_sample_size: as of `Imputation`.
    """

    x: Tensor
    effective_sample_size: Tensor

    def interval(self, mass: float = 0.9) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the central intervals that hold `mass` of the draws, each `(N, data_dim)`."""
        return central_interval(self.x, mass)


def impute(
    model: Callable,
    guide: Callable,
    x: Any,
    mask: Any,
    *,
    num_particles: int = 1000,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> Imputation:
    """E[x_missing | x_observed] by self-normalised importance weights, with its Monte Carlo error.

    Args:
        model, guide: a pair whose program takes a `mask` and samples x at a site `x`: every static model of the zoo, or
            your own with `zoo.parts.given.gaps.observe`. `WithMask` imputes data missing not at random.
        x: data `(N, data_dim)`, in any form that `fit` takes; missing entries may hold anything, NaN too.
        mask: boolean, of the shape of x, True where observed.
        num_particles, max_bytes, seed: as in `log_likelihood`.
        **kwargs: further arguments of the pair, such as a condition.

    Raises:
        TypeError: x or mask holds no numbers.
        ValueError: x is not `(N, data_dim)`, or a wrong mask; a program without `mask` or without a site `x`; a
            likelihood without a mean (levels without an order: `sample_imputation` draws them); a pair that does not
            fit together.

    Example:
        >>> import guides, torch
        >>> from zoo import PPCA
        >>> from zoo.infer import impute
        >>> model, x = PPCA(5, 2), torch.randn(3, 5)
        >>> impute(model, guides.Exact(model), x, x < 1, num_particles=10).x.shape
        torch.Size([3, 5])
    """
    x, (mask, *_), kwargs = entered((model, guide), x, (mask,), kwargs, names=("x", "mask"))
    sums = _Sums(x, mask)
    with held(model, guide), seeded(seed):
        for rows, log_weights, p in _particles(model, guide, x, mask, num_particles, max_bytes, kwargs):
            sums.add(rows, log_weights, _mean(p))
    mean, error = sums.estimates(num_particles)
    return Imputation(torch.where(mask, x, mean.to(x)), error.to(x).masked_fill(mask, 0.0), sums.effective())


def sample_imputation(
    model: Callable,
    guide: Callable,
    x: Any,
    mask: Any,
    num_draws: int = 100,
    num_particles: int = 1000,
    *,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    **kwargs: Any,
) -> ImputationDraws:
    """Draws from p(x_missing | x_observed): particles (z, x_missing), drawn again by their weights, with replacement.

    Args:
        num_draws: draws for each datum; many fewer than `num_particles`, or draws are repeated.
        model, guide, x, mask, num_particles, max_bytes, seed, **kwargs: as in `impute`.

    Raises:
        TypeError, ValueError: as `impute`; num_draws below 1.
    """
    check_counts(num_draws=num_draws)
    x, (mask, *_), kwargs = entered((model, guide), x, (mask,), kwargs, names=("x", "mask"))
    sums = _Sums(x, mask)
    kept = x.new_zeros(num_draws, *x.shape)
    with held(model, guide), seeded(seed):
        for rows, log_weights, p in _particles(model, guide, x, mask, num_particles, max_bytes, kwargs):
            before = sums.log_total(rows)
            drawn = p.sample() if hasattr(p, "sample") else p
            drawn = drawn.expand(*log_weights.shape, x.shape[-1])
            sums.add(rows, log_weights, drawn)
            # a reservoir: a new chunk of particles takes over a draw with its share of the weight so far
            share = -torch.expm1(before - sums.log_total(rows))
            taken = torch.rand(num_draws, len(share), device=x.device) < share
            place = torch.multinomial(log_weights.softmax(0).T, num_draws, replacement=True).T
            chosen = drawn.gather(0, place.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            kept[:, rows] = torch.where(taken.unsqueeze(-1), chosen.to(x), kept[:, rows])
    return ImputationDraws(torch.where(mask, x, kept), sums.effective())


def _particles(
    model: Any, guide: Any, x: Tensor, mask: Tensor, num_particles: int, max_bytes: int, kwargs: dict[str, Any]
) -> Iterator[tuple[slice, Tensor, Any]]:
    """Rows, log weights `(K, n)`, and p(x | z, x_observed) at the particles; or their x_missing, where it is a site."""
    if "mask" not in program_arguments(model):
        raise ValueError(f"impute: the program of {type(model).__name__} has no argument `mask`, by which to leave "
                         "entries of x out")  # fmt: skip
    options: dict[str, Any] = {"num_particles": num_particles, "max_bytes": max_bytes, "evaluate": _with_density}
    for rows, _, (terms, p) in pieces(model, guide, x, (), {"mask": mask, **kwargs}, **options):
        yield rows, terms.log_weights.double(), p


def _with_density(model: Callable, guide: Callable, *args: Any, num_particles: int, **kwargs: Any) -> tuple[Any, Any]:
    # sites that are summed out are drawn, so that a particle is one z and has one density of x
    with Seen() as seen:
        terms = run(model, guide, args, kwargs, num_particles, Purpose(sample_all=True))
    if "x_missing" in terms.latents:
        return terms, terms.latents["x_missing"]
    if "x" not in seen.values:
        raise ValueError(f"site 'x': the model samples no such site, but {[*seen.values]}")
    p, mask = given_observed(seen.densities["x"], seen.values["x"])
    if mask is None:
        raise ValueError(f"site 'x': {type(p).__name__} is no density of observed entries; the model should sample x "
                         "by zoo.parts.given.gaps.observe")  # fmt: skip
    return terms, p


def _mean(p: Any) -> Tensor:
    if isinstance(p, Tensor):
        return p
    try:
        mean = p.mean
    except NotImplementedError:
        mean = None
    if mean is None or bool(mean.isnan().any()):
        name = type(getattr(p, "base_dist", p)).__name__
        raise ValueError(f"site 'x': {name} has no mean to impute; sample_imputation draws the missing entries")
    return mean


class _Sums:
    """Sums over the particles of each datum, of weights w and w^2, alone and times the values and their squares."""

    # weights in logarithms about the largest so far, as those of pictures span hundreds of nats
    def __init__(self, x: Tensor, mask: Tensor) -> None:
        check_tensor(x)
        check_gaps(mask)
        if x.ndim > 2:
            raise ValueError(f"x: expected shape (N, data_dim), got {tuple(x.shape)}; sequences are imputed by their "
                             "model's own impute and sample_imputation")  # fmt: skip
        check_rows(x, x.shape[-1] if x.ndim else 0, None, mask)
        size: Any = {"dtype": torch.double, "device": x.device}
        self.top = torch.full((len(x),), -torch.inf, **size)
        self.weights = torch.zeros(2, len(x), **size)
        self.values = torch.zeros(3, *x.shape, **size)
        # values are taken from the first particle's on: squares of large means would cancel
        self.origin = torch.zeros(x.shape, **size)

    def add(self, rows: slice, log_weights: Tensor, values: Tensor) -> None:
        """Adds particles: log weights `(K, n)`, values that broadcast to `(K, n, data_dim)`."""
        values = values.double().expand(*log_weights.shape, self.origin.shape[-1])
        new = self.top[rows].isinf()
        self.origin[rows] = torch.where(new.unsqueeze(-1), values[0], self.origin[rows])
        top = torch.maximum(self.top[rows], log_weights.amax(0))
        fall, w = (self.top[rows] - top).exp(), (log_weights - top).exp()
        away = values - self.origin[rows]
        falls = torch.stack([fall, fall**2, fall**2])
        self.weights[:, rows] = self.weights[:, rows] * falls[:2] + torch.stack([w.sum(0), (w**2).sum(0)])
        w = w.unsqueeze(-1)
        added = torch.stack([(w * away).sum(0), (w**2 * away).sum(0), (w**2 * away**2).sum(0)])
        self.values[:, rows] = self.values[:, rows] * falls.unsqueeze(-1) + added
        self.top[rows] = top

    def log_total(self, rows: slice) -> Tensor:
        """The logarithm of the sum of the weights, `(n,)`."""
        return self.top[rows] + self.weights[0, rows].log()

    def estimates(self, num_particles: int) -> tuple[Tensor, Tensor]:
        """The weighted mean of the values and its standard error, each `(N, data_dim)`."""
        total, squares = self.weights.unsqueeze(-1)
        mean = self.values[0] / total
        spread = self.values[2] - 2 * mean * self.values[1] + mean**2 * squares
        # one particle says nothing about its own spread
        unbiased = num_particles / (num_particles - 1) if num_particles > 1 else torch.nan
        return self.origin + mean, (spread.clamp(min=0.0) * unbiased).sqrt() / total

    def effective(self) -> Tensor:
        """Kish's effective number of particles, `(N,)`."""
        return self.weights[0] ** 2 / self.weights[1]
