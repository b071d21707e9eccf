"""Capacities: the bound by hand, schedules, and refusals."""

import math

import pytest
import torch

import guides
import zoo
from zoo.infer import ELBO, MAP, Scheduled, Tempered, Terms, terms


def small_pair():
    torch.manual_seed(0)
    vae = zoo.VAE(6, 3, hidden=(5,))
    return vae, guides.Amortized(vae, hidden=(5,)), torch.rand(7, 6).bernoulli()


MODEL, GUIDE, X = small_pair()


def run_of(num_particles=2):
    torch.manual_seed(1)
    return terms(MODEL, GUIDE, X, num_particles=num_particles)


@pytest.mark.parametrize("batch_mean", [False, True])
@pytest.mark.parametrize("capacity", [0.0, 0.5, 20.0])
def test_the_bound_is_the_likelihood_less_the_distance_from_the_capacity(capacity, batch_mean):
    run = run_of()
    kl = -run.log_ratios["z"].mean(0)
    found = Tempered(ELBO(2), kl_weight=3.0, capacity=capacity, batch_mean=batch_mean).bound(run)
    likelihood = run.log_likelihood.mean(0)
    if batch_mean:
        torch.testing.assert_close(found.mean(), likelihood.mean() - 3 * (kl.mean() - capacity).abs())
    else:
        torch.testing.assert_close(found, likelihood - 3 * (kl - capacity).abs())


def test_the_gradient_is_that_of_the_distance():
    """-|KL - C| is C - KL above the capacity and KL - C below it."""
    for capacity, sign in ((0.0, 1.0), (1e4, -1.0)):
        run = run_of(400)
        assert 0 < -run.log_ratios["z"].mean() < 1e4
        weighted = run.log_likelihood + sign * run.log_ratios["z"]
        parameters = [*GUIDE.parameters()]
        expected = torch.autograd.grad(weighted.mean(0).sum(), parameters, retain_graph=True)
        tempered = Tempered(ELBO(400), capacity=capacity, batch_mean=True)
        found = torch.autograd.grad(tempered.bound(run).sum(), parameters)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_kl_of_a_summed_site_is_its_exact_one():
    log_q = torch.tensor([0.25, 0.75]).log().reshape(2, 1, 1).expand(2, 1, 3)
    ratio = (0.5 - log_q.exp()).cumsum(-1)
    run = Terms(torch.zeros(2, 1, 3), {"y": ratio}, {}, {"y": log_q})
    kl = -(log_q.exp() * ratio).sum(0)[0]
    assert (kl > 0).any()
    for capacity in (0.1, 9.0):
        found = Tempered(ELBO(), capacity=capacity).bound(run)
        torch.testing.assert_close(found, -(kl - capacity).abs())


def test_schedules_and_sites():
    objective = Tempered(ELBO(), kl_weight=2.0, capacity={"z": lambda step: 0.1 * step})
    run = run_of(1)
    kl = -run.log_ratios["z"][0]
    for step in range(3):
        objective.differentiable_loss(MODEL, GUIDE, X)
        torch.testing.assert_close(objective.bound(run), run.log_likelihood[0] - 2 * (kl - 0.1 * step).abs())
    unnamed = Tempered(ELBO(), kl_weight=2.0, capacity={}).bound(run)
    torch.testing.assert_close(unnamed, run.log_likelihood[0] - 2 * kl)
    # no capacity is no capacity, to the last bit
    assert torch.equal(Tempered(ELBO(), 2.0).bound(run), Tempered(ELBO(), 2.0, capacity=None).bound(run))


def test_terms_outside_the_plate_bear_their_share():
    ratio = torch.full((1, 4), -0.5)
    run = Terms(torch.zeros(1, 4), {"w": ratio}, {}, shares={"w": 0.25})
    torch.testing.assert_close(Tempered(ELBO(), capacity=4.0).bound(run), torch.full((4,), -0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tempered(ELBO(), capacity=-1.0), "capacity must be finite and >= 0, got -1.0 at step 0"),
        (lambda: Tempered(ELBO(), capacity={"z": math.nan}), r"capacity\['z'\] must be finite"),
        (lambda: Tempered(ELBO(), capacity={"zz": 1.0}).loss(MODEL, GUIDE, X), r"capacity names \['zz'\]"),
        (lambda: Tempered(ELBO(), capacity=1.0, free_bits=0.1), "give `free_bits` or `capacity`"),
        (lambda: Tempered(ELBO(), capacity=1.0, free_bits={"z": 0.1}), "give `free_bits` or `capacity`"),
        (lambda: Tempered(MAP(), capacity=1.0), "points, as MAP takes, have none"),
        (lambda: Tempered(ELBO(sticking=True), capacity=1.0), "`sticking` is biased with `capacity`"),
        (lambda: Tempered(Scheduled(ELBO(), torch.zeros(()), float), capacity=1.0), "goes around it"),
    ],
)
def test_capacities_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
