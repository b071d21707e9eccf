"""The hidden Markov model: its sites and conditionals against Pyro, EM and scores against hmmlearn, bad input."""

import copy
import itertools
import sys
from functools import partial
from pathlib import Path

import hmmlearn.hmm
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro.infer import TraceEnum_ELBO
from scipy.stats import chi2
from tiers import thorough_but
from torch import nn
from torch.distributions import transform_to

import guides
from zoo import HMM, DiagonalCovariance, FullCovariance, TiedCovariance, load_pair, save_pair
from zoo.infer import ELBO, IWELBO, RenyiELBO, em, fit, log_likelihood, mask_of, sequence_log_likelihood, terms
from zoo.parts import markov
from zoo.parts.conditionals import Bernoulli, CategoricalEmission, NormalEmission, PoissonEmission
from zoo.parts.markov import StationaryStart

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from benchmarks.hidden_markov import enumerated  # noqa: E402

pytestmark = pytest.mark.usefixtures("double_precision")

K, N, T, D = 3, 4, 6, 2
LENGTHS = torch.tensor([6, 4, 1, 5])
# major earthquakes (magnitude 7 and more) of the world, 1900 to 2006: examples/plot_poisson_hmm.py of hmmlearn
EARTHQUAKES = torch.tensor([
    13, 14, 8, 10, 16, 26, 32, 27, 18, 32, 36, 24, 22, 23, 22, 18, 25, 21, 21, 14, 8, 11, 14, 23, 18, 17, 19, 20, 22,
    19, 13, 26, 13, 14, 22, 24, 21, 22, 26, 21, 23, 24, 27, 41, 31, 27, 35, 26, 28, 36, 39, 21, 17, 22, 17, 19, 15, 34,
    10, 15, 22, 18, 15, 20, 15, 22, 19, 16, 30, 27, 29, 23, 20, 16, 21, 21, 25, 16, 18, 15, 18, 14, 10, 15, 8, 15, 6,
    11, 8, 7, 18, 16, 13, 12, 13, 20, 15, 16, 12, 18, 15, 16, 13, 15, 16, 11, 11,
])  # fmt: skip


class Trials(nn.Module):
    """A user's own emission: five trials among four outcomes."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(K, 4))

    def forward(self, z):
        return dist.Multinomial(5, logits=self.logits[z])


def normal(covariance=None):
    emission = NormalEmission(K, D, covariance=covariance)
    with torch.no_grad():
        emission.unconstrained_scale.add_(0.3 * torch.randn_like(emission.unconstrained_scale))
    return emission


def reals():
    return 2 * torch.randn(N, T, D)


def counts(most, *shape):
    return torch.randint(most, shape or (N, T, D)).double()


EMISSIONS = {
    "diagonal": (normal, reals),
    "full": (partial(normal, FullCovariance()), reals),
    "tied": (partial(normal, TiedCovariance()), reals),
    "poisson": (partial(PoissonEmission, K, D), partial(counts, 5)),
    "categorical": (partial(CategoricalEmission, K, D, levels=4), partial(counts, 4)),
    "embedded": (lambda: nn.Sequential(nn.Embedding(K, 4), Bernoulli(4, D)), partial(counts, 2)),
    "own": (Trials, lambda: dist.Multinomial(5, torch.ones(4)).sample((N, T))),
}
MAXIMISED = ["diagonal", "full", "tied", "poisson", "categorical"]


def build(name="diagonal", **options):
    emission, data = EMISSIONS[name]
    options = {"initial": torch.rand(K).softmax(0), "transition": torch.rand(K, K).softmax(-1)} | options
    return HMM(K, emission(), **options), data()


def holes():
    """Frames missing inside and behind, a sequence of one frame, one observed nowhere."""
    mask = mask_of(LENGTHS, T)
    mask[0, 2] = mask[1, 0] = False
    mask[3] = False
    return mask


def by_paths(model, x):
    """log p(z, x) of all paths of one sequence, `(K^T,)`, by the model's conditionals."""
    z = torch.tensor(list(itertools.product(range(K), repeat=len(x))))
    steps = model.transition(z[:, :-1]).log_prob(z[:, 1:]).sum(-1)
    return model.initial().log_prob(z[:, 0]) + steps + model.emission(z).log_prob(x).sum(-1)


