"""Discrete sites that a guide marks to be summed out: against loops over their values, and against enumeration.

The pair of most tests has two summed sites in the middle of a hierarchy, a -> y -> b(y) -> z(y, b), so that an axis
that is lost, or stands in the wrong place, shows.
"""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import kl_divergence

import guides
from zoo import M2, GaussianMixture
from zoo.infer import (
    ELBO,
    IWELBO,
    RLOO,
    VIMCO,
    RenyiELBO,
    Tempered,
    active_units,
    compare,
    fit,
    gaps,
    grid_reference,
    hmc_reference,
    kl_per_site,
    kl_per_unit,
    log_likelihood,
    nuts_reference,
    terms,
)
from zoo.infer.call import Purpose, run
from zoo.infer.path import doubly
from zoo.infer.reference.reference import as_reference
from zoo.parts.conditionals import Normal
from zoo.parts.conditionals.class_prior import ClassPrior

N, D, Y, B = 4, 2, 3, 2
SUMMED = {"infer": {"enumerate": "parallel"}}
normal = lambda loc, scale=1.0: dist.Normal(loc, scale).to_event(1)  # noqa: E731


pytestmark = pytest.mark.usefixtures("double_precision")


class Model(PyroModule):
    """p(a) p(y | a) p(b | y) p(z | y, b) p(x | a, y, b, z)."""

    def __init__(self):
        super().__init__()
        self.y, self.b = nn.Parameter(torch.randn(D, Y)), nn.Parameter(torch.randn(Y, B))
        self.z, self.x = nn.Parameter(torch.randn(Y, B, D)), nn.Parameter(torch.randn(D, D))
        self.of_y = nn.Parameter(torch.randn(Y, D))

    def p_y(self, a):
        return dist.Categorical(logits=a @ self.y)

    def p_b(self, y):
        return dist.Categorical(logits=self.b[y])

    def p_z(self, y, b):
        return normal(self.z[y, b])

    def p_x(self, a, y, b, z):
        return normal(a + z @ self.x + self.of_y[y] * (1 + b.unsqueeze(-1)), 0.7)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", normal(torch.zeros(D)))
            y = pyro.sample("y", self.p_y(a))
            b = pyro.sample("b", self.p_b(y))
            z = pyro.sample("z", self.p_z(y, b))
            pyro.sample("x", self.p_x(a, y, b, z), obs=x)


class Guide(PyroModule):
    """q(a | x) q(y | a, x) q(b | y, x) q(z | a, y, b, x)."""

    def __init__(self, model, mark=SUMMED):
        super().__init__()
        self.mark = mark
        self.a, self.y, self.b = (nn.Parameter(torch.randn(D, size)) for size in (D, Y, B))
        self.b_of_y, self.z = nn.Parameter(torch.randn(Y, B)), nn.Parameter(torch.randn(Y, B, D))
        self.z_of_x, self.scale = nn.Parameter(torch.randn(D, D)), nn.Parameter(torch.rand(D) - 0.5)

    def q_a(self, x):
        return normal(x @ self.a, 0.5)

    def q_y(self, a, x):
        return dist.Categorical(logits=(a + x) @ self.y)

    def q_b(self, y, x):
        return dist.Categorical(logits=x @ self.b + self.b_of_y[y])

    def q_z(self, a, y, b, x):
        return normal(0.3 * a + x @ self.z_of_x + self.z[y, b], self.scale.exp())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", self.q_a(x))
            y = pyro.sample("y", self.q_y(a, x), **self.mark)
            b = pyro.sample("b", self.q_b(y, x), **self.mark)
            pyro.sample("z", self.q_z(a, y, b, x))


@pytest.fixture
def pair():
    model = Model()
    return model, Guide(model), torch.randn(N, D)


def by_hand(model, guide, x, draws):
    """log p(x | ...), log p - log q of a, y, b, z, and q(y), q(b), by loops over y and b at the draws of a run.

    The draws are made anew from their noise, so that gradients flow through them: each `(Y, B, K, N)`.
    """
    found = {name: [] for name in ("x", "a", "y", "b", "z", "q_y", "q_b", "kl_a", "kl_z")}
    noise = (draws["a"] - guide.q_a(x).mean) / 0.5
    a = guide.q_a(x).mean + 0.5 * noise.detach()
    for i in range(Y):
        for j in range(B):
            y, b = torch.full(a.shape[:-1], i), torch.full(a.shape[:-1], j)
            q_z = guide.q_z(a, y, b, x)
            z = q_z.mean + guide.scale.exp() * ((draws["z"][j, i] - q_z.mean) / guide.scale.exp()).detach()
            q_y, q_b = guide.q_y(a, x).log_prob(y), guide.q_b(y, x).log_prob(b)
            found["x"].append(model.p_x(a, y, b, z).log_prob(x))
            found["a"].append(normal(torch.zeros(D)).log_prob(a) - guide.q_a(x).log_prob(a))
            found["y"].append(model.p_y(a).log_prob(y) - q_y)
            found["b"].append(model.p_b(y).log_prob(b) - q_b)
            found["z"].append(model.p_z(y, b).log_prob(z) - q_z.log_prob(z))
            found["kl_a"].append(kl_divergence(guide.q_a(x), normal(torch.zeros(D))).expand(a.shape[:-1]))
            found["kl_z"].append(kl_divergence(q_z, model.p_z(y, b)))
            found["q_y"].append(q_y)
            found["q_b"].append(q_b)
    return {name: torch.stack(values).unflatten(0, (Y, B)) for name, values in found.items()}


