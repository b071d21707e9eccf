"""Path derivatives: which parameters are held constant, sites that are the model's own, and who is refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import lgssm
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo.infer import ELBO, IWELBO, Tempered, kl_per_site, terms

pytestmark = pytest.mark.usefixtures("double_precision")

ESTIMATORS = [ELBO(), ELBO(3, sticking=True), IWELBO(5), IWELBO(5, gradient="doubly"), Tempered(ELBO(sticking=True))]


def gradients(objective, model, guide, *args, seeds):
    """`(seeds, number of parameters)`, of the loss for one datum."""
    loss, rows = objective(model, guide), []
    for seed in range(seeds):
        torch.manual_seed(seed)
        loss.zero_grad()
        loss(*args).backward()
        rows.append(torch.stack([p.grad.sum() for p in loss.parameters()]) / len(args[0]))
    return torch.stack(rows)


@pytest.mark.parametrize("objective", ESTIMATORS)
def test_an_exact_guide_has_the_gradient_of_log_p_whatever_the_seed(objective):
    model, x = lgssm(), torch.randn(4, 6, 6)
    found = gradients(objective, model, guides.Exact(model), x, seeds=5)
    exact = torch.autograd.grad(-model.log_prob(x).sum() / 4, list(model.parameters()))
    exact = torch.stack([g.sum() for g in exact])
    assert (found - exact).abs().max() < 1e-9 * exact.abs().max()


class Loading(PyroModule):
    """p(x, z) = N(z; 0, 1) N(x; w z, s^2)."""

    def __init__(self):
        super().__init__("loading")
        self.w = nn.Parameter(torch.tensor(1.2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.w * z, 0.7).to_event(1), obs=x)


class Mixed(PyroModule):
    """q(z) = N(0.3 w x + b, 0.8^2): w is the model's, b its own."""

    def __init__(self, model):
        super().__init__("mixed")
        self._model = (model,)
        self.b = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * self._model[0].w * x + self.b, 0.8).to_event(1))


def agree(found, expected):
    """Means of rows within 5 standard errors: fails by chance once in 2 million."""
    error = (found.var(0) / len(found) + expected.var(0) / len(expected)).sqrt()
    return ((found.mean(0) - expected.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize(("path", "plain"), [(ELBO(sticking=True), ELBO()), (IWELBO(5, gradient="doubly"), IWELBO(5))])
def test_a_guide_that_owns_some_and_shares_some_is_unbiased(path, plain):
    model = Loading()
    guide, x = Mixed(model), torch.randn(1, 1).expand(2000, 1)
    found, expected = (gradients(objective, model, guide, x, seeds=40) for objective in (path, plain))
    assert agree(found, expected)
    assert found[:, 1].std() < 0.7 * expected[:, 1].std()  # what it is for: b, which is the guide's alone


def test_statements_of_both_are_shared_too():
    """`pyro.param` in functions: "w" is stated by both, "b" by the guide alone."""

    def model(x):
        w = pyro.param("w", torch.tensor(1.2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w * z, 0.7).to_event(1), obs=x)

    def guide(x):
        w, b = pyro.param("w", torch.tensor(1.2)), pyro.param("b", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * w * x + b, 0.8).to_event(1))

    pyro.clear_param_store()
    module = Loading()
    both, x = Mixed(module), torch.randn(1, 1).expand(500, 1)
    torch.manual_seed(0)
    ELBO(sticking=True)(module, both)(x).backward()
    torch.manual_seed(0)
    ELBO(sticking=True).differentiable_loss(model, guide, x).backward()
    store = pyro.get_param_store()._params
    torch.testing.assert_close(store["w"].grad, module.w.grad)
    torch.testing.assert_close(store["b"].grad, both.b.grad)
    pyro.clear_param_store()


def test_a_module_with_statements_of_its_own_has_something_to_hold():
    class Stated(PyroModule):
        def forward(self, x):
            b = pyro.param("own b", torch.tensor(0.3))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.5 * x + b, 0.8).to_event(1))

    pyro.clear_param_store()
    model, x, rows = Loading(), torch.randn(1, 1).expand(500, 1), {}
    for objective in (ELBO(), ELBO(sticking=True)):
        guide, rows[objective.sticking] = Stated("stated"), []
        for seed in range(20):
            torch.manual_seed(seed)
            objective.differentiable_loss(model, guide, x).backward()
            rows[objective.sticking].append(pyro.get_param_store()._params["own b"].grad.clone())
            pyro.get_param_store()._params["own b"].grad = None
    sticking, plain = (torch.stack(rows[word]) for word in (True, False))
    assert sticking.std() < 0.7 * plain.std()
    pyro.clear_param_store()


# --- sites that are the model's own -----------------------------------------------------------------------------------


class Chain(PyroModule):
    """p(a) p(z | a) p(x | z), p(z | a) all but certain: log p - log q of two copies of it is rounding noise."""

    def __init__(self):
        super().__init__("chain")
        self.w = nn.Parameter(torch.tensor(1.2))

    def step(self, a):
        return dist.Normal(self.w * a, 1e-3).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            z = pyro.sample("z", self.step(a))
            pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)


class ByModel(PyroModule):
    def __init__(self, model, marked=True, scale=1.0):
        super().__init__("by_model")
        self._model, self.infer, self.scale = (model,), {"from_model": True} if marked else {}, scale
        self.b = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(self.b * x, 0.8).to_event(1))
            p = self._model[0].step(a)
            pyro.sample("z", dist.Normal(p.mean, self.scale * p.stddev).to_event(1), infer=self.infer)


def test_a_marked_site_has_ratio_zero_and_changes_nothing_else():
    model, x = Chain(), torch.randn(5, 1)
    found = []
    for marked in (True, False):
        torch.manual_seed(0)
        found.append(terms(model, ByModel(model, marked), x, num_particles=3))
    assert (found[0].log_ratios["z"] == 0).all()
    assert found[0].log_ratios["z"].shape == (3, 5)
    torch.testing.assert_close(found[0].log_weights, found[1].log_weights)
    assert (kl_per_site(model, ByModel(model), x)["z"] == 0).all()
    torch.manual_seed(0)
    closed = ELBO(analytic_kl=True).loss(model, ByModel(model), x)
    assert math.isfinite(closed)


@pytest.mark.parametrize("objective", ESTIMATORS)
def test_a_marked_site_leaves_every_gradient_unbiased(objective):
    model, x = Chain(), torch.randn(1, 1).expand(2000, 1)
    plain = IWELBO(5) if isinstance(objective, IWELBO) else ELBO()
    expected = gradients(plain, model, ByModel(model, marked=False), x, seeds=40)
    assert agree(gradients(objective, model, ByModel(model), x, seeds=40), expected)


def test_a_mark_on_another_density_is_refused():
    model, x = Chain(), torch.randn(5, 1)
    with pytest.raises(ValueError, match=r"site 'z': marked from_model, but .* another density .* \(Normal and Normal"):
        terms(model, ByModel(model, scale=1.01), x)
