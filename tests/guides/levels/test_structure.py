"""The dependencies of each level, the number of calls of each network, gradients, and guides of user's models."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_hierarchies import ladder
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo import BIVA, VAE, Hierarchical
from zoo.infer import ELBO, IWELBO, gaps, log_likelihood, terms
from zoo.infer.call import Purpose
from zoo.infer.path import doubly, sticking
from zoo.parts.conditionals import Normal
from zoo.parts.networks import MultiInput
from zoo.parts.once import Once

pytestmark = pytest.mark.usefixtures("double_precision")

HIDDEN = ((7,), (6,), (5,))
PAIRS_UP = ((7,), (7,), (6,), (6,), (5,))


def chain(skip=False):
    return Hierarchical(6, (3, 2, 2), HIDDEN, skip)


def biva():
    return BIVA(6, (3, 2, 2), HIDDEN)


BUILDS = {
    "bottom-up": lambda: (model := chain(), guides.BottomUp(model, hidden=HIDDEN)),
    "top-down": lambda: (model := chain(), guides.TopDown(model, hidden=HIDDEN)),
    "ladder": lambda: (model := chain(), guides.Ladder(model, hidden=HIDDEN)),
    "residual ladder": lambda: (model := chain(), guides.Ladder(model, hidden=HIDDEN, family=guides.Residual)),
    "top-down with skips": lambda: (model := chain(True), guides.TopDown(model, hidden=HIDDEN)),
    "bidirectional": lambda: (model := chain(), guides.Bidirectional(model, hidden=HIDDEN, bottom_up=(1,))),
    "BIVA": lambda: (model := biva(), guides.Bidirectional(model, hidden=PAIRS_UP)),
    "BIVA, ladder": lambda: (model := biva(), guides.Ladder(model, hidden=PAIRS_UP)),
    "flow": lambda: (model := chain(), guides.TopDown(model, hidden=HIDDEN, family=partial(guides.IAF, embedding=4))),
}  # fmt: skip
every_build = pytest.mark.parametrize("name", BUILDS)


def build(name):
    torch.manual_seed(0)
    model, guide = BUILDS[name]()
    with torch.no_grad():  # away from zero, where some dependencies begin
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, guide, (torch.rand(5, 6) < 0.5).double()


def parents(program, x, values):
    """Site -> all that its mean and variance depend on, of x and the other sites, by differentiation."""
    given = {"x": x.clone().requires_grad_(), **{name: z.clone().requires_grad_() for name, z in values.items()}}
    latents = {name: z for name, z in given.items() if name != "x"}
    trace = poutine.trace(poutine.condition(program, latents)).get_trace(given["x"])
    found = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and name != "data":
            moments = site["fn"].mean.sin().sum() + site["fn"].variance.sin().sum()
            gradients = [None] * len(given)
            if moments.requires_grad:
                gradients = torch.autograd.grad(moments, [*given.values()], allow_unused=True, retain_graph=True)
            pairs = zip(given, gradients, strict=True)
            found[name] = {n for n, g in pairs if g is not None and (g != 0).any() and n != name}
    return found


OF_GUIDES = {
    "bottom-up": {"z_1": {"x"}, "z_2": {"z_1"}, "z_3": {"z_2"}},
    "top-down": {"z_3": {"x"}, "z_2": {"x", "z_3"}, "z_1": {"x", "z_2"}},
    "ladder": {"z_3": {"x"}, "z_2": {"x", "z_3"}, "z_1": {"x", "z_2"}},
    "residual ladder": {"z_3": {"x"}, "z_2": {"x", "z_3"}, "z_1": {"x", "z_2"}},
    "top-down with skips": {"z_3": {"x"}, "z_2": {"x", "z_3"}, "z_1": {"x", "z_2", "z_3"}},
    "bidirectional": {"z_1": {"x"}, "z_3": {"x", "z_1"}, "z_2": {"x", "z_1", "z_3"}},
    "BIVA": {
        "z_1_bu": {"x"},
        "z_2_bu": {"x", "z_1_bu"},
        "z_3": {"x", "z_1_bu", "z_2_bu"},
        "z_2_td": {"x", "z_1_bu", "z_2_bu", "z_3"},
        "z_1_td": {"x", "z_1_bu", "z_2_bu", "z_2_td", "z_3"},
    },
}
OF_MODELS = {
    "ladder": {"z_3": set(), "z_2": {"z_3"}, "z_1": {"z_2"}, "x": {"z_1"}},
    "top-down with skips": {"z_3": set(), "z_2": {"z_3"}, "z_1": {"z_2", "z_3"}, "x": {"z_1", "z_2", "z_3"}},
    "BIVA": {
        "z_3": set(),
        "z_2_td": {"z_3"},
        "z_2_bu": {"z_3"},
        "z_1_td": {"z_3", "z_2_td", "z_2_bu"},
        "z_1_bu": {"z_3", "z_2_td", "z_2_bu"},
        "x": {"z_3", "z_2_td", "z_2_bu", "z_1_td", "z_1_bu"},
    },
}


@pytest.mark.parametrize("name", OF_GUIDES)
def test_the_parents_of_a_guides_levels(name):
    model, guide, x = build(name)
    values = {site: z[0].detach() for site, z in terms(model, guide, x).latents.items()}
    assert parents(guide, x, values) == OF_GUIDES[name]


@pytest.mark.parametrize("name", OF_MODELS)
def test_the_parents_of_a_models_levels(name):
    model, guide, x = build(name)
    values = {site: z[0].detach() for site, z in terms(model, guide, x).latents.items()}
    assert parents(model, x, values) == OF_MODELS[name]


def calls(run, *modules):
    """Module -> number of its calls, of all modules that hold parameters of their own."""
    counts = Counter()
    parts = {f"{i}.{name}": part for i, module in enumerate(modules) for name, part in module.named_modules()}
    leaves = {name: part for name, part in parts.items() if part._parameters}
    hooks = [part.register_forward_hook(lambda *_, name=name: counts.update([name])) for name, part in leaves.items()]
    run()
    for hook in hooks:
        hook.remove()
    return {name: counts[name] for name in leaves}


@every_build
@pytest.mark.parametrize("k", [None, 0, 1, 2])
def test_each_network_is_called_once_in_an_evaluation(name, k):
    model, guide, x = build(name)
    guide = guide if k is None else guides.PriorBelow(guide, k)
    loss = IWELBO(3)(model, guide)
    loss(x)  # its own check of the pair
    found = calls(lambda: loss(x), model, guide)
    # a level that is drawn twice, by the guide and from the model, has two values to go on from
    twice = [] if not k else [part for part in found if part.startswith(("0.stages", "0.conditionals"))]
    assert {n for part, n in found.items() if part not in twice} == {1}
    assert {found[part] for part in twice} <= {1, 2}


@every_build
@pytest.mark.parametrize("make", [lambda: ELBO(2), lambda: IWELBO(3, gradient="doubly")])
def test_sharing_changes_neither_value_nor_gradient(name, make, monkeypatch):
    model, guide, x = build(name)
    loss = make()(model, guide)
    loss(x)
    found = []
    for sharing in (True, False):
        if not sharing:
            monkeypatch.setattr(Once, "answer", lambda _, fn, args, kwargs: fn(*args, **kwargs))
        torch.manual_seed(1)
        value = loss(x)
        found.append([value, *torch.autograd.grad(value, [*loss.parameters()])])
    for shared, alone in zip(*found, strict=True):
        torch.testing.assert_close(shared, alone)


# --- gradients by quadrature: two levels of scalars, any guide -------------------------------------------------------

ONE = partial(MultiInput, out_features=1)
GRADIENTS = {
    "bottom-up": lambda model: guides.BottomUp(model, hidden=[ONE] * 2),
    "top-down": lambda model: guides.TopDown(model, hidden=[ONE] * 2),
    "ladder": lambda model: guides.Ladder(model, hidden=[ONE] * 2),
    "residual ladder": lambda model: guides.Ladder(model, hidden=[ONE] * 2, family=guides.Residual),
    "bidirectional": lambda model: guides.Bidirectional(model, hidden=[ONE] * 2, bottom_up=(1,)),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize(
    ("path", "objective", "K", "nodes", "tolerance"),
    [(sticking, ELBO(), 1, 20, 1e-9), (sticking, ELBO(2), 2, 6, 1e-9), (doubly, IWELBO(2), 2, 18, 2e-3)],
)
def test_path_gradients_are_exact_in_expectation(name, path, objective, K, nodes, tolerance, monkeypatch):
    """Estimators and the plain gradient, both summed over all noises by Gauss-Hermite quadrature.

    The ELBO of a linear-Gaussian pair is a polynomial in the noises, so that quadrature is exact; the logarithm of a
    sum is not, and its quadrature converges to the digits that the tolerance gives.
    """
    torch.manual_seed(1)
    model = Hierarchical(1, (1, 1), [ONE] * 2, likelihood=Normal, conditional=Normal)
    guide = GRADIENTS[name](model)
    points, masses = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    masses = masses / masses.sum()
    grid = torch.cartesian_prod(*[points] * (2 * K)).reshape(-1, 2, K)
    mass = torch.cartesian_prod(*[masses] * (2 * K)).reshape(-1, 2 * K).prod(-1)
    x = torch.full((len(grid), 1), 1.3)
    parameters = [*model.parameters(), *guide.parameters()]

    def noise_of(site):
        return grid[:, site].T.reshape(*([K] if K > 1 else []), -1, 1)

    def gradient(run):
        run()  # the pair is checked with noise of its own
        sites = iter((0, 1))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_, **__: noise_of(next(sites)))
            bound = (mass * objective.bound(run())).sum()
        found = torch.autograd.grad(bound, parameters, allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(parameters, found, strict=True)
            ]
        )

    estimated = gradient(lambda: path(model, guide, (x,), {}, K, Purpose(differentiable=True)))
    plain = gradient(lambda: terms(model, guide, x, num_particles=K))
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(estimated, plain, rtol=tolerance, atol=tolerance)


# --- special cases ---------------------------------------------------------------------------------------------------


def test_a_ladder_that_hears_nothing_of_the_data_is_the_prior():
    model, guide, x = build("ladder")
    with torch.no_grad():
        for part, size in zip(guide.parts, guide.latent_dims, strict=True):
            part.head.layers[0].weight.zero_()
            part.head.layers[0].bias[size:] = 30.0  # log scales: no precision
    for ratio in terms(model, guide, x, num_particles=7).log_ratios.values():
        assert ratio.abs().max() < 1e-10


def test_one_level_is_a_vae():
    deep, flat = Hierarchical(6, (3,), ((8,),)), VAE(6, 3, (8,))
    flat.decoder[0].load_state_dict(deep.stages[0].inputs.layers[0].state_dict())
    flat.emission.load_state_dict(deep.emission.state_dict())
    x, z = (torch.rand(5, 6) < 0.5).double(), torch.randn(5, 3)
    joint = [poutine.trace(poutine.condition(model, {site: z})).get_trace(x).log_prob_sum()
             for model, site in ((deep, "z_1"), (flat, "z"))]  # fmt: skip
    torch.testing.assert_close(*joint)


@pytest.mark.parametrize("K", [1, 5])
def test_two_levels_bottom_up_are_iwaes_two_layer_model(K, monkeypatch):
    """Burda et al. 2016, equations 2 and 8, from the very weights and noises, without Pyro."""
    model = Hierarchical(6, (3, 2), ((8, 8), (4, 4)), activation=nn.Tanh)
    guide = guides.BottomUp(model, hidden=((8, 8), (4, 4)), activation=nn.Tanh)
    x = (torch.rand(4, 6) < 0.5).double()
    loss = IWELBO(K)(model, guide)
    loss(x)
    noises = [torch.randn(*([K] if K > 1 else []), 4, size) for size in (3, 2)]
    draws = iter(noises)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: next(draws))
        found = -loss(x)

    def perceptron(stage, v):
        for layer in (stage.inputs.layers[0], *(part for part in stage.rest if isinstance(part, nn.Linear))):
            v = torch.tanh(v @ layer.weight.T + layer.bias)
        return v

    def normal(z, loc, log_scale):
        return (-0.5 * ((z - loc) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    below, log_q, z = x, 0.0, []
    for part, noise in zip(guide.parts, noises, strict=True):
        head = part.head.layers[0]
        loc, log_scale = (perceptron(part.stage, below) @ head.weight.T + head.bias).chunk(2, -1)
        z.append(loc + log_scale.exp() * noise)
        log_q, below = log_q + normal(z[-1], loc, log_scale), z[-1]
    z_1, z_2 = z
    above, p = perceptron(model.stages[1], z_2), model.conditionals[0]
    log_p = normal(z_2, torch.zeros(2), torch.zeros(2))
    log_p = log_p + normal(z_1, above @ p.loc.weight.T + p.loc.bias, above @ p.scale_weight.T + p.log_scale)
    logits = perceptron(model.stages[0], z_1) @ model.emission.logits.weight.T + model.emission.logits.bias
    log_p = log_p + (x * logits - nn.functional.softplus(logits)).sum(-1)
    log_w = (log_p - log_q).reshape(K, 4)
    torch.testing.assert_close(found, (log_w.logsumexp(0) - math.log(K)).sum())


@pytest.mark.parametrize("name", ["ladder", "bottom-up", "BIVA"])
def test_upper_levels_keep_their_terms_and_lower_ones_have_none(name):
    model, guide, x = build(name)
    for k in range(3):
        upper = guides.PriorBelow(guide, k)
        below = {site for layer in model.layers[:k] for site in layer}
        run = terms(model, upper, x, num_particles=3)
        assert {site for site, ratio in run.log_ratios.items() if (ratio == 0).all()} == below
        for site, z in run.latents.items():  # each particle has draws of its own, also below
            assert (z[0] != z[1]).all(), site
        # Pyro's own bound takes the guide as it is, and the same number comes out
        torch.manual_seed(3)
        ours = IWELBO(3).loss(model, upper, x)
        torch.manual_seed(3)
        pyros = pyro.infer.RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1)
        assert math.isfinite(pyros.loss(model, upper, x))
        assert math.isfinite(ours)


def test_sites_by_name_of_any_pair():
    """`sites=` names the lower sites of a user's pair, whose guide is a function."""

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            a = pyro.sample("a", dist.Normal(b, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(a, 0.3).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.8 * x, 0.3).to_event(1))
            pyro.sample("b", dist.Normal(0.7 * a, 0.4).to_event(1))

    x = torch.randn(5, 1)
    run = terms(model, guides.PriorBelow(guide, sites=["a"], model=model), x, num_particles=4)
    assert (run.log_ratios["a"] == 0).all()
    torch.testing.assert_close(run.log_ratios["b"].shape, torch.Size([4, 5]))
    assert (run.latents["a"][0] != run.latents["a"][1]).all()