def bounds_by_hand(found):
    """word -> the bound of each datum."""
    K = found["x"].shape[2]
    measure = (found["q_y"] + found["q_b"]).exp() / K
    log_w = found["x"] + found["a"] + found["y"] + found["b"] + found["z"]
    log_mean = lambda v: (measure.log() + v).flatten(0, 2).logsumexp(0)  # noqa: E731
    mean = lambda v: (measure * v).sum((0, 1, 2))  # noqa: E731
    kl_y = -(found["q_y"][:, 0].exp() * found["y"][:, 0]).sum(0)
    kl_b = -(found["q_b"].exp() * found["b"]).sum(1)
    beta = found["x"] + 0.3 * (found["a"] + found["y"] + found["b"] + found["z"])
    # max(KL, free bits) of y and b, each given what comes before; each draw's ratio of a and z
    free = (
        mean(found["x"]) + mean(found["a"].clamp(max=-0.4)) + mean(found["z"].clamp(max=-0.4))
        - kl_y.clamp(min=0.4).mean(0)
        - (found["q_y"][:, 0].exp() * kl_b.clamp(min=0.4)).sum(0).mean(0)
    )  # fmt: skip
    return {
        "ELBO": mean(log_w),
        "closed KL": mean(found["x"] - found["kl_a"] + found["y"] + found["b"] - found["kl_z"]),
        "IWELBO": log_mean(log_w),
        "Renyi": log_mean(0.5 * log_w) / 0.5,
        "Renyi near 1": log_mean(1e-3 * log_w) / 1e-3,
        "beta": mean(beta),
        "beta inside": log_mean(beta),
        "free bits": free,
    }


OBJECTIVES = {
    "ELBO": ELBO,
    "closed KL": partial(ELBO, analytic_kl=True),
    "IWELBO": IWELBO,
    "Renyi": partial(RenyiELBO, 0.5),
    "Renyi near 1": partial(RenyiELBO, 1 - 1e-3),
    "beta": lambda K: Tempered(ELBO(K), 0.3),
    "beta inside": lambda K: Tempered(IWELBO(K), 0.3),
    "free bits": lambda K: Tempered(ELBO(K), free_bits=0.4),
}


