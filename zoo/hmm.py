"""p(x, z) = p(z_1) prod_{t>1} A_{z_{t-1} z_t} prod_t p(x_t | z_t): the discrete hidden Markov model."""

from typing import Any, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from pyro.distributions import Categorical, MixtureSameFamily, is_validation_enabled
from torch import Tensor

from zoo.parts.ascent import climb
from zoo.parts.checks import check_counts, check_frames, check_gaps, check_sequences, parameter_of, refuse_entries
from zoo.parts.conditionals.emissions import Emission, MaximisedEmission, examined
from zoo.parts.markov import Chain, MostProbable, StationaryStart, expected_counts, filter_states, viterbi
from zoo.parts.markov.distributions import HiddenMarkov, MarkovPaths
from zoo.parts.markov.forward_backward import refuse_impossible
from zoo.parts.markov.probabilities import Probabilities, started
from zoo.parts.store_keys import RootModule
from zoo.parts.trajectory import Draws
from zoo.parts.trajectory.masks import ends, filled, observed_frames


class HMMStatistics(NamedTuple):
    """The statistics of an E-step.

    Attributes:
        initial: expected number of sequences that start in state k, `(K,)`.
        transitions: expected number of steps from j to k, `(K, K)`.
        x: the observed frames of all sequences, `(M, data_dim)`.
        responsibilities: p(z_t = k | x) of these frames, `(M, K)`.
    """

    initial: Tensor
    transitions: Tensor
    x: Tensor
    responsibilities: Tensor


class HMMForecast(NamedTuple):
    """The exact forecast of k frames.

    Attributes:
        states: p(z_{T+h} | x_{1:T}), `(N, k, K)`.
        x: p(x_{T+h} | x_{1:T}) of each frame, a mixture of the emissions: batch `(N, k)`, event `(data_dim,)`. Its
            `mean` and `variance` exist where those of the emission do.
    """

    states: Tensor
    x: MixtureSameFamily


