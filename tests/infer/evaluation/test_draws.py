"""Draws in arviz's container: shapes, weights and resampling against exact posteriors, arviz's own checks."""

import warnings
from functools import partial

import pyro
import pytest
import torch
from gaussian_pairs import Z_MAX, Given, LinearGaussian, shifted
from pairs import PAIRS
from pyro import distributions as dist
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import guides
from zoo import PPCA, VAE
from zoo.infer import log_likelihood, posterior_draws
from zoo.infer.calibration.simulate import simulate
from zoo.infer.reference.inference_data import pareto_k, pareto_smoothed
from zoo.parts.conditionals import Bernoulli, Categorical, Normal
from zoo.parts.store_keys import RootModule


@pytest.fixture
def model():
    return LinearGaussian()


def of(data, group, name):
    return torch.as_tensor(data[group][name].values.copy())


@pytest.mark.parametrize(
    "name", ["vae", "vae-per-datum", "vae-auto-normal", "m2", "m2-labelled", "adgm", "biva", "kvae", "srnn-filter",
             "gtmsm", "hmm-path", "mixture-exact"]
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"num_draws": 1}, {"num_draws": 6, "resampled": True}])
def test_every_group_has_a_chain_draws_and_data(name, options):
    pair = PAIRS[name]
    model, guide, x = pair.build_scored()
    data = posterior_draws(model, guide, x, **{"num_draws": 4, "seed": 0} | options, **pair.keywords)
    lead = (1, options.get("num_draws", 4), len(x))
    for group in ("posterior", "posterior_predictive", "log_likelihood"):
        for value in data[group].data_vars.values():
            assert value.shape[:3] == lead
            assert value.dims[:3] == ("chain", "draw", "datum")
    for site, value in data["observed_data"].items():
        assert value.shape[0] == len(x)
        assert data["posterior_predictive"][site].shape == (*lead, *value.shape[1:])
        assert data["log_likelihood"][site].shape == lead


def test_log_likelihood_is_of_the_draws_and_data_of_the_model():
    torch.manual_seed(0)
    model = VAE(6, 2, (8,))
    x = torch.rand(5, 6).round()
    data = posterior_draws(model, guides.Amortized(model, hidden=(8,)), x, num_draws=2000, seed=0)
    likelihood = model.likelihood(of(data, "posterior", "z")[0])
    torch.testing.assert_close(of(data, "log_likelihood", "x")[0], likelihood.log_prob(x).detach())
    torch.testing.assert_close(of(data, "observed_data", "x"), x)
    # 2000 bits have the means of their probabilities up to 0.5 / sqrt(2000) each
    away = (of(data, "posterior_predictive", "x")[0] - likelihood.mean.detach()).mean(0)
    assert away.abs().max() < Z_MAX * 0.5 / 2000**0.5


class Groups(RootModule):
    """N(g; 0, 1) prod_n N(z_n; g, 0.01^2) prod_i N(e_ni; 0, 1) N(x_n; z_n, 0.01^2), i in a plate inside the data's."""

    def __init__(self):
        super().__init__("model")

    def forward(self, x):
        with pyro.plate("pairs", 2, dim=-2):
            pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("inner", 4, dim=-2):
                pyro.sample("e", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(g, 0.01))
            pyro.sample("x", dist.Normal(z, 0.01), obs=x)


def prior_of(model):
    def guide(x):
        poutine.block(model, hide=["x"])(x)

    return guide


@pytest.mark.parametrize("entries", [False, True])
def test_draws_with_latents_outside_the_batch_plate_are_of_all_data_together(entries):
    torch.manual_seed(0)
    model, x = Groups(), torch.randn(5)
    # pieces of a few draws each
    data = posterior_draws(model, prior_of(model), x, num_draws=9, entries=entries, max_bytes=4_000, seed=0)
    shapes = {name: tuple(value.shape[2:]) for name, value in data["posterior"].data_vars.items()}
    assert shapes == {"w": (2, 3), "g": (), "e": (5, 4, 2), "z": (5,)}
    assert data["posterior"]["g"].dims == ("chain", "draw")
    assert data["posterior"]["e"].dims[2] == "datum"
    g, z, again = of(data, "posterior", "g"), of(data, "posterior", "z"), of(data, "posterior_predictive", "x")
    assert g.unique().numel() == 9
    assert (z - g.unsqueeze(-1)).abs().max() < 0.01 * 6
    assert (again - z).abs().max() < 0.01 * 6
    torch.testing.assert_close(of(data, "log_likelihood", "x"), dist.Normal(z, 0.01).log_prob(x))
    with pytest.raises(ValueError, match=r"site 'w': stands outside the batch plate 'data', so it has no per-datum"):
        posterior_draws(model, prior_of(model), x, num_draws=30, weighted=not entries, resampled=entries)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_of_models_with_latents_outside_have_draws(autoguide):
    model = Groups()
    data = posterior_draws(model, autoguide(model), torch.randn(5), num_draws=3)
    shapes = {name: tuple(value.shape[2:]) for name, value in data["posterior"].data_vars.items()}
    assert shapes == {"w": (2, 3), "g": (), "e": (5, 4, 2), "z": (5,)}