@pytest.mark.parametrize("K", [1, 3])
def test_weights_are_those_of_a_loop_over_the_values_at_the_same_draws(pair, K):
    model, guide, x = pair
    run_of_it = terms(model, guide, x, num_particles=K)
    assert [*run_of_it.summed] == ["y", "b"]
    found = by_hand(model, guide, x, run_of_it.latents)
    by_values = lambda v: v.transpose(0, 1)  # noqa: E731  (the later site stands further left)
    log_w = by_values(found["x"] + found["a"] + found["y"] + found["b"] + found["z"])
    torch.testing.assert_close(run_of_it.log_weights, log_w, rtol=0, atol=1e-12)
    for name in ("a", "y", "b", "z"):
        expected = ((found["q_y"] + found["q_b"]).exp() * found[name]).sum((0, 1))
        torch.testing.assert_close(run_of_it.over_summed(run_of_it.log_ratios[name]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("word", OBJECTIVES)
@pytest.mark.parametrize("K", [1, 3])
def test_bounds_and_gradients_are_those_of_a_loop_over_the_values(pair, word, K):
    model, guide, x = pair
    torch.manual_seed(1)
    draws = terms(model, guide, x, num_particles=K).latents
    expected = bounds_by_hand(by_hand(model, guide, x, draws))[word].sum()
    parameters = [*model.parameters(), *guide.parameters()]
    if word == "IWELBO":
        for p in (guide.y, guide.b, guide.b_of_y):
            p.requires_grad_(False)
        parameters = [p for p in parameters if p.requires_grad]
    by_hand_gradient = torch.autograd.grad(expected, parameters)
    torch.manual_seed(1)
    loss = OBJECTIVES[word](K)(model, guide)(x)
    # 1e-3 to the power's own cancellation in the bound by hand
    close = 1e-9 if word == "Renyi near 1" else 1e-12
    torch.testing.assert_close(-loss, expected, rtol=close, atol=close)
    for found, right in zip(torch.autograd.grad(-loss, parameters), by_hand_gradient, strict=True):
        torch.testing.assert_close(found, right, rtol=1e3 * close, atol=1e3 * close)


def test_iwelbo_lies_above_the_elbo_at_one_particle_and_does_not_train_q_of_the_summed_site(pair):
    model, guide, x = pair
    found = terms(model, guide, x)
    above = IWELBO(1).bound(found) - ELBO().bound(found)
    assert (above > 0).all()
    with pytest.raises(ValueError, match=r"site 'y': summed out, and its q cancels .* no gradient"):
        IWELBO(3)(model, guide)(x)
    with pytest.raises(ValueError, match="site 'y': summed out, and its q cancels"):
        RenyiELBO(0.0, 3)(model, guide)(x)
    with pytest.raises(ValueError, match="site 'y': summed out, and its q cancels"):
        Tempered(IWELBO(3), lambda step: 1.0)(model, guide)(x)
    # an evaluation is right, and so is a training of all but q(y | ...) and q(b | ...)
    assert math.isfinite(IWELBO(3).loss(model, guide, x))
    gradient = torch.autograd.grad(-IWELBO(3).bound(found).sum(), guide.y)[0]
    # the two occurrences of log q(y) cancel but for what a's path carries
    assert gradient.abs().max() < 1e-12


def test_a_value_that_the_guide_rules_out_has_no_weight_and_a_finite_gradient(pair):
    model, guide, x = pair
    with torch.no_grad():
        guide.b_of_y[:, 1] = -math.inf
        model.b[0, 1] = -math.inf
    for word, make in OBJECTIVES.items():
        objective = make(3)
        for p in (guide.y, guide.b, guide.b_of_y):
            p.requires_grad_(word != "IWELBO")
        torch.manual_seed(2)
        loss = objective(model, guide)(x)
        parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        assert loss.isfinite(), word
        for gradient in torch.autograd.grad(loss, parameters, allow_unused=True):
            assert gradient is None or gradient.isfinite().all(), word


@pytest.mark.parametrize("by", ["handler", "distribution"])
@pytest.mark.parametrize("word", ["ELBO", "analytic", "sticking", "IWELBO", "doubly", "VIMCO", "RLOO"])
def test_a_mask_hides_the_ratio_of_a_summed_site_but_weights_its_values(by, word):
    """y is masked in row 1 in both programs, x is not: there log w_y = log p(x | y), and q(y) weights it."""
    mask, x = torch.tensor([True, False, True]), torch.tensor([[0.3], [1.2], [-0.5]])
    logits, prior = nn.Parameter(torch.tensor([0.5, -1.0, 0.2])), torch.tensor([0.1, 0.6, 0.3])

    def half(fn, **site):
        if by == "distribution":
            return pyro.sample("y", fn.mask(mask), **site)
        with pyro.poutine.mask(mask=mask):
            return pyro.sample("y", fn, **site)

    class Masking(PyroModule):
        def __init__(self, **marks):
            super().__init__("masking")
            self.logits, self.marks = logits, marks

        def forward(self, x):
            with pyro.plate("data", len(x)):
                half(dist.Categorical(logits=self.logits), **self.marks)

    def model(x):
        with pyro.plate("data", len(x)):
            y = half(dist.Categorical(prior))
            pyro.sample("x", normal(y.unsqueeze(-1).double()), obs=x)

    objective = {
        "ELBO": ELBO(2), "analytic": ELBO(analytic_kl=True), "sticking": ELBO(sticking=True), "IWELBO": IWELBO(2),
        "doubly": IWELBO(2, gradient="doubly"), "VIMCO": VIMCO(2), "RLOO": RLOO(2),
    }[word]  # fmt: skip
    log_q = logits.log_softmax(-1)
    log_w = normal(torch.arange(3.0).unsqueeze(-1)).log_prob(x.unsqueeze(1))
    log_w = log_w + torch.where(mask.unsqueeze(-1), prior.log() - log_q, 0.0)
    inside = word in ("IWELBO", "doubly", "VIMCO")
    expected = (log_q + log_w).logsumexp(-1) if inside else (log_q.exp() * log_w).sum(-1)
    guide = Masking(**SUMMED)
    # in the log of a sum q(y) cancels, and its training is refused
    assert objective.loss(model, guide, x) == pytest.approx(-expected.sum().item(), abs=1e-12)
    if not inside:
        gradients = [torch.autograd.grad(v, logits)[0] for v in (objective(model, guide)(x), -expected.sum())]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    # a draw without a path has its score under the mask too, by which it reaches the likelihood
    drawn = run(model, Masking(), (x,), {}, 2, Purpose(differentiable=True, score=True))
    torch.testing.assert_close(drawn.log_score, log_q[drawn.latents["y"]])


def test_units_are_averaged_over_the_values_of_a_site_that_a_mask_hides():
    def program(loc, **marks):
        def forward(x):
            with pyro.plate("data", len(x)):
                with pyro.poutine.mask(mask=torch.tensor([True, False])):
                    y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.8])), **marks)
                z = pyro.sample("z", normal(y.unsqueeze(-1) * torch.tensor([1.0, -2.0]) + loc))
                if not marks:
                    pyro.sample("x", normal(z), obs=x)

        return forward

    x, settings = torch.tensor([[0.3, 1.2], [-0.5, 0.1]]), {"num_particles": 4, "seed": 0}
    model, guide = program(0.0), program(0.5, **SUMMED)
    by_unit, by_site = (kl(model, guide, x, **settings)["z"] for kl in (kl_per_unit, kl_per_site))
    torch.testing.assert_close(by_unit.sum(-1), by_site)


