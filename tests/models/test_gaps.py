"""Missing entries of vectors: likelihoods, models and guides under a mask."""

import math
from functools import partial

import pyro
import pytest
import torch
from pairs import PAIRS
from pyro import distributions as dist
from torch import nn

import guides
from zoo import ADGM, BIVA, M1M2, M2, PPCA, VAE, DiagonalCovariance, GaussianMixture, Hierarchical, WithAuxiliary
from zoo.infer import ELBO, IWELBO, fit, kl_per_site, log_likelihood, terms
from zoo.parts.conditionals import Bernoulli, Categorical, DiscretizedLogistic, MixtureOfNormals, Normal
from zoo.parts.distributions import DiagonalNormal, MixtureOfNormalsDensity
from zoo.parts.distributions.observed import given_observed, observed_entries
from zoo.parts.given.gaps import observe
from zoo.parts.networks import WithHead

pytestmark = pytest.mark.usefixtures("double_precision")

N, DATA, LATENT = 5, 4, 2
GAUSSIAN = partial(Normal, heteroscedastic=True)
MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]]).bool()


class Head(nn.Module):
    """A user's likelihood: `make` of two linear functions of h."""

    def __init__(self, in_features, data_dim, *, make):
        super().__init__()
        self.a, self.b, self.make = nn.Linear(in_features, data_dim), nn.Linear(in_features, data_dim), make

    def forward(self, h):
        return self.make(self.a(h), self.b(h).exp())


def full(loc, scale):
    ones = loc.new_ones(loc.shape[-1], loc.shape[-1])
    return dist.MultivariateNormal(loc, torch.diag_embed(scale**2) + 0.5 * ones)


LIKELIHOODS = {
    "Bernoulli": (Bernoulli, lambda: torch.rand(N, DATA).round()),
    "Normal": (Normal, lambda: torch.randn(N, DATA)),
    "heteroscedastic": (GAUSSIAN, lambda: torch.randn(N, DATA)),
    "Categorical": (partial(Categorical, levels=3), lambda: torch.randint(3, (N, DATA)).double()),
    "DiscretizedLogistic": (partial(DiscretizedLogistic, levels=3), lambda: torch.randint(3, (N, DATA)).double()),
    "MixtureOfNormals": (partial(MixtureOfNormals, num_components=3), lambda: torch.randn(N, DATA)),
    # zero is outside of these supports
    "LogNormal": (partial(Head, make=lambda a, b: dist.LogNormal(a, b).to_event(1)), lambda: torch.rand(N, DATA) + 0.1),
    "Beta": (
        partial(Head, make=lambda a, b: dist.Beta(a.exp(), b).to_event(1)),
        lambda: 0.1 + 0.8 * torch.rand(N, DATA),
    ),
    "MultivariateNormal": (partial(Head, make=full), lambda: torch.randn(N, DATA)),
}