class HMM(RootModule):
    """p(x, z) = p(z_1) prod_{t>1} A_{z_{t-1} z_t} prod_t p(x_t | z_t), z_t in {0, ..., K - 1}: a hidden Markov model.

    Posterior, likelihood, most probable path, forecasts, missing frames and EM are exact: the states are summed out by
    recursions in the log domain (`zoo.parts.markov`).

    References: Baum et al. 1970; Viterbi 1967; Rabiner 1989; Zucchini, MacDonald & Langrock 2016.

    Args:
        num_states: K; 1 leaves independent frames, the baseline of a choice of K.
        emission: module whose call with states z gives p(x_t | z_t = z), batch shape that of z, event shape
            `(data_dim,)`: `NormalEmission`, `PoissonEmission`, `CategoricalEmission` of `zoo.parts.conditionals`, or
            your own. One without a closed M-step (`MaximisedEmission`) is trained by gradients.
        initial: probabilities of z_1 at first, `(K,)`, all equal by default; or `zoo.parts.markov.StationaryStart()`.
        transition: A at first, `(K, K)`; row j holds the probabilities of the states after j, all equal by default.
            Zeros in `initial` and `transition` stay zeros: a triangular A makes a left-to-right model.
        marginal: True sums z out: one site `x` in place of `z` and `x`; its guide is `guides.Empty`. False keeps
            z, for `guides.Exact`.

    Sites, in `pyro.plate("data", N)`: `z` `(T,)`, whole paths, if not marginal; `x` `(T, data_dim)`, observed.

    Throughout, x is `(N, T, data_dim)`; mask is boolean, `(N, T)`, True where a frame is observed; x may hold anything,
    NaN too, where it is False. Sequences of unequal length are padded behind, the padding not observed
    (`zoo.infer.mask_of` makes the mask of lengths). The argument u stands where other models of sequences have it, and
    must be None.

    Raises:
        TypeError: emission is not callable or returns no distribution of Pyro, or probabilities are no tensor.
        ValueError: probabilities of another shape or that do not sum to 1, an emission for another number of states or
            whose batch shape is not that of z; by methods: as `check_sequences`, values outside the emission's
            support, a mask of single entries.

    Example:
        >>> import torch
        >>> from zoo import HMM
        >>> from zoo.infer import em
        >>> from zoo.parts.conditionals import PoissonEmission
        >>> counts = torch.cat([torch.full((1, 20, 1), 3.0), torch.full((1, 20, 1), 30.0)], 1)
        >>> model = HMM(2, PoissonEmission(2, 1))
        >>> em(model, counts, restarts=2).converged
        True
        >>> model.viterbi(counts).path[0, ::10].unique().tolist()
        [0, 1]
    """

    # PyroModule gives a module's attribute any type, its annotations the type of a parameter
    emission: Any
    initial_probabilities: Any
    transition_probabilities: Any
    # read by `zoo.parts.door`: x is (N, T, data_dim), and (T, data_dim) is one series
    of_sequences = True

    def __init__(
        self,
        num_states: int,
        emission: Emission,
        *,
        initial: Tensor | StationaryStart | None = None,
        transition: Tensor | None = None,
        marginal: bool = True,
    ) -> None:
        super().__init__("model")
        check_counts(num_states=num_states)
        self.num_states, self.marginal = num_states, marginal
        self.data_dim, dtype = examined(emission, num_states)
        self.transition_probabilities = started("transition", transition, (num_states, num_states), dtype)
        if isinstance(initial, StationaryStart):
            self.initial_probabilities = initial
            if not bool(self.log_initial.isfinite().all()):
                raise ValueError("initial: no stationary distribution that reaches every state; expected probabilities")
        else:
            self.initial_probabilities = started("initial", initial, (num_states,), dtype)
        self.emission = emission

    # --- the conditionals --------------------------------------------------------------------------------------------

    @property
    def log_transition(self) -> Tensor:
        """log A, `(K, K)`."""
        return self.transition_probabilities()

    @property
    def log_initial(self) -> Tensor:
        """log p(z_1), `(K,)`."""
        if isinstance(self.initial_probabilities, StationaryStart):
            return self.initial_probabilities(self.log_transition)
        return self.initial_probabilities()

    def initial(self) -> Categorical:
        """p(z_1), batch shape `()`."""
        return Categorical(logits=self.log_initial)

    def transition(self, z: Tensor) -> Categorical:
        """p(z_t | z_{t-1} = z), batch shape that of z. The third conditional, `emission`, is the caller's module."""
        return Categorical(logits=self.log_transition[z])

    def forward(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> Tensor:
        """Runs the generative program: checks the arguments, samples z (latent form) and x, returns x."""
        self.check(x, u, mask)
        x = _scorable(x, mask)
        with pyro.plate("data", len(x)):
            if self.marginal:
                return pyro.sample("x", self._density(x, mask), obs=x)
            none = x.new_zeros(x.shape[1], self.num_states)
            z = pyro.sample("z", MarkovPaths(Chain(self.log_initial, self.log_transition, none)))
            p = self.emission(z)
            return pyro.sample("x", (p if mask is None else p.mask(mask)).to_event(1), obs=x)

    # --- exactly -----------------------------------------------------------------------------------------------------

    def chain(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> Chain:
        """The `zoo.parts.markov.Chain` of x, for the recursions."""
        self.check(x, u, mask)
        x = _scorable(x, mask)
        return self._density(x, mask).chain(x)

    def log_prob(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> Tensor:
        """log p(x) of the observed frames, exact, nats, `(N,)`; -inf where no path explains a sequence."""
        self.check(x, u, mask)
        x = _scorable(x, mask)
        return self._density(x, mask).log_prob(x)

    def posterior(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> MarkovPaths:
        """p(z | x), exact: batch `(N,)`, event `(T,)`, whole paths; with `filtered`, `smoothed`, `moments`, `mode`."""
        return MarkovPaths(self.chain(x, u, mask))

    def viterbi(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> MostProbable:
        """The most probable path of each sequence, `(N, T)`, and its log p(z, x)."""
        return viterbi(self.chain(x, u, mask))

    @torch.no_grad()
    def generate(self, num: int, T: int) -> tuple[Tensor, Tensor]:
        """`num` new sequences of T frames: z `(num, T)` and x `(num, T, data_dim)`."""
        check_counts(num=num, T=T)
        z = HiddenMarkov(self.log_initial, self.log_transition, self.emission, T).paths(torch.Size((num,)))
        return z, self.emission(z).sample()

    @torch.no_grad()
    def forecast(self, x: Tensor, k: int, u: None = None, mask: Tensor | None = None) -> HMMForecast:
        """p(z) and p(x) of each of the k frames after each sequence's last observed one, exact."""
        chain, future = self._with_future(x, k, u, mask)
        # the k frames are missing ones: the filter's prediction of them is the forecast
        found = filter_states(chain).log_filtered
        refuse_impossible(found)
        states = found.gather(1, future.unsqueeze(-1).expand(-1, -1, self.num_states)).exp()
        components = self._of_states(x).expand(states.shape)
        return HMMForecast(states, MixtureSameFamily(Categorical(states), components))

    @torch.no_grad()
    def sample_forecast(self, x: Tensor, k: int, num: int, u: None = None, mask: Tensor | None = None) -> Draws:
        """`num` continuations of each sequence by k frames, exact: `Draws` whose z is `(num, N, k)`."""
        check_counts(num=num)
        chain, future = self._with_future(x, k, u, mask)
        z = MarkovPaths(chain).sample(torch.Size((num,))).gather(-1, future.expand(num, -1, -1))
        return Draws(z, self.emission(z).sample(), future[:, 0])

    @torch.no_grad()
    def impute(self, x: Tensor, mask: Tensor, u: None = None) -> Tensor:
        """x with E[x_missing | x_observed] in its missing frames, exact.

        Raises:
            ValueError: the emission has no mean, as a categorical one.
        """
        check_gaps(mask)
        smoothed = self.posterior(x, u, mask).smoothed
        try:
            means = self._of_states(x).mean
        except NotImplementedError:
            means = x.new_tensor(torch.nan)
        if means.isnan().any():
            raise ValueError("emission: it has no mean to impute, as levels without an order have none; "
                             "sample_imputation draws the missing frames")  # fmt: skip
        return torch.where(mask.unsqueeze(-1), x, smoothed @ means)

    @torch.no_grad()
    def sample_imputation(self, x: Tensor, mask: Tensor, num: int = 1, u: None = None) -> Draws:
        """`num` draws of each sequence with its gaps filled in, exact: `Draws` whose z is `(num, N, T)`."""
        check_counts(num=num)
        check_gaps(mask)
        z = self.posterior(x, u, mask).sample(torch.Size((num,)))
        return Draws(z, torch.where(mask.unsqueeze(-1), x, self.emission(z).sample()), ends(x, mask).new_zeros(len(x)))

    # --- fitting -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> None:
        """Sets the parameters to a random start for EM: that of the emission, and rows of probabilities drawn anew.

        Raises:
            ValueError: emission or start has no closed M-step; fewer observed frames than states.
        """
        self._check_maximised("initialise")
        self.check(x, u, mask)
        frames = x[observed_frames(x, mask)]
        if len(frames) < self.num_states:
            raise ValueError(f"x: expected at least {self.num_states} observed frames, one for each state to start "
                             f"from, got {len(frames)}")  # fmt: skip
        self.emission.initialise(frames)
        self.initial_probabilities.initialise()
        self.transition_probabilities.initialise()

    @torch.no_grad()
    def e_step(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> tuple[HMMStatistics, Tensor]:
        """The expected statistics that `m_step` reads, and log p(x_n) in nats, `(N,)` (Baum and Welch).

        Raises:
            ValueError: emission or start has no closed M-step; no path explains a sequence.
        """
        self._check_maximised("e_step")
        found = expected_counts(self.chain(x, u, mask).double(), ends(x, mask))
        seen = observed_frames(x, mask)
        statistics = HMMStatistics(found.initial, found.transitions, x[seen].double(), found.smoothed[seen])
        return statistics, found.log_evidence.to(x.dtype)

    @torch.no_grad()
    def m_step(self, statistics: HMMStatistics) -> Tensor | None:
        """Sets the parameters to the maximiser of the expected log-likelihood; returns what the emission returns."""
        # first, since an emission may refuse its statistics: the parameters then stay as they were
        announced = self.emission.maximise(statistics.x, statistics.responsibilities)
        self.initial_probabilities.maximise(statistics.initial)
        self.transition_probabilities.maximise(statistics.transitions)
        return announced

    def maximum_likelihood(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> "HMM":
        """Climbs to a maximum of log p(x) from the parameters that the model has, any emission; returns the model.

        `em` is faster where it applies, and restarts. float64 finds the maximum to more digits.

        Raises:
            RuntimeError: no maximum was reached, for instance since log p(x) is unbounded.
        """
        self.check(x, u, mask)
        count = int(observed_frames(x, mask).sum())
        climb(self, lambda: self.log_prob(x, u, mask).sum() / max(1, count), count=max(1, count))
        return self

    # -----------------------------------------------------------------------------------------------------------------

    def check(self, x: Tensor, u: None = None, mask: Tensor | None = None) -> None:
        """Refuses arguments that do not fit, and observed values outside the emission's support."""
        check_sequences(x, self.data_dim, parameter_of(self), None, mask)
        if u is not None:
            raise ValueError("u: HMM takes no controls")
        refuse_entries(mask, "HMM")
        check_frames(x, mask)
        if is_validation_enabled():
            self._check_support(_scorable(x, mask), mask)

    def _check_support(self, x: Tensor, mask: Tensor | None) -> None:
        support = self._of_states(x).support
        # each state may have a support of its own
        wrong = (~support.check(x.unsqueeze(-2)).any(-1) & observed_frames(x, mask)).nonzero()
        if len(wrong):
            n, t = wrong[0].tolist()
            raise ValueError(f"x: {x[n, t].tolist()} in sequence {n}, frame {t} (counted from 0) is not in the support "
                             f"of the emission, {support}; {len(wrong)} such frames")  # fmt: skip

    def _of_states(self, x: Tensor) -> Any:
        """p(x_t | z_t) of all states, batch shape `(K,)`."""
        return self.emission(torch.arange(self.num_states, device=x.device))

    def _density(self, x: Tensor, mask: Tensor | None) -> HiddenMarkov:
        """p(x), z summed out."""
        return HiddenMarkov(self.log_initial, self.log_transition, self.emission, x.shape[1], mask)

    def _with_future(self, x: Tensor, k: int, u: None, mask: Tensor | None) -> tuple[Chain, Tensor]:
        """The chain of x and k missing frames behind, and the places of each sequence's forecast, `(N, k)`."""
        check_counts(k=k)
        chain = self.chain(x, u, mask)
        longer = chain._replace(log_emission=F.pad(chain.log_emission, (0, 0, 0, k)))
        return longer, ends(x, mask).unsqueeze(-1) + torch.arange(k, device=x.device)

    def _check_maximised(self, method: str) -> None:
        parts: dict[str, tuple[Any, type]] = {
            "emission": (self.emission, MaximisedEmission),
            "initial": (self.initial_probabilities, Probabilities),
        }
        for name, (part, kind) in parts.items():
            if not isinstance(part, kind):
                raise ValueError(f"{method}: {name} is a {type(part).__name__}, which has no closed M-step; "
                                 "maximum_likelihood and fit take any")  # fmt: skip


def _scorable(x: Tensor, mask: Tensor | None) -> Tensor:
    """x, in its missing frames the first observed frame: zeros need not lie in the support of an emission."""
    if mask is None or not mask.any():
        return filled(x, mask)
    return torch.where(mask.unsqueeze(-1), x, x.flatten(0, 1)[mask.flatten().int().argmax()])
