"""The light distributions against torch's own."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

from zoo.parts.conditionals import Normal as NormalLikelihood
from zoo.parts.distributions import DiagonalNormal, IndependentBernoulli, UnitNormal

pytestmark = pytest.mark.usefixtures("double_precision")


def parameters(*shape):
    return torch.randn(*shape, requires_grad=True), torch.randn(*shape, requires_grad=True)


def exact(loc, log_scale):
    return Independent(Normal(loc, log_scale.exp()), 1)


def test_densities_are_torchs():
    loc, log_scale = parameters(4, 3)
    z = torch.randn(5, 4, 3)
    for q in (DiagonalNormal(loc, log_scale=log_scale), DiagonalNormal(loc, log_scale.exp())):
        torch.testing.assert_close(q.log_prob(z), exact(loc, log_scale).log_prob(z))
        torch.testing.assert_close(q.expand((5, 4)).log_prob(z), exact(loc, log_scale).log_prob(z))
        torch.testing.assert_close(q.entropy(), exact(loc, log_scale).entropy())
    torch.testing.assert_close(UnitNormal(3, z).log_prob(z), Independent(Normal(z * 0, z * 0 + 1), 1).log_prob(z))
    x = torch.bernoulli(torch.full((4, 3), 0.5))
    logits = torch.randn(5, 4, 3)
    torch.testing.assert_close(IndependentBernoulli(logits).log_prob(x), Bernoulli(logits=logits).log_prob(x).sum(-1))


@pytest.mark.parametrize("particles", [(), (5,)])
def test_log_prob_of_a_draw_has_the_value_and_the_total_gradient_of_log_prob(particles):
    loc, log_scale = parameters(4, 3)
    q = DiagonalNormal(loc, log_scale=log_scale).expand((*particles, 4))
    for _ in range(2):  # of the latest draw, and as well of one before it
        z = q.rsample()
        for value in (z, z * 1):
            quick, long = q.log_prob_of_draw(value), exact(loc, log_scale).log_prob(value)
            torch.testing.assert_close(quick, long)
            weight = torch.randn_like(quick)
            options = {"retain_graph": True, "materialize_grads": True}
            gradients = [torch.autograd.grad((f * weight).sum(), (loc, log_scale), **options) for f in (quick, long)]
            torch.testing.assert_close(*gradients)


def test_log_prob_of_a_draw_without_a_path_has_the_score():
    loc, log_scale = parameters(4, 3)
    q = DiagonalNormal(loc, log_scale=log_scale)
    z = q.sample()
    scores = [torch.autograd.grad(f.sum(), loc)[0] for f in (q.log_prob_of_draw(z), exact(loc, log_scale).log_prob(z))]
    assert scores[1].abs().min() > 0
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("heteroscedastic", [False, True])
def test_no_standard_deviation_of_a_normal_likelihood_is_below_its_floor(heteroscedastic):
    """Variances add up; however far the network goes, densities stay bounded and have a gradient."""
    likelihood = NormalLikelihood(2, 3, scale=0.5, heteroscedastic=heteroscedastic, floor=0.1)
    h = torch.randn(4, 2)
    torch.testing.assert_close(likelihood(h).variance, torch.full((4, 3), 0.5**2 + 0.1**2))
    with torch.no_grad():
        likelihood.log_scale.fill_(-1e3)
    x = likelihood(h).loc
    density = likelihood(h).log_prob(x.detach())
    torch.testing.assert_close(density, exact(x, torch.full((4, 3), 0.1).log()).log_prob(x))
    assert all(g.isfinite().all() for g in torch.autograd.grad(density.sum(), list(likelihood.parameters())))
    for wrong in ({"floor": -1.0}, {"floor": float("inf")}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="Normal: expected scale > 0 and floor >= 0"):
            NormalLikelihood(2, 3, **wrong)


def test_a_masked_density_whose_scale_overflows_has_finite_gradients():
    loc, log_scale = torch.randn(4, 3), torch.zeros(4, 3)
    log_scale[2] = 1e4
    log_scale.requires_grad_()
    seen = torch.tensor([True, True, False, True])
    score = DiagonalNormal(loc, log_scale=log_scale).log_prob(torch.randn(4, 3))
    assert score.isfinite().all()
    gradient = torch.autograd.grad((score * seen).sum(), log_scale)[0]
    assert gradient.isfinite().all()
    assert not gradient[2].any()


@pytest.mark.parametrize("given", ["scale", "log_scale"])
def test_what_was_looked_at_without_a_graph_has_one_when_it_is_asked_for(given):
    """The scale and its logarithm are computed when they are needed, and kept."""
    loc, value = torch.randn(4, 3), torch.rand(4, 3).add(0.5).requires_grad_()
    q = DiagonalNormal(loc, **{given: value})
    with torch.no_grad():
        assert (q.scale > 0).all()
        torch.testing.assert_close(q.log_scale.exp(), q.scale)
    for part in (q.scale, q.log_scale):
        assert torch.autograd.grad(part.sum(), value)[0].all()
    assert q.scale is q.scale
    assert q.log_scale is q.log_scale
    torch.testing.assert_close(q.expand((2, 4)).log_prob(loc + 1), q.log_prob(loc + 1).expand(2, 4))