def value_and_gradients(loss, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    loss.zero_grad()
    value = loss(*args, **kwargs)
    value.backward()
    return [value.detach(), *(torch.zeros(()) if p.grad is None else p.grad.clone() for p in loss.parameters())]


def assert_equal(found, expected):
    assert all(v.isfinite().all() for v in expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("flags", [False, True])
def test_what_is_missing_is_neither_scored_nor_seen(name, flags):
    likelihood, data = LIKELIHOODS[name]
    model, x = VAE(DATA, LATENT, (6,), likelihood=likelihood), data()
    guide = guides.Amortized(model, hidden=(6,), flags=flags)
    loss = IWELBO(3)(model, guide)
    expected = value_and_gradients(loss, x, MASK)
    for anything in (torch.nan, torch.inf, -77.0):
        assert_equal(value_and_gradients(loss, torch.where(MASK, x, anything), MASK), expected)
    # what is observed is seen
    torch.manual_seed(0)
    other = data()
    assert loss(torch.where(MASK, other, x), MASK) != expected[0]
    # a row without an observed entry keeps its KL alone
    run = terms(model, guide, x, MASK, num_particles=4)
    assert (run.log_likelihood[:, 1].abs() < 1e-14).all()
    assert (run.log_likelihood[:, [0, 2, 3, 4]] != 0).all()


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if n != "MultivariateNormal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_without_gaps_changes_no_bit(name, dtype):
    torch.set_default_dtype(dtype)
    likelihood, data = LIKELIHOODS[name]
    model, x = VAE(DATA, LATENT, (6,), likelihood=likelihood), data().to(dtype)
    loss = IWELBO(3)(model, guides.Amortized(model, hidden=(6,)))
    whole = torch.ones_like(MASK)
    assert_equal(value_and_gradients(loss, x, whole), value_and_gradients(loss, x))


def pairs():
    vae = partial(VAE, DATA, LATENT, (6,), likelihood=Normal)
    hidden = ((6,), (5,))
    hierarchy = partial(Hierarchical, DATA, (3, 2), hidden, likelihood=Normal)
    found = {
        "bottom up": (m := hierarchy(), guides.BottomUp(m, hidden=hidden, flags=True)),
        "top down": (m := hierarchy(True), guides.TopDown(m, hidden=hidden)),
        "ladder": (m := hierarchy(), guides.Ladder(m, hidden=hidden, flags=True)),
        "biva": (m := BIVA(DATA, (3, 2), hidden, likelihood=Normal),
                 guides.Bidirectional(m, hidden=((6,), (5,), (5,)), flags=True)),
        "prior below": (m, guides.PriorBelow(guides.Bidirectional(m, hidden=((6,), (5,), (5,))), 1)),
        "m2": (m := M2(DATA, LATENT, 3, (6,), likelihood=Normal), guides.Labelled(m, hidden=(6,), flags=True)),
        "adgm": (m := ADGM(DATA, LATENT, 3, (6,), likelihood=Normal), guides.Auxiliary(m, hidden=(6,), flags=True)),
        "sdgm": (m := ADGM(DATA, LATENT, 3, (6,), True, likelihood=Normal), guides.Auxiliary(m, hidden=(6,))),
        "auxiliary": (m := WithAuxiliary(vae(), WithHead((DATA, LATENT), 2, GAUSSIAN, (6,))),
                      guides.Auxiliary(m, hidden=(6,), flags=True)),
        "ppca": (m := PPCA(DATA, LATENT), guides.Exact(m)),
        "ppca amortized": (m, guides.Amortized(m, hidden=(6,), flags=True)),
        "per datum": (m := vae(), guides.PerDatum(m, N)),
        "mixture": (m := GaussianMixture(DATA, 3), guides.Exact(m, site="k")),
        "diagonal mixture": (m := GaussianMixture(DATA, 3, covariance=DiagonalCovariance()), guides.Exact(m, site="k")),
    }  # fmt: skip
    m = M1M2(vae(), M2(LATENT, 2, 3, (6,), likelihood=GAUSSIAN))
    found["m1m2"] = (m, guides.StackedLabelled(m, guides.Amortized(m.m1, flags=True), guides.Labelled(m.m2)))
    return found


NAMES = ["bottom up", "top down", "ladder", "biva", "prior below", "m2", "adgm", "sdgm", "auxiliary", "ppca",
         "ppca amortized", "per datum", "mixture", "diagonal mixture", "m1m2"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_static_model_takes_a_mask(name):
    model, guide = pairs()[name]
    loss, x = ELBO(2)(model, guide), torch.randn(N, DATA)
    if name == "per datum":
        loss(x)
    expected = value_and_gradients(loss, x, mask=MASK)
    assert_equal(value_and_gradients(loss, torch.where(MASK, x, torch.nan), mask=MASK), expected)
    assert loss(x) != expected[0]
    sites = kl_per_site(model, guide, x, mask=MASK, num_particles=3)
    run = terms(model, guide, x, mask=MASK)
    assert (run.log_likelihood[..., 1] == 0).all()
    assert all(value.isfinite().all() for value in sites.values())


def test_flags_are_a_second_input_and_zero_where_nothing_is_missing():
    model, x = VAE(DATA, LATENT, (6,)), torch.rand(N, DATA).round()
    plain, flagged = guides.Amortized(model, hidden=(6,)), guides.Amortized(model, hidden=(6,), flags=True)
    zeroed = torch.where(MASK, x, 0.0)
    # without flags a missing entry is a zero
    assert torch.equal(plain.posterior(x, MASK).mean, plain.posterior(zeroed).mean)
    assert (flagged.posterior(x, MASK).mean != flagged.posterior(zeroed).mean)[~MASK.all(-1)].all()
    assert torch.equal(flagged.posterior(x).mean, flagged.posterior(x, torch.ones_like(MASK)).mean)
    with pytest.raises(ValueError, match="`flags` are for the guide's own encoder"):
        guides.Amortized(model, encoder=nn.Linear(DATA, 3), context=3, flags=True)


def test_an_encoder_of_ones_own_reads_zeros_and_the_mask():
    class Encoder(nn.Module):
        def forward(self, x, mask):
            assert (x[~mask] == 0).all()
            return x

    guide = guides.Amortized(VAE(DATA, LATENT), encoder=Encoder(), context=DATA)
    assert guide.posterior(torch.full((N, DATA), torch.nan), ~MASK & MASK).mean.isfinite().all()


def test_marginals_equal_those_of_the_entries_by_themselves():
    x, loc, scale = torch.randn(N, DATA), torch.randn(3, N, DATA), torch.rand(N, DATA) + 0.5
    each = dist.Normal(loc, scale).log_prob(x)
    expected = torch.where(MASK, each, 0.0).sum(-1)
    for p in (
        dist.Normal(loc, scale).to_event(1),
        DiagonalNormal(loc, scale),
        DiagonalNormal(loc, log_scale=scale.log()),
    ):
        torch.testing.assert_close(observed_entries(p, MASK).log_prob(torch.where(MASK, x, 0.0)), expected)
    # a mixture and a full covariance, row by row
    locs, logits = torch.randn(N, 2, DATA), torch.randn(N, 2)
    mixture = MixtureOfNormalsDensity(logits, locs, torch.rand(N, 2, DATA) + 0.5)
    root = torch.randn(N, DATA, DATA)
    normal = dist.MultivariateNormal(locs[:, 0], root @ root.mT + torch.eye(DATA))
    filled = torch.where(MASK, x, 0.0)
    of_mixture, of_normal = (observed_entries(p, MASK).log_prob(filled) for p in (mixture, normal))
    means = [given_observed(observed_entries(p, MASK), filled)[0].mean for p in (mixture, normal)]
    for n in range(N):
        seen = MASK[n]
        parts = dist.Normal(locs[n], mixture.components.scale[n]).log_prob(x[n])[:, seen].sum(-1) + logits[
            n
        ].log_softmax(-1)
        torch.testing.assert_close(of_mixture[n], parts.logsumexp(-1))
        mean = parts.softmax(-1) @ locs[n]
        torch.testing.assert_close(means[0][n, ~seen], mean[~seen])
        cov, loc_n = normal.covariance_matrix[n], locs[n, 0]
        if seen.any():
            inner = dist.MultivariateNormal(loc_n[seen], cov[seen][:, seen])
            torch.testing.assert_close(of_normal[n], inner.log_prob(x[n, seen]))
            gain = cov[~seen][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
            torch.testing.assert_close(means[1][n, ~seen], loc_n[~seen] + gain @ (x[n, seen] - loc_n[seen]))
    assert of_normal[1].abs() < 1e-12


def test_draws_under_a_mask_are_of_all_entries():
    model = VAE(DATA, LATENT, likelihood=Normal)
    drawn = pyro.poutine.uncondition(model)(torch.full((N, DATA), torch.nan), MASK)
    assert drawn.shape == (N, DATA)
    assert drawn.isfinite().all()
    p = observed_entries(model.likelihood(torch.zeros(LATENT)), MASK)
    assert p.rsample((3,)).shape == (3, N, DATA)
    assert p.expand((2, N)).log_prob(drawn).shape == (2, N)
    assert torch.equal(p.mean, model.likelihood(torch.zeros(LATENT)).mean)
    assert torch.equal(p.variance, model.likelihood(torch.zeros(LATENT)).variance)


def test_an_exact_mixture_gives_the_marginal_of_what_is_observed():
    model, x = GaussianMixture(DATA, 3), torch.randn(N, DATA)
    with torch.no_grad():
        model.unconstrained_scale += 0.3 * torch.randn_like(model.unconstrained_scale)
        model.logits += torch.randn(3)
    found = model.log_prob(torch.where(MASK, x, torch.nan), MASK)
    torch.testing.assert_close(found[2], model.log_prob(x[2]))
    cov = model.scale @ model.scale.mT
    for n in (0, 3, 4):
        seen = MASK[n]
        parts = dist.MultivariateNormal(model.means[:, seen], cov[:, seen][:, :, seen]).log_prob(x[n, seen])
        torch.testing.assert_close(found[n], (parts + model.logits.log_softmax(-1)).logsumexp(-1))
    torch.testing.assert_close(-ELBO()(model, guides.Exact(model, site="k"))(x, MASK), found.sum())


def dependent(loc, scale):
    flow = dist.TransformedDistribution(dist.Normal(loc, scale), [dist.transforms.LowerCholeskyAffine(
        torch.zeros(DATA), torch.eye(DATA) + torch.ones(DATA, DATA).tril(-1))])  # fmt: skip
    return flow


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: VAE(DATA, LATENT)(x, MASK[:2]), r"mask: expected torch.bool of shape \(5, 4\)"),
        (lambda x: VAE(DATA, LATENT)(x, MASK.double()), "mask: expected torch.bool"),
        (lambda x: Hierarchical(DATA, (2,))(x, MASK[:, 0]), r"mask: expected torch.bool of shape \(5, 4\)"),
        (lambda x: guides.Amortized(VAE(DATA, LATENT))(x, MASK.long()), "mask: expected torch.bool"),
        (lambda x: VAE(DATA, LATENT, likelihood=partial(Head, make=dependent))(x, MASK),
         "mask: the entries of x are not independent under TransformedDistribution"),
        (lambda x: observe("x", dist.Dirichlet(torch.ones(N, DATA)), x, MASK), "not independent under Dirichlet"),
    ],
)  # fmt: skip
def test_bad_masks_are_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call(torch.rand(N, DATA))


def test_a_mask_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"mask: expected a torch\.Tensor, got list"):
        VAE(DATA, LATENT)(torch.zeros(N, DATA), MASK.tolist())