def test_summed_and_drawn_sites_agree_in_expectation(pair):
    """Each difference within 4.9 standard errors: 16 numbers, so that a right program fails in 1 of 60,000 seeds."""
    model, guide, x = pair
    K = 40_000
    summed = terms(model, guide, x, num_particles=2000)
    drawn = run(model, guide, (x,), {}, K, Purpose(sample_all=True))
    assert drawn.latents["y"].shape == (K, N)
    for name in ("a", "y", "b", "z"):
        one, other = summed.over_summed(summed.log_ratios[name]), drawn.log_ratios[name]
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 4.9 * error).all(), name


@pytest.mark.parametrize("K", [1, 3])
def test_sticking_has_the_plain_value_and_measure(pair, K):
    model, guide, x = pair
    values = []
    for objective in (ELBO(K), ELBO(K, sticking=True)):
        torch.manual_seed(3)
        values.append(objective(model, guide)(x))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)
    # q(y | a, x) learns through the measure, which the frozen run must not cut off
    assert torch.autograd.grad(values[1], guide.y)[0].abs().sum() > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["sticking", "doubly"])
def test_path_gradients_have_the_mean_of_the_plain_ones(pair, what):
    """Hotelling's test of the difference of the means, which a right program fails for 1 seed in 10^5."""
    model, guide, x = pair
    plain, other = (ELBO(), ELBO(sticking=True)) if what == "sticking" else (IWELBO(3), IWELBO(3, "doubly"))
    if what == "doubly":
        for p in (guide.y, guide.b, guide.b_of_y):
            p.requires_grad_(False)
    parameters = [p for p in guide.parameters() if p.requires_grad]
    # many data in one run cost as much as few, and make the sums of their gradients normal
    runs, x = 400, x.repeat(32, 1)

    def gradients(objective):
        loss = objective(model, guide)
        found = [torch.cat([g.flatten() for g in torch.autograd.grad(loss(x), parameters)]) for _ in range(runs)]
        return torch.stack(found)

    one, two = gradients(plain), gradients(other)
    # parameters of which only sums matter, such as logits, have correlated gradients
    values, vectors = torch.linalg.eigh((one.T.cov() + two.T.cov()) / runs)
    kept = values > 1e-9 * values.max()
    z = (vectors.T @ (one.mean(0) - two.mean(0)))[kept] / values[kept].sqrt()
    p = len(z)
    assert (z**2).sum() * (runs - p) / (p * (runs - 1)) < scipy.stats.f.isf(1e-5, p, runs - p)


def test_doubly_weights_a_draw_that_serves_several_values_by_the_sum_of_theirs(pair):
    model, guide, x = pair
    torch.manual_seed(4)
    found = terms(model, guide, x, num_particles=3)
    draws = by_hand(model, guide, x, found.latents)
    for p in (guide.y, guide.b, guide.b_of_y):
        p.requires_grad_(False)
    torch.manual_seed(4)
    run_of_it = doubly(model, guide, (x,), {}, 3, Purpose(differentiable=True))
    torch.testing.assert_close(run_of_it.log_weights, found.log_weights)
    gradient = torch.autograd.grad(IWELBO(3).bound(run_of_it).sum(), guide.z)[0]
    # by hand: sum over k, y, b of (the weight's share)^2 times the path derivative of log w at frozen q, for z
    log_w = draws["x"] + draws["a"] + draws["y"] + draws["b"] + draws["z"] + draws["q_y"] + draws["q_b"]
    share = log_w.detach().flatten(0, 2).softmax(0).view_as(log_w)
    a = found.latents["a"].detach()
    expected = torch.zeros_like(guide.z)
    for i in range(Y):
        for j in range(B):
            y, b = torch.full((3, N), i), torch.full((3, N), j)
            q_z = guide.q_z(a, y, b, x)
            z = found.latents["z"][j, i].detach().requires_grad_()
            frozen = normal(q_z.mean.detach(), guide.scale.exp().detach())
            log_wz = model.p_x(a, y, b, z).log_prob(x) + model.p_z(y, b).log_prob(z) - frozen.log_prob(z)
            path = torch.autograd.grad((share[i, j] ** 2 * log_wz).sum(), z)[0]
            expected[i, j] = path.sum((0, 1))  # dz / d guide.z[y, b] is 1
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def mixture():
    model = GaussianMixture(D, Y)
    return model, guides.Exact(model, site="k"), torch.randn(5, D)