class Own(PyroModule):
    """A user's hierarchy of the smallest protocol: no descend, no sites, nothing marked `once`."""

    data_dim, latent_dims = 4, (2, 3)

    def __init__(self):
        super().__init__("model")
        self.down, self.out = nn.Linear(3, 2), nn.Linear(2, 4)

    def prior(self, level, above):
        loc = self.out.weight.new_zeros(3) if above is None else self.down(above)
        return dist.Normal(loc, 1.0).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", self.prior(2, None))
            z_1 = pyro.sample("z_1", self.prior(1, z_2))
            pyro.sample("x", dist.Normal(self.out(z_1), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("make", [guides.BottomUp, guides.TopDown, guides.Ladder,
                                  partial(guides.Bidirectional, bottom_up=[1])])  # fmt: skip
def test_guides_of_a_users_model(make):
    model = Own()
    guide = make(model, hidden=((6,), (5,)))
    x = torch.randn(3, 4)
    loss = IWELBO(2)(model, guide)
    loss(x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert log_likelihood(model, guides.PriorBelow(guide, 1), x, num_particles=10).elbo.isfinite().all()


@every_build
def test_own_parameters_for_each_datum_start_at_the_guide(name):
    model, guide, x = build(name)
    own = guide.per_datum(x)
    weights = []
    for given in (guide, own):
        torch.manual_seed(2)
        weights.append(terms(model, given, x, num_particles=3).log_weights)
    torch.testing.assert_close(*weights)
    index = torch.tensor([3, 0])
    assert own.forward(x[index], index=index)[guide.sites[0]].shape == (2, 3)
    trained = {name for name, p in own.named_parameters() if p.requires_grad}
    assert trained == {f"offsets.{i}" for i in range(len(own.offsets))}
    assert len(own.offsets) == (1 if name == "bottom-up" else len(guide.sites))
    before = {id(p): p.clone() for p in [*model.parameters(), *guide.parameters()]}
    found = gaps(model, guide, x, steps=2, num_particles=5, seed=0)
    assert found.elbo_best.isfinite().all()
    assert all(torch.equal(p, before[id(p)]) for p in [*model.parameters(), *guide.parameters()])


def test_the_ladder_of_coordinates_is_no_accident():
    """The exact ladder of the tests of exactness has levels that depend on x and on each other."""
    model, guide, joint = ladder()
    x = joint.sample(3)["x"]
    values = {site: z[0].detach() for site, z in terms(model, guide, x).latents.items()}
    assert parents(guide, x, values)["z_1"] == {"x", "z_2"}
