"""Step time and accuracy of the families, and of the transforms that were candidates for IAF and Spline.

Prints the markdown tables behind `guides/families/flows.py`: the time of one step (sample, `log_prob` of the sample,
backward) in turns that rotate from round to round, one thread, medians and the median of the ratios to the first row of
a group; then the errors of each transform. zuko is no dependency of the zoo: `pip install zuko` first.

    python -m benchmarks.flows

Milliseconds of a step, one thread of a busy EPYC, batch 128, 4 layers of 320 units, torch 2.13, Pyro 1.9.2, zuko 1.6.0:

                      D = 32, K = 1   K = 10   D = 64, K = 1   K = 10   a foreign batch, D = 64, K = 1
    guides.IAF                  7.4       33             8.5       48               200
    Pyro affine                 7.3       30             7.4       42               167
    zuko affine                 7.8       34             9.0       47               204
    guides.Spline                44      237              64      433              1679
    Pyro quadratic               38      216              59      402              1372
    zuko quadratic               39      210              61      385              1419

All are equally exact (log q against autograd's Jacobian: 4e-15 in float64, 2e-6 in float32). zuko's couplings score a
foreign batch in 10 and 66 ms; where networks put out large numbers, zuko's spline is exact to a digit or two more.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive, ConditionalSplineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Distribution

from guides.families import IAF, Diagonal, Family, FullRank, Mixture, Planar, Radial, Spline
from guides.families.pushforward import Pushforward

# Importing zuko switches the validation of arguments off for the whole process: it is switched back.
_validate = Distribution._validate_args
import zuko  # noqa: E402

Distribution.set_default_validate_args(_validate)

HIDDEN, EMBEDDING, LAYERS, BATCH = 320, 64, 4, 128


class Candidate(Family):
    """`LAYERS` conditional layers, order reversed between them, in the frame that IAF and Spline have."""

    def __init__(self, features: int, context: int, layer: Callable[[int, Tensor], nn.Module]) -> None:
        super().__init__(features, context, 2 * features + EMBEDDING)
        order = torch.arange(features)
        self.flows = nn.ModuleList(layer(features, order.flip(0) if k % 2 else order) for k in range(LAYERS))

    def density(self, parameters: Tensor, prior: Any) -> Pushforward:
        affine, h = parameters.split([2 * self.features, EMBEDDING], -1)
        transforms = [flow.condition(h) if hasattr(flow, "condition") else Remembered(flow(h)) for flow in self.flows]
        return Pushforward(affine, transforms, type(self))


# Pyro's transforms remember this, zuko's do not; a training step asks for the log-determinant of the value just drawn.
class Remembered:
    """A zuko transform that keeps the log-determinant of its latest value, as Pyro's do."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, x: Tensor) -> Tensor:
        y, self.log_det = self.transform.call_and_ladj(x)
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_det

    def _inv_call(self, y: Tensor) -> Tensor:
        x = self.transform.inv(y)
        self(x)
        return x


def pyro_affine(features: int, order: Tensor, **kwargs: Any) -> nn.Module:
    network = ConditionalAutoRegressiveNN(features, EMBEDDING, [HIDDEN], permutation=order)
    return ConditionalAffineAutoregressive(network, **kwargs)


def pyro_spline(features: int, order: Tensor, *, shape: str) -> nn.Module:
    sizes = [8, 8, 7, 8] if shape == "linear" else [8, 8, 7]
    network = ConditionalAutoRegressiveNN(features, EMBEDDING, [HIDDEN], param_dims=sizes, permutation=order)
    return ConditionalSplineAutoregressive(features, network, count_bins=8, bound=5.0, order=shape)


def zuko_layer(features: int, order: Tensor, **kwargs: Any) -> nn.Module:
    layer = zuko.flows.autoregressive.MaskedAutoregressiveTransform
    return layer(features, EMBEDDING, order=order, hidden_features=(HIDDEN,), **kwargs)


ZUKO_SPLINE = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(8,), (8,), (7,)]}
SIZE = {"num_flows": LAYERS, "hidden": (HIDDEN,), "embedding": EMBEDDING}
FAMILIES = {f.__name__: f for f in (Diagonal, FullRank, Mixture, Planar, Radial, IAF, Spline)}
AFFINE = {
    "guides.IAF": partial(IAF, **SIZE),
    "Pyro affine": partial(Candidate, layer=pyro_affine),
    "Pyro affine, gated": partial(Candidate, layer=partial(pyro_affine, stable=True)),
    "zuko affine": partial(Candidate, layer=zuko_layer),
    "zuko affine coupling": partial(Candidate, layer=partial(zuko_layer, passes=2)),
}
SPLINES = {
    "guides.Spline": partial(Spline, **SIZE),
    "Pyro quadratic": partial(Candidate, layer=partial(pyro_spline, shape="quadratic")),
    "Pyro linear": partial(Candidate, layer=partial(pyro_spline, shape="linear")),
    "zuko quadratic": partial(Candidate, layer=partial(zuko_layer, **ZUKO_SPLINE)),
    "zuko quadratic coupling": partial(Candidate, layer=partial(zuko_layer, passes=2, **ZUKO_SPLINE)),
}