@pytest.mark.parametrize("word", ["ELBO", "IWELBO", "Renyi", "Renyi near 1"])
@pytest.mark.parametrize("K", [1, 4])
def test_an_exact_posterior_that_is_summed_gives_the_value_and_gradient_of_log_p(word, K):
    model, guide, x = mixture()
    parameters = [*model.parameters()]
    exact = model.log_prob(x).sum()
    loss = OBJECTIVES[word](K)(model, guide)(x)
    torch.testing.assert_close(-loss, exact, rtol=0, atol=1e-11)
    ours, theirs = torch.autograd.grad(-loss, parameters), torch.autograd.grad(exact, parameters)
    for found, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-11)


def test_pyros_enumeration_takes_the_same_guide_and_agrees():
    model, guide, x = mixture()
    ours = ELBO().loss(model, guide, x)
    theirs = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert Predictive(model, guide=guide, num_samples=3)(x)["k"].shape == (3, 5)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), ELBO(2))
    assert svi.step(x) == pytest.approx(ours, rel=1e-9)


def test_evaluation_averages_over_the_summed_sites(pair):
    model, guide, x = pair
    found = terms(model, guide, x, num_particles=64)
    torch.manual_seed(5)
    again = terms(model, guide, x, num_particles=64)
    measured = log_likelihood(model, guide, x, num_particles=64, seed=5)
    torch.testing.assert_close(measured.elbo, ELBO().bound(again))
    torch.testing.assert_close(measured.per_datum, IWELBO(64).bound(again))
    assert (measured.per_datum > measured.elbo).all()
    sites = kl_per_site(model, guide, x, num_particles=64, seed=5)
    for name in ("a", "y", "b", "z"):
        torch.testing.assert_close(sites[name], -again.expectation(again.log_ratios[name]))
    units = kl_per_unit(model, guide, x, num_particles=64, seed=5)
    assert [*units] == ["a", "z"]
    for name, value in units.items():
        torch.testing.assert_close(value.sum(-1), sites[name])
    assert {*active_units(guide, x)} == {"a", "z"}
    assert found.over_summed(found.log_weights).shape == (64, N)


def test_the_exact_mixture_has_no_gap_and_no_error():
    model, guide, x = mixture()
    found = log_likelihood(model, guide, x, num_particles=3)
    torch.testing.assert_close(found.per_datum, model.log_prob(x).detach())
    assert found.per_datum_error.max() < 1e-6


def test_a_training_records_the_kl_of_a_summed_site_and_gaps_follow(pair, tmp_path):
    model, guide, x = pair
    record = fit(ELBO(2)(model, guide), x, epochs=1, batch_size=2).history[0]
    assert {*record["kl"]} == {"a", "y", "b", "z"}
    assert min(record["kl"]["y"], record["kl"]["b"]) >= 0
    found = gaps(model, guide, x, best=Guide(model), steps=2, num_particles=20)
    assert len(found.history) == 2


def test_a_training_names_the_site_that_is_not_finite(pair):
    model, guide, x = pair
    with torch.no_grad():
        model.of_y[1, 0] = 1e200
    with pytest.raises(FloatingPointError, match=r"site 'x' \(observed\): log p is -inf in rows"):
        fit(ELBO(2)(model, guide), x, epochs=1, batch_size=2)


