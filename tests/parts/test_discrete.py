"""Codes and their relaxation: densities that integrate to one, against torch's and Pyro's, KL, float32, bad values."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, kl_divergence
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from zoo.parts.conditionals import CodePrior
from zoo.parts.distributions import Concrete, OneHotCode

LIMIT = 4.5  # two-sided failure rate below 1e-5 for each comparison
TEMPERATURES = [0.3, 2 / 3, 1.0, 2.0]

pytestmark = pytest.mark.usefixtures("double_precision")


def tensor(*values):
    return torch.tensor(values)


def all_codes(groups, categories):
    """By a loop that knows nothing of the library: (C^G, G * C)."""
    eye = torch.eye(categories)
    return torch.stack(
        [torch.cat([eye[c] for c in code]) for code in itertools.product(range(categories), repeat=groups)]
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_concrete_densities_integrate_to_one_over_the_simplex(temperature):
    """In coordinates u on the real line or plane, in which the density falls off exponentially."""
    t = torch.tensor(temperature)
    u = torch.linspace(-120, 120, 40_001)
    log_y = torch.stack([u, torch.zeros_like(u)], -1).log_softmax(-1)
    # dy_1 = y_1 y_2 du
    inside = Concrete(tensor([0.7, -0.4]), t).log_prob(log_y.exp()) + log_y.sum(-1)
    torch.testing.assert_close(torch.trapezoid(inside.exp(), u), torch.tensor(1.0), rtol=0, atol=1e-6)
    v = torch.linspace(-60, 60, 1201)
    plane = torch.stack([*torch.meshgrid(v, v, indexing="ij"), torch.zeros(1201, 1201)], -1).log_softmax(-1)
    inside = Concrete(tensor([0.7, -0.4, 0.2]), t).log_prob(plane.exp()) + plane.sum(-1)
    torch.testing.assert_close(inside.exp().sum() * 0.1**2, torch.tensor(1.0), rtol=0, atol=1e-6)


def test_densities_of_blocks_are_pyros():
    logits = torch.randn(4, 3, 5)
    z, t = torch.randn(6, 4, 3, 5).softmax(-1), torch.tensor(0.6)
    relaxed = dist.RelaxedOneHotCategorical(t, logits=logits).to_event(1)
    torch.testing.assert_close(Concrete(logits, t).log_prob(z.flatten(-2)), relaxed.log_prob(z), rtol=1e-12, atol=1e-12)
    codes, torchs = OneHotCode(logits), dist.OneHotCategorical(logits=logits).to_event(1)
    z = torchs.sample((6,))
    torch.testing.assert_close(codes.log_prob(z.flatten(-2)), torchs.log_prob(z), rtol=1e-12, atol=1e-12)
    for found, expected in ((codes.mean, torchs.mean), (codes.variance, torchs.variance)):
        torch.testing.assert_close(found, expected.flatten(-2))
    torch.testing.assert_close(codes.entropy(), torchs.entropy())
    # one of each at many values, and many of each at one value
    assert (
        codes.log_prob(z[0, 0].flatten()).shape
        == Concrete(logits, t).log_prob(z[0, 0].flatten().clamp(0.1)).shape
        == (4,)
    )
    assert codes.expand((6, 4)).log_prob(z[0].flatten(-2)).shape == (6, 4)


def test_an_own_draw_is_scored_as_any_other_value():
    q = Concrete(torch.randn(4, 3, 5, requires_grad=True), torch.tensor(0.6)).expand((7, 4))
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-12, atol=1e-12)
    own, other = (torch.autograd.grad(q.log_prob(v).sum(), q.logits, retain_graph=True)[0] for v in (z, z.clone()))
    torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        z.mul_(0.5)
    assert not torch.allclose(q.log_prob(z), q.log_prob(z * 2)), "a draw that was written to is another value"


@pytest.mark.parametrize("kind", [OneHotCode, lambda logits: Concrete(logits, torch.tensor(0.4), hard=True)])
def test_draws_are_one_hot_with_the_probabilities_of_the_logits(kind):
    logits = tensor([1.0, -0.5, 0.2], [-2.0, 0.0, 2.0])
    fn, num = kind(logits), 20_000
    z = fn.sample((num,))
    assert z.shape == (num, 6)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert fn.support.check(z).all()
    p = logits.softmax(-1).flatten()
    assert ((z.mean(0) - p).abs() < LIMIT * (p * (1 - p) / num).sqrt()).all()


def test_listed_codes_are_all_codes_once_and_their_probabilities_add_up_to_one():
    logits = torch.randn(4, 3, 3)
    fn = OneHotCode(logits)
    codes = fn.enumerate_support(expand=False)
    assert codes.shape == (27, 1, 9)
    assert torch.equal(codes[:, 0], all_codes(3, 3))
    assert fn.enumerate_support().shape == (27, 4, 9)
    torch.testing.assert_close(fn.log_prob(codes).exp().sum(0), torch.ones(4))
    assert CodePrior(1, 2)().enumerate_support().shape == (2, 2)
    assert len(OneHotCode(torch.zeros(12, 2)).enumerate_support()) == 4096
    with pytest.raises(ValueError, match=r"OneHotCode: 10\^20 codes .* 4,096 .* RLOO"):
        OneHotCode(torch.zeros(20, 10)).enumerate_support()


@pytest.mark.parametrize("relaxed", [False, True])
def test_kl_is_that_of_the_categoricals(relaxed):
    a, b = torch.randn(4, 3, 5), torch.randn(3, 5)
    expected = kl_divergence(dist.Categorical(logits=a), dist.Categorical(logits=b)).sum(-1)
    q = Concrete(a, torch.tensor(0.7)) if relaxed else OneHotCode(a)
    torch.testing.assert_close(kl_divergence(q, OneHotCode(b)), expected)
    assert kl_divergence(q.expand((2, 4)), OneHotCode(b)).shape == (2, 4)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, Concrete(b, torch.tensor(0.7)))


def test_a_category_that_is_ruled_out_costs_nothing_and_leaves_gradients_finite():
    logits = tensor([0.3, -math.inf, 0.0]).requires_grad_()
    q, p = OneHotCode(logits), OneHotCode(torch.zeros(1, 3))
    z = tensor(1.0, 0.0, 0.0)
    kept = logits[..., [0, 2]].log_softmax(-1)
    torch.testing.assert_close(q.log_prob(z), kept[0, 0])
    torch.testing.assert_close(kl_divergence(q, p), (kept.exp() * (kept + math.log(3))).sum())
    torch.testing.assert_close(q.entropy(), -(kept.exp() * kept).sum())
    assert q.log_prob(tensor(0.0, 1.0, 0.0)) == -math.inf
    (q.log_prob(z) + kl_divergence(q, p) + q.entropy()).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("size", [3.0, 10.0])
def test_the_relaxed_kl_is_right_in_single_precision(size):
    """Logits of +-10 at a temperature of 0.5, where Pyro's densities are finite for some draws alone."""
    num, categories, t = 20_000, 10, 0.5
    logits = size * torch.where(torch.rand(num, categories) < 0.5, -1.0, 1.0)
    # in log space, where nothing underflows; the ratio of two densities is the same in all coordinates
    q, p = (ExpRelaxedCategorical(torch.tensor(t), logits=each) for each in (logits, torch.zeros(categories)))
    z = q.rsample()
    exact = q.log_prob(z) - p.log_prob(z)
    q32 = Concrete(logits.float().unsqueeze(1), torch.tensor(t, dtype=torch.float32))
    p32 = CodePrior(1, categories, temperature=t).float()()
    value = q32.rsample()
    ours = q32.log_prob(value) - p32.log_prob(value)
    assert ours.dtype == torch.float32
    error = (exact.var() / num + ours.double().var() / num).sqrt()
    assert abs(exact.mean() - ours.double().mean()) < LIMIT * error
    assert ours.mean() > 0
    # draw by draw: the same log values, scored in double precision
    log_value = q32._drawn[1].double().squeeze(1)
    again = q.log_prob(log_value) - p.log_prob(log_value)
    torch.testing.assert_close(ours.double(), again, rtol=1e-4, atol=1e-3)


