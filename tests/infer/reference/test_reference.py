"""Reference posteriors against exact ones, and what must not pass for a reference."""

import itertools
import math
import types

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_pairs import Z_MAX, LinearGaussian, NoLogProb
from pyro.infer.mcmc.adaptation import WarmupAdapter

from zoo.infer import NotAReference, exact_reference, grid_reference, hmc_reference, nuts_reference
from zoo.infer.reference import checked
from zoo.infer.reference.checked import Failure, Sampling, check_draws
from zoo.infer.reference.hmc import _windows
from zoo.infer.reference.inference_data import diagnose, site_draws, to_inference_data
from zoo.infer.reference.log_joint import LogJoint, entry_names
from zoo.infer.reference.reference import as_reference

LAX = {"max_rhat": 1.1, "min_ess": 100.0}  # the moments are compared in units of their own standard errors


@pytest.fixture
def model():
    return LinearGaussian(scale=0.5)


def assert_moments(found, exact):
    """Means within their standard errors; standard deviations within theirs, sd / sqrt(2 n) for Gaussian draws."""
    assert ((found.mean - exact.mean) / found.mean_error).abs().max() < Z_MAX
    ess_of_squares = diagnose_squares(found.draws)
    assert ((found.sd / exact.sd).log().abs() * (2 * ess_of_squares).sqrt()).max() < Z_MAX


def diagnose_squares(draws):
    """Effective sample size of the squared deviations (one chain: the draws of all chains, one after the other)."""
    squares = (draws - draws.mean(0)) ** 2
    return diagnose({"s": squares.unsqueeze(0)}).ess_bulk["s"] / 2  # halved: chains are joined end to end


# --- the log joint ---------------------------------------------------------------------------------------------------


def test_log_joint_is_what_the_model_says(model):
    x = model.data(5)
    log_joint = LogJoint(model, x)
    for chains in (1, 3):
        u = log_joint.prior(chains)
        assert u.shape == (chains, 5, 2)
        posterior = model.posterior(x)
        torch.testing.assert_close(log_joint(u) - posterior.log_prob(u), model.log_prob(x).expand(chains, 5))
        _, gradient = log_joint.gradient(u)
        torch.testing.assert_close(gradient, -((u - posterior.mean) @ model.precision()).detach())
    u = log_joint.prior(7)
    torch.testing.assert_close(log_joint.evaluate(u, max_bytes=1), log_joint(u).detach())
    torch.testing.assert_close(log_joint.gradient(u, max_bytes=1), log_joint.gradient(u))


def several(x):
    """A positive scalar, a simplex, a matrix."""
    with pyro.plate("data", len(x)):
        s = pyro.sample("s", dist.Gamma(x.new_tensor(2.0), x.new_tensor(1.0)))
        p = pyro.sample("p", dist.Dirichlet(x.new_tensor([2.0, 3.0, 4.0])))
        m = pyro.sample("m", dist.Normal(x.new_zeros(2, 3), 1.0).to_event(2))
        loc = (m * p.unsqueeze(-2)).sum((-1, -2)) * s
        pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x)


def test_constrained_sites_carry_their_change_of_variables():
    """Integrated over u, the density of the prior alone is one: here in the scalar, with the others held."""
    x = torch.zeros(2, 1, dtype=torch.float64)
    log_joint = LogJoint(several, x)
    assert log_joint.dim == 1 + 2 + 6
    u = log_joint.prior(4)
    values = log_joint.constrain(u)
    assert values["p"].shape == (4, 2, 3)
    assert values["m"].shape == (4, 2, 2, 3)
    torch.testing.assert_close(log_joint.unconstrain(values), u)

    def scalar(x):
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.Gamma(x.new_tensor(2.0), x.new_tensor(1.0)))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    grid = torch.linspace(-16, 6, 4001, dtype=torch.float64)
    values = LogJoint(scalar, x).evaluate(grid.reshape(-1, 1, 1).expand(-1, 2, 1))
    total = torch.trapezoid(values[:, 0].exp(), grid) * math.sqrt(2 * math.pi)
    assert total.item() == pytest.approx(1.0, abs=1e-6)