class Labels(PyroModule):
    """p(y) p(z | y) p(x | y, z) with z of one dimension: unlabelled, z's posterior has a mode for each y."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", normal(torch.zeros(1)))
            pyro.sample("x", normal(torch.tensor([[-0.6], [0.6]])[y] + torch.tanh(z), 0.4), obs=x)


def test_references_sum_the_discrete_latents_out():
    model, x = Labels(), torch.tensor([[0.2], [1.0]])
    grid = grid_reference(model, x)
    z = torch.linspace(-9, 9, 20_001)
    log_joint = torch.stack([
        normal(torch.zeros(1)).log_prob(z[:, None])
        + torch.logsumexp(torch.stack([
            math.log(p) + normal(m + torch.tanh(z[:, None]), 0.4).log_prob(datum) for p, m in ((0.3, -0.6), (0.7, 0.6))
        ]), 0)
        for datum in x
    ])  # fmt: skip
    log_p = torch.logsumexp(log_joint, -1) + math.log(18 / 20_000)
    torch.testing.assert_close(grid.log_evidence.double(), log_p, rtol=0, atol=1e-4)
    density = (log_joint - torch.logsumexp(log_joint, -1, keepdim=True)).exp()
    torch.testing.assert_close(grid.mean[:, 0].double(), (density * z).sum(-1), rtol=0, atol=1e-3)


@pytest.mark.thorough
def test_hmc_and_compare_take_unlabelled_data():
    model, x = Labels(), torch.tensor([[0.2], [1.0]])
    grid = grid_reference(model, x)
    hmc = as_reference(hmc_reference(model, x, num_samples=500, seed=0))
    error = (hmc.mean - grid.mean).abs() / hmc.mean_error
    assert (error < 4.4).all()  # two numbers: 1 in 50,000

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5])), **SUMMED)
            pyro.sample("z", normal(torch.where(y == 0, 1.0, -0.3).unsqueeze(-1).expand(*y.shape, 1), 0.8))

    found = compare(guide, grid, x, model=model, seed=0)
    assert (found.gap > 0).all()


def test_a_model_of_discrete_latents_alone_has_no_density_to_sample():
    model, _, x = mixture()
    with pytest.raises(ValueError, match="no continuous latent site: 'k' is discrete and would be summed out"):
        grid_reference(model, x)
    with pytest.raises(ValueError, match="the model has no continuous latent site"):
        nuts_reference(model, x)


def marked(fn, infer=None, plate=None):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1 if plate is None else -2):
            if plate is None:
                pyro.sample("y", fn, infer=infer or {"enumerate": "parallel"})
            else:
                with pyro.plate("inner", plate, dim=-1):
                    pyro.sample("y", fn, infer={"enumerate": "parallel"})

    return guide


def of(fn):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", fn)
            pyro.sample("x", normal(y.reshape(*y.shape[: y.dim() - len(fn.event_shape)], -1).sum(-1, True) * x), obs=x)

    return model


REFUSED = {
    "sequential": (dist.Categorical(torch.ones(3)), {"enumerate": "sequential"}, "site 'y': enumerate='sequential'"),
    "some samples": (
        dist.Categorical(torch.ones(3)), {"enumerate": "parallel", "num_samples": 5}, "'parallel' with num_samples=5"
    ),
    "no list of values": (dist.Poisson(3.0), None, "site 'y': .* Poisson cannot list its values.*RLOO"),
    "a continuous site": (dist.Normal(0.0, 1.0), None, "site 'y': .* Normal cannot list its values"),
    "a vector of bits": (
        dist.Bernoulli(0.5 * torch.ones(3)).to_event(1), None, "Bernoulli cannot list its values.*RLOO"
    ),
    "other values than the model's": (
        dist.Categorical(torch.ones(2)), None, "site 'y': summed out over the 2 values of .* the model's .* has 3"
    ),
    "too many values": (dist.Binomial(5000, 0.5), None, "site 'y': .* takes 5001 values; 4096 are the most.*RLOO"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_mark_that_cannot_be_followed_is_refused(name):
    fn, infer, message = REFUSED[name]
    model = of(dist.Categorical(torch.ones(3)) if name.startswith("other values") else fn)
    with pytest.raises(ValueError, match=message):
        ELBO().loss(model, marked(fn, infer), torch.ones(2, 1))


@pytest.mark.parametrize("K", [1, 2])
def test_counts_without_end_are_summed_over_the_values_that_the_guide_lists(K):
    model, guide = of(dist.Poisson(2.0)), marked(dist.Binomial(40, torch.tensor(0.1)))
    x = torch.tensor([[0.5], [-1.0]])
    count = torch.arange(41.0).unsqueeze(-1)
    joint = dist.Poisson(2.0).log_prob(count) + normal((count * x.T).unsqueeze(-1)).log_prob(x)
    # the counts above 40 have less than 1e-30 of the prior
    found = log_likelihood(model, guide, x, num_particles=K).per_datum
    torch.testing.assert_close(found, joint.logsumexp(0), rtol=1e-12, atol=1e-12)


def test_a_summed_site_of_an_inner_plate_is_refused():
    fn = dist.Categorical(torch.ones(3))

    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 2, dim=-1):
            y = pyro.sample("y", fn)
            pyro.sample("x", dist.Normal(y.double(), 1.0), obs=x)

    with pytest.raises(ValueError, match="site 'y': marked to be summed out inside the plate 'inner'"):
        ELBO().loss(model, marked(fn, plate=2), torch.ones(3, 2))


def test_the_extreme_weight_is_refused_with_a_summed_site(pair):
    model, guide, x = pair
    for alpha in (-math.inf, math.inf):
        with pytest.raises(ValueError, match="site 'y': summed out, and RenyiELBO"):
            RenyiELBO(alpha, 3).loss(model, guide, x)


@pytest.mark.parametrize("K", [1, 3])
def test_a_guide_that_concatenates_in_place_of_broadcasting_is_refused_with_the_way_out(pair, K):
    model, _, x = pair

    class Concatenates(Guide):
        def q_z(self, a, y, b, x):
            one_hot = (y.unsqueeze(-1) == torch.arange(Y)).to(x)
            return normal(torch.cat([x, one_hot], -1)[..., :D])

    with pytest.raises(ValueError, match=r"site 'z'.*all values of 'y', 'b'.*MultiInput"):
        ELBO(K).loss(model, Concatenates(model), x)

    class Flattens(Guide):
        def q_z(self, a, y, b, x):
            loc = super().q_z(a, y, b, x).mean
            return normal(loc.reshape(-1, *loc.shape[-2:]) if loc.dim() > 4 else loc)

    with pytest.raises(ValueError, match=r"site 'z'.*does not match the values, particles and plates"):
        ELBO(K).loss(model, Flattens(model), x)


def test_an_objective_that_averages_over_axis_0_is_refused_with_a_summed_site(pair):
    model, guide, x = pair

    class Mine(ELBO):
        def bound(self, terms):
            return terms.log_weights.mean(0)

    with pytest.raises(ValueError, match=r"Mine.bound: expected \(N,\), got .*terms.expectation"):
        Mine(2).loss(model, guide, x)


class Codes(PyroModule):
    """p(c) p(e | c) p(x | c, e): two discrete latents; drawn, neither has a path."""

    def __init__(self):
        super().__init__()
        self.c, self.e, self.x = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3, 2)), torch.randn(3, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.c))
            e = pyro.sample("e", dist.Categorical(logits=self.e[c]))
            pyro.sample("x", normal(self.x[c, e].unsqueeze(-1) * torch.ones(D)), obs=x)


class Preset(dist.Categorical):
    """A categorical whose draws are given."""

    draws = None

    def sample(self, sample_shape=()):
        # the check of the pair runs it with other particles
        return self.draws if self.draws.shape == self.batch_shape else torch.zeros(self.batch_shape, dtype=torch.long)

    def expand(self, batch_shape, _instance=None):
        new = super().expand(batch_shape, self._get_checked_instance(Preset, _instance))
        new.draws = self.draws
        return new


class GuideOfCodes(PyroModule):
    """q(c | x) q(e | c, x), at given draws; either may be summed out."""

    def __init__(self, summed=()):
        super().__init__()
        self.summed, self.values = summed, {}
        self.c, self.e = nn.Parameter(torch.randn(D, 3)), nn.Parameter(torch.randn(3, 2))

    def site(self, name, logits):
        fn = Preset(logits=logits)
        fn.draws = self.values.get(name, torch.zeros((), dtype=torch.long))
        return pyro.sample(name, fn, **(SUMMED if name in self.summed else {}))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            c = self.site("c", x @ self.c)
            self.site("e", self.e[c] + x[..., :1])


def mean_gradient(objective, model, guide, x, drawn):
    """The exact mean of an estimator's gradient at one datum, over all draws of K = 2 particles; and of its value."""
    sizes = {"c": 3, "e": 2}
    combinations = torch.cartesian_prod(*[torch.arange(sizes[n]) for n in drawn for _ in range(2)])
    parameters, value = [*guide.parameters(), *model.parameters()], 0.0
    total = [torch.zeros_like(p) for p in parameters]
    for row in combinations:
        guide.values = {n: v.reshape(2, 1) for n, v in zip(drawn, row.split(2), strict=True)}
        with torch.no_grad():
            found = run(model, guide, (x,), {}, 2, Purpose(score=True))
            # a site drawn for each value of a summed one has the same preset draw for each of them
            probability = found.log_score.reshape(-1, 2, 1)[0].sum().exp()
        loss = -objective.differentiable_loss(model, guide, x)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        value = value + probability * loss.detach()
        total = [t + probability * g for g, t in zip(gradients, total, strict=True)]
    return value, total


