"""Imputation: against PPCA, where all is exact, and against a mixture; refusals."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import guides
from zoo import DMM, M2, PPCA, VAE, GaussianMixture
from zoo.infer import IWELBO, impute, log_likelihood, sample_imputation
from zoo.parts.conditionals import Categorical, Normal

pytestmark = pytest.mark.usefixtures("double_precision")

N, DATA, LATENT = 6, 5, 2


def ppca():
    model = PPCA(DATA, LATENT)
    with torch.no_grad():
        model.mean.normal_()
        model.log_scale.fill_(-0.5)
    x = torch.randn(N, DATA)
    mask = torch.rand(N, DATA) < 0.6
    mask[0], mask[1] = False, True
    return model, torch.where(mask, x, torch.nan), mask


def conditional(model, x, mask):
    """Mean and variance of each entry given the observed ones, by the dense Gaussian."""
    cov = model.weight @ model.weight.T + model.scale**2 * torch.eye(DATA)
    means, variances = model.mean.expand(N, -1).clone(), cov.diagonal().expand(N, -1).clone()
    for n in range(N):
        seen = mask[n]
        gain = cov[:, seen] @ torch.linalg.inv(cov[seen][:, seen])
        means[n] = model.mean + gain @ (x[n, seen] - model.mean[seen])
        variances[n] = (cov - gain @ cov[seen]).diagonal()
    return means.detach(), variances.detach()


def linear_vae(model):
    """A VAE with the density of a PPCA, its decoder the same linear map."""
    vae = VAE(DATA, LATENT, (), likelihood=Normal)
    with torch.no_grad():
        vae.emission.loc.weight.copy_(model.weight)
        vae.emission.loc.bias.copy_(model.mean)
        vae.emission.log_scale.copy_(model.log_scale.expand(DATA))
    return vae


def test_with_the_exact_posterior_bounds_under_a_mask_are_exact():
    model, x, mask = ppca()
    expected = model.log_prob(x, mask)
    guide = guides.Exact(model)
    for program in (model, linear_vae(model)):
        found = log_likelihood(program, guide, x, mask, num_particles=3)
        torch.testing.assert_close(found.per_datum, expected)
        torch.testing.assert_close(found.elbo, expected)


def test_the_bound_of_more_particles_rises_to_log_p_of_what_is_observed():
    model, x, mask = ppca()
    guide = guides.Amortized(linear := linear_vae(model), hidden=(6,), flags=True)
    total, bounds = model.log_prob(x, mask).sum().item(), []
    with torch.no_grad():
        for num_particles, repeats in ((1, 300), (10, 300), (100, 100)):
            values = torch.stack([-IWELBO(num_particles)(linear, guide)(x, mask) for _ in range(repeats)])
            bounds.append((values.mean().item(), values.std().item() / repeats**0.5))
    # four standard errors: together a failure in ten thousand seeds, and the seed is fixed
    for (low, low_error), (high, high_error) in zip(bounds, [*bounds[1:], (total, 0.0)], strict=True):
        assert low <= high + 4 * (low_error**2 + high_error**2) ** 0.5
    assert bounds[0][0] < total - 1
    assert abs(bounds[-1][0] - total) < 0.5


@pytest.mark.parametrize("max_bytes", [2**25, 2**18])
def test_means_are_those_of_the_dense_gaussian(max_bytes):
    model, x, mask = ppca()
    expected, _ = conditional(model, x, mask)
    torch.testing.assert_close(model.impute(x, mask)[~mask], expected[~mask])
    for guide in (guides.Exact(model), guides.Amortized(model, hidden=(8,), flags=True)):
        found = impute(model, guide, x, mask, num_particles=4000, max_bytes=max_bytes, seed=1)
        assert torch.equal(found.x[mask], x[mask])
        assert (found.error[mask] == 0).all()
        assert (found.error[~mask] > 0).all()
        # 5 standard errors, about 15 entries, twice: one failure in 60,000 seeds, and the seed is fixed
        assert ((found.x - expected)[~mask].abs() <= 5 * found.error[~mask]).all()
    assert ((found.effective_sample_size > 10) & (found.effective_sample_size < 4000)).all()


@pytest.mark.parametrize("max_bytes", [2**25, 2**21])
def test_draws_have_the_moments_of_the_dense_gaussian(max_bytes):
    model, x, mask = ppca()
    mean, variance = conditional(model, x, mask)
    draws, missing = 4000, ~mask
    found = sample_imputation(model, guides.Exact(model), x, mask, draws, 40_000, max_bytes=max_bytes, seed=1)
    assert torch.equal(found.x[:, mask], x[mask].expand(draws, -1))
    # Gaussian draws with replacement from ten times as many: 1.1 times the variance. 5 standard errors, as above
    error = 5 * (1.1 * variance / draws).sqrt()
    assert ((found.x.mean(0) - mean).abs() <= error)[missing].all()
    assert ((found.x.var(0) / variance - 1).abs() <= 5 * (2 * 1.1 / draws) ** 0.5)[missing].all()
    low, high = found.interval(0.9)
    inside = ((found.x >= low) & (found.x <= high)).double().mean(0)
    assert ((inside - 0.9).abs() < 0.01)[missing].all()
    torch.testing.assert_close(low[mask], x[mask])
    with pytest.raises(ValueError, match="mass: expected a number between 0 and 1"):
        found.interval(1.5)


def test_weights_correct_draws_of_a_wide_guide():
    model, x, mask = ppca()
    mean, _ = conditional(model, x, mask)

    def prior(x, mask=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.3).to_event(1))

    found = sample_imputation(model, prior, x, mask, 4000, 40_000, seed=2)
    spread = 5 * found.x.std(0) * (1 / 4000 + 1 / found.effective_sample_size.unsqueeze(-1)).sqrt()
    assert ((found.x.mean(0) - mean).abs() <= spread)[~mask].all()


def test_a_mixture_with_components_summed_or_drawn():
    model = GaussianMixture(DATA, 2)
    _, x, mask = ppca()
    found = impute(model, guides.Exact(model, site="k"), x, mask, num_particles=4000, seed=0)
    weights = model.posterior(x, mask).probs.detach()
    # unit covariances: within a component the entries are independent
    expected = weights @ model.means.detach()
    assert ((found.x - expected)[~mask].abs() <= 5 * found.error[~mask] + 1e-12).all()


def test_labels_and_conditions_go_along():
    model = M2(DATA, LATENT, 3, (6,), likelihood=Normal, condition_dim=2)
    guide = guides.Labelled(model, hidden=(6,), flags=True)
    _, x, mask = ppca()
    found = impute(model, guide, x, mask, y=torch.zeros(N).long(), c=torch.randn(N, 2), num_particles=20)
    assert found.x.isfinite().all()
    assert impute(model, guide, x, mask, c=torch.randn(N, 2), num_particles=1).error[~mask].isnan().all()


def test_levels_are_drawn_and_have_no_mean():
    model = VAE(DATA, LATENT, (6,), likelihood=lambda h, d: Categorical(h, d, levels=3))
    guide, (_, _, mask) = guides.Amortized(model, hidden=(6,)), ppca()
    x = torch.randint(3, (N, DATA)).double()
    assert set(sample_imputation(model, guide, x, mask, 20, 50).x.unique().tolist()) <= {0.0, 1.0, 2.0}
    with pytest.raises(ValueError, match="site 'x': Categorical has no mean to impute; sample_imputation draws"):
        impute(model, guide, x, mask, num_particles=5)


def without_mask(x):
    """A program without a mask."""


class Ignoring(nn.Module):
    """A program whose mask does nothing."""

    def forward(self, x, mask):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample(self.site, dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], DATA), 1.0).to_event(1),
                        obs=x.nan_to_num())  # fmt: skip

    def __init__(self, site="x"):
        super().__init__()
        self.site = site


def wide(x, mask):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m, x, k: impute(without_mask, guides.Exact(m), x, k), ValueError, "impute: .* has no argument `mask`"),
        (lambda m, x, k: impute(Ignoring(), wide, x, k), ValueError, "site 'x': Independent is no density of observed"),
        (lambda m, x, k: impute(Ignoring("w"), wide, x, k), ValueError, r"site 'x': the model samples no such site"),
        (lambda m, x, k: impute(m, guides.Exact(m), x, None), TypeError, "mask: expected a boolean torch.Tensor"),
        (lambda m, x, k: impute(m, guides.Exact(m), x.numpy().astype(str), k), TypeError, "x: expected numbers"),
        (lambda m, x, k: impute(m, guides.Exact(m), x, k[:2]), ValueError, "mask: expected torch.bool of shape"),
        (lambda m, x, k: impute(m, guides.Exact(m), x[0], k[0]), ValueError, r"x: expected shape \(N, 5\)"),
        (lambda m, x, k: impute(DMM(DATA, 2), guides.Exact(m), x[None], k[None]), ValueError, "sequences are imputed"),
        (lambda m, x, k: impute(m, guides.Exact(m), x, k, num_particles=0), ValueError, "num_particles must be"),
        (lambda m, x, k: sample_imputation(m, guides.Exact(m), x, k, 0), ValueError, "num_draws: expected a whole"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, said):
    model, x, mask = ppca()
    with pytest.raises(error, match=said):
        call(model, x, mask)
