"""The effect `once`: answered within one evaluation of a pair, and nowhere else."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from zoo.infer import ELBO, IWELBO, terms
from zoo.parts.once import Once, once

X = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))


class Model(PyroModule):
    """p(z | x) p(x | z), where the prior is a network of x that the guide asks for too."""

    def __init__(self):
        super().__init__("model")
        self.weight = nn.Parameter(torch.tensor(0.8))
        self.calls = 0

    @once
    def prior_mean(self, x, factor=1.0):
        self.calls += 1
        return factor * self.weight * x

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior_mean(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, model):
        super().__init__("guide")
        self._model = (model,)
        self.shift = nn.Parameter(torch.tensor(0.1))
        self.detach = False

    def forward(self, x):
        mean = self._model[0].prior_mean(x)
        mean = mean.detach() if self.detach else mean
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean + self.shift, 0.9).to_event(1))


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = Model()
    guide = Guide(model)
    # the first call checks the pair, with runs of its own
    for num_particles in (1, 3):
        terms(model, guide, X, num_particles=num_particles)
    model.calls = 0
    return model, guide


def value_and_gradients(objective, model, guide):
    loss = objective(model, guide)
    torch.manual_seed(1)
    value = loss(X)
    return value, torch.autograd.grad(value, [model.weight, guide.shift])


@pytest.mark.parametrize("objective", [ELBO(), IWELBO(3), ELBO(analytic_kl=True)])
def test_an_evaluation_runs_the_network_once_and_changes_no_number(pair, objective, monkeypatch):
    shared = value_and_gradients(objective, *pair)
    assert pair[0].calls == 1
    monkeypatch.setattr(Once, "answer", lambda _, fn, args, kwargs: fn(*args, **kwargs))
    torch.testing.assert_close(value_and_gradients(objective, *pair), shared)
    assert pair[0].calls == 3


@pytest.mark.parametrize(("path", "plain"), [(ELBO(3, sticking=True), ELBO(3)), (IWELBO(3, "doubly"), IWELBO(3))])
def test_a_frozen_guide_and_the_model_lend_each_other_nothing(pair, path, plain):
    """Constants lent to the model would take its gradient away; a graph lent to the frozen guide would be a score."""
    model, guide = pair
    path(model, guide)(X)  # its own check of the pair
    model.calls = 0
    guide.detach = True  # the weight's gradient is then the model's alone, and no estimator changes it
    found = value_and_gradients(path, model, guide)
    assert model.calls == 3  # by the guide, by the frozen guide, by the model
    expected = value_and_gradients(plain, model, guide)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][0], expected[1][0])


def test_svi_trains_a_network_that_the_guide_asks_for_first(pair):
    """Pyro trains the parameters of what it sees called: a model answered from memory would stand still."""
    pyro.clear_param_store()
    model, guide = pair
    before = [p.detach().clone() for p in (model.weight, guide.shift)]
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), ELBO()).step(X)
    assert model.calls == 2
    assert all(p != old for p, old in zip((model.weight, guide.shift), before, strict=True))
    pyro.clear_param_store()


def test_nothing_is_remembered_between_evaluations(pair):
    model, guide = pair
    torch.manual_seed(1)
    first = terms(model, guide, X)
    with torch.no_grad():
        model.weight.add_(1.0)
    torch.manual_seed(1)
    second = terms(model, guide, X)
    assert model.calls == 2
    torch.testing.assert_close(second.latents["z"] - first.latents["z"], X.expand(1, 5, 1))


def test_without_the_handler_a_marked_call_is_a_plain_call(pair):
    model, guide = pair
    Trace_ELBO().differentiable_loss(model, guide, X)
    assert model.calls == 2
    assert (model.prior_mean(X) == model.prior_mean(X)).all()
    assert model.calls == 4


def test_calls_are_the_same_if_function_mode_and_arguments_are():
    model, other = Model(), Model()
    with Once():
        first = model.prior_mean(X)
        assert model.prior_mean(X) is first
        assert model.prior_mean(X.clone()) is not first  # equal, and another object
        assert model.prior_mean(X, 1.0) is not first  # stated, and left to its default
        answers = [model.prior_mean(X, factor) for factor in (1, 1.0, True)]
        assert len({id(answer) for answer in answers}) == 3
        assert model.prior_mean(X, True) is answers[2]
        assert model.prior_mean(X, factor=1) is not answers[0]
        other.prior_mean(X)
        assert other.calls == 1
        with torch.no_grad():
            constant = model.prior_mean(X)
            assert not constant.requires_grad
            assert model.prior_mean(X) is constant
        assert model.prior_mean(X) is first


def test_the_arguments_of_a_call_live_as_long_as_its_answer():
    """Else a later tensor could take over the address of an earlier one, and be given its answer."""
    model = Model()
    with Once():
        for k in range(50):
            assert model.prior_mean(torch.full((5, 1), float(k)))[0, 0] == model.weight * k
