"""One joint posterior, where a latent stands outside the batch plate: grid, HMC, NUTS, `compare`, the overlay."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from zoo.infer import compare, exact_reference, grid_reference, hmc_reference, nuts_reference, plot_overlay
from zoo.infer.reference.inference_data import to_inference_data
from zoo.infer.reference.log_joint import LogJoint
from zoo.infer.reference.reference import as_reference

N = 6
X = 1 + torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def mean_of_all(x):
    """N(m; 0, 4) prod_n N(x_n; m, 1)."""
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=x.dtype), 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


VARIANCE = 1 / (1 / 4 + N)
POSTERIOR = dist.Normal(VARIANCE * X.sum(), VARIANCE**0.5)
EYE = torch.eye(N, dtype=torch.double)
LOG_P = dist.MultivariateNormal(torch.zeros(N, dtype=torch.double), EYE + 4).log_prob(X)


def mean_and_effects(x):
    """N(m; 0, 4) prod_n N(z_n; m, 1) N(x_n; z_n, 1): all Gaussian, m and the z_n together."""
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=x.dtype), 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def of_both():
    """Mean and covariance of (m, z_1..z_N) given X, and log p(X)."""
    prior = torch.full((N + 1, N + 1), 4.0, dtype=torch.double)
    prior[1:, 1:] += EYE
    gain = prior[:, 1:] @ torch.linalg.inv(prior[1:, 1:] + EYE)
    evidence = dist.MultivariateNormal(torch.zeros(N, dtype=torch.double), prior[1:, 1:] + EYE).log_prob(X)
    return gain @ X, prior - gain @ prior[1:], evidence


def exact(x):
    pyro.sample("m", POSTERIOR)


def test_the_grid_of_a_small_global_latent_is_exact():
    found = grid_reference(mean_of_all, X)
    assert found.joint
    assert found.mean.shape == (1, 1)
    assert found.sites == {"m": torch.Size()}
    torch.testing.assert_close(found.mean[0, 0], POSTERIOR.mean)
    torch.testing.assert_close(found.sd[0, 0], POSTERIOR.stddev, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.log_evidence, LOG_P.reshape(1))
    z = torch.linspace(-1.0, 2.0, 5, dtype=torch.double)
    density = found.log_density(z.reshape(5, 1, 1), torch.tensor([0]))[:, 0]
    torch.testing.assert_close(density, POSTERIOR.log_prob(z), rtol=1e-6, atol=1e-6)


def test_the_log_joint_of_globals_and_locals_is_one_number():
    log_joint = LogJoint(mean_and_effects, X)
    assert log_joint.joint
    assert log_joint.dim == N + 1
    u = log_joint.prior(4)
    assert u.shape == (4, 1, N + 1)
    m, z = u[:, 0, :1], u[:, 0, 1:]
    expected = dist.Normal(0.0, 2.0).log_prob(m)[:, 0] + dist.Normal(m, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(log_joint(u)[:, 0], expected + dist.Normal(z, 1.0).log_prob(X).sum(-1))
    torch.testing.assert_close(log_joint(u[:1])[0], log_joint(u)[0])
    assert log_joint.events == {"m": torch.Size(), "z": torch.Size([N])}


def test_compare_judges_all_data_together():
    found = compare(exact, grid_reference(mean_of_all, X), X, model=mean_of_all, seed=0)
    assert len(found.verdicts) == 1
    assert found.verdicts[0].value == "good"
    torch.testing.assert_close(found.gap, torch.zeros(1, dtype=torch.double), rtol=0, atol=1e-5)

    def wide(x):
        pyro.sample("m", dist.Normal(POSTERIOR.mean, 3 * POSTERIOR.stddev))

    wrong = compare(wide, grid_reference(mean_of_all, X), X, model=mean_of_all, seed=0)
    gap = torch.distributions.kl_divergence(dist.Normal(0.0, 3.0), dist.Normal(0.0, 1.0))
    assert abs(wrong.gap - gap) < 5 * wrong.gap_error
    assert wrong.verdicts[0].value == "bad"


def own_draws(num=4000):
    """Draws of the exact joint posterior in a container of one's own, cut into four chains."""
    mean, covariance, _ = of_both()
    with pyro.poutine.block():
        pyro.set_rng_seed(0)
        drawn = dist.MultivariateNormal(mean, covariance).sample((num,)).reshape(4, -1, N + 1)
    return to_inference_data({"m": drawn[..., 0], "z": drawn[..., 1:]}, per_datum=False, attrs={"joint": 1})


def test_draws_of_ones_own_of_a_joint_posterior():
    mean, covariance, evidence = of_both()
    reference = as_reference(own_draws())
    assert reference.joint
    assert reference.coordinates == ["m", *(f"z[{n}]" for n in range(N))]

    class Joint(AutoMultivariateNormal):
        def get_posterior(self, *args, **kwargs):
            return dist.MultivariateNormal(mean, covariance)

    guide = Joint(mean_and_effects)
    found = compare(guide, reference, X, model=mean_and_effects, seed=0)
    assert found.verdicts[0].value == "good"
    assert found.mean_error.shape == (1, N + 1)
    assert abs(found.log_p - evidence) < 0.05
    mean_field = AutoNormal(mean_and_effects)
    mean_field(X)
    assert compare(mean_field, reference, X, model=mean_and_effects, seed=0).verdicts[0].value == "bad"
    figure = plot_overlay(guide, reference, X, model=mean_and_effects, num_draws=500)
    assert [axes.get_title() for axes in figure.axes] == ["all data"]
    assert figure.axes[0].get_xlabel() == "m"


def test_a_joint_reference_of_another_guide_is_refused():
    with pytest.raises(ValueError, match=r"does not sample the sites \['z'\] of the reference"):
        compare(AutoNormal(pyro.poutine.block(mean_and_effects, hide=["z"])), as_reference(own_draws()), X,
                model=lambda x: mean_of_all(x))  # fmt: skip


def test_the_exact_reference_needs_latents_of_each_datum():
    class Known:
        def __call__(self, x):
            mean_of_all(x)

        def posterior(self, x):
            return POSTERIOR

    with pytest.raises(ValueError, match="exact_reference: site 'm': stands outside the batch plate"):
        exact_reference(Known(), X)


@pytest.mark.parametrize("sampler", [hmc_reference, nuts_reference])
@pytest.mark.thorough
def test_samplers_draw_the_joint_posterior(sampler):
    mean, covariance, _ = of_both()
    found = as_reference(sampler(mean_and_effects, X, num_samples=400, seed=0, max_rhat=1.05, min_ess=100.0))
    assert found.joint
    assert found.mean.shape == (1, N + 1)
    assert ((found.mean[0] - mean).abs() < 5 * found.mean_error[0]).all()
    torch.testing.assert_close(found.sd[0], covariance.diagonal().sqrt(), rtol=0.25, atol=0)


@pytest.mark.thorough
def test_nuts_takes_a_model_of_one_value_of_its_global_latents():
    def scalar(x):
        m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=x.dtype), 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(1.0 * m.reshape(()), 1.0), obs=x)

    found = as_reference(nuts_reference(scalar, X, num_samples=300, warmup=200, seed=0, max_rhat=1.05, min_ess=100.0))
    assert found.joint
    assert abs(found.mean[0, 0] - POSTERIOR.mean) < 5 * found.mean_error[0, 0]
