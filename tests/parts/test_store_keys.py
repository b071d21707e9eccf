"""Keys of Pyro's store: every model and guide has its own, site names bear no number, others' clashes are errors."""

import copy
import io
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import guides
from zoo import DMM, LGSSM, VAE
from zoo.infer import ELBO, IWELBO, terms
from zoo.parts.structural import local_level
from zoo.ppca import PPCA

BITS = (torch.rand(7, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def vae():
    model = VAE(6, 2, (4,))
    return ELBO()(model, guides.Amortized(model, hidden=(4,))), BITS


def ppca():
    model = PPCA(6, 2)
    return ELBO()(model, guides.Amortized(model, hidden=())), BITS


def dmm():
    model = DMM(6, 2, hidden=(3,), transition_hidden=(3,))
    return ELBO()(model, guides.Smoother(model, hidden=(3,), recurrent=4)), BITS[:, None].expand(7, 3, 6)


def moves(loss, x):
    """Whether a step of SVI moves every parameter."""
    before = [p.detach().clone() for p in loss.parameters()]
    SVI(loss.model, loss.guide, pyro.optim.Adam({"lr": 0.01}), ELBO(3)).step(x)
    return all((p != old).any() for p, old in zip(loss.parameters(), before, strict=True))


def loaded(loss):
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make", [vae, ppca, dmm])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss)), loaded])
def test_every_pair_is_trained_by_svi_however_it_came_about(make, again):
    torch.manual_seed(0)
    first, x = make()
    assert moves(first, x)
    second = make()[0]
    assert moves(second, x)
    third = again(second)
    assert moves(third, x)
    kept = [p.detach().clone() for p in second.parameters()]
    assert moves(again(third), x)
    assert all(torch.equal(p, old) for p, old in zip(second.parameters(), kept, strict=True))
    assert moves(first, x)


def test_draws_from_two_models_leave_their_parameters_apart():
    variances = [(1.0, 2.0), (30.0, 40.0)]
    models = [
        LGSSM(local_level, **{name: PyroParam(torch.tensor(v), dist.constraints.positive)
                              for name, v in zip(("level_variance", "observation_variance"), pair, strict=True)})
        for pair in variances
    ]  # fmt: skip
    for model in (*models, copy.deepcopy(models[1])):
        poutine.uncondition(model)(torch.zeros(1, 5, 1))
    for model, pair in zip(models, variances, strict=True):
        assert (model.level_variance.item(), model.observation_variance.item()) == pytest.approx(pair)


def with_priors():
    """A VAE whose decoder has random weights, at the root and below."""
    model = VAE(6, 2, (4,))
    model.decoder = PyroModule[nn.Sequential](PyroModule[nn.Linear](2, 4), nn.ReLU())
    model.decoder[0].bias = PyroSample(dist.Normal(torch.zeros(4), 1.0).to_event(1))
    model.shift = PyroSample(dist.Normal(0.0, 1.0))
    return model


class Reads(VAE):
    """Not a way to extend a model; here so that its random attributes are read."""

    def forward(self, x):
        for value in (self.shift, self.decoder[0].bias):  # outside the plate
            assert value.isfinite().all()
        return super().forward(x)


@pytest.mark.parametrize("again", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_names_of_random_attributes_bear_no_number(again):
    made = with_priors()
    made.__class__ = Reads
    model = again(made)
    trace = poutine.trace(lambda x: model(x)).get_trace(BITS)
    assert [n for n in trace.stochastic_nodes if n not in ("z", "data")] == ["model.shift", "model.decoder.0.bias"]
    names = [n for n, site in trace.nodes.items() if site["type"] == "param"]
    assert names
    assert not [n for n in names if n.startswith("model.")]


def test_a_model_with_random_attributes_still_gives_terms_by_its_call():
    model = PPCA(6, 2)
    guide = guides.Amortized(model, hidden=(3,))
    assert terms(model, guide, BITS).log_weights.isfinite().all()
    del model.mean
    model.mean = PyroSample(dist.Normal(torch.zeros(6), 1.0).to_event(1))  # noticed, though the pair was run before
    with pytest.raises(ValueError, match=r"site 'model\.mean': a latent site of the model that the guide does not"):
        terms(model, guide, BITS)


class Own(PyroModule):
    def __init__(self, name="own"):
        super().__init__(name)
        self.net = nn.Linear(2, 2)
        self.part = PyroModule[nn.Linear](2, 2)
        self.scale = PyroParam(torch.ones(2), dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.part(self.net(z)), self.scale).to_event(1), obs=x)


class Another(Own):
    pass


def guide_of(model):
    model.data_dim = model.latent_dim = 2
    return guides.Amortized(model, hidden=(3,))


def test_ones_own_modules_of_one_name_are_an_error_that_names_both():
    pyro.clear_param_store()
    x = torch.randn(5, 2)

    def step(model):
        return SVI(model, guide_of(model), pyro.optim.Adam({"lr": 0.1}), IWELBO(3)).step(x)

    first = Own()
    step(first)
    step(first)
    with pytest.raises(ValueError, match=r"Another \(own\): .* a tensor of Own under 'own\.\S+'"):
        step(Another())
    step(Another("mine"))
    del first
    with pytest.raises(ValueError, match="tensor of Own"):  # the store outlives the model
        step(Another())
    pyro.clear_param_store()
    step(Another())


def test_evaluations_and_the_loss_as_a_module_leave_the_store_alone():
    before = {name: value.clone() for name, value in pyro.get_param_store().items()}
    for cls in (Own, Another):
        model = cls()
        loss = ELBO()(model, guide_of(model))
        loss(torch.randn(5, 2)).backward()
        ELBO().loss(model, loss.guide, torch.randn(5, 2))
    assert dict(pyro.get_param_store().items()).keys() == before.keys()


class Scale(PyroModule):
    def __init__(self, value):
        super().__init__()
        self.value = PyroParam(torch.full((2,), value), dist.constraints.positive)

    def forward(self, z):
        return dist.Normal(z, self.value).to_event(1)


class Scaled(PyroModule):
    def __init__(self, value):
        super().__init__("own")
        self.part = Scale(value)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.part(z), obs=x)


def test_parts_of_modules_of_one_name_keep_their_own_parameters():
    """A part that is a PyroModule of its own would take the parameter of the module that was evaluated before."""
    x, found = torch.zeros(3, 2), []
    for value in (1.0, 100.0):
        model = Scaled(value)
        run = terms(model, guide_of(model), x)
        expected = dist.Normal(run.latents["z"], value).log_prob(x).sum(-1)
        torch.testing.assert_close(run.log_likelihood, expected)
        found.append(model.part.value.detach())
    assert found[0].mean() == 1.0
    assert found[1].mean() == pytest.approx(100.0)
    assert not dict(pyro.get_param_store().items())