def test_missing_observed_values_are_still_an_error():
    model = VAE(DATA, LATENT, likelihood=Normal)
    x = torch.full((N, DATA), math.nan)
    with pytest.raises(ValueError, match="site 'x'"):
        ELBO()(model, guides.Amortized(model))(x, MASK)


def test_levels_start_within_their_interval():
    p = dist.Uniform(torch.full((N, DATA), 2.0), 3.0).to_event(1)
    found = pyro.poutine.trace(lambda: observe("x", p, torch.full((N, DATA), torch.nan), ~MASK & MASK)).get_trace()
    assert found.nodes["x"]["fn"].log_prob(found.nodes["x"]["value"]).eq(0).all()


TAKES_MASK = [
    *("vae", "vae-full-rank", "vae-auxiliary", "density-flow", "hierarchical-ladder", "biva", "m2"),
    *("m1m2", "adgm", "ppca-exact", "ppca-amortized", "mixture-exact", "lgssm-smoother", "hmm", "dmm-filter"),
    *("kvae", "mixed-dynamics-exact"),
]


@pytest.mark.parametrize("name", TAKES_MASK)
def test_nan_without_a_mask_is_told_of_the_mask(name):
    model, guide, x = PAIRS[name].build()
    given = {n: value for n, value in PAIRS[name].keywords.items() if n != "mask"}
    loss = ELBO()(model, guide)
    with torch.no_grad():
        loss(x, **given)
    x[3, 0] = torch.nan
    calls = [lambda: model(x, **given), lambda: loss(x, **given), lambda: terms(model, guide, x, **given)]
    if x.ndim == 2:
        calls += [lambda: guide(x, **given)]
    if hasattr(model, "log_prob"):
        calls += [lambda: model.log_prob(x, **given)]
    for call in calls:
        with pytest.raises(ValueError, match=r"(rows 3|sequence 3, frame 0).*; say which \w+ are missing with mask="):
            call()
    with pytest.raises(ValueError, match=r"(rows 3|sequence 3, frame 0).*; say which \w+ are missing with mask="):
        log_likelihood(model, guide, x, num_particles=2, **given)
    with pytest.raises(ValueError, match=r"say which values are missing with mask=, data \(x, (None, )?mask\)"):
        fit(loss, x, steps=1, progress=False)


def test_nan_is_left_to_a_program_without_a_mask_or_under_one():
    def filled(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Normal(0.0, 1.0).expand([DATA]).to_event(1), obs=x.nan_to_num())

    x = torch.full((N, DATA), torch.nan)
    assert terms(filled, lambda x: None, x).log_likelihood.isfinite().all()
    model = VAE(DATA, LATENT, (8,))
    assert model(x, torch.zeros(N, DATA).bool()).isfinite().all()
    with pyro.validation_enabled(False):
        assert model(x).isnan().all()