def test_log_joint_names_the_site_that_does_not_fit():
    x = torch.zeros(3, 1)

    def discrete(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(k.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def nothing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)

    none = "no continuous latent site"
    for program, message in ((discrete, f"{none}: 'k' is discrete"), (nothing, none)):
        with pytest.raises(ValueError, match=message):
            hmc_reference(program, x)


def test_plates_inside_the_batch_are_summed(model):
    """Pixels in a plate of their own: the same posterior as with pixels declared as the event."""

    def pixels(x):
        data = pyro.plate("data", len(x), dim=-1)
        with data:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        with pyro.plate("pixels", 4, dim=-2), data:
            loc = (
                (z @ model.weight.T).movedim(-1, -2)
                if z.dim() == 2
                else (z @ model.weight.T).squeeze(-3).movedim(-1, -2)
            )
            pyro.sample("x", dist.Normal(loc, 0.5), obs=x.T)

    x = model.data(3)
    u = LogJoint(model, x).prior(6)
    for positions in (u, u[:1]):
        torch.testing.assert_close(LogJoint(pixels, x)(positions), LogJoint(model, x)(positions))


# --- exact and grid --------------------------------------------------------------------------------------------------


def test_exact_reference(model):
    x = model.data(4)
    found = exact_reference(model, x)
    posterior = model.posterior(x)
    torch.testing.assert_close(found.log_evidence, model.log_prob(x).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.mean, posterior.mean.detach())
    torch.testing.assert_close(found.sd, posterior.variance.sqrt().detach())
    rows = torch.tensor([2, 0])
    z = torch.randn(5, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(
        found.log_density(z, rows),
        posterior.log_prob(torch.zeros(5, 4, 2).double().index_copy_(1, rows, z))[:, rows].detach(),
    )
    assert found.coordinates == ["z[0]", "z[1]"]
    with pytest.raises(ValueError, match="no posterior"):
        exact_reference(NoLogProb(model), x)


@pytest.mark.parametrize("wrong", ["mean", "scale", "other data"])
def test_a_posterior_that_is_not_the_models(model, wrong):
    class Lying(LinearGaussian):
        def posterior(self, x):
            exact = super().posterior(x.flip(0) if wrong == "other data" else x)
            shift = 0.1 * (wrong == "mean")
            return dist.MultivariateNormal(
                exact.mean + shift, scale_tril=exact.scale_tril * (1 + (wrong == "scale") / 20)
            )

    with pytest.raises(ValueError, match=r"Lying.posterior is not the model's for data 0, .*varies by .* nats"):
        exact_reference(Lying(scale=0.5), model.data(4))
    with pytest.raises(ValueError, match="one latent site, the model has"):
        exact_reference(Several(), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="exact_reference: site 's': constrained"):
        exact_reference(Constrained(), torch.zeros(2, 1))


class Several:
    posterior = LinearGaussian.posterior

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)


class Constrained:
    posterior = LinearGaussian.posterior

    def __call__(self, x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(x.new_tensor(2.0), 1.0))
            pyro.sample("x", dist.Normal(s.unsqueeze(-1), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_grid_is_exact_for_gaussians(latent_dim):
    model = LinearGaussian(
        data_dim=3, latent_dim=latent_dim, scale=0.02
    )  # narrow: posterior sd about 1 % of the prior's
    x = model.data(5)
    found = grid_reference(model, x, points=65)
    exact = exact_reference(model, x)
    torch.testing.assert_close(found.log_evidence, exact.log_evidence, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=1e-6 * exact.sd.min().item())
    torch.testing.assert_close(found.sd, exact.sd, rtol=1e-6, atol=0)
    rows = torch.tensor([3])
    z = exact.draws[:4, 3:4]
    torch.testing.assert_close(found.log_density(z, rows), exact.log_density(z, rows), rtol=0, atol=1e-6)


def two_modes(x):
    """p(z | x) has modes at about +1 and -1 (x observes |z|), and their weights are known by symmetry."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.abs(), 0.1).to_event(1), obs=x)


def test_grid_finds_every_mode_and_weighs_it():
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    found = grid_reference(two_modes, x)
    # the posterior of |z| is that of a linear-Gaussian model up to 4e-23; both signs have one half of the mass
    mean, variance = x / 1.01, torch.full_like(x, 0.01 / 1.01)
    torch.testing.assert_close(found.mean, torch.zeros_like(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sd, (mean**2 + variance).sqrt(), rtol=1e-6, atol=0)
    log_p = dist.Normal(0.0, math.sqrt(1.01)).log_prob(x[:, 0]) + math.log(2.0)
    torch.testing.assert_close(found.log_evidence, log_p, rtol=0, atol=1e-6)


def test_grid_says_when_it_is_too_coarse():
    with pytest.raises(NotAReference, match=r"too coarse for data 0, 1"):
        grid_reference(two_modes, torch.tensor([[1.0], [2.0]], dtype=torch.float64), points=17)


def test_grid_keeps_two_narrow_modes_that_lie_between_its_points():
    """Of a quarter of a thousandth of the prior's width, at -1.1 and 1.3 of different weights, in closed form."""
    narrow = torch.tensor(2.5e-4, dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z - 0.1).abs(), narrow).to_event(1), obs=x)

    x = torch.tensor([[1.2]], dtype=torch.float64)
    with pytest.raises(NotAReference, match="too coarse"):
        grid_reference(model, x)
    found = grid_reference(model, x, points=2**15)
    parts = dist.Normal(x.new_zeros(2), (1 + narrow**2).sqrt()).log_prob(torch.tensor([1.3, -1.1]).double())
    torch.testing.assert_close(found.log_evidence, parts.logsumexp(0, keepdim=True), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found.mean[0], (parts.softmax(0) * torch.tensor([1.3, -1.1])).sum().reshape(1), atol=1e-6, rtol=0
    )


def test_grid_says_that_a_spike_stands_between_its_points():
    """A spike of a third of the mass beside a wide mode, with a tolerance that lets the sums over the grid differ."""
    scales = torch.tensor([0.05, 0.5], dtype=torch.float64)

    def model(x):
        mixture = dist.MixtureSameFamily(
            dist.Categorical(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)),
            dist.Normal(torch.tensor([1.2345, -1.0], dtype=torch.float64), scales),
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 2.0))
            pyro.factor("ratio", mixture.log_prob(z) - dist.Normal(0.0, 2.0).log_prob(z))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    with pytest.raises(NotAReference, match=r"too coarse for data 0, 1 .*standard deviations of a narrow mode wide"):
        grid_reference(model, torch.zeros(2, 1, dtype=torch.float64), points=33, tolerance=10.0)