def test_entries_add_up_to_the_datum():
    torch.manual_seed(0)
    model = VAE(6, 2, (8,))
    guide, x = guides.Amortized(model, hidden=(8,)), torch.rand(5, 6).round()
    whole = posterior_draws(model, guide, x, num_draws=7, seed=0)
    split = posterior_draws(model, guide, x, num_draws=7, entries=True, seed=0)
    torch.testing.assert_close(of(split, "log_likelihood", "x").sum(-1), of(whole, "log_likelihood", "x"))


@pytest.mark.parametrize("likelihood", [Bernoulli, Normal, Categorical])
def test_entries_under_a_mask_are_no_data(likelihood):
    torch.manual_seed(0)
    model = VAE(6, 2, (8,), likelihood=partial(likelihood, levels=2) if likelihood is Categorical else likelihood)
    guide, x, mask = guides.Amortized(model, hidden=(8,)), torch.rand(5, 6).round(), torch.rand(5, 6) < 0.5
    whole, split = (posterior_draws(model, guide, x, num_draws=7, mask=mask, entries=e, seed=0) for e in (False, True))
    torch.testing.assert_close(of(whole, "observed_data", "x"), x.masked_fill(~mask, torch.nan), equal_nan=True)
    scores = of(split, "log_likelihood", "x")
    assert (scores[:, :, ~mask] == 0).all()
    torch.testing.assert_close(scores.sum(-1), of(whole, "log_likelihood", "x"))
    # by its place too, and of whole frames
    model, guide, x = PAIRS["lgssm-exact"].build()
    seen = torch.rand(x.shape[:2]) < 0.5
    frames = of(posterior_draws(model, guide, x, None, seen, num_draws=3), "observed_data", "x")
    assert torch.equal(frames.isnan().all(-1), ~seen)
    assert torch.equal(frames.isnan().any(-1), ~seen)


@pytest.mark.thorough
def test_pieces_of_data_and_draws_are_put_together(model):
    x = model.data(9)
    data = posterior_draws(model, Given(model), x, num_draws=300, max_bytes=4_000, seed=0)
    z, exact = of(data, "posterior", "z")[0], model.posterior(x)
    error = exact.variance.sqrt() / 300**0.5
    assert ((z.mean(0) - exact.mean) / error).abs().max() < Z_MAX


def test_weights_of_an_exact_guide_are_equal(model):
    data = posterior_draws(model, Given(model), model.data(3), num_draws=50, weighted=True, seed=0)
    torch.testing.assert_close(of(data, "sample_stats", "log_weight").exp(), torch.full((1, 50, 3), 0.02).double())
    assert data["posterior"].attrs["pareto_k"].shape == (3,)


def test_resampled_and_weighted_draws_have_the_moments_of_the_posterior(model):
    """A guide beside the posterior and wider: its own draws are far off, the weighted and the chosen ones are not."""
    x, off = model.data(4), shifted(model, shift=0.3, widen=1.5)
    exact = model.posterior(x)
    sd = exact.variance.sqrt()
    plain = of(posterior_draws(model, off, x, num_draws=4000, seed=0), "posterior", "z")[0]
    assert ((plain.mean(0) - exact.mean) / (sd * 1.5 / 4000**0.5)).abs().min() > Z_MAX
    data = posterior_draws(model, off, x, num_draws=4000, weighted=True, seed=0)
    weights = of(data, "sample_stats", "log_weight")[0].exp()
    mean = (weights.unsqueeze(-1) * of(data, "posterior", "z")[0]).sum(0)
    error = sd * weights.square().sum(0).sqrt().unsqueeze(-1)
    assert ((mean - exact.mean) / error).abs().max() < Z_MAX
    chosen = of(posterior_draws(model, off, x, num_draws=1000, resampled=True, seed=0), "posterior", "z")[0]
    # chosen from 10,000 draws, whose own error adds that of about 4,000 effective draws
    assert ((chosen.mean(0) - exact.mean) / (sd * (1 / 1000 + 1 / 2000) ** 0.5)).abs().max() < Z_MAX


