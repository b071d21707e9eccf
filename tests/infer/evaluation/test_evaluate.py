"""log p(x), gaps, KL per site and active units against linear-Gaussian pairs where each is known exactly."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_pairs import Z_MAX, Given, LinearGaussian, MeanField, NoLogProb, shifted
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch.distributions import kl_divergence

from guides import Amortized
from zoo import VAE
from zoo.data import load
from zoo.infer.evaluation.gaps import gaps
from zoo.infer.evaluation.latents import active_units, kl_per_site
from zoo.infer.evaluation.likelihood import bits_per_dim, log_likelihood
from zoo.infer.pieces import bytes_of, pieces, weighted_draws
from zoo.infer.reference.inference_data import pareto_k
from zoo.infer.terms import terms
from zoo.parts.aside import held, seeded


@pytest.fixture
def model():
    return LinearGaussian()


@pytest.mark.parametrize("num_particles", [1, 7])
@pytest.mark.parametrize("max_bytes", [1, 10**4, 10**9])
def test_exact_posterior_gives_log_p(model, num_particles, max_bytes):
    x = model.data(5)
    found = log_likelihood(model, Given(model), x, num_particles=num_particles, max_bytes=max_bytes)
    torch.testing.assert_close(found.per_datum, model.log_prob(x).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.elbo, found.per_datum, rtol=0, atol=1e-10)
    if num_particles > 1:  # log weights are computed to about 1e-15 of 10 nats
        assert found.per_datum_error.max() < 1e-6
        assert found.elbo_error.max() < 1e-6
    else:
        assert found.per_datum_error.isnan().all()


@pytest.mark.parametrize("max_bytes", [10**6, 10**9])
def test_wrong_guide_is_within_its_standard_error(model, max_bytes):
    x = model.data(40)
    guide = shifted(model)
    found = log_likelihood(model, guide, x, num_particles=2000, max_bytes=max_bytes, seed=3)
    z = (found.per_datum - model.log_prob(x)) / found.per_datum_error
    assert z.abs().max() < Z_MAX
    # the errors themselves: z has variance 1, whose estimate from 40 values has a standard error of sqrt(2 / 40)
    assert abs(z.var().item() - 1) < Z_MAX * math.sqrt(2 / 40)
    exact = model.log_prob(x) - kl_divergence(guide.make(x), model.posterior(x))
    z = (found.elbo - exact) / found.elbo_error
    assert z.abs().max() < Z_MAX
    assert abs(z.var().item() - 1) < Z_MAX * math.sqrt(2 / 40)
    # relative variance of the weights (the chi-square divergence) and Kish's effective sample size say the same
    assert torch.all(found.effective_sample_size > 1)
    assert torch.all(found.effective_sample_size < 2000)


def test_summary_of_the_data(model):
    x = model.data(30)
    found = log_likelihood(model, shifted(model), x, num_particles=50, seed=0)
    assert found.mean == pytest.approx(found.per_datum.mean().item())
    assert found.standard_error == pytest.approx(found.per_datum.std().item() / math.sqrt(30))
    assert found.monte_carlo_error == pytest.approx((found.per_datum_error**2).sum().sqrt().item() / 30)
    assert f"{found.mean:.3f}" in str(found)
    assert math.isnan(log_likelihood(model, shifted(model), x[:1], num_particles=5).standard_error)


def test_pieces_cover_everything_once(model):
    x = model.data(11)
    for max_bytes, particles in ((1, 3), (4000, 100), (10**9, 100)):
        seen = torch.zeros(11)
        for rows, count, run in pieces(model, shifted(model), x, (), {}, num_particles=particles, max_bytes=max_bytes):
            assert run.log_weights.shape == (count, len(seen[rows]))
            seen[rows] += count
        assert torch.all(seen == particles)


def test_pieces_keep_to_the_memory_bound():
    """The bound holds for what a piece really allocates, and pieces are not much smaller than they may be."""
    model = LinearGaussian(data_dim=50, latent_dim=2)
    x = model.data(64)
    guide = shifted(model)
    bound = 10**6
    sizes = []

    def consume():
        for piece in pieces(model, guide, x, (), {}, num_particles=500, max_bytes=bound):
            sizes.append(piece.particles * (piece.rows.stop - piece.rows.start))

    total = bytes_of(consume)
    assert total / len(sizes) < 1.2 * bound
    largest = max(sizes)
    rows = slice(0, max(1, largest // 500))
    particles = min(500, largest)
    with torch.no_grad():
        assert bytes_of(lambda: terms(model, guide, x[rows], num_particles=particles)) > 0.1 * bound


def test_same_seed_same_number_and_the_callers_stream_goes_on(model):
    x, guide = model.data(6), shifted(model)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one = log_likelihood(model, guide, x, num_particles=20, seed=5)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.per_datum, log_likelihood(model, guide, x, num_particles=20, seed=5).per_datum)
    assert not torch.equal(one.per_datum, log_likelihood(model, guide, x, num_particles=20, seed=6).per_datum)


def test_evaluation_mode_and_frozen_parameters_are_put_back():
    model = LinearGaussian()
    model.dropout = torch.nn.Dropout(0.5)
    model.weight.requires_grad_(False)

    def fail():
        with held(model):
            assert not model.dropout.training
            assert not model.log_scale.requires_grad
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.dropout.training
    assert model.log_scale.requires_grad
    assert not model.weight.requires_grad


def test_guides_with_rows_of_their_own(model):
    """A per-datum guide is given the row numbers, so that pieces of the data find their parameters."""
    x = model.data(9)
    guide = MeanField(model, 9)
    exact = model.posterior(x)
    with torch.no_grad():
        guide.loc.copy_(exact.mean)
        guide.log_scale.copy_(exact.variance.sqrt().log())
    small = log_likelihood(model, guide, x, num_particles=500, max_bytes=10**5, seed=0)
    assert ((small.per_datum - model.log_prob(x)) / small.per_datum_error).abs().max() < Z_MAX
    some = torch.tensor([7, 2])
    part = log_likelihood(model, guide, x[some], num_particles=500, index=some, seed=0)
    assert ((part.per_datum - model.log_prob(x[some])) / part.per_datum_error).abs().max() < Z_MAX


def test_autoguides_and_functions_work_in_pieces(model):
    x = model.data(4)
    means = init_to_value(values={"z": model.posterior(x).mean.detach()})
    auto = AutoNormal(model, init_loc_fn=means, init_scale=1.0)
    terms(model, auto, x)

    def by_hand(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    for guide in (auto, by_hand):
        found = log_likelihood(model, guide, x, num_particles=4000, max_bytes=10**6, seed=1)
        assert ((found.per_datum - model.log_prob(x)) / found.per_datum_error).abs().max() < Z_MAX


def test_further_arguments_are_cut_with_the_data(model):
    def with_mask(x, mask):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ model.weight.T, 0.7).mask(mask).to_event(1), obs=x)

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    x = model.data(5)
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[3] = True  # rows without data have log p = 0 exactly
    found = log_likelihood(with_mask, guide, x, mask, num_particles=10, max_bytes=1, seed=0)
    assert (found.per_datum.abs() > 1e-12).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_particles": 0}, "num_particles"), ({"max_bytes": 0}, "max_bytes"), ({}, "empty")],
)
def test_bad_input(model, arguments, message):
    x = model.data(3)[: 0 if message == "empty" else 3]
    with pytest.raises(ValueError, match=message):
        log_likelihood(model, Given(model, lambda x: dist.Normal(x[:, :2], 1.0).to_event(1)), x, **arguments)


def test_data_that_give_nan_are_named(model):
    x = model.data(20)
    x[13, 2] = math.nan
    prior = Given(model, lambda x: dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
    for max_bytes in (1, 10**9):  # found in the run of its piece, or at the first look at the pair
        with pytest.raises(ValueError, match=r"rows \[?13"):
            log_likelihood(model, prior, x, num_particles=5, max_bytes=max_bytes)


def test_bits_per_dim():
    # a fair coin for each pixel costs one bit; a uniform density over [0, 1] says nothing, so 8 bits of 256 levels
    assert bits_per_dim(-10 * math.log(2.0), 10) == pytest.approx(1.0)
    assert bits_per_dim(0.0, 10, levels=256) == pytest.approx(8.0)
    # a discrete uniform over 32 levels, and the same as a density of dequantised data
    assert bits_per_dim(-7 * math.log(32.0), 7) == pytest.approx(bits_per_dim(0.0, 7, levels=32))
    with pytest.raises(ValueError, match="data_dim"):
        bits_per_dim(-1.0, 0)
    with pytest.raises(ValueError, match="levels"):
        bits_per_dim(-1.0, 3, levels=1)


def test_gaps_of_a_mean_field_guide_on_a_correlated_posterior():
    """The best mean field of N(m, L^-1) has mean m, precisions diag L and KL (sum log diag L - log det L) / 2."""
    model = LinearGaussian(data_dim=3, latent_dim=3, scale=0.8, seed=4)
    x = model.data(6)
    guide = MeanField(model, 6)
    with torch.no_grad():
        guide.loc.copy_(model.posterior(x).mean + 0.3)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    found = gaps(model, guide, x, steps=400, learning_rate=0.05, num_particles=4000, seed=0)
    precision = model.precision().detach()
    approximation = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert approximation > 0.1, "an uncorrelated posterior would test nothing"
    # the optimiser's own miss: curvature times the squared last steps; 400 steps leave it below 0.01 nats
    slack = 0.01
    assert torch.all((found.approximation - approximation).abs() < slack + Z_MAX * found.approximation_error)
    own = torch.stack(
        [kl_divergence(dist.Normal(guide.loc[n], guide.log_scale[n].exp()).to_event(1), p) for n, p in _each(model, x)]
    )
    assert torch.all((found.total - own.detach()).abs() < Z_MAX * found.total_error)
    torch.testing.assert_close(found.total, found.approximation + found.amortization)
    assert torch.all(found.log_p_error == 0), "the model offers log_prob"
    assert found.history[-1] > found.history[0]
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items()), "the guide was changed"
    assert model.weight.requires_grad
    assert model.weight.grad is None
    assert "amortization gap" in str(found)


def _each(model, x):
    posterior = model.posterior(x)
    for n in range(len(x)):
        diagonal = posterior.mean[n], posterior.covariance_matrix[n]
        yield n, dist.MultivariateNormal(*diagonal)


def test_gaps_without_an_exact_log_p_estimate_it():
    model = LinearGaussian()
    x = model.data(8)
    found = gaps(NoLogProb(model), MeanField(model, 8), x, steps=50, num_particles=4000, seed=1)
    assert torch.all(found.log_p_error > 0)
    assert ((found.log_p - model.log_prob(x)) / found.log_p_error).abs().max() < Z_MAX


def test_gaps_ask_for_what_they_need(model):
    x = model.data(3)
    with pytest.raises(ValueError, match="per_datum"):
        gaps(model, Given(model), x)
    with pytest.raises(ValueError, match="parameters"):
        gaps(model, Given(model), x, best=lambda x: None)
    with pytest.raises(ValueError, match="one value for each"):
        gaps(model, MeanField(model, 3), x, log_p=torch.zeros(2), steps=1, num_particles=2)


def test_kl_per_site_adds_up(model):
    """Two sites with known KL divergences from their priors."""

    def two(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a, 2.0).to_event(1))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5).to_event(1))
            pyro.sample("b", dist.Normal(a + 1.0, 0.7).to_event(1))

    x = model.data(5)[:, :2]
    found = kl_per_site(two, guide, x, num_particles=4000, max_bytes=10**6, seed=0)
    expected = {
        "a": kl_divergence(dist.Normal(x, 0.5), dist.Normal(torch.zeros_like(x), 1.0)).sum(-1),
        "b": kl_divergence(dist.Normal(x * 0 + 1.0, 0.7), dist.Normal(x * 0, 2.0)).sum(-1),
    }
    # log q - log p of a Gaussian in 2 dimensions has a standard deviation below 2 + |slope| here; 4000 draws
    for name, value in expected.items():
        bound = Z_MAX * (2 + 4 * x.abs().amax(-1)) / math.sqrt(4000)
        assert torch.all((found[name] - value).abs() < bound)
    assert list(found) == ["a", "b"]


def _gaussian(loc, scale):
    return dist.Normal(loc, scale).to_event(1)


def _flow(loc, scale):
    """The same without a mean, as flows are."""
    return dist.TransformedDistribution(_gaussian(loc, scale), [dist.transforms.AffineTransform(0.0, 1.0, event_dim=1)])


@pytest.mark.parametrize("family", [_gaussian, _flow])
def test_active_units_by_burdas_rule(family):
    """Dimension 0 moves with x, dimension 1 is the prior whatever x is: few particles must not activate it."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = torch.stack([0.2 * x[:, 0], 0 * x[:, 0]], -1)
            pyro.sample("z", family(loc, torch.tensor([0.3, 1.0], dtype=x.dtype)))

    units = active_units(guide, x, num_particles=20, seed=0)["z"]
    assert units.active.tolist() == [True, False]
    # sd of a variance estimate from 400 data of (signal + noise): sqrt(2 / 400) of it
    for value, signal, noise in zip(
        units.variance, [0.04 * x[:, 0].var().item(), 0.0], [0.09 / 20, 1 / 20], strict=True
    ):
        assert abs(value.item() - signal) < Z_MAX * math.sqrt(2 / 400) * (signal + noise)
    assert active_units(guide, x, threshold=0.05, seed=0)["z"].active.tolist() == [False, False]