def test_grid_says_that_mass_stands_at_its_border():
    """An improper posterior: flat, so that every box is too small."""

    def flat(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.factor("flat", 0.5 * (z**2).sum(-1))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    with pytest.raises(NotAReference, match=r"too small for data 0 .*mass stands at the border"):
        grid_reference(flat, torch.zeros(1, 1, dtype=torch.float64))


def test_grid_says_that_it_met_nan():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.factor("hole", torch.where(z.sum(-1) > 4.5, torch.nan, 0.0))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(NotAReference, match=r"meets NaN for data 0, 1 \(2 of 2\)"):
        grid_reference(model, torch.zeros(2, 1, dtype=torch.float64))


def test_grid_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="one or two"):
        grid_reference(LinearGaussian(latent_dim=3), LinearGaussian(latent_dim=3).data(2))
    with pytest.raises(ValueError, match="the model has 9"):
        grid_reference(several, torch.zeros(2, 1))


# --- samplers --------------------------------------------------------------------------------------------------------


def test_hmc_finds_the_exact_posterior(model):
    x = model.data(20)
    before = torch.random.get_rng_state()
    found = hmc_reference(model, x, num_samples=150, warmup=120, seed=0, **LAX)
    assert torch.equal(before, torch.random.get_rng_state())
    reference, exact = as_reference(found), exact_reference(model, x)
    assert reference.kind == "HMC"
    assert_moments(reference, exact)
    # calibrated: the z-scores of 40 means have variance 1
    z = (reference.mean - exact.mean) / reference.mean_error
    assert abs((z**2).mean().item() - 1) < Z_MAX * math.sqrt(2 / 40)
    accept = torch.as_tensor(found["sample_stats"]["acceptance_rate"].values)
    assert accept.shape == (4, 150, 20)
    assert 0.7 < accept.mean() < 0.97
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_hmc_takes_constrained_and_several_sites():
    """Two sites whose posterior is their prior (the data do not depend on them): Gamma and Dirichlet moments."""

    def prior_only(x):
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.Gamma(x.new_tensor(3.0), x.new_tensor(2.0)))
            pyro.sample("p", dist.Dirichlet(x.new_tensor([2.0, 3.0, 5.0])))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    x = torch.zeros(6, 1, dtype=torch.float64)
    found = as_reference(hmc_reference(prior_only, x, num_samples=150, warmup=120, seed=1, **LAX))
    assert found.coordinates == ["p[0]", "p[1]", "p[2]", "s"] or found.coordinates == ["s", "p[0]", "p[1]", "p[2]"]
    truth = {"s": 1.5, "p[0]": 0.2, "p[1]": 0.3, "p[2]": 0.5}
    expected = torch.tensor([truth[name] for name in found.coordinates], dtype=torch.float64)
    assert ((found.mean - expected) / found.mean_error).abs().max() < Z_MAX


