"""The Nile under a local level: maximum likelihood, EM and NUTS, and their three posteriors in one overlay.

    level_t = level_{t-1} + N(0, level variance),   x_t = level_t + N(0, observation variance)

Nothing is known of the first level: it starts at N(0, 1e12), and the first year is given and not scored (`burn`): the
diffuse likelihood of Durbin and Koopman (2012) over 99 years. EM has the same maximum, as a year of variance 1e12 says
nothing of the others. NUTS samples the two standard deviations, uniform on (1, 300), and a level for each pair of them.

    python examples/nile.py --draws 1000
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from pyro.distributions import Uniform, constraints
from pyro.nn import PyroParam
from report import save
from torch import Tensor, nn

from zoo import LGSSM
from zoo.data import Sequences, load
from zoo.infer import Band, NotAReference, draw_band, draw_points, em, nuts_reference
from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.parts.structural import local_level
from zoo.plots.look import DRAWS, EXACT, GUIDE

DIFFUSE, AHEAD = 1e12, "#5aa5dc"


def level(level_sd: Tensor, observation_sd: Tensor) -> Parameters:
    """The local level by its standard deviations, 1e8 cubic metres a year."""
    return local_level(level_sd**2, observation_sd**2, initial_variance=DIFFUSE)


def sds_of(model: LGSSM) -> Tensor:
    """The standard deviations of a step of the level and of an observation."""
    p = model.system()
    return torch.cat([p.transition_covariance.flatten(), p.emission_covariance.flatten()]).sqrt().detach()


def main(draws: int = 500, warmup: int = 200, horizon: int = 10, seed: int = 0,
         out: Path = Path("runs/nile")) -> None:  # fmt: skip
    """Fits the model in three ways, compares, draws the overlay."""
    torch.set_num_threads(1)
    nile = load("nile").train
    x, years = nile.values, nile.times[0]
    start = {name: torch.tensor(sd).double() for name, sd in (("level_sd", 100.0), ("observation_sd", 50.0))}
    learned = {name: PyroParam(sd, constraints.positive) for name, sd in start.items()}
    likely = LGSSM(level, burn=1, **learned).maximum_likelihood(x)
    # EM's steps are in closed form for the parameters of the system themselves: two are learned, the others fixed.
    free = ("transition_covariance", "emission_covariance")
    fields = {n: nn.Parameter(v) if n in free else v for n, v in level(**start)._asdict().items() if v is not None}
    climbing, path = LGSSM(Parameters, **fields), []
    while len(path) < 150:
        path.append(sds_of(climbing))
        climbing.m_step(climbing.e_step(x)[0])
    steps = len(path) + em(climbing, x, tolerance=1e-12, max_iterations=5000).iterations
    priors = {name: Uniform(torch.ones_like(sd), torch.full_like(sd, 300.0)) for name, sd in start.items()}
    try:
        found = nuts_reference(LGSSM(level, burn=1, priors=priors), x, num_samples=draws, warmup=warmup, seed=seed)
    except NotAReference as refusal:
        # Too few draws for a reference; they serve the picture.
        print(refusal)
        found = refusal.inference_data
    sds = torch.stack([torch.as_tensor(found["posterior"][name].values.copy()).flatten() for name in start])
    medians = sds.median(1).values
    ends = {"maximum likelihood": sds_of(likely), f"EM, {steps} steps": sds_of(climbing), "NUTS, medians": medians}
    rows = {name: [*at**2, likely.log_prob(x, level_sd=at[0], observation_sd=at[1])] for name, at in ends.items()}
    if find_spec("statsmodels"):
        from statsmodels.tsa.api import UnobservedComponents

        theirs = UnobservedComponents(x[0, :, 0].numpy(), "llevel")
        theirs.ssm.initialize_approximate_diffuse(DIFFUSE)
        result = theirs.fit(disp=0, method="nm", xtol=1e-9, ftol=1e-12, maxiter=2000)
        rows["statsmodels"] = [*result.params[::-1], result.llf]
    print(f"{'Nile, 99 years':20} level variance  observation variance  log-likelihood")
    for name, row in rows.items():
        print("{:20} {:14.4f} {:21.4f} {:15.6f}".format(name, *map(float, row)))
    mean, variance = (part[0].flatten() for part in likely.forecast(x, horizon)[2:])
    print(f"forecast of {years[-1] + 1:.0f}: {mean[0]:.4f} with variance {variance[0]:.2f}")
    picture(out, nile, sds, likely, climbing, torch.stack(path), Band.normal(mean, variance.sqrt()))


@torch.no_grad()
def picture(out: Path, nile: Sequences, sds: Tensor, likely: LGSSM, climbing: LGSSM, path: Tensor, ahead: Band) -> None:
    """The three posteriors of the level and of the parameters, to `out`/nile.png."""
    x, years = nile.values, nile.times[0]
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 3))
    draw_points(left, years, x.flatten())
    draw_band(left, years, Band.of_draws(kalman.sample_posterior(level(*sds), x[0])[..., 0]), DRAWS, "NUTS", "dotted")
    for name, model, colour, style in (("maximum likelihood", likely, EXACT, "-"), ("EM", climbing, GUIDE, "--")):
        q = model.posterior(x)
        band = Band.normal(q.mean.flatten(), q.variance.flatten().sqrt())
        draw_band(left, years, band, colour, name, style, edges=colour == GUIDE)
    draw_band(left, years[-1] + 1 + torch.arange(len(ahead.centre)), ahead, AHEAD, "flows to come")
    left.set(xlabel="year", ylabel=nile.columns[0])
    sides = [torch.linspace(max(1.0, 0.5 * side.min()), 1.2 * side.max(), 80).double() for side in sds]
    grid = torch.cartesian_prod(*sides).T
    # The priors are flat, so the likelihood is the density up to its sum.
    density = kalman.filter(level(*grid), x[0]).loglik_per_step[:, 1:].sum(-1).softmax(0)
    found = density.sort(descending=True).values
    levels = [found[(found.cumsum(0) < mass).sum()].item() for mass in (0.95, 0.5)]
    right.contour(*sides, density.reshape(80, 80).T, levels=levels, colors=EXACT, linewidths=1.4)
    right.plot(*sds[:, :: max(1, sds.shape[1] // 400)], ".", color=DRAWS, markersize=3, markeredgewidth=0, label="NUTS")
    right.plot(*path.T, ".--", color=GUIDE, markersize=4, linewidth=0.8, label="EM, step by step")
    right.plot(*sds_of(likely), "+", color=EXACT, markersize=12, markeredgewidth=2, label="maximum likelihood")
    right.set(xlabel="sd of a step, 10⁸ m³", ylabel="sd of an observation, 10⁸ m³")
    for ax, title in ((left, "posterior of the level"), (right, "posterior of the parameters: 50 and 95 %")):
        ax.set_title(title, fontsize=10)
        ax.legend(frameon=False, fontsize=8)
    save(figure, out / "nile.png", (left, right))


if __name__ == "__main__":
    tyro.cli(main)
