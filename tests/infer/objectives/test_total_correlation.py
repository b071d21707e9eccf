"""The total correlation of a toy by quadrature, its limits and refusals."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from zoo.infer import ELBO, Tempered, TotalCorrelation, terms
from zoo.parts.distributions.vector import DiagonalNormal

LOC = torch.tensor([[-1.0, -0.8], [0.2, 0.1], [1.1, 0.9]]).double()
SCALE = torch.tensor([[0.5, 0.6], [0.4, 0.5], [0.6, 0.4]]).double()
X = torch.zeros(3, 2).double()


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_of(q):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q())

    return guide


independent = guide_of(lambda: dist.Normal(LOC, SCALE).to_event(1))
diagonal = guide_of(lambda: DiagonalNormal(LOC, SCALE))


def by_quadrature():
    """KL(q(z) || q(z_1) q(z_2)) of the mixture of the three rows, on a grid."""
    points = torch.linspace(-6, 6, 601).double()
    each = torch.distributions.Normal(LOC[:, :, None], SCALE[:, :, None]).log_prob(points).exp()
    joint = torch.einsum("ni,nj->ij", each[:, 0], each[:, 1]) / 3
    product = torch.outer(each[:, 0].mean(0), each[:, 1].mean(0))
    return (torch.where(joint > 0, joint * (joint / product).log(), 0.0).sum() * (points[1] - points[0]) ** 2).item()


def estimated(guide, num_particles=1, seed=0):
    """The total correlation of the three rows, out of the bound at beta = 3."""
    pyro.set_rng_seed(seed)
    run = terms(model, guide, X, num_particles=num_particles)
    weighted = TotalCorrelation(3.0, 3, num_particles).bound(run)
    # of a batch of all data the estimate is log N too large for each coordinate after the first
    return ((ELBO(num_particles).bound(run) - weighted) / 2).mean().item() - math.log(3)


@pytest.mark.parametrize(
    ("guide", "num_particles"), [(independent, 20), (diagonal, 1)], ids=["Independent", "diagonal"]
)
def test_a_batch_of_all_data_gives_the_total_correlation(guide, num_particles):
    found = torch.tensor([estimated(guide, num_particles, seed) for seed in range(60)]).double()
    # five standard errors of sixty means: one failure in a hundred thousand seeds
    error = found.std().item() / math.sqrt(len(found))
    assert error < 0.1
    assert abs(found.mean().item() - by_quadrature()) < 5 * error


def test_one_particle_alone_and_among_others_is_scored_alike():
    run = terms(model, independent, X, num_particles=5)
    whole = TotalCorrelation(3.0, 3, 5).bound(run)
    each = [
        TotalCorrelation(3.0, 3).bound(
            run._replace(
                log_likelihood=run.log_likelihood[k : k + 1],
                log_ratios={"z": run.log_ratios["z"][k : k + 1]},
                latents={"z": run.latents["z"][k : k + 1]},
            )
        )
        for k in range(5)
    ]
    torch.testing.assert_close(whole, torch.stack(each).mean(0))


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_weight_1_is_the_elbo_to_the_last_bit(analytic_kl):
    torch.manual_seed(0)
    vae = zoo.VAE(6, 3, hidden=(5,))
    amortized, x = guides.Amortized(vae, hidden=(5,)), torch.rand(7, 6).bernoulli()
    found = []
    for objective in (ELBO(2, analytic_kl), TotalCorrelation(1.0, 100, 2, analytic_kl)):
        loss = objective(vae, amortized)
        pyro.set_rng_seed(1)
        value = loss(x)
        found.append((value, *torch.autograd.grad(value, [*loss.parameters()])))
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


def test_another_weight_has_the_gradient_of_its_total_correlation():
    """A batch of one datum has no total correlation: log q(z) and sum_j log q(z_j) cancel in value and gradient."""
    torch.manual_seed(0)
    vae = zoo.VAE(6, 3, hidden=(5,))
    amortized, x = guides.Amortized(vae, hidden=(5,)), torch.rand(4, 6).bernoulli()
    for rows, same in ((1, True), (4, False)):
        gradients = []
        for beta in (1.0, 6.0):
            pyro.set_rng_seed(1)
            loss = TotalCorrelation(beta, 4)(vae, amortized)(x[:rows])
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*amortized.parameters()])]))
        assert torch.allclose(*gradients, atol=1e-5) == same


def test_the_untempered_objective_is_the_elbo_and_the_kl_may_be_tempered_besides():
    objective = TotalCorrelation(4.0, 3, 2, analytic_kl=True)
    assert isinstance(objective.untempered, ELBO)
    assert (objective.untempered.num_particles, objective.untempered.analytic_kl) == (2, True)
    pyro.set_rng_seed(0)
    run = terms(model, independent, X, num_particles=2)
    plain = TotalCorrelation(4.0, 3, 2).bound(run)
    kl = -run.expectation(run.log_ratios["z"])
    tempered = Tempered(TotalCorrelation(4.0, 3, 2), kl_weight=0.25).bound(run)
    torch.testing.assert_close(tempered, plain + 0.75 * kl)


def two(x):
    with pyro.plate("data", len(x)):
        for name in ("a", "b"):
            pyro.sample(name, dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def chain(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)


def single(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).to_event(1), obs=x)


def masked(x):
    with pyro.plate("data", len(x)), pyro.poutine.mask(mask=torch.tensor([True, False, True])):
        pyro.sample("z", dist.Normal(LOC, SCALE).to_event(1))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((chain, two), r"expected one latent site, got \['a', 'b'\]"),
        (
            (model, guide_of(lambda: dist.MultivariateNormal(LOC, torch.eye(2).double()))),
            "site 'z': .* MultivariateNormal",
        ),
        ((single, guide_of(lambda: dist.Normal(LOC[:, 0], 1.0))), r"site 'z': .* got Normal with events \(\)"),
        ((model, masked), "site 'z': .* got MaskedDistribution"),
    ],
    ids=["two sites", "dependent", "numbers", "masked"],
)
def test_pairs_without_a_factorised_code_are_refused_by_the_site(pair, message):
    for beta in (1.0, 2.0):
        with pytest.raises(ValueError, match=message):
            TotalCorrelation(beta, 3).loss(*pair, X)


def test_numbers_that_make_no_sense_are_refused():
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta must be finite and >= 0"):
            TotalCorrelation(beta, 3)
    with pytest.raises(ValueError, match="num_data: expected a whole number"):
        TotalCorrelation(2.0, 0)
    with pytest.raises(ValueError, match="num_data is 2, and the batch has 3 rows"):
        TotalCorrelation(2.0, 2).loss(model, independent, X)