def test_active_units_need_data_particles_and_a_plate(model):
    x = model.data(4)
    with pytest.raises(ValueError, match="variance over the data"):
        active_units(Given(model), x[:1])
    with pytest.raises(ValueError, match="num_particles"):
        active_units(Given(model), x, num_particles=1)

    def outside(x):
        pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"'w'.*outside the batch plate"):
        active_units(outside, x)


def test_active_units_of_a_per_datum_guide_and_an_autoguide(model):
    x = model.data(300)
    guide = MeanField(model, 300)
    exact = model.posterior(x).mean
    with torch.no_grad():
        guide.loc.copy_(exact)
    found = active_units(guide, x, num_particles=2)["z"].variance
    torch.testing.assert_close(found, exact.var(0).detach())  # the site's own mean: no Monte Carlo error
    auto = AutoNormal(model)
    terms(model, auto, x)
    assert list(active_units(auto, x)) == ["z"]


def test_draws_of_several_sites_stand_side_by_side(model):
    def two(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))

    x = model.data(5)
    latents, weights = weighted_draws(two, two, x, (), {}, num_particles=6, sites=["b", "a"], max_bytes=500)
    assert latents.shape == (6, 5, 3)
    assert weights.shape == (6, 5)
    with pytest.raises(ValueError, match="does not sample"):
        weighted_draws(two, two, x, (), {}, num_particles=6, sites=["c"])