@pytest.mark.thorough
def test_nuts_finds_the_exact_posterior(model):
    x = model.data(2)
    found = nuts_reference(model, x, num_samples=100, warmup=60, seed=0, max_rhat=1.1, min_ess=40)
    assert found["posterior"]["z"].shape == (4, 100, 2, 2)
    assert found["posterior"].attrs["sampler"] == "NUTS"
    assert_moments(as_reference(found), exact_reference(model, x))
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_the_windows_of_the_warm_up():
    """Pyro's own schedule at the default warm-up; a shorter one leaves a quarter to the step size at the end."""
    own = WarmupAdapter(adapt_mass_matrix=True)
    own.configure(500, mass_matrix_shape={})
    assert [end for _, end in _windows(500)] == [window.end for window in own.adaptation_schedule[1:-1]]
    assert _windows(500) == [(74, 99), (100, 149), (150, 249), (250, 449)]
    assert _windows(20) == [(4, 14)]
    assert _windows(120) == [(17, 23), (24, 35), (36, 89)]


def test_same_seed_same_draws(model):
    x = model.data(3)
    first, second = (
        hmc_reference(model, x, num_samples=20, warmup=20, seed=3, max_rhat=9, min_ess=0) for _ in range(2)
    )
    assert torch.equal(site_draws(first)["z"], site_draws(second)["z"])


