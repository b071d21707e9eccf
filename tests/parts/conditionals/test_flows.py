"""Flows as densities: autograd's Jacobian, round trips, the start near N(0, I), logits, refusals."""

import pytest
import torch
from torch.autograd.functional import jacobian

from zoo.parts.conditionals import FlowPrior, Logit, MAFPrior, SplinePrior
from zoo.parts.distributions import UnitNormal

pytestmark = pytest.mark.usefixtures("double_precision")

D = 4
FLOWS = {
    "couplings": lambda: FlowPrior(D, num_flows=3, hidden=(7,)),
    "splines": lambda: SplinePrior(D, num_flows=3, hidden=(7,), num_bins=4),
    "maf": lambda: MAFPrior(D, num_flows=3, hidden=(7,)),
    "maf, one feature": lambda: MAFPrior(1, num_flows=2, hidden=(3,)),
}


def moved(make):
    """A flow far from the identity."""
    flow = make()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return flow


def steps(p):
    """All transforms from the noise on: a density in a `Logit` is the base of another one."""
    return [*(steps(p.base_dist) if hasattr(p, "base_dist") else []), *getattr(p, "transforms", [])]


def to_noise(p, x):
    for transform in reversed(steps(p)):
        x = transform.inv(x)
    return x


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("bounded", [False, True], ids=["reals", "logit"])
def test_density_is_that_of_autograds_jacobian(name, bounded):
    flow = moved(FLOWS[name])
    flow = Logit(flow, margin=0.01) if bounded else flow
    size = 1 if "one" in name else D
    p, values = flow(), torch.rand(5, size) if bounded else torch.randn(5, size)
    for x in values:
        noise = to_noise(flow(), x)
        log_det = jacobian(lambda x: to_noise(flow(), x), x).slogdet()[1]
        expected = UnitNormal(size, x).log_prob(noise) + log_det
        torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_round_trip(name):
    p = moved(FLOWS[name])()
    with torch.no_grad():
        x = p.sample((6,))
        noise = to_noise(p, x.clone())
        back = noise.clone()
        for transform in steps(p):
            back = transform(back)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", FLOWS)
def test_draws_and_scores_belong_to_one_density(name):
    # E_p[N(x; 0, I) / p(x)] = 1 where p has the wider tails; here the start, hardly off N(0, I)
    p = FLOWS[name]()()
    x = p.sample((2000,))
    unit = UnitNormal(x.shape[-1], x)
    away = unit.log_prob(x) - p.log_prob(x)
    # "near N(0, I)": within a nat for each dimension at every draw
    assert away.abs().max() < x.shape[-1]
    ratio = away.exp()
    # five standard errors: fails for 1 seed in 10^6
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 2000**0.5 + 1e-9


@pytest.mark.parametrize("name", FLOWS)
def test_batches_broadcast(name):
    p, size = moved(FLOWS[name])(), 1 if "one" in name else D
    x = torch.randn(3, 5, size)
    torch.testing.assert_close(p.log_prob(x)[1, 2], p.log_prob(x[1, 2]), rtol=1e-10, atol=1e-10)
    assert p.expand((3, 5)).sample((2,)).shape == (2, 3, 5, size)


def test_logit_has_all_mass_in_the_unit_interval_without_a_margin():
    p = Logit(MAFPrior(1, num_flows=1, hidden=(2,)), margin=0.0)()
    x = (torch.arange(20000) + 0.5)[:, None] / 20000
    torch.testing.assert_close(p.log_prob(x).exp().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: MAFPrior(4, hidden=(3,)), ValueError, r"hidden: MAFPrior expects widths >= latent_dim = 4, got \(3,\)"),
    (lambda: MAFPrior(0), ValueError, "latent_dim: expected a whole number"),
    (lambda: SplinePrior(1), ValueError, "latent_dim: expected a whole number, at least 2, got 1"),
    (lambda: SplinePrior(4, bound=0.0), ValueError, "bound: expected a finite number > 0"),
    (lambda: Logit(FlowPrior), TypeError, "conditional: expected a module such as FlowPrior"),
    (lambda: Logit(FlowPrior(4), margin=0.5), ValueError, "margin: expected 0 <= margin < 0.5, got 0.5"),
])  # fmt: skip
def test_bad_arguments_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", FLOWS)
def test_draws_in_another_dtype_than_the_default(name):
    torch.set_default_dtype(torch.float)
    p = FLOWS[name]().double()()
    z = p.rsample((3,))
    assert z.dtype == p.log_prob(z).dtype == torch.float64