# --- the density -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", thorough_but(("diagonal", "poisson", "categorical", "embedded"), EMISSIONS))
def test_log_p_is_the_sum_over_all_paths_for_every_emission(name):
    model, x = build(name)
    joint = torch.stack([by_paths(model, row) for row in x])
    torch.testing.assert_close(model.log_prob(x), joint.logsumexp(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.viterbi(x).log_joint, joint.amax(-1), rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(v.sum(), list(model.parameters()))
                 for v in (model.log_prob(x), joint.logsumexp(-1))]  # fmt: skip
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["diagonal", "poisson"])
def test_missing_frames_are_summed_out_and_padding_holds_anything(name):
    model, x = build(name)
    mask = holes()
    spoilt = x.masked_fill(~mask.unsqueeze(-1), torch.nan)
    found = model.log_prob(spoilt, mask=mask)
    assert found[3] == 0
    for row, length in enumerate(LENGTHS[:3]):
        alone = model.log_prob(spoilt[row : row + 1, :length], mask=mask[row : row + 1, :length])
        torch.testing.assert_close(found[row], alone[0])
    # the hole is a step of A without an emission
    z = torch.tensor(list(itertools.product(range(K), repeat=T)))
    seen = [0, 1, 3, 4, 5]
    steps = model.transition(z[:, :-1]).log_prob(z[:, 1:]).sum(-1)
    joint = model.initial().log_prob(z[:, 0]) + steps + model.emission(z[:, seen]).log_prob(x[0, seen]).sum(-1)
    torch.testing.assert_close(found[0], joint.logsumexp(0))
    gradients = torch.autograd.grad(found.sum(), list(model.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    # posterior, path and statistics look at observed values alone
    for compute in (lambda v: model.posterior(v, mask=mask).smoothed, lambda v: model.viterbi(v, mask=mask).path,
                    lambda v: model.e_step(v, mask=mask)[0].transitions):  # fmt: skip
        torch.testing.assert_close(compute(spoilt), compute(x))


class Shares(nn.Module):
    """An emission whose support, the simplex, is without zero."""

    def __init__(self):
        super().__init__()
        self.log_concentration = nn.Parameter(torch.randn(K, 3))

    def forward(self, z):
        return dist.Dirichlet(self.log_concentration[z].exp())


@pytest.mark.parametrize("marginal", [True, False])
def test_missing_frames_need_no_zero_in_the_support(marginal):
    model, mask = HMM(K, Shares(), marginal=marginal), mask_of(LENGTHS, T)
    mask[0, 0] = False
    x = dist.Dirichlet(torch.ones(3)).sample((N, T)).masked_fill(~mask.unsqueeze(-1), torch.nan)
    alone = torch.cat([model.log_prob(x[1:2, :4]), model.log_prob(x[3:4, :5])])
    torch.testing.assert_close(model.log_prob(x, mask=mask)[[1, 3]], alone)
    assert model.posterior(x, mask=mask).smoothed.isfinite().all()
    traced = pyro.poutine.trace(model).get_trace(x, mask=mask)
    assert traced.nodes["x"]["fn"].log_prob(traced.nodes["x"]["value"]).isfinite().all()


def test_each_state_may_have_a_support_of_its_own():
    ends = torch.tensor([1.0, 2.0, 3.0])
    model = HMM(K, lambda z: dist.Uniform(0.0, ends[z].unsqueeze(-1), validate_args=False).to_event(1))
    x = torch.tensor([[[2.5], [1.5], [0.5]]])  # possible in one state, in two, in all
    p = (1 / 3) * (1 / 2 + 1 / 3) * (1 + 1 / 2 + 1 / 3) / 27
    torch.testing.assert_close(model.log_prob(x).exp(), torch.tensor([p]))
    with pytest.raises(ValueError, match=r"x: \[3.5\] in sequence 0, frame 0"):
        model.log_prob(x + 1)


def test_one_state_is_a_model_of_independent_frames():
    x = reals()
    model = HMM(1, NormalEmission(1, D))
    em(model, x)
    torch.testing.assert_close(model.emission.means[0], x.mean((0, 1)))
    torch.testing.assert_close(model.log_prob(x), model.emission(torch.zeros(N, T).long()).log_prob(x).sum(-1))
    torch.testing.assert_close(model.forecast(x, 2).x.mean, x.mean((0, 1)).expand(N, 2, -1))
    assert model.viterbi(x).path.eq(0).all()
    stationary = HMM(1, NormalEmission(1, D), initial=StationaryStart())
    assert stationary.initial().probs.tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_given_probabilities_take_the_dtype_of_the_emission(dtype):
    for given in (torch.float32, torch.float64, torch.long):
        model = HMM(K, normal().to(dtype), initial=torch.eye(K)[0].to(given), transition=torch.eye(K).to(given))
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert model.log_prob(reals().to(dtype)).dtype == dtype


def test_an_emission_without_a_mean_is_not_imputed():
    x, mask = counts(2, N, T, D), holes()
    softplus = [dist.transforms.SoftplusTransform()]

    def positive(z):
        return dist.TransformedDistribution(dist.Normal(torch.zeros(*z.shape, D), 1.0), softplus).to_event(1)

    for emission in (CategoricalEmission(K, D, levels=3), positive):
        model = HMM(K, emission)
        with pytest.raises(ValueError, match="emission: it has no mean to impute"):
            model.impute(x + 1, mask)


def test_equals_pyros_discrete_hmm():
    # Pyro makes a transition before the first observation
    before, A = torch.rand(K).softmax(0), torch.rand(K, K).softmax(-1)
    model, x = build(initial=before @ A, transition=A)
    theirs = dist.DiscreteHMM(before.log(), A.log(), model.emission(torch.arange(K)), duration=T)
    torch.testing.assert_close(model.log_prob(x), theirs.log_prob(x), rtol=1e-12, atol=1e-12)


def test_equals_pyros_enumeration_of_a_chain_of_ten_in_value_and_gradient():
    model, _ = build("poisson")
    x = counts(5, N, 10, D)

    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(partial(enumerated, model), lambda x: None, x)
    torch.testing.assert_close(-loss, model.log_prob(x).sum(), rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    theirs, ours = (torch.autograd.grad(value, parameters) for value in (-loss, model.log_prob(x).sum()))
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_zeros_of_a_left_to_right_model_stay_zeros_under_gradients_and_em():
    A = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]])
    model, x = build(initial=torch.tensor([1.0, 0.0, 0.0]), transition=A)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (-model.log_prob(x).sum()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
    assert torch.equal(model.log_transition.exp() > 0, A > 0)
    em(model, x, max_iterations=3)
    assert torch.equal(model.log_transition.exp() > 0, A > 0)
    assert (model.viterbi(x).path.diff(dim=1) >= 0).all()
    assert (model.posterior(x).sample((50,)).diff(dim=-1) >= 0).all()


def test_the_stationary_start_follows_the_transitions():
    model, x = build(initial=StationaryStart())
    pi = model.log_initial.exp()
    torch.testing.assert_close(pi @ model.log_transition.exp(), pi)
    # nothing is known before the first frame: a missing frame in front changes nothing
    later = torch.cat([torch.zeros(N, 1, D), x], 1)
    mask = torch.ones(N, T + 1, dtype=torch.bool)
    mask[:, 0] = False
    torch.testing.assert_close(model.log_prob(later, mask=mask), model.log_prob(x))
    model.log_prob(x).sum().backward()
    assert model.transition_probabilities.logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="e_step: initial is a StationaryStart, which has no closed M-step"):
        em(model, x)
    for A in ([[0.5, 0.5, 0], [0, 1.0, 0], [0, 0.5, 0.5]], [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]):
        with pytest.raises(ValueError, match="initial: no stationary distribution that reaches every state"):
            build(initial=StationaryStart(), transition=torch.tensor(A))