@pytest.mark.parametrize("sampler", [nuts_reference, hmc_reference])
def test_what_was_drawn_is_not_lost_when_the_time_is_over(model, sampler, monkeypatch):
    """By a clock that goes on by a second whenever it is looked at: at the start, and after each draw."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(checked, "time", clock)
    x = model.data(2)
    with pytest.raises(NotAReference, match="time budget of 25 s was over after 6 of 1000000 draws") as info:
        sampler(model, x, num_samples=10**6, warmup=20, time_budget=25.0)
    assert info.value.inference_data["posterior"]["z"].shape == (4, 6, 2, 2)
    with pytest.raises(NotAReference, match="over after 4 of 20 warm-up draws") as info:
        sampler(model, x, warmup=20, time_budget=3.5)
    assert info.value.inference_data is None


def test_too_few_draws_are_not_a_reference(model):
    with pytest.raises(NotAReference, match=r"bulk ESS of z\[\d,\d\] is .* \(at least 400") as info:
        hmc_reference(model, model.data(3), num_samples=30, warmup=100, max_samples=30, seed=0)
    assert info.value.inference_data["posterior"]["z"].shape == (4, 30, 3, 2)
    failure = next(f for f in info.value.failures if f.statistic == "bulk ESS")
    assert failure.value < 400
    assert failure.failing == 6


def test_draws_go_on_until_they_pass(model):
    """Forty draws of four chains have at most 160 effective ones, and the run doubles until they are enough."""
    x, options = model.data(3), {"num_samples": 40, "warmup": 100, "seed": 0, "max_rhat": 1.1, "min_ess": 150}
    found = hmc_reference(model, x, **options)
    draws = site_draws(found)["z"]
    assert draws.shape[1] in (80, 160, 320)
    assert_moments(as_reference(found), exact_reference(model, x))
    with pytest.raises(NotAReference, match=r"Spent: 40 draws of each chain \(max_samples=40\), .* s") as info:
        hmc_reference(model, x, max_samples=40, **options)
    # equal seeds give equal first draws, whatever the budget
    assert torch.equal(site_draws(info.value.inference_data)["z"], draws[:, :40])


def test_lengths_double_up_to_the_budget(model):
    """Checks that cannot be met are made at 40, 80 and 100 draws; divergences are not drawn away."""
    looks = []
    sampling = Sampling("none", 40, 2, 100, None, 1.01, 400, 0, "")

    def refuse(statistic, value):
        def finish(kept):
            looks.append(len(kept))
            raise NotAReference("too few", None, (Failure(statistic, "z", value, 1.0, 1),))

        return finish

    for statistic, value, lengths in (
        ("bulk ESS", 3.0, [40, 80, 100]),
        ("R-hat", 1.05, [40, 80, 100]),
        ("R-hat", 1.5, [40]),
        ("divergences", 2.0, [40]),
        ("missed mode", 0.1, [40]),
    ):
        looks.clear()
        with pytest.raises(NotAReference, match="too few"):
            sampling.run(lambda number: number, refuse(statistic, value))
        assert looks == lengths, statistic
    numbers = []
    sampling.run(lambda number: number, lambda kept: numbers.extend(kept) or {})
    assert numbers == list(range(2, 42))


def test_chains_in_different_modes_are_not_a_reference():
    """Chains that start on both sides of a gap of 5 posterior standard deviations and more stay there."""
    x = torch.full((4, 1), 1.5, dtype=torch.float64)
    with pytest.raises(NotAReference, match=r"R-hat of z\[\d,0\]") as info:
        hmc_reference(two_modes, x, num_samples=40, warmup=40, max_leapfrog=8, seed=0)
    worst = next(f for f in info.value.failures if f.statistic == "R-hat")
    assert worst.value > 1.5


def test_divergences_are_counted():
    """A funnel: the neck cannot be reached with the step size of the mouth."""

    def funnel(x):
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", dist.Normal(x.new_zeros(()), 3.0))
            pyro.sample("w", dist.Normal(x.new_zeros(9), (v / 2).exp().unsqueeze(-1)).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    with pytest.raises(NotAReference, match="transitions diverged"):
        hmc_reference(
            funnel, torch.zeros(16, 1), num_samples=40, warmup=40, max_leapfrog=6, seed=0, max_rhat=99, min_ess=0
        )


def test_a_model_that_is_not_finite_is_named(model):
    def broken(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.factor("penalty", torch.where(x[:, 0] > 1e6, -math.inf, 0.0).expand(z.shape[:-1]))
            pyro.sample("x", dist.Normal(z @ model.weight.T, 0.5).to_event(1), obs=x)

    x = model.data(5)
    x[3, 0] = 1e7
    with pytest.raises(ValueError, match=r"not finite at draws from the prior, in rows 3"):
        hmc_reference(broken, x)


@pytest.mark.slow
def test_hmc_agrees_with_nuts_on_a_decoder():
    """Two samplers, one nonlinear posterior: means and standard deviations agree within their Monte Carlo errors."""
    torch.manual_seed(0)
    from zoo import VAE

    model = VAE(30, 4, (20,), activation=torch.nn.Tanh).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        x = model.likelihood(torch.randn(3, 4, dtype=torch.float64)).sample()
    nuts = as_reference(nuts_reference(model, x, num_samples=600, warmup=300, seed=1))
    hmc = as_reference(hmc_reference(model, x, num_samples=2000, seed=2))
    error = torch.hypot(nuts.mean_error, hmc.mean_error)
    assert ((nuts.mean - hmc.mean) / error).abs().max() < Z_MAX
    sizes = (1 / diagnose_squares(nuts.draws) + 1 / diagnose_squares(hmc.draws)) / 2
    assert ((nuts.sd / hmc.sd).log().abs() / sizes.sqrt()).max() < Z_MAX


def test_divergences_of_a_posterior_of_everything_have_no_datum():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand([1]).to_event(1), obs=x)

    data = nuts_reference(model, torch.zeros(3, 1), num_samples=20, warmup=100, seed=0, max_rhat=99, min_ess=0)
    data["sample_stats"]["diverging"].values[2, :5] = True
    with pytest.raises(NotAReference, match=r"5 transitions diverged, most in all sites \(at most 4\)"):
        check_draws(data, None, max_rhat=99, min_ess=0, max_divergences=4, advice="")
    with pytest.raises(NotAReference, match="bulk ESS of w is"):
        check_draws(data, None, max_rhat=99, min_ess=400, max_divergences=9, advice="")


# --- one form ------------------------------------------------------------------------------------------------------


def test_as_reference_refuses_draws_that_vouch_for_nothing():
    for chains in (1, 3):
        with pytest.raises(ValueError, match=f"site 'z': draws of {chains} chains; a reference has at least 4"):
            as_reference(to_inference_data({"z": torch.randn(chains, 50, 3, 2)}))
    with pytest.raises(ValueError, match="site 'w': draws of 2 data, 'z' has 3"):
        as_reference(to_inference_data({"z": torch.randn(4, 50, 3, 2), "w": torch.randn(4, 50, 2)}, per_datum=False))
    draws = torch.randn(4, 50, 3, 2)
    draws[1, 2, 0, 1] = math.nan
    with pytest.raises(ValueError, match="site 'z': the draws hold NaN"):
        as_reference(to_inference_data({"z": draws}))


@pytest.mark.parametrize("sampler", [nuts_reference, hmc_reference])
def test_fewer_than_four_chains_are_no_reference(model, sampler):
    for settings in ({"chains": 1}, {"chains": 3}, {"num_samples": 3}, {"warmup": 0}):
        with pytest.raises(ValueError, match=r"num_samples >= 4, chains >= 4, warmup >= \d+; got"):
            sampler(model, model.data(2), **settings)
    with pytest.raises(ValueError, match="max_samples: expected num_samples = 50 or more, got 40"):
        sampler(model, model.data(2), num_samples=50, max_samples=40)


def scalar(x):
    """A latent without an event axis: p(z | x) = N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("name", ["grid", "HMC", pytest.param("NUTS", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("rows", [1, 3])
def test_scalar_latents_by_every_reference(rows, name):
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)[:rows]
    find, draws = {
        "grid": (grid_reference, {}),
        "HMC": (hmc_reference, {"num_samples": 150, "warmup": 60, "seed": 0, **LAX}),
        "NUTS": (nuts_reference, {"num_samples": 150, "warmup": 60, "seed": 0, **LAX}),
    }[name]
    reference = as_reference(find(scalar, x, **draws))
    assert reference.kind == name
    assert reference.coordinates == ["z"]
    assert reference.mean.shape == (rows, 1)
    assert ((reference.mean[:, 0] - x / 2).abs() < 1e-6 + Z_MAX * reference.mean_error[:, 0]).all()


def test_as_reference_refuses_other_things():
    with pytest.raises(ValueError, match="InferenceData"):
        as_reference({"z": torch.zeros(3)})
    with pytest.raises(ValueError, match="datum"):
        as_reference(to_inference_data({"w": torch.randn(2, 5)}, per_datum=False))


def test_entries():
    assert entry_names("z", torch.Size()) == ["z"]
    assert entry_names("z", torch.Size([2])) == ["z[0]", "z[1]"]
    assert entry_names("z", torch.Size([2, 2])) == ["z[0,0]", "z[0,1]", "z[1,0]", "z[1,1]"]


def test_a_batch_plate_of_any_name_will_do():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.tensor([[1.0], [-2.0]], dtype=torch.double)
    torch.testing.assert_close(grid_reference(model, x).mean, x / 2, atol=1e-4, rtol=0)
