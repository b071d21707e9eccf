"""The particle filter's estimate: unbiased for every state space, exact where it can be, tight on long sequences."""

import math
from functools import partial

import pytest
import torch
from state_spaces import STATE_SPACES, linear_gaussian
from torch import Tensor

import guides
from zoo import DMM, LGSSM, SRNN
from zoo.infer import sequence_log_likelihood, smc_log_likelihood
from zoo.parts import kalman

RUNS = 200
Z = 5.0  # the tests below make about 100 comparisons: fewer than one run in 10,000 fails by chance


def small(guide, model, **options):
    return guide(model, hidden=(4,), recurrent=4, **options)


def logs_of_runs(model, guide, x: Tensor, u: Tensor | None, mask: Tensor | None, **options) -> Tensor:
    """`(RUNS, N)`: every sequence that many times in one batch, or in that many where parameters are its own."""
    if getattr(model, "sizes", (None,))[0] is not None:
        return torch.stack([smc_log_likelihood(model, guide, x, u, mask, **options) for _ in range(RUNS // 3)])
    many = [None if v is None else v.repeat(RUNS, *[1] * (v.dim() - 1)) for v in (x, u, mask)]
    return smc_log_likelihood(model, guide, *many, batch_size=20_000, **options).reshape(RUNS, -1)


def z_of_mean(logs: Tensor, log_p: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """How many standard errors the mean of the estimates lies from p(x), itself known up to a relative error."""
    ratio = (logs - log_p).exp()
    return (ratio.mean(0) - 1) / (ratio.var(0) / len(ratio) + error**2).sqrt()


SMOOTHER = partial(guides.Smoother, family=guides.Residual)  # near the transition
# of sharp mixtures plain importance sampling knows no p(x) to compare with; their states are those of "dmm" and "vrnn"
PAIRS = [(name, SMOOTHER) for name in STATE_SPACES if "mixture" not in name]
PAIRS += [(name, guides.MeanField) for name in ("dmm", "storn", "vrnn")]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_estimate_is_unbiased_for_every_model(name, kind):
    """Resampling at every step, padding and missing frames: the mean of p_hat(x) is p(x), exact or by many draws."""
    model, x, u = STATE_SPACES[name].build()
    x, guide = model.generate(*x.shape[:2], u)[1].detach(), small(kind, model)
    # wider than p(z | s): the weights of a narrower one have tails that no number of runs would show
    guide.family.head.bias.data[model.latent_dim :] += 0.5
    if not isinstance(model, LGSSM):  # few frames, so that plain importance sampling knows p(x)
        x, u = x[:, :3], None if u is None else u[:, :3]
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[0, 2:] = mask[1, 1] = mask[2, 0] = False
    x = x.masked_fill(~mask.unsqueeze(-1), math.nan)
    torch.manual_seed(1)
    logs = logs_of_runs(model, guide, x, u, mask, num_particles=100, resample_below=1.0)
    if isinstance(model, LGSSM):
        exact = model.log_prob(x, u, mask).detach().double()
        assert z_of_mean(logs, exact).abs().max() < Z
    else:
        many = sequence_log_likelihood(model, guide, x, u, mask, data="drawn", num_particles=20_000, seed=2)
        assert many.log_p_error.max() < 0.1, "or its error is not known either"
        assert z_of_mean(logs, many.log_p, many.log_p_error).abs().max() < Z


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("family", [guides.Residual, guides.Planar])
def test_a_first_frame_is_given_and_families_draw_as_they_can(share, family):
    torch.manual_seed(0)
    model = SRNN(3, 2, recurrent=4, hidden=(5,))
    guide = small(guides.Smoother, model, family=family)
    x, first = (torch.rand(3, 5, 3) < 0.5).float(), torch.ones(3, 3)
    exact = sequence_log_likelihood(model, guide, x, data="random", first=first, num_particles=20_000, seed=2)
    logs = logs_of_runs(
        model, guide, x, None, None, first=first.repeat(RUNS, 1), num_particles=20, resample_below=share
    )
    assert z_of_mean(logs, exact.log_p, exact.log_p_error).abs().max() < Z


def test_without_information_every_particle_weighs_the_same():
    """x says nothing of z and q is the prior: the estimate is p(x), whatever is resampled."""
    torch.manual_seed(0)
    model = LGSSM(kalman.Parameters, marginal=False, initial_mean=torch.zeros(1), initial_covariance=torch.eye(1),
                  transition_matrix=torch.eye(1), transition_covariance=torch.eye(1),
                  emission_matrix=torch.zeros(2, 1), emission_covariance=torch.eye(2))  # fmt: skip
    guide = small(guides.Filter, model, family=guides.Residual)
    torch.nn.init.zeros_(guide.family.head.weight)
    torch.nn.init.zeros_(guide.family.head.bias)
    x = torch.randn(4, 7, 2)
    for share in (0.0, 1.0):
        found = smc_log_likelihood(model, guide, x, num_particles=3, resample_below=share)
        assert torch.allclose(found, model.log_prob(x).double(), rtol=0, atol=1e-5)


def test_it_is_tight_where_importance_sampling_is_not():
    """200 frames of a known LGSSM, 100 particles, an untrained guide: both are lower bounds in the mean."""
    torch.manual_seed(0)
    model = linear_gaussian()
    u = torch.randn(8, 200, 2)
    x = model.generate(8, 200, u)[1].detach()
    exact, guide = model.log_prob(x, u).double(), small(guides.Filter, model)
    filtered = exact - smc_log_likelihood(model, guide, x, u, seed=1)
    plain = exact - smc_log_likelihood(model, guide, x, u, resample_below=0.0, seed=1)
    assert (plain > 4 * filtered).all(), (plain, filtered)
    assert plain.min() > 50


def test_seeds_batches_and_the_callers_stream():
    torch.manual_seed(0)
    model = DMM(3, 2)
    guide = small(guides.Smoother, model)
    x, mask = (torch.rand(5, 6, 3) < 0.5).float(), torch.arange(6) < torch.tensor([[6], [2], [4], [5], [1]])
    state = torch.get_rng_state()
    one, two = (smc_log_likelihood(model, guide, x, None, mask, seed=3, num_particles=9) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert one.dtype == torch.double
    assert not torch.equal(one, smc_log_likelihood(model, guide, x, None, mask, num_particles=9, seed=4))
    each = smc_log_likelihood(model, guide, x, None, mask, batch_size=2, num_particles=2000, seed=5)
    whole = smc_log_likelihood(model, guide, x, None, mask, num_particles=2000, seed=6)
    assert torch.allclose(each, whole, atol=0.2)
    assert (whole[:, None] - whole).abs().fill_diagonal_(1).min() > 0.4, "or rows could be exchanged unseen"
    assert guide.training
    assert all(p.requires_grad for p in model.parameters())


def other_model():
    return small(guides.Smoother, DMM(3, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_particles": 0}, "at least one particle"),
        ({"resample_below": 1.5}, "resample_below: expected a share of the particles, 0 to 1, got 1.5"),
        ({"mask": torch.ones(2, 4, 3, dtype=torch.bool)}, "mask: frames are weighted as a whole"),
        ({"guide": other_model}, "guide: Smoother is that of another DMM"),
        ({"x": torch.full((2, 4, 3), math.nan)}, "x: sequence 0, frame 0 is NaN"),
        ({"x": torch.full((2, 4, 3), 2.0)}, "sequence 0|row 0|support"),
    ],
)
def test_bad_input_is_refused(changes, message):
    torch.manual_seed(0)
    model = DMM(3, 2)
    given = {"x": torch.zeros(2, 4, 3), "mask": None, "guide": lambda: small(guides.Smoother, model)} | changes
    guide = given.pop("guide")()
    with pytest.raises(ValueError, match=message):
        smc_log_likelihood(model, guide, given.pop("x"), None, given.pop("mask"), **given)


def test_a_guide_must_draw_step_by_step():
    model = linear_gaussian()
    with pytest.raises(ValueError, match=r"guide: expected one that draws step by step .* got Exact"):
        smc_log_likelihood(model, guides.Exact(model), torch.zeros(2, 4, 3), torch.zeros(2, 4, 2))
