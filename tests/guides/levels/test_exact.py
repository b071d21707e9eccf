"""Guides of hierarchies at the posterior of linear-Gaussian models: every objective is log p(x), for every seed."""

import math

import pytest
import torch
from linear_hierarchies import EXACT, exact, ladder

import guides
from zoo.infer import ELBO, IWELBO, RenyiELBO, Tempered, gaps, kl_per_site, log_likelihood, terms

pytestmark = pytest.mark.usefixtures("double_precision")

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
Z_MAX = 4.5  # two-sided failure rate below 1e-5 for each comparison
every_case = pytest.mark.parametrize("name", [*EXACT, "ladder"])


def case(name):
    return ladder() if name == "ladder" else exact(name)


OBJECTIVES = {
    "ELBO": lambda: ELBO(3),
    "sticking": lambda: ELBO(3, sticking=True),
    "IWELBO": lambda: IWELBO(4),
    "doubly": lambda: IWELBO(4, gradient="doubly"),
    "Renyi": lambda: RenyiELBO(0.5, 3),
    "VR-max": lambda: RenyiELBO(-math.inf, 3),
    "Tempered": lambda: Tempered(ELBO(3)),
}


@every_case
def test_every_objective_is_log_p_for_every_k_and_seed(name):
    model, guide, joint = case(name)
    x = joint.sample(4)["x"]
    log_p = joint.log_prob(x)
    for seed in range(2):
        torch.manual_seed(seed)
        for K in (1, 7):
            weights = terms(model, guide, x, num_particles=K).log_weights
            torch.testing.assert_close(weights, log_p.expand(K, -1), **CLOSE)
        for make in OBJECTIVES.values():
            torch.testing.assert_close(-make()(model, guide)(x), log_p.sum(), **CLOSE)
    found = log_likelihood(model, guide, x, num_particles=20)
    torch.testing.assert_close(found.per_datum, log_p, **CLOSE)
    torch.testing.assert_close(found.elbo, log_p, **CLOSE)


@every_case
@pytest.mark.parametrize("objective", ["sticking", "doubly"])
def test_path_gradients_vanish_for_every_draw(name, objective):
    model, guide, joint = case(name)
    x = joint.sample(4)["x"]
    loss = OBJECTIVES[objective]()(model, guide)
    shared = {id(p) for p in model.parameters()}
    parameters = [p for p in guide.parameters() if id(p) not in shared]
    gradients = torch.autograd.grad(loss(x), parameters, allow_unused=True)
    assert max(g.abs().max() for g in gradients if g is not None) < 1e-8


@pytest.mark.parametrize(
    ("name", "site"),
    [("bottom-up", "z_[12]"), ("bidirectional on a chain", "z_1"), ("BIVA", "z_[12]_bu")],
)
def test_a_closed_form_kl_is_refused_where_it_is_wrong(name, site):
    model, guide, joint = exact(name)
    with pytest.raises(ValueError, match=f"site '{site}': no closed-form KL, its parent 'z_.*' in the model comes"):
        ELBO(analytic_kl=True)(model, guide)(joint.sample(4)["x"])


@pytest.mark.parametrize("name", ["top-down", "top-down with skips", "top-down on BIVA", "ladder"])
def test_a_closed_form_kl_is_that_of_the_draws_on_average(name):
    model, guide, joint = case(name)
    x = joint.sample(1)["x"].expand(400, -1)
    loss = ELBO(5, analytic_kl=True)(model, guide)
    with torch.no_grad():
        values = torch.stack([-loss(x) / len(x) for _ in range(20)])
    # the sampled ELBO is log p for every draw here, and its closed form is so on average; 20 means of 2000 draws each
    error = values.std() / math.sqrt(20)
    assert error > 1e-6
    # Student's t with 19 degrees of freedom: beyond 6.4 with a probability below 1e-5
    assert (values.mean() - joint.log_prob(x[:1])).abs() < 6.4 * error


@every_case
def test_the_bound_of_upper_levels_is_the_exact_one_and_below_that_of_all(name):
    """L^{>0} = L; L^{>k} <= L, datum by datum, and equal to its closed form within the Monte Carlo error."""
    model, guide, joint = case(name)
    x = joint.sample(3)["x"]
    log_p = joint.log_prob(x)
    for k in range(len(model.layers)):
        below = [site for layer in model.layers[:k] for site in layer]
        upper = joint.upper_bound_of(x, below)
        assert (upper <= log_p + 1e-9).all()
        found = log_likelihood(model, guides.PriorBelow(guide, k), x, num_particles=4000, seed=0)
        if k == 0:
            torch.testing.assert_close(found.elbo, log_p, **CLOSE)
        elif name not in ("bottom-up", "bidirectional on a chain", "BIVA"):
            # of these the upper levels are drawn given hidden lower ones, so that q(z_{>k} | x) is a mixture
            assert (upper < log_p - 1e-3).all()
            assert ((found.elbo - upper) / found.elbo_error).abs().max() < Z_MAX
        assert ((found.elbo - log_p) / found.elbo_error.clamp(min=1e-9)).max() < Z_MAX


def test_gaps_are_zero_at_the_posterior_and_close_from_beside_it():
    """Of a top-down guide whose location is off by a constant, all that is lost is the encoder's."""
    model, guide, joint = exact("top-down")
    x = joint.sample(3)["x"]
    with torch.no_grad():
        for part in guide.parts:
            part.head.layers[0].bias[:2] += 0.3
    found = gaps(model, guide, x, log_p=joint.log_prob(x), steps=100, num_particles=1000, seed=0)
    assert found.total.mean() > 0.1
    assert (found.approximation.abs() < 0.01 + Z_MAX * found.approximation_error).all()
    assert ((found.amortization - found.total).abs() < 0.01 + Z_MAX * found.amortization_error).all()


def test_the_levels_of_the_posterior_add_up():
    """KL(q(z | x) || p(z)) = E_q[log p(x | z)] - log p(x), all of it known."""
    model, guide, joint = exact("top-down with skips")
    x = joint.sample(5)["x"]
    upper = ["z_3", "z_2", "z_1"]
    A, b, S = joint.conditional(upper, ["x"])
    exact_kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(x @ A.T + b, S), joint.marginal(upper)
    )
    total = sum(kl_per_site(model, guide, x, num_particles=4000, seed=1).values())
    run = terms(model, guide, x, num_particles=400)
    spread = sum(run.log_ratios.values()).std(0) / math.sqrt(4000)
    assert ((total - exact_kl) / spread).abs().max() < Z_MAX