@pytest.mark.parametrize(("split", "name"), [(load("digits").test, "images"), (load("cadences").test, "values")])
def test_a_split_of_data_is_no_tensor(split, name):
    model = VAE(getattr(split[:2], name).shape[-1], 2, hidden=(3,))
    guide = Amortized(model, hidden=(3,))
    message = f"x: expected a torch.Tensor, got {type(split).__name__}; take its `{name}`"
    for evaluate in (partial(log_likelihood, model), partial(kl_per_site, model), active_units):
        with pytest.raises(TypeError, match=message):
            evaluate(guide, split)


@pytest.mark.parametrize("max_bytes", [30_000, 10**9])
def test_k_hat_of_a_likelihood_is_that_of_all_its_weights(model, max_bytes):
    """A guide of half the scale has weights of infinite variance; with one seed the same weights in one piece."""
    x, narrow = model.data(7), shifted(model, shift=0.0, widen=0.5)
    found = log_likelihood(model, narrow, x, num_particles=300, max_bytes=max_bytes, seed=0)
    weights = []
    with held(model, narrow), seeded(0):
        for rows, _, run in pieces(model, narrow, x, (), {}, num_particles=300, max_bytes=max_bytes):
            if rows.start == len(weights):
                weights += [[] for _ in range(rows.start, rows.stop)]
            for row, column in zip(range(rows.start, rows.stop), run.log_weights.T, strict=True):
                weights[row].append(column)
    expected = pareto_k(torch.stack([torch.cat(row) for row in weights], 1))
    torch.testing.assert_close(found.pareto_k(), expected)
    assert f"k-hat above 0.7: {int((expected > 0.7).sum())}, largest {expected.max():.2f}" in str(found)


def test_k_hat_says_when_the_guide_is_the_posterior_and_when_there_is_none(model):
    x = model.data(150)
    exact = log_likelihood(model, Given(model), x, num_particles=40)
    assert str(exact).endswith("k-hat above 0.7: 0 of 75 looked at, largest -inf")
    few = log_likelihood(model, Given(model), x, num_particles=10)
    assert "k-hat" not in str(few)
    with pytest.raises(ValueError, match=r"pareto_k: .* 30 weights or more, got 10"):
        few.pareto_k()
