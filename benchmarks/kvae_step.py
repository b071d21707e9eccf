"""Time and memory of one training step of a Kalman VAE beside PyTorch written by hand, interleaved.

    python -m benchmarks.kvae_step              # prints the tables, writes results/speed_kvae_step.json
    python -m benchmarks.kvae_step --quick      # a smoke run, writes nothing

Sizes are the paper's: frames of 32 x 32, a of 2, z of 4, three matrices, a GRU of 50, batch 32, T 20. By hand means as
the released code has it: a filter and a smoother in loops over time, z drawn from the smoother's marginals, and the
bound log p(x | a) + log p(a, z) - log q(z | a) - log q(a | x); and, in a second form, the filter alone, whose log p(a)
is the same bound with less noise. All rows share networks and optimiser. With convolutions any implementation takes
about as long, so a row has the networks alone and some sizes have the recursions alone: log p(a), and its gradient in a
and in all parameters of the dynamics. Before anything is timed the losses are compared, from the same weights and
draws. Rounds, turns and ratios are those of `benchmarks.vae_step`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import guides
from benchmarks.steps import main
from benchmarks.turns import train
from zoo import KVAE, MixedDynamics
from zoo.infer import ELBO
from zoo.parts import kalman
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import ConvolutionalDecoder, ConvolutionalEncoder, Maps, ToPicture, mlp

PICTURE, CODE, LATENT = Maps(32, 32), 2, 4


class Size(NamedTuple):
    # widths of a perceptron, or channels of the convolutions; None: the recursions alone, a is given
    hidden: tuple[int, ...] | None
    batch: int = 32
    frames: int = 20
    steps: int = 2


SIZES = {
    "perceptrons 1024-128-2": Size((128,), steps=10),
    "convolutions, 8 filters": Size((8, 8, 8)),
    "convolutions, 32 filters": Size((32, 32, 32), steps=1),
    "recursions alone, batch 32, T 20": Size(None, steps=10),
    "recursions alone, batch 32, T 100": Size(None, frames=100, steps=4),
    "recursions alone, batch 32, T 200": Size(None, frames=200, steps=2),
    "recursions alone, batch 256, T 20": Size(None, batch=256, steps=4),
}


def pair(size: Size, *, marginal: bool = True) -> tuple[KVAE, guides.KalmanSmoother]:
    torch.manual_seed(0)
    dynamics = MixedDynamics(CODE, LATENT)
    if size.hidden is None or len(size.hidden) == 1:
        (width,) = size.hidden or (1,)
        encoder, context = mlp(PICTURE, (width,)), width
        decoder, likelihood = mlp(CODE, (width,)), Bernoulli(width, PICTURE)
    else:
        encoder, decoder = ConvolutionalEncoder(PICTURE, size.hidden), ConvolutionalDecoder(CODE, PICTURE, size.hidden)
        context, likelihood = encoder.size, Bernoulli(decoder.size, PICTURE, layer=partial(ToPicture, kernel=1))
    model = KVAE(dynamics, decoder, likelihood, PICTURE, marginal=marginal)
    return model, guides.KalmanSmoother(model, encoder=encoder, context=context, family=guides.BoundedDiagonal)


def data(size: Size) -> Tensor:
    """Frames, or codes on curves as those of a trained model; the values do not matter for the time."""
    if size.hidden is None:
        return torch.randn(size.batch, size.frames, CODE).cumsum(1)
    return (torch.rand(size.batch, size.frames, PICTURE) < 0.15).float()


def normal(error: Tensor, variance: Tensor) -> Tensor:
    """Minus log N(error; 0, variance I), summed over the last axis."""
    return 0.5 * (error.square() / variance + (2 * math.pi * variance).log()).sum(-1)


class Filtered(NamedTuple):
    """Moments of z_t given a_{1:t-1} and given a_{1:t}, a list over time of each, and log p(a)."""

    predicted_means: list[Tensor]
    predicted_covariances: list[Tensor]
    means: list[Tensor]
    covariances: list[Tensor]
    log_p: Tensor


class ByHand(nn.Module):
    """Minus the bound, one draw, all frames observed; `smoothed` draws z, None leaves the recursions out."""

    def __init__(self, size: Size, *, smoothed: bool | None) -> None:
        super().__init__()
        self.smoothed, self.pictures = smoothed, size.hidden is not None
        model, guide = pair(size)
        self.dynamics = dynamics = model.dynamics
        if self.pictures:
            self.encoder, self.head, self.decoder = guide.encoder, guide.family.head, model.decoder
            self.logits = model.likelihood.logits
        else:
            self.code = nn.Parameter(data(size))
        # multiples of the identity, all three
        covariances = dynamics.transition_covariance, dynamics.emission_covariance, dynamics.initial_covariance
        self.Q, self.R, self.P = (covariance[0, 0] for covariance in covariances)

    def matrices(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """A_t and C_t, mixed by weights that read a_0, ..., a_{t-1}."""
        own = self.dynamics
        before = torch.cat([own.a_0.expand(len(a), 1, -1), a[:, :-1]], 1)
        alpha = own.alpha.head(own.alpha.recurrence.fused(before)[0]).softmax(-1)
        mixed = (torch.einsum("ntk,kij->ntij", alpha, m) for m in (own.transition_matrices, own.emission_matrices))
        return tuple(mixed)  # type: ignore[return-value]

    def filter(self, a: Tensor, A: Tensor, C: Tensor) -> Filtered:
        eye = torch.eye(LATENT)
        mean, covariance = a.new_zeros(len(a), LATENT), (self.P * eye).expand(len(a), -1, -1)
        found, log_p = Filtered([], [], [], [], a), a.new_zeros(len(a))
        for t in range(a.shape[1]):
            if t:
                mean = (A[:, t] @ mean.unsqueeze(-1)).squeeze(-1)
                covariance = A[:, t] @ covariance @ A[:, t].mT + self.Q * eye
            found.predicted_means.append(mean)
            found.predicted_covariances.append(covariance)
            root = torch.linalg.cholesky(C[:, t] @ covariance @ C[:, t].mT + self.R * torch.eye(CODE))
            error = a[:, t] - (C[:, t] @ mean.unsqueeze(-1)).squeeze(-1)
            white = torch.linalg.solve_triangular(root, error.unsqueeze(-1), upper=False).squeeze(-1)
            log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            log_p = log_p - 0.5 * white.square().sum(-1) - log_det - 0.5 * CODE * math.log(2 * math.pi)
            gain = torch.cholesky_solve(C[:, t] @ covariance, root).mT
            mean = mean + (gain @ error.unsqueeze(-1)).squeeze(-1)
            # Joseph's form, as in the released code
            kept = eye - gain @ C[:, t]
            covariance = kept @ covariance @ kept.mT + self.R * gain @ gain.mT
            found.means.append(mean)
            found.covariances.append(covariance)
        return found._replace(log_p=log_p)

    def smoother(self, A: Tensor, found: Filtered) -> tuple[Tensor, Tensor]:
        means, covariances = found.means[-1:], found.covariances[-1:]
        for t in range(len(found.means) - 2, -1, -1):
            ahead = found.predicted_covariances[t + 1]
            gain = torch.linalg.solve(ahead, A[:, t + 1] @ found.covariances[t]).mT
            error = means[-1] - found.predicted_means[t + 1]
            means.append(found.means[t] + (gain @ error.unsqueeze(-1)).squeeze(-1))
            covariances.append(found.covariances[t] + gain @ (covariances[-1] - ahead) @ gain.mT)
        return torch.stack(means[::-1], 1), torch.stack(covariances[::-1], 1)

    def of_code(self, a: Tensor) -> Tensor:
        """Minus log p(a), or its bound by a draw of z_1, ..., z_T, each from its smoothed marginal."""
        A, C = self.matrices(a)
        found = self.filter(a, A, C)
        if not self.smoothed:
            return -found.log_p
        mean, covariance = self.smoother(A, found)
        # rounding makes a covariance asymmetric, and now and then indefinite
        root = torch.linalg.cholesky(0.5 * (covariance + covariance.mT) + 1e-6 * torch.eye(LATENT))
        noise = torch.randn_like(mean)
        z = mean + (root @ noise.unsqueeze(-1)).squeeze(-1)
        moved = z[:, 1:] - (A[:, 1:] @ z[:, :-1].unsqueeze(-1)).squeeze(-1)
        seen = a - (C @ z.unsqueeze(-1)).squeeze(-1)
        missed = normal(z[:, 0], self.P) + normal(moved, self.Q).sum(-1) + normal(seen, self.R).sum(-1)
        entropy = normal(noise, torch.ones(())) + root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return missed - entropy.sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.pictures:
            return self.of_code(self.code).sum()
        loc, width = self.head(self.encoder(x)).chunk(2, -1)
        scale = (0.03 * width.sigmoid()).sqrt()
        noise = torch.randn_like(loc)
        a = torch.addcmul(loc, scale, noise)
        missed = F.binary_cross_entropy_with_logits(self.logits(self.decoder(a)), x, reduction="sum")
        entropy = (normal(noise, torch.ones(())) + scale.log().sum(-1)).sum()
        return missed - entropy + (0.0 if self.smoothed is None else self.of_code(a).sum())


class Zoo(nn.Module):
    """The pair's loss, or minus log p(a) where a is given."""

    def __init__(self, size: Size, *, marginal: bool = True) -> None:
        super().__init__()
        model, guide = pair(size, marginal=marginal)
        self.loss: Any = ELBO()(model, guide)
        self.dynamics = model.dynamics if size.hidden is None else None
        if self.dynamics:
            self.loss, self.code = None, nn.Parameter(data(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(x) if self.dynamics is None else -self.dynamics.log_prob(self.code).sum()


ROWS: dict[str, Callable[[Size], Any]] = {
    "by hand, filter and smoother": lambda size: train(ByHand(size, smoothed=True), data(size)),
    "by hand, filter alone": lambda size: train(ByHand(size, smoothed=False), data(size)),
    "networks alone": lambda size: train(ByHand(size, smoothed=None), data(size)),
    "zoo": lambda size: train(Zoo(size), data(size)),
    "zoo, z and a side by side": lambda size: train(Zoo(size, marginal=False), data(size)),
}
OF_PICTURES = ("networks alone", "zoo, z and a side by side")


def check(size: Size) -> None:
    """Checks that the rows compute the same, on few short sequences.

    The filter's bound and the zoo's are compared draw by draw. The smoother's bound has another value for each z, but
    at T = 1, where its marginal is its posterior; for more frames its means are compared with the zoo's.
    """
    size = size._replace(batch=3, frames=6)
    x = data(size)

    def value(loss: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return loss(x).detach()

    by_filter, smoothed = (ByHand(size, smoothed=smoothed) for smoothed in (False, True))
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-2)
    close(value(Zoo(size), x), value(by_filter, x))
    if size.hidden is not None:
        close(value(Zoo(size, marginal=False), x), value(by_filter, x))
    a = data(size._replace(hidden=None))
    A, C = smoothed.matrices(a)
    with torch.no_grad():
        expected = kalman.smoother(smoothed.dynamics.system(a), a).smoothed_means
        close(smoothed.smoother(A, smoothed.filter(a, A, C))[0], expected, atol=1e-3)
        one = a[:, :1]
        close(smoothed.of_code(one), by_filter.of_code(one), atol=1e-3)


if __name__ == "__main__":
    main(
        "benchmarks.kvae_step", __doc__, SIZES, ROWS, check, key="kvae_steps",
        applies=lambda row, size: size.hidden is not None or row not in OF_PICTURES,
    )  # fmt: skip