def test_a_straight_through_draw_has_the_derivative_of_the_relaxed_one():
    logits, weight = torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 15)
    gradients = []
    for hard in (False, True):
        torch.manual_seed(1)
        z = Concrete(logits, torch.tensor(0.6), hard=hard).rsample()
        gradients.append(torch.autograd.grad((z * weight).sum(), logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_supports_hold_points_of_the_simplices_alone():
    for fn in (OneHotCode(torch.zeros(2, 3)), Concrete(torch.zeros(2, 3), torch.tensor(1.0))):
        inside = tensor([0.2, 0.3, 0.5, 1.0, 0.0, 0.0], [1, 0, 0, 0, 0, 1])
        outside = tensor([0.2, 0.3, 0.4, 1.0, 0.0, 0.0], [1, 0, 0, 0, 0, 0], [1, 1, -1, 0, 1, 0], [math.nan] * 6)
        assert fn.support.check(inside).all()
        assert not fn.support.check(outside).any()
    assert OneHotCode(torch.zeros(2, 3)).support.check(torch.tensor([1, 0, 0, 0, 1, 0])), "codes of integers"
    assert OneHotCode(torch.zeros(2, 3)).support.is_discrete
    assert not fn.support.is_discrete
    assert str(fn.support) == "Simplices(groups=2, categories=3)"
    # a map onto the simplices for autoguides and NUTS, from as many numbers as a point has free ones
    onto = biject_to(fn.support)
    u = torch.randn(5, 4)
    assert fn.support.check(onto(u)).all()
    torch.testing.assert_close(onto.inv(onto(u)), u)
    assert onto.log_abs_det_jacobian(u, onto(u)).shape == (5,)


def test_values_that_cannot_be_scored_are_refused():
    logits = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"straight-through draw has no density"):
        Concrete(logits, torch.tensor(1.0), hard=True).log_prob(tensor(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"an entry of the relaxed code is 0.* smallest float64"):
        Concrete(logits, torch.tensor(1.0)).log_prob(tensor(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"expected vectors \(..., 3\)"):
        OneHotCode(logits).log_prob(tensor(1.0, 0.0))
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"temperature: expected a finite number > 0"):
            Concrete(logits, torch.tensor(temperature))
        with pytest.raises(ValueError, match=r"temperature: expected a finite number > 0"):
            CodePrior(2, 3, temperature=temperature)
    with pyro.validation_enabled(False):
        Concrete(logits, torch.tensor(0.0))


@pytest.mark.parametrize(
    ("sizes", "said"), [((0, 3), "groups: .* at least 1, got 0"), ((2, 1), "categories: .* at least 2, got 1")]
)
def test_sizes_that_make_no_code_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        CodePrior(*sizes)


def test_the_prior_is_relaxed_in_training_alone():
    prior = CodePrior(2, 3, temperature=0.5)
    assert isinstance(prior(), Concrete)
    assert isinstance(prior.eval()(), OneHotCode)
    assert isinstance(CodePrior(2, 3)(), OneHotCode)
    torch.testing.assert_close(prior().log_prob(all_codes(2, 3)), torch.full((9,), -2 * math.log(3)))
    assert {*prior.state_dict()} == {"temperature"}
    assert not CodePrior(2, 3).state_dict()
