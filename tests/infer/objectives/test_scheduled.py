"""A buffer that moves with the steps: its values, around other objectives, saved, resumed and compiled."""

import copy
import math
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI

import guides
from zoo import VAE
from zoo.infer import ELBO, Scheduled, Tempered, fit
from zoo.infer.training.step.compiled import compiled
from zoo.parts.conditionals import CodePrior


def falling(step):
    return max(0.5, math.exp(-0.05 * step))


def pair(seed=0):
    torch.manual_seed(seed)
    model = VAE(6, 6, (8,), prior=CodePrior(2, 3, temperature=0.5))
    return model, guides.Amortized(model, hidden=(8,), family=partial(guides.GumbelSoftmax, categories=3))


def twice(objective, model, guide):
    """Both temperatures move."""
    inner = Scheduled(objective, guide.family.temperature, falling)
    return Scheduled(inner, model.prior.temperature, lambda step: 1 - 0.01 * step)(model, guide)


def bits(rows=20):
    return (torch.rand(rows, 6, generator=torch.Generator().manual_seed(5)) < 0.5).float()


def test_the_buffer_moves_before_each_gradient_evaluation_and_at_no_other():
    model, guide = pair()
    loss = Scheduled(ELBO(), guide.family.temperature, falling)(model, guide)
    loss(bits())
    assert guide.family.temperature == 1
    loss(bits())
    assert guide.family.temperature == pytest.approx(falling(1))
    with torch.no_grad():
        loss(bits())
    loss.elbo.loss(model, guide, bits())
    assert loss.elbo.step == 2
    assert guide.family.temperature == pytest.approx(falling(1))
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss.elbo).step(bits())
    assert guide.family.temperature == pytest.approx(falling(2))


def test_value_and_gradient_are_those_of_the_objective_inside():
    model, guide = pair()
    results = []
    for objective in (
        Tempered(ELBO(3), 0.3),
        Scheduled(Tempered(ELBO(3), 0.3), guide.family.temperature, lambda step: 1),
    ):
        torch.manual_seed(1)
        loss = objective(model, guide)
        value = loss(bits())
        results.append((value, *torch.autograd.grad(value, [*loss.parameters()])))
    assert all(map(torch.equal, *results))
    scheduled = loss.elbo
    assert (scheduled.num_particles, scheduled.analytic_kl, scheduled.path, scheduled.quantity) == (
        3,
        False,
        None,
        "bound",
    )
    assert Scheduled(ELBO(analytic_kl=True), guide.family.temperature, falling).analytic_kl
    assert Scheduled(ELBO(sticking=True), guide.family.temperature, falling).path is not None


def test_training_resumes_bit_equal_and_validates_untempered(tmp_path):
    def trained(out, steps, **options):
        loss = twice(Tempered(ELBO(), kl_weight=lambda step: min(1.0, step / 20)), *pair())
        result = fit(
            loss, bits(), steps=steps, batch_size=10, validation=bits(), out=tmp_path / out, progress=False, **options
        )
        return loss, result.history[-1]

    loss, record = trained("whole", 8)
    trained("parts", 4)
    resumed, again = trained("parts", 8, resume=True)
    assert all(map(torch.equal, loss.state_dict().values(), resumed.state_dict().values()))
    del record["seconds"], again["seconds"]
    assert record == again
    elbo = resumed.elbo
    assert elbo.step == elbo.objective.step == elbo.objective.objective.step == 8
    assert resumed.guide.family.temperature == pytest.approx(falling(7))
    assert resumed.model.prior.temperature == pytest.approx(0.93)
    assert record["beta"] == pytest.approx(8 / 20)
    # the KL weight is left out of the validation
    plain = fit(ELBO()(loss.model, loss.guide), bits(), steps=1, batch_size=20, validation=bits(), progress=False,
                optimizer=partial(torch.optim.SGD, lr=0.0))  # fmt: skip
    assert plain.history[-1]["validation"] == pytest.approx(record["validation"])


@pytest.mark.thorough
def test_a_compiled_step_follows_the_schedule(monkeypatch):
    """At a very high temperature all codes are uniform, whatever the noise."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.manual_seed(0)
    model = VAE(6, 6, (8,), prior=CodePrior(2, 3))
    guide = guides.Amortized(model, hidden=(8,), family=partial(guides.GumbelSoftmax, categories=3))
    schedule = {0: 0.5, 1: 1e6}
    loss, x = Scheduled(ELBO(analytic_kl=True), guide.family.temperature, schedule.get)(model, guide), bits()
    step = compiled(loss, x)
    kl = torch.distributions.kl_divergence(guide.eval().posterior(x), model.prior())
    expected = (kl - model.likelihood(torch.full((6,), 1 / 3)).log_prob(x)).sum()
    guide.train()
    first, second = step(x), step(x)
    assert not torch.isclose(first, expected, rtol=1e-4)
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=0)


def test_a_copy_moves_its_own_buffer():
    loss = Scheduled(ELBO(), (made := pair())[1].family.temperature, falling)(*made)
    twin = copy.deepcopy(loss)
    twin(bits())
    twin(bits())
    assert twin.guide.family.temperature == pytest.approx(falling(1))
    assert loss.guide.family.temperature == 1


def test_a_buffer_that_is_not_the_pairs_is_refused():
    model, guide = pair()
    loss = Scheduled(ELBO(), guide.family.temperature, falling)(model, guide).double()
    with pytest.raises(ValueError, match=r"buffer is in neither model nor guide.*move the pair first"):
        loss(bits().double())
    other = pair(1)
    with pytest.raises(ValueError, match=r"buffer is in neither model nor guide"):
        loss.elbo.loss_and_grads(*other, bits())
    # of functions nobody knows the buffers
    made = pair()
    objective = Scheduled(ELBO(), made[1].family.temperature, falling)
    objective.differentiable_loss(lambda x: made[0](x), lambda x: made[1](x), bits())
    assert made[1].family.temperature == 1


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(number):
    model, guide = pair()
    with pytest.raises(ValueError, match=f"the schedule gives {number} at step 0"):
        Scheduled(ELBO(), guide.family.temperature, lambda step: number)(model, guide)(bits())


def test_a_schedule_below_zero_is_refused_by_the_temperature():
    model, guide = pair()
    with pytest.raises(ValueError, match=r"temperature: expected a finite number > 0, got 0\.0"):
        Scheduled(ELBO(), guide.family.temperature, lambda step: 0.0)(model, guide)(bits())


def test_arguments_of_other_kinds_are_refused():
    _, guide = pair()
    buffer = guide.family.temperature
    with pytest.raises(TypeError, match=r"expected an objective of the zoo.*got Trace_ELBO"):
        Scheduled(pyro.infer.Trace_ELBO(), buffer, falling)
    for wrong in (0.5, next(guide.parameters()), torch.tensor(3)):
        with pytest.raises(TypeError, match=r"buffer is a tensor of real numbers"):
            Scheduled(ELBO(), wrong, falling)
    with pytest.raises(TypeError, match=r"schedule is a function of the step, got 0\.5"):
        Scheduled(ELBO(), buffer, 0.5)
    with pytest.raises(ValueError, match=r"got Scheduled, which goes around it"):
        Tempered(Scheduled(ELBO(), buffer, falling))