# --- with guides, objectives, evaluation -----------------------------------------------------------------------------


def test_exact_draws_weigh_the_same_and_every_bound_is_log_p():
    model, x = build(marginal=False)
    guide, mask = guides.Exact(model), holes()
    exact = model.log_prob(x, mask=mask).detach()
    with torch.no_grad():
        run = terms(model, guide, x, None, mask, num_particles=7)
        torch.testing.assert_close(run.log_weights, exact.expand(7, -1), rtol=1e-12, atol=1e-12)
        for objective in (ELBO(3), IWELBO(3), RenyiELBO(0.5, 3)):
            torch.testing.assert_close(objective.bound(terms(model, guide, x, None, mask, num_particles=3)), exact)
    found = log_likelihood(model, guide, x, num_particles=3)
    torch.testing.assert_close(found.per_datum, model.log_prob(x).detach())
    seen = mask.any(-1)
    for pair in ((model, guide), (marginal := HMM(K, model.emission), guides.Empty(marginal))):
        with torch.no_grad():
            pair[0].load_state_dict(model.state_dict())
        frames = sequence_log_likelihood(*pair, x[seen], None, mask[seen], data="toy", num_particles=2)
        torch.testing.assert_close(frames.log_p, exact[seen])
        assert frames.a == pytest.approx(-exact[seen].sum().item() / mask.sum().item())