def exact_bound(model, guide, x, word):
    """E[the bound of K = 2 draws] with a graph, by enumeration of the six codes and of their pairs."""
    c, e = torch.cartesian_prod(torch.arange(3), torch.arange(2)).T
    log_q = (x @ guide.c).log_softmax(-1)[0, c] + (guide.e[c] + x[0, :1]).log_softmax(-1).gather(-1, e[:, None])[:, 0]
    log_p = model.c.log_softmax(-1)[c] + model.e[c].log_softmax(-1).gather(-1, e[:, None])[:, 0]
    log_w = log_p + normal(model.x[c, e][:, None] * torch.ones(D)).log_prob(x) - log_q
    if word == "ELBO":
        return (log_q.exp() * log_w).sum()
    pairs = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    return ((log_q[:, None] + log_q[None]).exp() * pairs).sum()


@pytest.mark.parametrize(("objective", "word"), [(RLOO(2), "ELBO"), (VIMCO(2), "IWELBO")])
def test_score_estimators_have_the_mean_gradient_of_the_exact_bound(objective, word):
    model, guide, x = Codes(), GuideOfCodes(), torch.randn(1, D)
    value, found = mean_gradient(objective, model, guide, x, ["c", "e"])
    exact = exact_bound(model, guide, x, word)
    torch.testing.assert_close(value, exact.detach(), rtol=0, atol=1e-12)
    right = torch.autograd.grad(exact, [*guide.parameters(), *model.parameters()])
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_drawn_code_above_a_summed_site_has_the_mean_gradient_of_the_exact_elbo():
    model, guide, x = Codes(), GuideOfCodes(summed=("e",)), torch.randn(1, D)
    value, found = mean_gradient(RLOO(2), model, guide, x, ["c"])
    exact = exact_bound(model, guide, x, "ELBO")
    torch.testing.assert_close(value, exact.detach(), rtol=0, atol=1e-12)
    right = torch.autograd.grad(exact, [*guide.parameters(), *model.parameters()])
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_drawn_codes_need_a_score_estimator_with_several_particles():
    model, guide, x = Codes(), GuideOfCodes(), torch.randn(2, D)
    with pytest.raises(ValueError, match="site 'c': Preset has no reparameterised sample"):
        ELBO(2)(model, guide)(x)
    for objective in (RLOO, VIMCO):
        with pytest.raises(ValueError, match=f"{objective.__name__}: num_particles must be at least 2"):
            objective(1)
    below = GuideOfCodes(summed=("c",))
    below.c.requires_grad_(False)
    loss = VIMCO(2)(model, below)
    with pytest.raises(ValueError, match=r"VIMCO: sites without .* drawn for each value of \['c'\]"):
        loss(x)


