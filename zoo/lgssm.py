"""p(x, z) = N(z_1; m_1, P_1) prod_t N(z_t; A z_{t-1} + B u_t + b, Q) N(x_t; C z_t + D u_t + d, R): Kalman's model."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyro
import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from pyro.nn import PyroParam
from torch import Tensor, nn

from zoo.parts import kalman
from zoo.parts.ascent import climb
from zoo.parts.aside import streams_kept
from zoo.parts.checks import check_counts, check_sequences
from zoo.parts.kalman import Parameters, missing
from zoo.parts.kalman import em as kalman_em
from zoo.parts.kalman.diffuse.start import diffuse_states
from zoo.parts.kalman.distributions import GaussianFrames, LinearGaussian, LinearGaussianPosterior
from zoo.parts.kalman.parameters import batch_axes, doubled, observed, sizes_of
from zoo.parts.kalman.steps import Step, steps
from zoo.parts.structural.diagnostics import examine, standardised_residuals
from zoo.parts.structural.information import estimate
from zoo.parts.structural.parts import Component, decompose
from zoo.parts.structural.priors import checked_priors
from zoo.parts.structural.summary import Summary
from zoo.parts.structural.sums import Components, argument_names, printed, spoken
from zoo.parts.trajectory import Carry, StateSpace, Trajectory, shift
from zoo.parts.trajectory.masks import ends, entries, filled, observed_frames


class LGSSMState(NamedTuple):
    """The state of step t: E[z_t | z_{t-1}], and the parameters of the step."""

    mean: Tensor
    step: Step


class LGSSM(StateSpace):
    """p(x, z) = N(z_1; m_1, P_1) prod_{t>1} N(z_t; A z_{t-1} + B u_t + b, Q) prod_t N(x_t; C z_t + D u_t + d, R):
    the linear-Gaussian state space model.

    Posterior, likelihood, forecasts, missing data and EM are exact. Parameters may change in time and between sequences
    (`kalman.Parameters`).

    References: Kalman 1960; Durbin & Koopman 2012; for EM, Shumway & Stoffer 1982.

    Args:
        build: function of named tensors that gives `kalman.Parameters`: `kalman.Parameters` itself, one of
            `zoo.parts.structural` (`local_level`, `components(trend=..., season=...)`, ...), or a lambda that adds some
            up. With an argument `frames` it is told the number of frames, of a forecast T + k.
        marginal: True sums z out: one site `x` in place of `z` and `x`. Guides need the latent form (False).
        priors: name -> distribution, for arguments of `build` that are latent. Each is sampled once for all sequences.
            NUTS and `ELBO` take such sites. Exact methods need values: `posterior(x, variance=...)`.
        burn: the number of each sequence's first observations that are given and not scored (`LinearGaussian`). The
            marginal form alone takes it. statsmodels' `loglikelihood_burn` counts missing frames too.
        **values: the arguments of `build` that have no prior, by name: fixed (a tensor), learned (`nn.Parameter`), or
            learned under a constraint (`PyroParam(start, constraint)`).

    Sites: a global one for each of the priors; in `pyro.plate("data", N)`: `z` `(T, latent_dim)`, if not marginal; `x`
    `(T, data_dim)`, observed.

    Throughout, x is `(N, T, data_dim)`, u `(N, T, control_dim)`, mask boolean, `(N, T)` or `(N, T, data_dim)`, True
    where observed; x may hold anything, NaN too, where it is False.

    Raises:
        ValueError: wrong shapes, a matrix that is no covariance, values that are not finite where observed; as
            `check_sequences` and `kalman.marginal_loglik`.

    Example:
        >>> import torch
        >>> from pyro.distributions import constraints
        >>> from pyro.nn import PyroParam
        >>> from zoo import LGSSM
        >>> from zoo.parts.structural import local_level
        >>> variances = [PyroParam(torch.tensor(1.0), constraints.positive) for _ in range(2)]
        >>> model = LGSSM(local_level, level_variance=variances[0], observation_variance=variances[1])
        >>> model.maximum_likelihood(torch.randn(1, 50, 1).cumsum(1)).forecast(torch.zeros(1, 50, 1), 3)[0].shape
        torch.Size([1, 3, 1])
    """

    # parameters may change in time, so a chunk would have to know at which frame it starts
    carries = False

    def __init__(
        self,
        build: Callable[..., Parameters],
        *,
        marginal: bool = True,
        priors: Mapping[str, TorchDistribution] | None = None,
        burn: int = 0,
        **values: Tensor | PyroParam,
    ) -> None:
        super().__init__()
        if burn and not marginal:
            raise ValueError(f"burn: the latent form scores every frame, expected 0, got {burn}")
        self.build, self.marginal, self.burn, self.priors = build, marginal, burn, checked_priors(build, priors)
        self._counts = build is not Parameters and "frames" in argument_names(build)
        for name, value in values.items():
            if hasattr(self, name) or name in self.priors or (self._counts and name == "frames"):
                raise ValueError(f"{name}: given twice, or a name that the model has for something else")
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            elif isinstance(value, nn.Parameter | PyroParam):
                setattr(self, name, value)
            else:
                raise TypeError(f"{name}: expected a tensor, nn.Parameter or PyroParam, got {type(value).__name__}")
        self._names = tuple(values)
        # priors are drawn from once, for the sizes alone: the caller's random numbers stay where they were
        with torch.no_grad(), streams_kept():
            p = self.system(**{name: prior.sample() for name, prior in self.priors.items()})
        if not isinstance(p, Parameters):
            raise TypeError(f"build: expected a function that gives kalman.Parameters, it gave {type(p).__name__}")
        if not p.state_dim:
            raise ValueError("build: expected parameters of at least one state, got none")
        self.num_diffuse = 0 if (diffuse := diffuse_states(p)) is None else int(diffuse.sum())
        if self.num_diffuse and not marginal:
            raise ValueError("initial_covariance: infinite, and the latent form needs a density of z_1; marginal=True, "
                             "the default, takes an exact diffuse start")  # fmt: skip
        self.latent_dim = self.state_dim = p.state_dim
        self.data_dim, self.control_dim, self.sizes = p.data_dim, p.control_dim, sizes_of(p)
        self.sizes = (self.sizes[0], None) if self._counts else self.sizes

    def system(self, frames: int | None = None, **values: Tensor) -> Parameters:
        """The `kalman.Parameters` that `build` makes of the present values.

        Args:
            frames: how many, for a `build` that asks; None: as many as it has.
            **values: tensors by name, in place of the model's own; needed for each name that has a prior.
        """
        lacking = self.priors.keys() - values.keys()
        if lacking:
            raise ValueError(f"{min(lacking)}: has a prior and no value: give one, as {min(lacking)}=...")
        counted = {"frames": frames} if self._counts else {}
        return self.build(**({name: getattr(self, name) for name in self._names} | values), **counted)

    def extra_repr(self) -> str:
        return printed(self)

    # --- step by step, as guides read it -----------------------------------------------------------------------------

    def inputs(self, x: Tensor, u: Tensor | None = None, carry: Carry | None = None) -> tuple[Step]:
        return (steps(self.system(x.shape[-2]), x.shape[-2], u),)

    def start(self, x: Tensor, step: Step) -> LGSSMState:
        return LGSSMState(step.transition_offset, step)

    def transition(self, s: LGSSMState) -> MultivariateNormal:
        return MultivariateNormal(s.mean, scale_tril=s.step.transition_scale, validate_args=False)

    def emission(self, z: Tensor, s: LGSSMState) -> MultivariateNormal:
        return MultivariateNormal(s.step.emission_mean(z), scale_tril=s.step.emission_scale, validate_args=False)

    def advance(self, s: LGSSMState, z: Tensor, x: Tensor, step: Step) -> LGSSMState:
        return LGSSMState(step.transition_mean(z), step)

    def states(self, z: Tensor, x: Tensor, *inputs: Step, first: LGSSMState | None = None) -> LGSSMState:
        # `first` is None: it comes with a carry, and `carries` is False. z_0 is arbitrary: A of the first step is zero
        (every,) = inputs
        return LGSSMState(every.transition_mean(shift(z, z.new_zeros(self.latent_dim))), every)

    def features(self, s: LGSSMState) -> Tensor:
        return s.mean

    def observed_entries(self, z: Tensor, s: LGSSMState, mask: Tensor) -> GaussianFrames:
        return GaussianFrames(s.step.emission_mean(z), s.step.emission_scale, mask)

    def program(self, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Carry | None) -> Tensor:
        values = {name: pyro.sample(name, prior) for name, prior in self.priors.items()}
        if self.marginal:
            density = self._density(self.system(x.shape[1], **values), x, u, mask)
            with pyro.plate("data", len(x)):
                return pyro.sample("x", density, obs=filled(x, mask))
        # without priors None: the trajectory then shares the steps that a guide has computed by `inputs`
        inputs = (steps(self.system(x.shape[1], **values), x.shape[1], u),) if self.priors else None
        return self.sites(Trajectory(self, self.transition, x, u, mask, inputs=inputs), mask)

    # --- exactly -----------------------------------------------------------------------------------------------------

    def posterior(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor
    ) -> LinearGaussianPosterior:
        """p(z | x), exact, by the smoother: batch `(N,)`, event `(T, latent_dim)`."""
        return LinearGaussianPosterior(self._checked(x, u, mask, values), filled(x, mask), u, mask)

    def log_prob(self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor) -> Tensor:
        """log p(x) of the observed entries, exact, nats, `(N,)`; each sequence's first `burn` observations given."""
        p = self._checked(x, u, mask, values)
        return self._density(p, x, u, mask).log_prob(filled(x, mask))

    def exact_sample(self, num: int, T: int, u: Tensor | None = None, **values: Tensor) -> tuple[Tensor, Tensor]:
        """Draws of the model, as `generate` gives them."""
        p = self.system(T, **values)
        batch = batch_axes(p, *(() if u is None else (u,)))
        if batch not in ((), (num,)):
            raise ValueError(f"num: the parameters and u are those of {tuple(batch)} sequences, got {num}")
        return kalman.sample(p, T, u, torch.Size() if batch else torch.Size((num,)))

    def exact_draws(
        self, x: Tensor, num: int, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draws from p(z, x_missing | x_observed), as `sample_forecast` and `sample_imputation` use them."""
        p = self._checked(x, u, mask, values)
        return missing.sample_filled(p, filled(x, mask), num, u, None if mask is None else entries(x, mask))

    def exact_forecast(
        self, x: Tensor, k: int, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor
    ) -> kalman.Forecast:
        """The moments that `forecast` gives."""
        check_counts(k=k)
        p = self._checked(x, None if u is None else u[:, : x.shape[1]], mask, values, k)
        if mask is None:
            return kalman.forecast(p, x, k, u)
        return missing.forecast_after(p, filled(x, mask), k, u, entries(x, mask), ends(x, mask))

    def exact_imputation(self, x: Tensor, mask: Tensor, u: Tensor | None = None, **values: Tensor) -> Tensor:
        """E[x_missing | x_observed], as `impute` gives it."""
        found = self.posterior(x, u, mask, **values)
        expected, _ = observed(found.parameters, found.mean, found.covariances, u)
        return missing.fill(found.parameters, x, expected, entries(x, mask))

    def maximum_likelihood(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, *, restarts: int = 2
    ) -> "LGSSM":
        """Climbs to a maximum of log p(x) in the learned values, from those they have; returns the model.

        Args:
            x, u, mask: as in the class docstring.
            restarts: further climbs; the highest maximum is kept. The constraint of a learned value says where they
                start. One bound (positive, greater_than, positive_definite, ...): the distance from the bound is
                multiplied, in the first restart by the power of ten that raises log p(x) most, later by draws on the
                scale of the data. Two bounds (unit_interval, stationary, ...): a draw. No bound: the value as it is.

        Raises:
            ValueError: nothing is learned, there are priors, nothing is scored, or log p(x) has no value at the start.
            RuntimeError: no maximum was reached, for instance since log p(x) is unbounded; names the learned value in
                which log p(x) is steepest, its size and the derivative. The model keeps the highest point seen.
        """
        check_counts(0, restarts=restarts)
        seen = x.shape[1] if mask is None else observed_frames(x, mask).sum(1).max()
        if seen <= self.burn:
            raise ValueError(f"x: no frame is scored, with burn = {self.burn} and at most {int(seen)} observed frames")
        count = x.shape[0] * x.shape[1] if mask is None else max(1, int(mask.sum()))
        climb(self, lambda: self._total(x, u, mask) / count, count=count, restarts=restarts)
        return self

    def summary(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, *, lags: int | None = None
    ) -> Summary:
        """The report of a fit: values with standard errors, AIC and BIC, tests of the residuals; to be printed.

        Args:
            x, u, mask: the data that `maximum_likelihood` took.
            lags: of Ljung and Box's test; None: 10, or a fifth of the frames if that is less.

        Raises:
            ValueError: nothing is learned, there are priors, the model is at no maximum of log p(x); names the value.
        """
        estimates = estimate(self, lambda: self._total(x, u, mask))
        with torch.no_grad():
            total, residuals = float(self._total(x, u, mask)), self.residuals(x, u, mask)
        # the frames before the first that is scored in any coordinate
        first = (~residuals.isnan().all(-1)).int().argmax(1)
        frames = len(x) * (x.shape[1] - self.burn)
        return Summary(f"x = {spoken(self.build)}", estimates, total, frames, len(x) * self.num_diffuse,
                       examine(residuals, first, lags))  # fmt: skip

    def residuals(self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor) -> Tensor:
        """Errors of one step ahead, standardised: independent N(0, 1) under the model, `(N, T, data_dim)`.

        NaN where nothing is observed, in the first `burn` observed frames, and where a diffuse start is not determined.
        """
        p = self._checked(x, u, mask, values)
        frames = observed_frames(x, mask)
        seen = entries(x, frames if mask is None else mask)
        return standardised_residuals(p, filled(x, mask), u, seen, self.scored(frames))

    def components(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, **values: Tensor
    ) -> dict[str, Component]:
        """The components of x given all of x, by name; `zoo.plots.plot_components` shows them.

        Raises:
            ValueError: `build` is no sum of named parts (`zoo.parts.structural.components`).
        """
        if not isinstance(self.build, Components):
            raise ValueError(f"build: expected structural.components(...), whose parts have names, got "
                             f"{spoken(self.build)}")  # fmt: skip
        posterior = self.posterior(x, u, mask, **values)
        own = {name: getattr(self, name) for name in self._names} | values
        return decompose(self.build.apart(x.shape[1], **own), posterior)

    def scored(self, mask: Tensor) -> Tensor:
        return mask & (mask.cumsum(-1) > self.burn)

    @torch.no_grad()
    def e_step(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[kalman_em.Statistics, Tensor]:
        """Expected statistics of the regressions that `m_step` solves, and log p(x_n) in nats, `(N,)`.

        Raises:
            ValueError: `build` is not `kalman.Parameters` itself, there are priors, or burn is not 0.
        """
        if self.build is not Parameters or self.priors or self.burn or self.num_diffuse:
            raise ValueError(
                "e_step: the closed form needs build=kalman.Parameters, no priors, burn=0 and a proper start; "
                "maximum_likelihood takes any"
            )
        p = doubled(self._checked(x, u, mask, {}))
        found, log_likelihood = kalman_em.expect(p, filled(x, mask).double(), None if u is None else u.double(), mask)
        return found, log_likelihood.to(x.dtype)

    @torch.no_grad()
    def m_step(self, statistics: kalman_em.Statistics) -> None:
        """Sets every learned field to the maximiser of the expected log-likelihood, given the fixed ones.

        Raises:
            ValueError: the maximiser lies outside a field's constraint, or a field is not one value for all frames.
        """
        learned = {name.removesuffix("_unconstrained") for name, p in self.named_parameters() if p.requires_grad}
        for name, value in kalman_em.maximise(doubled(self.system()), statistics, learned).items():
            old = getattr(self, name)
            constraint, _ = self._pyro_params.get(name, (None, None))
            if constraint is None:
                old.copy_(value)
            elif bool(constraint.check(value.to(old.dtype)).all()):
                setattr(self, name, value.to(old.dtype))
            else:
                raise ValueError(f"{name}: no closed form under {constraint}: the maximiser lies outside")

    def _total(self, x: Tensor, u: Tensor | None, mask: Tensor | None) -> Tensor:
        """log p(x) of all sequences, in float64."""
        # in float32 a climb would end where rounding hides the slope
        p, data = doubled(self._checked(x, u, mask, {})), filled(x, mask).double()
        return self._density(p, x, None if u is None else u.double(), mask).log_prob(data).sum()

    def _density(self, p: Parameters, x: Tensor, u: Tensor | None, mask: Tensor | None) -> LinearGaussian:
        """p(x), z summed out."""
        # as entries: LinearGaussian does not know N, and could take a mask (N, T) for one of entries (T, data_dim)
        return LinearGaussian(p, x.shape[1], u, None if mask is None else entries(x, mask), burn=self.burn)

    def _checked(
        self, x: Tensor, u: Tensor | None, mask: Tensor | None, values: dict[str, Tensor], k: int = 0
    ) -> Parameters:
        # x is checked below, and a `build` that counts needs its frames before
        p = self.system(x.shape[1] + k if self._counts else None, **values)
        # checks shapes alone: the recursions check the values that they read
        check_sequences(x, self.data_dim, p.initial_mean, u, mask)
        return p