@pytest.mark.parametrize("objective", [ELBO(2), IWELBO(2), IWELBO(2, gradient="doubly"), RenyiELBO(0.5, 2)])
def test_the_marginal_form_is_a_pair_without_latents(objective):
    model, x = build("poisson")
    loss = objective(model, guides.Empty(model))(x, mask=holes())
    torch.testing.assert_close(-loss, model.log_prob(x, mask=holes()).sum())
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    expected = torch.autograd.grad(-model.log_prob(x, mask=holes()).sum(), list(model.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_graph_of_the_loss_is_refused():
    model, x = build()
    with pytest.raises(ValueError, match=r"compiled: log_evidence of zoo\.parts\.markov\.\w+ cannot be captured"):
        fit(ELBO()(model, guides.Empty(model)), x, steps=1, batch_size=2, compile=True, progress=False)


@pytest.mark.parametrize("marginal", [True, False])
def test_a_folder_brings_the_model_back(tmp_path, marginal):
    model = HMM(K, PoissonEmission(K, D), initial=StationaryStart(), marginal=marginal)
    guide = guides.Empty(model) if marginal else guides.Exact(model)
    save_pair(tmp_path / "pair", model, guide)
    again, _ = load_pair(tmp_path / "pair")
    x = counts(5)
    torch.testing.assert_close(again.log_prob(x), model.log_prob(x))


# --- draws, forecasts, gaps ------------------------------------------------------------------------------------------


def test_generated_sequences_have_the_frequencies_of_the_model():
    """Chi-square over the nine pairs (z_1, z_2) and over levels given z; once in a million runs it fails by chance."""
    model, _ = build("categorical")
    z, x = model.generate(20_000, 2)
    assert x.shape == (20_000, 2, D)
    expected = 20_000 * (model.log_initial.unsqueeze(-1) + model.log_transition).exp().flatten()
    found = torch.bincount(z[:, 0] * K + z[:, 1], minlength=K * K)
    assert ((found - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, K * K - 1)
    probs = model.emission.logits[1, 0].softmax(-1)
    chosen = x[:, 0, 0][z[:, 0] == 1]
    seen, wanted = torch.bincount(chosen.long(), minlength=4), len(chosen) * probs
    assert ((seen - wanted) ** 2 / wanted).sum() < chi2.ppf(1 - 1e-6, 3)


def test_forecasts_and_gaps_are_the_conditional_moments():
    model, x = build("poisson")
    mask = holes()
    ahead = model.forecast(x, 2, mask=mask)
    assert ahead.states.shape == (N, 2, K)
    A = model.log_transition.exp()
    filtered = model.posterior(x, mask=mask).filtered
    for row, length in enumerate(LENGTHS[:3]):
        last = filtered[row, length - 1]
        torch.testing.assert_close(ahead.states[row], torch.stack([last @ A, last @ A @ A]))
    # nothing is observed of the last sequence: the forecast starts at the start
    torch.testing.assert_close(ahead.states[3], torch.stack([model.log_initial.exp(), model.log_initial.exp() @ A]))
    rates = model.emission.log_rate.exp()
    torch.testing.assert_close(ahead.x.mean, ahead.states @ rates)
    joint = model.log_prob(torch.cat([x, x[:, :1]], 1)) - model.log_prob(x)
    torch.testing.assert_close(model.forecast(x, 1).x.log_prob(x[:, :1])[:, 0], joint)

    smoothed = model.posterior(x, mask=mask).smoothed
    filled = model.impute(x, mask)
    assert torch.equal(filled[mask], x[mask])
    torch.testing.assert_close(filled[~mask], (smoothed @ rates)[~mask])


def test_draws_of_forecasts_and_gaps_follow_those_moments():
    """Means of 20,000 draws within six standard errors: a correct draw fails once in ten million for each of 48."""
    model, x = build("poisson")
    mask, num = holes(), 20_000
    ahead, drawn = model.forecast(x, 2, mask=mask), model.sample_forecast(x, 2, num, mask=mask)
    assert drawn.z.shape == (num, N, 2)
    assert torch.equal(drawn.start, torch.tensor([6, 4, 1, 0]))
    error = (ahead.x.variance / num).sqrt()
    assert ((drawn.x.mean(0) - ahead.x.mean).abs() < 6 * error).all()
    gaps = model.sample_imputation(x, mask, num)
    assert torch.equal(gaps.x[:, mask], x[mask].expand(num, -1, -1))
    spread = gaps.x.std(0) / num**0.5
    assert ((gaps.x.mean(0) - model.impute(x, mask)).abs() <= 6 * spread).all()


# --- EM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", thorough_but(("diagonal", "tied"), MAXIMISED))
def test_em_climbs_to_a_point_where_the_gradient_vanishes(name):
    model, _ = build(name)
    kind = "normal" if name in ("diagonal", "full", "tied") else name
    if kind == "normal":
        model.emission.covariance = type(model.emission.covariance)(floor=0.0)
    x = {"normal": torch.randn(2, 60, D), "poisson": counts(5, 2, 60, D), "categorical": counts(4, 2, 60, D)}[kind]
    mask = torch.rand(2, 60) < 0.8
    found = em(model, x, mask=mask, tolerance=1e-14, max_iterations=5000)
    assert (torch.tensor(found.trajectory).diff() > -1e-12).all()
    value = model.log_prob(x, mask=mask).mean()
    gradients = torch.autograd.grad(value, list(model.parameters()))
    # a step of EM moves by about the gradient: an end within 1e-14 nats leaves about its root
    assert max(g.abs().max() for g in gradients) < 1e-5
    torch.testing.assert_close(value.item(), found.log_likelihood)


def test_restarts_draw_from_torch_and_keep_the_best():
    model, x = build("poisson")
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(em(model, x, restarts=3, max_iterations=20))
        assert model.log_prob(x).mean().item() == pytest.approx(runs[-1].log_likelihood)
    assert runs[0].log_likelihood == max(start[-1] for start in runs[0].starts)
    assert len({start[-1] for start in runs[0].starts}) > 1
    assert runs[0].trajectory == runs[1].trajectory


def test_a_state_that_explains_nothing_keeps_its_parameters():
    model, x = build()
    with torch.no_grad():
        model.emission.means[2] = 1e6
        model.emission.unconstrained_scale[2] = 0.0
    before = copy.deepcopy(model)
    em(model, x, max_iterations=2)
    assert torch.equal(model.emission.means[2], before.emission.means[2])
    torch.testing.assert_close(model.emission.scale[2], before.emission.scale[2])
    torch.testing.assert_close(model.log_transition[2], before.log_transition[2])
    assert (model.emission.means[:2] != before.emission.means[:2]).all()


def theirs(kind, model, **options):
    """hmmlearn's model with the parameters of ours, and without its priors, which ours does not have."""
    found = getattr(hmmlearn.hmm, kind)(model.num_states, init_params="", tol=-1.0, implementation="log", **options)
    with torch.no_grad():
        found.startprob_ = model.log_initial.exp().numpy()
        found.transmat_ = model.log_transition.exp().numpy()
        if kind == "GaussianHMM":
            scale = model.emission.scale
            form = {"diag": scale**2, "full": scale @ scale.mT, "tied": scale @ scale.mT}[options["covariance_type"]]
            found.means_, found.covars_ = model.emission.means.numpy().copy(), form.numpy()
        elif kind == "PoissonHMM":
            found.lambdas_ = model.emission.log_rate.exp().numpy()
        else:
            found.emissionprob_ = model.emission.logits[:, 0].softmax(-1).numpy()
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GaussianHMM", {"covariance_type": "diag"}),
        ("GaussianHMM", {"covariance_type": "full"}),
        ("GaussianHMM", {"covariance_type": "tied"}),
        ("PoissonHMM", {}),
        ("CategoricalHMM", {}),
    ],
)
def test_scores_paths_and_fits_equal_hmmlearns(kind, options):
    """Ten steps of EM from the same start, on sequences of unequal length: every parameter to ten digits."""
    forms = {"diag": DiagonalCovariance(floor=0), "full": FullCovariance(floor=0), "tied": TiedCovariance(floor=0)}
    lengths, width = [60, 25, 40], 1 if kind == "CategoricalHMM" else D
    emission = {
        "GaussianHMM": lambda: NormalEmission(K, D, covariance=forms[options["covariance_type"]]),
        "PoissonHMM": lambda: PoissonEmission(K, D),
        "CategoricalHMM": lambda: CategoricalEmission(K, 1, levels=4),
    }[kind]()
    model = HMM(K, emission, initial=torch.rand(K).softmax(0), transition=torch.rand(K, K).softmax(-1))
    x = 2 * torch.randn(3, 60, D) if kind == "GaussianHMM" else counts(4, 3, 60, width)
    mask = mask_of(torch.tensor(lengths), 60)
    flat = x[mask].numpy() if kind == "GaussianHMM" else x[mask].long().numpy()
    no_priors = {"covars_prior": 0.0, "covars_weight": 0.0, "min_covar": 0.0} if kind == "GaussianHMM" else {}
    if kind == "PoissonHMM":
        no_priors = {"lambdas_prior": 0.0, "lambdas_weight": 0.0}
    peer = theirs(kind, model, n_iter=10, **options, **no_priors)

    assert peer.score(flat, lengths) == pytest.approx(model.log_prob(x, mask=mask).sum().item(), rel=1e-12)
    posterior = model.posterior(x, mask=mask)
    torch.testing.assert_close(posterior.smoothed[mask], torch.tensor(peer.predict_proba(flat, lengths)))
    score, path = peer.decode(flat, lengths)
    best = model.viterbi(x, mask=mask)
    assert torch.equal(best.path[mask], torch.tensor(path))
    # theirs ends with each sequence; ours goes on through the padding, where the best steps cost something
    ends = [markov.viterbi(model.chain(x[i : i + 1, :n])).log_joint.item() for i, n in enumerate(lengths)]
    assert sum(ends) == pytest.approx(score, rel=1e-12)

    peer.fit(flat, lengths)
    em(model, x, mask=mask, max_iterations=10, tolerance=0.0)
    fitted = theirs(kind, model, **options)
    for name in {"startprob_", "transmat_", *vars(peer)} & {"startprob_", "transmat_", "means_", "_covars_", "lambdas_",
                                                           "emissionprob_"}:  # fmt: skip
        torch.testing.assert_close(torch.tensor(getattr(fitted, name)), torch.tensor(getattr(peer, name)),
                                   rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")  # fmt: skip


def test_the_casino_and_the_four_components_of_hmmlearns_examples():
    """Its examples' parameters, on draws of its own: score, posterior and path."""
    A = torch.tensor([[0.95, 0.05], [0.1, 0.9]])
    casino = HMM(2, CategoricalEmission(2, levels=6), initial=torch.tensor([1.0, 0.0]), transition=A)
    with torch.no_grad():
        casino.emission.logits.copy_(torch.tensor([[[1 / 6] * 6], [[1 / 10] * 5 + [1 / 2]]]).log())
    peer = theirs("CategoricalHMM", casino)
    rolls, _ = peer.sample(3000, random_state=99)
    x = torch.tensor(rolls).double()[None]
    assert casino.log_prob(x).item() == pytest.approx(peer.score(rolls), rel=1e-12)
    assert torch.equal(casino.viterbi(x).path[0], torch.tensor(peer.predict(rolls)))

    A = torch.tensor([[0.7, 0.2, 0.0, 0.1], [0.3, 0.5, 0.2, 0.0], [0.0, 0.3, 0.5, 0.2], [0.2, 0.0, 0.2, 0.6]])
    emission = NormalEmission(4, 2, covariance=FullCovariance(floor=0))
    with torch.no_grad():
        emission.means.copy_(torch.tensor([[0.0, 0.0], [0.0, 11.0], [9.0, 10.0], [11.0, -1.0]]))
        scale = (0.5**0.5 * torch.eye(2)).expand(4, 2, 2)
        emission.unconstrained_scale.copy_(transform_to(emission.covariance.constraint).inv(scale))
    four = HMM(4, emission, initial=torch.tensor([0.6, 0.3, 0.1, 0.0]), transition=A)
    peer = theirs("GaussianHMM", four, covariance_type="full")
    assert isinstance(peer, hmmlearn.hmm.GaussianHMM)
    drawn, states = peer.sample(500, random_state=1)
    x = torch.tensor(drawn)[None]
    assert four.log_prob(x).item() == pytest.approx(peer.score(drawn), rel=1e-12)
    assert torch.equal(four.viterbi(x).path[0], torch.tensor(peer.predict(drawn)))
    assert (four.viterbi(x).path[0].numpy() == states).mean() > 0.99


@pytest.mark.thorough
def test_the_earthquakes_of_zucchini_and_macdonald():
    """-log L and rates of stationary models of two and three states, as the R functions of their book print them."""
    x = EARTHQUAKES.double().reshape(1, -1, 1)
    published = {2: (342.3183, [15.472, 26.125]), 3: (329.4603, [13.146, 19.721, 29.714])}
    for num_states, (cost, rates) in published.items():
        emission = PoissonEmission(num_states, 1)
        with torch.no_grad():
            emission.log_rate.copy_(torch.linspace(10, 30, num_states).log().unsqueeze(-1))
        stay = 0.8 * torch.eye(num_states) + 0.2 / num_states
        model = HMM(num_states, emission, initial=StationaryStart(), transition=stay).maximum_likelihood(x)
        assert -model.log_prob(x).item() == pytest.approx(cost, abs=1e-4)
        torch.testing.assert_close(emission.log_rate.exp().flatten(), torch.tensor(rates), rtol=0.0, atol=1e-3)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_models_are_refused():
    emission = PoissonEmission(K, D)
    for num in (0, 2.5, True):
        with pytest.raises(ValueError, match="num_states: expected a whole number, at least 1"):
            HMM(num, emission)
    with pytest.raises(ValueError, match="emission: expected one for 4 states, got one for 3"):
        HMM(4, emission)
    with pytest.raises(ValueError, match="emission: expected one for 3 states, it has fewer"):
        HMM(K, nn.Sequential(nn.Embedding(2, 4), Bernoulli(4, D)))
    with pytest.raises(TypeError, match=r"emission: expected a module such as PoissonEmission\(3, 1\), got 'poisson'"):
        HMM(K, "poisson")
    with pytest.raises(ValueError, match=r"emission: expected batch shape \(2, 3\) and event shape \(data_dim,\)"):
        HMM(K, lambda z: dist.Normal(z.double(), 1.0))
    with pytest.raises(ValueError, match=r"for states of shape \(2, 3\), got \(3,\) and \(2,\)"):
        HMM(K, lambda z: dist.Normal(torch.zeros(K, D), 1.0).to_event(1))
    for wrong in (nn.Embedding(K, D), lambda z: td.Independent(td.Normal(torch.zeros(*z.shape, D), 1.0), 1)):
        with pytest.raises(TypeError, match=r"emission: expected .* distributions of pyro.distributions, got torch\."):
            HMM(K, wrong)
    with pytest.raises(ValueError, match=r"initial: expected shape \(3,\), got \(2,\)"):
        HMM(K, emission, initial=torch.ones(2) / 2)
    with pytest.raises(ValueError, match=r"transition: expected shape \(3, 3\), got \(3,\)"):
        HMM(K, emission, transition=torch.ones(3) / 3)
    with pytest.raises(TypeError, match=r"transition: expected a tensor of probabilities \(3, 3\), got list"):
        HMM(K, emission, transition=[[1 / 3] * 3] * 3)
    with pytest.raises(TypeError, match=r"initial: expected a tensor of probabilities \(3,\), got Linear"):
        HMM(K, emission, initial=nn.Linear(2, 3))
    for row in ([0.5, 0.6, 0.0], [-0.5, 1.5, 0.0], [torch.nan, 1.0, 0.0]):
        with pytest.raises(ValueError, match="transition: expected probabilities that sum to 1 in rows 0, 2, got"):
            HMM(K, emission, transition=torch.tensor([row, [0.0, 1.0, 0.0], row]))
        with pytest.raises(ValueError, match="initial: expected probabilities that sum to 1, got"):
            HMM(K, emission, initial=torch.tensor(row))
    with pytest.raises(ValueError, match="levels: expected a whole number, at least 2, got 1"):
        CategoricalEmission(K, D, levels=1)
    for kind in (NormalEmission, PoissonEmission, partial(CategoricalEmission, levels=3)):
        with pytest.raises(ValueError, match="data_dim: expected a whole number, at least 1, got 0"):
            kind(K, 0)


EVERY_METHOD = {
    "forward": lambda model, x, **k: model(x, **k),
    "log_prob": HMM.log_prob,
    "posterior": HMM.posterior,
    "viterbi": HMM.viterbi,
    "e_step": HMM.e_step,
    "initialise": HMM.initialise,
    "forecast": lambda model, x, **k: model.forecast(x, 2, **k),
    "maximum_likelihood": HMM.maximum_likelihood,
}


def test_the_program_takes_what_methods_bring_to_it():
    """Methods take one sequence without its batch axis, and another dtype; the program itself takes neither."""
    model, x = build("categorical")
    for bad in (x[0], x.float()):
        with pytest.raises(ValueError, match=r"x: expected (shape \(N, T, 2\), got|torch.float64 like the model's)"):
            model(bad)
    assert torch.equal(model.log_prob(x.int()), model.log_prob(x))
    assert torch.equal(model.log_prob(x[0]), model.log_prob(x[:1]))
    assert torch.equal(model.log_prob(x[0].numpy(), mask=torch.arange(6).numpy() > 1),
                       model.log_prob(x[:1], mask=torch.arange(6)[None] > 1))  # fmt: skip


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_bad_data_are_refused_by_every_method(method):
    model, x = build("categorical")
    call = partial(EVERY_METHOD[method], model)
    mask = mask_of(LENGTHS, T)
    for bad, text in (
        (x[0, 0], r"x: expected shape \(N, T, 2\), got \(2,\)"),
        (x[..., :1], r"x: expected shape \(N, T, 2\)"),
        (x[:0], "x: expected at least one sequence"),
        (x.masked_fill(x == x[1, 2, 0], 4.0), r"x: \[.*4.0.*\] in sequence \d, frame \d .* is not in the support"),
        (x - 1, "is not in the support of the emission"),
        (x + 0.5, "is not in the support of the emission"),
        (x.masked_fill(~mask.unsqueeze(-1), torch.nan), "x: NaN or infinite in 8 observed frames"),
    ):
        with pytest.raises(ValueError, match=text):
            call(bad)
    with pytest.raises(TypeError, match=r"x: expected a torch\.Tensor"):
        call({1.0})
    for bad, text in (
        (mask.double(), "mask: expected torch.bool"),
        (mask[:, :3], "mask: expected torch.bool of shape"),
        (mask.unsqueeze(-1).expand(N, T, D), r"mask: HMM takes whole frames, shape \(N, T\)"),
    ):
        with pytest.raises(ValueError, match=text):
            call(x, mask=bad)
    with pytest.raises(ValueError, match="u: HMM takes no controls"):
        call(x, u=torch.zeros(N, T, 1))


def test_bad_counts_and_emissions_without_a_closed_step_are_refused():
    model, x = build("embedded")
    for call, name in ((lambda: model.forecast(x, 0), "k"), (lambda: model.generate(0, 3), "num"),
                       (lambda: model.generate(2, 0), "T"), (lambda: model.sample_forecast(x, 2, 0), "num"),
                       (lambda: model.sample_imputation(x, holes(), 0), "num")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: expected a whole number, at least 1, got 0"):
            call()
    with pytest.raises(ValueError, match="e_step: emission is a Sequential, which has no closed M-step"):
        em(model, x)
    with pytest.raises(ValueError, match="initialise: emission is a Sequential, which has no closed M-step"):
        em(model, x, restarts=2)


def test_a_start_needs_a_frame_for_each_state_and_em_takes_data_of_which_nothing_is_observed():
    model, x = build()
    with pytest.raises(ValueError, match=r"x: expected at least 3 observed frames, one for each state .* got 2"):
        em(model, x[:1, :2], restarts=1)
    before = copy.deepcopy(model.state_dict())
    found = em(model, x, mask=torch.zeros(N, T, dtype=torch.bool))
    assert found.log_likelihood == pytest.approx(0.0, abs=1e-12)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_data_that_no_path_explains_have_log_p_of_minus_infinity_and_no_posterior():
    model, x = build("poisson")
    with torch.no_grad():
        model.emission.log_rate.fill_(-torch.inf)
    x[0] = 0.0
    x[1:] = 1.0
    assert model.log_prob(x)[0] == 0
    assert (model.log_prob(x)[1:] == -torch.inf).all()
    for method in (lambda: model.posterior(x).smoothed, lambda: model.posterior(x).sample(), lambda: model.e_step(x),
                   lambda: model.forecast(x, 2), lambda: model.sample_forecast(x, 2, 3)):  # fmt: skip
        with pytest.raises(ValueError, match="x: sequences 1, 2, 3 have probability 0"):
            method()