class Bounded(PyroModule):
    """p(y) p(x | y) whose support depends on the class: x of 2 has only the second."""

    def __init__(self):
        super().__init__()
        self.high = nn.Parameter(torch.tensor([1.0, 3.0]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5])))
            high = self.high[y].expand(torch.broadcast_shapes(y.shape, x.shape))
            pyro.sample("x", dist.Uniform(0.0, high), obs=x)


def even(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(logits=torch.zeros(len(x), 2)), **SUMMED)


def test_a_value_that_some_classes_rule_out_has_weight_zero_in_them():
    found = IWELBO(1).loss(Bounded(), even, torch.tensor([0.5, 2.0]))
    assert found == pytest.approx(-math.log(0.5 * (1 + 1 / 3)) - math.log(0.5 / 3), abs=1e-12)


def test_a_wrong_value_is_named_at_a_later_call_too():
    def labelled(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)))
            pyro.sample("x", dist.Bernoulli(logits=y.unsqueeze(-1) * torch.ones(D)).to_event(1), obs=x)

    x = torch.ones(N, D)
    ELBO().loss(labelled, even, x)
    x[2] = 0.3
    with pytest.raises(ValueError, match=r"site 'x': .* the observed values lie outside in rows 2"):
        ELBO().loss(labelled, even, x)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_a_class_that_the_prior_rules_out_leaves_renyi_bound_and_gradient_finite(alpha):
    model = M2(D, 1, Y, (4,), likelihood=Normal, class_prior=ClassPrior(Y, probs=[0.5, 0.5, 0.0]))
    guide, x = guides.Labelled(model, hidden=(4,)), torch.randn(N, D)
    with pyro.validation_enabled(False):
        if alpha == 0:
            for p in guide.logits.parameters():
                p.requires_grad_(False)
        torch.manual_seed(1)
        loss = RenyiELBO(alpha, 2)(model, guide)(x)
        torch.manual_seed(1)
        run_of_it = terms(model, guide, x, num_particles=2)
        # by hand over the classes that are left
        log_q, log_w = run_of_it.summed["y"][:2], run_of_it.log_weights[:2]
        power = 1 - alpha
        expected = ((log_q + power * log_w).flatten(0, 1).logsumexp(0) - math.log(2)) / power
    torch.testing.assert_close(-loss, expected.sum(), rtol=1e-9, atol=1e-9)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in guide.parameters() if p.grad is not None)


def test_rloo_of_a_class_that_the_prior_rules_out_is_minus_infinity_as_the_elbo_is():
    model = M2(D, 1, Y, (4,), likelihood=Normal, class_prior=ClassPrior(Y, probs=[0.5, 0.5, 0.0]))
    guide, x = guides.Labelled(model, hidden=(4,)), torch.randn(N, D)
    with pyro.validation_enabled(False):
        assert RLOO(2).loss(model, guide, x) == ELBO(2).loss(model, guide, x) == math.inf


@pytest.mark.parametrize("weight", [0.5, np.float32(0.5)])
def test_a_weight_of_the_kl_leaves_q_of_the_summed_site_in_the_bound(pair, weight):
    model, guide, x = pair
    Tempered(IWELBO(2), weight)(model, guide)(x).backward()
    assert (guide.y.grad != 0).any()