def test_smoothed_weights_are_normalised_and_have_lighter_tails():
    torch.manual_seed(0)
    log_weights = torch.cat([2 * torch.randn(1000, 2).double(), torch.zeros(1000, 1).double()], 1)
    weights, k = pareto_smoothed(log_weights)
    torch.testing.assert_close(weights.exp().sum(0), torch.ones(3).double())
    torch.testing.assert_close(k, pareto_k(log_weights))
    # those below the tail keep their order and their ratios
    below = log_weights[:, 0].argsort()[:800]
    ratio = weights[below, 0] - log_weights[below, 0]
    torch.testing.assert_close(ratio, ratio[:1].expand(800))
    torch.testing.assert_close(weights[:, 2].exp(), torch.full((1000,), 1e-3).double())


def test_arviz_leaves_data_out():
    """With a wide likelihood the harmonic mean is a usable estimate of log p(x), which the model knows."""
    arviz = pytest.importorskip("arviz")
    torch.manual_seed(0)
    model = PPCA(3, 1).double()
    with torch.no_grad():
        model.weight.mul_(0.3)
        x = simulate(model, torch.zeros(20, 3).double(), {}).x
        exact = model.log_prob(x).sum().item()
    data = posterior_draws(model, guides.Exact(model), x, num_draws=1000, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = arviz.loo(data, var_name="x")
    assert abs(getattr(found, "elpd_loo", getattr(found, "elpd", None)) - exact) < 0.02 * abs(exact)
    assert abs(log_likelihood(model, guides.Exact(model), x, num_particles=30).per_datum.sum().item() - exact) < 1e-8


def test_arviz_checks_the_predictive():
    """Entries of the model's own data: PIT values of left-out entries are about uniform, and the figure is drawn."""
    arviz = pytest.importorskip("arviz")
    torch.manual_seed(0)
    model = PPCA(3, 1)
    x = simulate(model, torch.zeros(60, 3), {}).x
    data = posterior_draws(model, guides.Exact(model), x, num_draws=400, entries=True, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if hasattr(arviz, "plot_ppc"):
            pit = torch.as_tensor(arviz.loo_pit(data, y="x"))
            assert arviz.plot_ppc(data, num_pp_samples=5) is not None
        else:  # arviz 1.x
            pit = torch.as_tensor(arviz.loo_pit(data, var_names="x")["x"].values)
            assert arviz.plot_ppc_dist(data, var_names=["x"], num_samples=5, backend="matplotlib") is not None
    assert pit.shape == x.shape
    # 180 values, three of a datum nearly independent: the mean of uniform ones has the sd 0.022
    assert abs(pit.mean() - 0.5) < Z_MAX * 0.022


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_draws": 0}, "num_draws"),
        ({"oversampling": 0}, "oversampling"),
        ({"weighted": True, "resampled": True}, "ask for one"),
        ({"weighted": True, "num_draws": 20}, "num_draws: weights are smoothed over 30 draws or more, got 20"),
        ({"resampled": True, "num_draws": 2, "oversampling": 3}, "got 6"),
    ],
)
def test_wrong_arguments_are_named(model, options, words):
    with pytest.raises(ValueError, match=words):
        posterior_draws(model, Given(model), model.data(2), **options)


def test_data_entries_and_latents_that_are_not_there_are_named():
    model, guide, x = PAIRS["vae-logistic"].build()
    with pytest.raises(ValueError, match=r"site 'x': IndependentDiscretizedLogistic is no product over its entries"):
        posterior_draws(model, guide, x, num_draws=3, entries=True)
    with pytest.raises(TypeError, match=r"x: expected a torch.Tensor"):
        posterior_draws(model, guide, "words")
    model, guide, x = PAIRS["hmm"].build()
    with pytest.raises(ValueError, match="no latent site"):
        posterior_draws(model, guide, x, num_draws=3)


def test_gaps_of_a_model_that_is_given_its_first_frames_stand_at_the_others():
    model, guide, x = PAIRS["gtmsm"].build_scored()
    seen = torch.ones(x.shape[:2], dtype=torch.bool)
    seen[0, 0] = seen[1, -1] = False
    found = posterior_draws(model, guide, x, mask=seen, num_draws=3, **PAIRS["gtmsm"].keywords)
    frames = of(found, "observed_data", "x")
    assert torch.equal(frames.isnan().all(-1), ~seen[:, model.memorise :])