def step(family: Family, context: Tensor, particles: int) -> None:
    q = family(None, context).expand((particles, len(context)))
    # The value drawn is the value scored, as in a training: transforms that remember it need no inverse.
    z = q.rsample()
    (q.log_prob(z).sum() + z.square().sum()).backward()


def foreign(family: Family, context: Tensor, particles: int) -> None:
    # Planar and radial flows have no inverse in closed form.
    if family.scores_foreign_values:
        with torch.no_grad():
            family(None, context).log_prob(torch.randn(len(context), family.features))


def measure(group: dict[str, Callable], features: int, particles: int, rounds: int, work: Callable) -> dict[str, str]:
    """Row -> median milliseconds of CPU time (median ratio to the group's first row in the same round)."""
    families = {name: make(features, EMBEDDING) for name, make in group.items()}
    context, names = torch.randn(BATCH, EMBEDDING), list(group)
    times: dict[str, list[float]] = {name: [] for name in names}
    # The first round warms up and is left out. In turns: other work on the machine falls on all rows alike.
    for k in range(rounds + 1):
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.process_time()
            work(families[name], context, particles)
            times[name].append(1e3 * (time.process_time() - start))
    ratios = {name: [a / b for a, b in zip(t[1:], times[names[0]][1:], strict=True)] for name, t in times.items()}
    return {n: f"{statistics.median(times[n][1:]):.1f} ({statistics.median(ratios[n]):.2f})" for n in names}


def errors(make: Callable, features: int, dtype: torch.dtype, scale: float, seed: int) -> tuple[float, float]:
    """max |log q - log q by autograd's Jacobian| and max |f^{-1}(f(x)) - x| of a family.

    Args:
        scale: size of the outputs of the flows' networks; at its start a flow is close to the identity, where all are
            exact.
    """
    torch.manual_seed(seed)
    family = make(features, EMBEDDING)
    for flow in family.flows:
        last = [module for module in flow.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(last.weight, std=3 * scale * HIDDEN**-0.5)
    q = family.to(dtype)(None, torch.randn(EMBEDDING).to(dtype))
    x = torch.randn(200, features).to(dtype).requires_grad_()
    z = q.way(x)[-1]
    rows = [torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0] for i in range(features)]
    log_det = torch.linalg.slogdet(torch.stack(rows, -2))[1]
    exact = -0.5 * (x**2).sum(-1) - 0.5 * features * math.log(2 * math.pi) - log_det
    with torch.no_grad():
        q._way = q.way(x)
        error = (q.log_prob(q._way[-1]) - exact).abs().max()
        try:
            back = (q.way_back(q._way[-1].clone())[0] - x).abs().max()
        except AssertionError:
            # Pyro's spline, whose discriminant rounds to below 0.
            back = torch.tensor(math.inf)
    return error.item(), back.item()


def accuracy(make: Callable, scale: float, dtype: torch.dtype) -> str:
    """Medians over seeds, in five dimensions."""
    found = [errors(make, 5, dtype, scale, seed) for seed in range(7)]
    return ", ".join(f"{statistics.median(column):.0e}" for column in zip(*found, strict=True))


def table(title: str, columns: dict[str, dict[str, str]]) -> None:
    print(f"\n| {title} | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for row in next(iter(columns.values())):
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--dims", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--particles", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    versions = {"python": platform.python_version(), **{m.__name__: m.__version__ for m in (torch, pyro, zuko)}}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"one thread, batch {BATCH}, {LAYERS} layers of {HIDDEN} units, seed {args.seed}, {args.rounds} rounds")
    for title, group in (("family (defaults)", FAMILIES), ("affine", AFFINE), ("spline", SPLINES)):
        columns = {
            f"D = {d}, K = {k}: ms (ratio)": measure(group, d, k, args.rounds, step)
            for d in args.dims
            for k in args.particles
        }
        last = args.dims[-1]
        columns[f"D = {last}: ms, a foreign batch"] = measure(group, last, 1, 3, foreign)
        table(title, columns)
    for title, group in (("affine", AFFINE), ("spline", SPLINES)):
        columns = {
            f"scale {scale}, {str(dtype)[6:]}: log q, inverse": {n: accuracy(m, scale, dtype) for n, m in group.items()}
            for scale in (1, 2)
            for dtype in (torch.float64, torch.float32)
        }
        table(f"{title}: largest error", columns)


if __name__ == "__main__":
    main()
