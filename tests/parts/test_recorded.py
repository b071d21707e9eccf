"""Folders: every kind of argument there and back, and all that is refused when a pair is saved or loaded."""

import copy
import io
import json
import math
import pickle
import random
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import IntEnum
from fractions import Fraction
from functools import partial, reduce
from typing import NamedTuple

import numpy
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import distributions as dist
from pyro.distributions import constraints, transforms
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    AutoStructured,
    init_to_mean,
    init_to_value,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from safetensors.torch import load_file, save_file
from torch import nn

import guides
import zoo
from zoo.infer import ELBO, fit, load_model, save_model, terms
from zoo.parts.conditionals import Bernoulli, FlowPrior, MixturePrior, Normal
from zoo.parts.kalman import Parameters
from zoo.parts.networks import GRU, Dropped, mlp
from zoo.parts.recorded import Recorded, files
from zoo.parts.recorded.arguments import arguments_of
from zoo.parts.recorded.likeness import same
from zoo.parts.recorded.names import path_of
from zoo.parts.stationary import stationary
from zoo.parts.store_keys import RootModule
from zoo.parts.structural import arima, local_level, seasonal
from zoo.parts.transitions import LinearTransition

HERE = __name__.partition(".")[0]
DATA, LATENT = 4, 2


class Holder(Recorded, nn.Module):
    """A module of the user's with an argument of any kind."""

    def __init__(self, value, *more, **named):
        super().__init__()
        self.value, self.more, self.named = value, more, named


class Plain(nn.Module):
    """A module of the user's that records nothing."""

    def __init__(self, size):
        super().__init__()
        self.size = size


class Bare(nn.Module):
    """A module of the user's whose constructor takes no argument."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Pair(NamedTuple):
    first: object
    second: object = 1


@dataclass(frozen=True)
class Setting:
    width: int
    scale: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Slotted:
    width: int


class Kept(torch.Tensor):
    """A tensor of a class of its own."""


class Choice(IntEnum):
    FIRST = 1


class Word(str):
    __slots__ = ()


class Outer:
    class Inner(Bare):
        pass


def double(x):
    return 2 * x


def vae(**options):
    torch.manual_seed(0)
    return zoo.VAE(DATA, LATENT, (5,), **options)


def pair(**options):
    model = vae(**options)
    return model, guides.Amortized(model, hidden=(5,))


def bits():
    return (torch.rand(6, DATA) < 0.5).float()


def there_and_back(value, folder, **options):
    zoo.save_pair(folder, Holder(value), **options)
    return zoo.load_pair(folder, trust=(HERE,))[0].value


VALUES = {
    "numbers": (1, -2.5, True, False, None, "word", 10**30),
    "not finite": [math.inf, -math.inf, math.nan],
    "sequences": ([1, (2, [3])], torch.Size([2, 3]), (), [], {}),
    "dictionaries": {"a": {"class": 1}, "b c": [None], "*": OrderedDict(x=1)},
    "dtypes and slices": (torch.float16, slice(1, None, 2)),
    "classes": (zoo.VAE, Normal, nn.ReLU, Plain, Outer.Inner, dist.Normal, AutoNormal),
    "functions": (mlp, F.relu, torch.relu, F.softplus, F.gelu, torch.tanh, double, local_level, init_to_mean),
    "partial": partial(guides.IAF, num_flows=2, hidden=(8,)),
    "partial of partial": partial(partial(double), x=partial(mlp, 2, (3,))),
    "init function": partial(init_to_value, values={"z": torch.ones(2)}),
    "tensors": (
        torch.arange(3),
        torch.randn(2, 2).T,
        torch.tensor(True),
        torch.randn(2, dtype=torch.float64),
        torch.zeros(0),
    ),
    "constraints": (
        constraints.positive,
        constraints.greater_than(2.0),
        constraints.interval(0.0, torch.ones(2)),
        stationary,
        constraints.independent(constraints.positive, 1),
        constraints.softplus_positive,
        constraints.real_vector,
    ),
    "NamedTuple": Pair(torch.ones(2), Pair(1)),
    "kalman.Parameters": Parameters(*[torch.eye(2)] * 6),
    "dataclasses": (Setting(3, torch.zeros(1)), Slotted(3), zoo.FullCovariance(0.1), zoo.DiagonalCovariance()),
    "structural": (seasonal(4), arima(1, 1, 2, (1, 0, 0, 12))),
    "distributions": (
        dist.Normal(0.0, 1.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.Gamma(2.0, 3.0).expand((2, 2)),
        dist.Categorical(logits=torch.randn(3)),
        dist.Bernoulli(torch.tensor(0.3)),
        dist.LogNormal(0.0, 2.0),
        dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.5),
        dist.Uniform(-1.0, 2.0),
        dist.Delta(torch.ones(2)),
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), torch.ones(2))),
        dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [transforms.ExpTransform(), transforms.AffineTransform(1.0, 2.0)]
        ),
        dist.InverseGamma(2.0, 3.0),
        dist.Dirichlet(torch.ones(3)),
        dist.StudentT(3.0),
        dist.HalfCauchy(1.0),
        dist.LKJCholesky(3, 2.0),
        dist.Normal(0.0, torch.ones(3)).mask(False),
        dist.Beta(1.0, 2.0),
        dist.Poisson(3.0),
        dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)),
        # of others' forms: a Cholesky factor beside further arguments, parameters that another distribution keeps
        dist.MultivariateStudentT(torch.tensor(3.0), torch.zeros(2), torch.eye(2)),
        dist.OneHotCategorical(torch.tensor([0.25, 0.75])),
        dist.Multinomial(3, logits=torch.zeros(2)),
        dist.RelaxedBernoulli(torch.tensor(0.5), logits=torch.zeros(2)),
        dist.RelaxedOneHotCategorical(torch.tensor(0.5), torch.ones(2) / 2),
        dist.ZeroInflatedPoisson(torch.tensor(2.0), gate=torch.tensor(0.5)),
    ),
    "PyroSample": PyroSample(dist.Normal(0.0, 1.0)),
    "PyroParam": PyroParam(torch.ones(2), constraints.positive, 1),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_comes_back(name, tmp_path):
    found = there_and_back(VALUES[name], tmp_path)
    assert same(found, VALUES[name])
    assert type(found) is type(VALUES[name])
    if name == "distributions":
        for old, new in zip(VALUES[name], found, strict=True):
            assert (new.batch_shape, new.event_shape) == (old.batch_shape, old.event_shape)
            x = old.sample()
            torch.testing.assert_close(new.log_prob(x), old.log_prob(x))


MODULES = {
    "torch's layers": lambda: nn.Sequential(
        nn.Linear(2, 3, bias=False),
        nn.LayerNorm(3),
        nn.BatchNorm1d(3, affine=False),
        nn.Dropout(0.3),
        nn.ELU(0.5),
        nn.PReLU(3),
        nn.Softplus(2.0),
        nn.Embedding(3, 2, padding_idx=1),
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.ConvTranspose2d(4, 2, (2, 3), stride=2),
        nn.Identity(),
        nn.Flatten(),
        nn.Unflatten(1, (1, 2)),
        nn.GELU("tanh"),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 4),
        nn.Bilinear(2, 3, 4),
        nn.Softmax(-1),
        nn.Upsample(scale_factor=2.0),
    ),
    "torch's networks over time": lambda: nn.ModuleList(
        [
            nn.GRU(2, 3, 2, batch_first=True),
            nn.LSTM(2, 4, proj_size=2, bias=False),
            nn.RNN(2, 3, nonlinearity="relu", bidirectional=True),
            nn.GRUCell(2, 3),
        ]
    ),
    "torch's containers": lambda: nn.ModuleDict(
        {
            "named": nn.Sequential(OrderedDict(first=nn.Linear(1, 1), act=nn.Tanh())),
            "empty": nn.Sequential(),
            "cut": nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))[1:],
        }
    ),
    "parameters": lambda: nn.ParameterList(
        [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1), requires_grad=False)]
    ),
    "the zoo's parts": lambda: nn.ModuleList(
        [
            Normal(3, 2, scale=0.5, heteroscedastic=True, floor=0.1),
            Bernoulli(3, 2, mean=torch.full((2,), 0.25)),
            MixturePrior(2, components=3),
            FlowPrior(2, num_flows=1),
            GRU(2, 3),
            LinearTransition(2, scale=0.3),
            Dropped(2, 3, probability=0.2, recurrence=nn.LSTM),
            guides.Spline(2, 3, num_bins=4),
            guides.Planar(2, 0),
        ]
    ),
    "the user's": lambda: nn.ModuleList([Bare(), Outer.Inner(), Holder(1, 2, Holder(None), name=(3,))]),
    "of Pyro": lambda: Holder(PyroParam(torch.tensor(0.5), constraints.unit_interval)),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_kind_of_module_comes_back(name, tmp_path):
    torch.manual_seed(0)
    module = MODULES[name]()
    found = there_and_back(module, tmp_path)
    assert repr(found) == repr(module)
    old, new = module.state_dict(), found.state_dict()
    assert [*old] == [*new]
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in module.parameters()]


def test_numbers_of_numpy_become_pythons(tmp_path):
    found = there_and_back([numpy.int64(3), numpy.float32(0.5), numpy.True_, numpy.float64("inf")], tmp_path)
    assert same(found, [3, 0.5, True, math.inf])
    assert [type(value) for value in found] == [int, float, bool, float]


def test_paths_are_the_shortest_public_ones():
    found = [path_of(v) for v in (zoo.VAE, Normal, nn.ReLU, guides.IAF, Parameters, F.relu, torch.relu, stationary)]
    assert found == [
        "zoo.VAE", "zoo.parts.conditionals.Normal", "torch.nn.ReLU", "guides.IAF", "zoo.parts.kalman.Parameters",
        "torch.nn.functional.relu", "torch.relu", "zoo.parts.stationary.stationary",
    ]  # fmt: skip
    found = [path_of(v) for v in (constraints.positive, constraints.greater_than, dist.Normal, AutoNormal)]
    assert found == [
        "torch.distributions.constraints.positive", "torch.distributions.constraints.greater_than",
        "pyro.distributions.Normal", "pyro.infer.autoguide.AutoNormal",
    ]  # fmt: skip


# --- refused when saving ---------------------------------------------------------------------------------------------


def local_class():
    class Local(nn.Module):
        pass

    return Local


class Metal(PyroModule):
    """Records nothing, and is one of Pyro's."""

    def __init__(self, size):
        super().__init__("metal")
        self.size = size


def endless():
    held = []
    held.append(held)
    return held


REFUSED = {
    "a lambda": (lambda: lambda x: x, r"model\.value: a lambda has no import path"),
    "a lambda in a tuple": (lambda: (1, lambda x: x), r"model\.value\[1\]: a lambda"),
    "a lambda in a dictionary": (lambda: {"a": lambda x: x}, r"model\.value\['a'\]: a lambda"),
    "a lambda in a partial": (lambda: partial(double, y=lambda x: x), r"model\.value\.y: a lambda"),
    "a partial of a lambda": (lambda: partial(lambda x: x, 1), r"model\.value\(\): a lambda"),
    "a local class": (local_class, r"model\.value: the local class Local has no import path"),
    "a local module": (lambda: local_class()(), r"model\.value: the local class Local"),
    "a bound method": (lambda: vae().prior.forward, r"the bound method StandardNormal\.forward"),
    "a generator": (lambda: (i for i in range(3)), r"an object of class builtins\.generator"),
    "an open file": (io.BytesIO, r"an object of class _io\.BytesIO"),
    "a set": (lambda: {1, 2}, r"an object of class builtins\.set"),
    "bytes": (lambda: b"abc", r"an object of class builtins\.bytes"),
    "an array": (lambda: numpy.ones(2), r"an object of class numpy\.ndarray"),
    "a dictionary with other keys": (lambda: {1: 2}, r"the keys of a dictionary are strings, got 1"),
    "a plain module": (lambda: Plain(3), r"Plain does not record its constructor's arguments: .*Recorded"),
    "a plain PyroModule": (lambda: Metal(3), r"Metal does not record"),
    "a layer that keeps nothing": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(2, 1, 3, batch_first=True), 1),
        r"TransformerEncoder.* does not keep its argument",
    ),
    "a handler around a model": (lambda: pyro.poutine.block(vae()), r"_bound_partial"),
    "a sparse tensor": (lambda: torch.eye(2).to_sparse(), r"a dense tensor of real numbers"),
    "a complex tensor": (lambda: torch.ones(2, dtype=torch.complex64), r"a dense tensor of real numbers"),
    "a function of training": (lambda: fit, r"nothing there is part of a model"),
    "a list within itself": (endless, r"refers|expected one of the forms"),
    "a tuple without end": (lambda: reduce(lambda held, _: (held,), range(10**5)), r"the arguments hold one another"),
    "a number of another class": (lambda: Fraction(1, 3), r"model\.value: an object of class fractions\.Fraction"),
    "a member of an enumeration": (lambda: Choice.FIRST, r"model\.value: an object of class .*Choice"),
    "a word of another class": (lambda: Word("a"), r"model\.value: an object of class .*Word"),
    "a density that keeps nothing": (
        lambda: dist.MaskedMixture(torch.tensor(True), dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)),
        r"MaskedMixture does not keep its argument mask",
    ),
    "a tensor of another class": (
        lambda: torch.ones(2).as_subclass(Kept),
        r"model\.value: .*Kept would come back as a plain tensor",
    ),
    "a parameter without a shape": (
        lambda: nn.ParameterList([nn.UninitializedParameter()]),
        r"UninitializedParameter would come back",
    ),
    "a random generator": (lambda: torch.Generator(), r"an object of class torch\._C\.Generator"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*nested_tensor")
def test_refused_when_saving(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"save_pair: .*{message}"):
        zoo.save_pair(tmp_path / "pair", Holder(make()))
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize("name", ["class", "*"])
def test_names_of_arguments_that_a_file_cannot_hold(name, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"model: an argument named {name!r} would be taken for a part")):
        zoo.save_pair(tmp_path, Holder(1, **{name: 2}))


@dataclass
class Doubled:
    """A value that its own constructor changes."""

    width: int

    def __post_init__(self):
        self.width *= 2


class Hidden(Recorded, nn.Module):
    """A module that keeps its argument under a name of its own."""

    def __init__(self, value):
        super().__init__()
        self._value = value


def test_an_argument_that_would_come_back_as_another_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.value: Doubled\(width=6\) here, Doubled\(width=12\) when"):
        zoo.save_pair(tmp_path, Hidden(Doubled(3)))
    zoo.save_pair(tmp_path, Hidden(Setting(3)))


class Drawn(Recorded, nn.Module):
    """A constructor that keeps a number of its own."""

    def __init__(self):
        super().__init__()
        self.offset = random.random()


def test_a_constructor_that_draws_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.offset: .* changed after its constructor, or drawn in it\?"):
        zoo.save_pair(tmp_path, Drawn())


def changed_prior(model, guide):
    model.prior = MixturePrior(LATENT)


def changed_floor(model, guide):
    model.emission.floor = 0.1


def changed_activation(model, guide):
    model.decoder[1] = nn.Tanh()


def changed_shape(model, guide):
    model.emission.loc = nn.Linear(5, DATA, bias=False)


def added_tensor(model, guide):
    model.extra = torch.ones(2)


def changed_site(model, guide):
    guide.site = "y"


def added_part(model, guide):
    guide.more = nn.Linear(1, 1)


def added_hook(model, guide):
    model.decoder.register_forward_hook(lambda module, args, out: 2 * out)


def tied_parameters(model, guide):
    model.emission.log_scale = model.emission.loc.bias


def parameter_made_a_buffer(model, guide):
    del model.emission.log_scale
    model.emission.register_buffer("log_scale", torch.zeros(DATA))


def replaced_method(model, guide):
    model.likelihood = model.prior


CHANGED = {
    changed_prior: r"model\.prior: MixturePrior here, StandardNormal when",
    changed_floor: r"model\.emission\.floor: 0\.1 here, 0\.0 when",
    changed_activation: r"model\.decoder\.1: Tanh here, ReLU when",
    changed_shape: r"tensors other than those of the pair .*model\.emission\.loc\.bias",
    added_tensor: r"model\.extra: a tensor \(2,\) here, absent when",
    changed_site: r"guide\.site: 'y' here, 'z' when",
    added_hook: r"model\.decoder\._forward_hooks: 1 here, 0 when",
    tied_parameters: r"model\.emission\.loc\.bias: 'parameter model\.emission\.log_scale' here, .*loc\.bias' when",
    parameter_made_a_buffer: r"model\.emission\.log_scale: 'buffer .*' here, 'parameter .*' when",
    replaced_method: r"model\.likelihood: StandardNormal here, absent when",
    added_part: r"guide\.more: Linear here, absent when",
}


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: change.__name__)
def test_a_pair_that_was_changed_after_its_constructor_is_refused_by_name(change, tmp_path):
    model, guide = pair(likelihood=Normal)
    change(model, guide)
    with pytest.raises(ValueError, match=f"save_pair: .*{CHANGED[change]}"):
        zoo.save_pair(tmp_path / "pair", model, guide)


def test_a_change_of_a_plain_part_is_seen(tmp_path):
    mixture = zoo.GaussianMixture(2, 3)
    mixture.covariance = zoo.FullCovariance(floor=0.5)
    with pytest.raises(ValueError, match=r"model\.covariance: FullCovariance\(floor=0\.5\) here"):
        zoo.save_pair(tmp_path, mixture)
    model = zoo.LGSSM(local_level, level_variance=PyroParam(torch.tensor(1.0), constraints.positive))
    model.level_variance = PyroParam(torch.tensor(1.0), constraints.softplus_positive)
    with pytest.raises(ValueError, match=r"model\.level_variance \(pyro_params\)"):
        zoo.save_pair(tmp_path, model)


def test_what_is_no_pair_is_refused(tmp_path):
    with pytest.raises(TypeError, match="save_pair: model is a module, got function"):
        zoo.save_pair(tmp_path, double)
    with pytest.raises(TypeError, match="save_pair: model is a module, got NoneType"):
        zoo.save_pair(tmp_path, None)
    for trust in ("zoo", None, (zoo,), ("mine", ""), ("mine.",), 1):
        with pytest.raises(TypeError, match=r"trust: expected a tuple of packages such as \(\"mine\",\), got "):
            zoo.load_pair(tmp_path, trust=trust)
    with pytest.raises(TypeError, match="load_pair: model is a module, got int"):
        zoo.load_pair(tmp_path, model=5)
    for about in ("words", [1], 5):
        with pytest.raises(TypeError, match="save_pair: about: expected names and values, got"):
            zoo.save_pair(tmp_path, vae(), about=about)
    for about in ({"tensor": torch.ones(1)}, {"figure": math.nan}):
        with pytest.raises(TypeError, match="save_pair: about: expected values of JSON's types"):
            zoo.save_pair(tmp_path, vae(), about=about)
    with pytest.raises(ValueError, match=r"its constructor's arguments are not known \(.*: was it made past it\?"):
        zoo.save_pair(tmp_path, Holder(Holder.__new__(Holder)))


class Stubborn(Recorded, nn.Module):
    """A constructor that works once."""

    made = 0

    def __init__(self):
        super().__init__()
        Stubborn.made += 1
        if Stubborn.made > 1:
            raise OSError("once is enough")


def test_a_constructor_that_fails_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"save_pair: model: .*Stubborn cannot be made again \(OSError: once is enough\)"
    ):
        zoo.save_pair(tmp_path, Stubborn())


# --- refused when loading --------------------------------------------------------------------------------------------

PATHS = [
    "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load",
    "torch.nn.parallel.DataParallel", "torch.nn.utils.parametrize.register_parametrization",
    "torch.nn.functional.os.system", "torch.nn.functional.math", "torch.distributions.utils.lazy_property",
    "pyro.distributions.transforms.torch.load", "pyro.distributions.transforms.biject_to",
    "pyro.distributions.transforms.spline.torch.load", "pyro.distributions.transforms.planar.partial",
    "pyro.infer.SVI", "pyro.distributions.util.broadcast_shape", "zoo.vae.torch.load", "zoo.vae.pyro.sample",
    "zoo.infer.fit", "zoo.infer.training.checkpoint.os.system", "zoo.data.load", "zoo.plots.plot_bands",
    "zoo.save_pair", "zoo.load_pair", "zoo.folders.save_pair", "zoo.parts.recorded.files.write",
    "zoo.parts.recorded.Recorded", "zoo.VAE.__init__.__globals__", "zoo.nowhere.Thing", "zoo.Nothing",
    "guides.copy.copy", "trap.Thing", "trap.inner.Thing", "__main__.Thing", "zoo", "zoo.parts", "zoo..VAE", "",
    "zoo.VAE ", 5, None, ["zoo.VAE"],
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("form", ["import", "class", "partial"])
def test_no_folder_names_anything_else(form, path, tmp_path, monkeypatch):
    """Nor is it imported: the module `trap` leaves a file when it is."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "__init__.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Thing: pass")
    monkeypatch.syspath_prepend(tmp_path)
    named = {"import": {"import": path}, "class": {"class": path},
             "partial": {"partial": {"import": path}, "args": [], "keywords": {}}}[form]  # fmt: skip
    folder = edited(tmp_path / "pair", lambda config: config["pair"]["model"].update(likelihood=named))
    with pytest.raises(ValueError, match=r"config\.json: model\.likelihood.*: "):
        zoo.load_pair(folder)
    assert not (tmp_path / "sprung").exists()


def test_packages_that_are_trusted_and_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "halved.py").write_text("from zoo import nothing_of_this_name")
    (tmp_path / "failing.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    said = {
        "broken.Thing": r"broken\.Thing: cannot be imported \(No module named 'nothing_of_this_name'\)",
        "halved.Thing": r"halved\.Thing: cannot be imported \(cannot import name",
        "failing.Thing": r"failing\.Thing: cannot be imported \(division by zero\)",
        "nowhere.to.be.found": r"nowhere\.to\.be\.found: there is no module nowhere",
    }
    for path, message in said.items():
        folder = edited(tmp_path / "pair", setting("pair", "model", "likelihood", value={"import": path}))
        with pytest.raises(ValueError, match=rf"model\.likelihood: {message}"):
            zoo.load_pair(folder, trust=("broken", "failing", "halved", "nowhere"))


def edited(folder, change):
    """A saved pair whose description a hand has changed."""
    zoo.save_pair(folder, *pair())
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def setting(*path, value):
    def change(config):
        for name in path[:-1]:
            config = config[name]
        config[path[-1]] = value

    return change


def leaving_out(*path):
    def change(config):
        for name in path[:-1]:
            config = config[name]
        del config[path[-1]]

    return change


EDITS = {
    "an unknown form": (
        setting("pair", "model", "hidden", value={"tuple": [1]}),
        r"model\.hidden: expected one of the forms",
    ),
    "a function to call": (
        setting("pair", "model", value={"class": "zoo.parts.networks.mlp", "in_features": 2, "hidden": []}),
        r"model: zoo\.parts\.networks\.mlp is no class of modules",
    ),
    "a missing argument": (
        leaving_out("pair", "model", "data_dim"),
        r"model: zoo\.VAE takes other arguments .*data_dim",
    ),
    "an argument too many": (
        setting("pair", "model", "depth", value=3),
        r"model: zoo\.VAE takes other arguments .*depth",
    ),
    "an argument of another kind": (
        setting("pair", "model", "data_dim", value="x"),
        r"model: zoo\.VAE cannot be made again",
    ),
    "another size": (setting("pair", "model", "hidden", value=[6]), r"tensors other than those of the pair"),
    "a newer format": (
        setting("pair", "format", value=99),
        r"format: expected at most 1, found 99: written by a newer zoo",
    ),
    "an older format": (setting("pair", "format", value=0), r"format: expected at most 1, found 0"),
    "a format that is no number": (setting("pair", "format", value=True), r"format: expected at most 1, found True"),
    "an entry of another name": (setting("pair", "frosen", value=[]), r"frosen: no entry of the description"),
    "no guide": (leaving_out("pair", "guide"), r"tensors of no half that the description has: guide\.encoder\.0\.bias"),
    "a frozen parameter that is not there": (
        setting("pair", "frozen", value=["model.no"]),
        r"frozen: expected a list of parameters of the pair, found \['model\.no'\]",
    ),
    "a word in place of frozen parameters": (
        setting("pair", "frozen", value="model.decoder.0.bias"),
        r"frozen: expected a list",
    ),
    "a state of no place": (setting("pair", "states", value={"modal": {}}), r"states: modal is no place"),
    "a tensor of another kind": (
        setting("dtypes", value={"model.decoder.0.bias": "int64"}),
        r"model\.decoder\.0\.bias: the folder has torch\.int64, the module built of it torch\.float32",
    ),
    "an autoguide's call of no shape": (
        setting(
            "pair",
            value={
                "format": 1,
                "model": {"class": "zoo.VAE", "data_dim": 4, "latent_dim": 2, "hidden": [5]},
                "frozen": [],
                "guide": {"class": "pyro.infer.autoguide.AutoNormal", "model": {"same": "model"}},
                "dtype": {"model": "float32", "guide": "float32"},
                "prototype": {"args": [{"shape": [-3, 4], "dtype": "float32"}], "kwargs": {}},
            },
        ),
        r"damaged \(RuntimeError: .*negative dimension",
    ),
    "no format": (leaving_out("pair", "format"), r"format: expected at most 1, found None"),
    "no dtype": (leaving_out("pair", "dtype"), r"description of the pair is damaged \(KeyError"),
    "another dtype": (
        setting("pair", "dtype", "model", value="load"),
        r"description of the pair is damaged \(TypeError",
    ),
    "a reference to nothing": (
        setting("pair", "guide", "model", value={"same": "modal"}),
        r"guide\.model: expected one of",
    ),
    "a part of nothing": (
        setting("pair", "guide", "encoder", value={"part": "model", "name": "no"}),
        r"VAE has no part 'no'",
    ),
    "a tensor that is not there": (
        setting("pair", "model", "prior", value={"tensor": "argument.9"}),
        r"model\.prior: expected a tensor 'argument\.9'",
    ),
    "a state that is not there": (
        setting("pair", "states", value={"model": {"no": "model.decoder.0.bias"}}),
        r"model\.no: the folder has shape \(5,\), the module built of it none",
    ),
    "a half that is no module": (setting("pair", "guide", value=[1]), r"guide: expected a module, found tuple"),
    "a partial of a number": (
        setting("pair", "model", "likelihood", value={"partial": 5, "args": [], "keywords": {}}),
        r"model\.likelihood: a partial of 5, which is no function",
    ),
    "arguments that are no list": (setting("pair", "model", "*", value=5), r"model: expected a list, found 5"),
    "keywords that are no names": (
        setting("pair", "model", "hidden", value={"dict": [1]}),
        r"expected names and values",
    ),
    "a PyroSample of a word": (setting("pair", "model", "prior", value={"PyroSample": "x"}), r"damaged \(TypeError"),
    "dtypes of nothing": (setting("dtypes", value={"model.no": "float32"}), r"model\.no"),
    "another digest": (setting("sha256", value="0" * 64), r"expected sha256 0{64} by config\.json, found"),
    "no pair": (leaving_out("pair"), r"expected an entry 'pair', found none: written before there was one"),
    "a pair that could not be built": (
        setting("pair", value={"unbuilt": "model.build: a lambda"}),
        r"cannot be built again, since model\.build: a lambda",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_changed_description_is_refused_by_name(name, tmp_path):
    change, message = EDITS[name]
    folder = edited(tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        zoo.load_pair(folder)
    assert str(tmp_path) in str(error.value)


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: there is no such file; expected the folder of a pair"):
        zoo.load_pair(tmp_path)
    zoo.save_pair(tmp_path, *pair())
    config, tensors = tmp_path / "config.json", tmp_path / "model.safetensors"
    whole = config.read_bytes()
    twice = whole.replace(b'"data_dim": 4', b'"data_dim": 5, "data_dim": 4')
    for content in (whole[:100], b"", b"[" * 10**5, b"[1]", twice):
        config.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"config\.json: (cannot be read as JSON|expected a JSON object, found list)"
        ):
            zoo.load_pair(tmp_path)
    config.write_bytes(whole)
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"model\.safetensors: expected sha256"):
        zoo.load_pair(tmp_path)
    tensors.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: there is no such file"):
        zoo.load_pair(tmp_path)
    unchecked = json.loads(whole)
    del unchecked["sha256"]
    config.write_text(json.dumps(unchecked))
    tensors.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        zoo.load_pair(tmp_path)
    save_file({"model.x": torch.ones(1)}, tensors)
    with pytest.raises(ValueError, match=r"tensors other than those of the pair \(in the file, as built\): model\.x"):
        zoo.load_pair(tmp_path)


def test_a_tensor_of_another_file_is_named(tmp_path):
    folder = edited(tmp_path, leaving_out("sha256"))
    save_file({**load_file(folder / "model.safetensors"), "modal.x": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"tensors of no half that the description has: modal\.x"):
        zoo.load_pair(folder)


# --- the same objects ------------------------------------------------------------------------------------------------


class Shared(guides.Guide):
    """A guide with parts of anybody's."""

    def __init__(self, model, *parts, start=None):
        super().__init__(model)
        self.parts, self.start = nn.ModuleList(p for p in parts if isinstance(p, nn.Module)), start
        self.tensors = [p for p in parts if not isinstance(p, nn.Module)]


def test_parts_that_are_shared_stay_shared(tmp_path):
    prior, start = MixturePrior(LATENT), torch.ones(2)
    model = vae(prior=prior)
    guide = Shared(model, prior, model.decoder, model.decoder[0], start, model.emission.logits.bias, start=start)
    zoo.save_pair(tmp_path, model, guide)
    p, q = zoo.load_pair(tmp_path, trust=(HERE,))
    assert q.model is p
    assert [*q.parts] == [p.prior, p.decoder, p.decoder[0]]
    assert q.tensors[0] is q.start
    assert q.tensors[1] is p.emission.logits.bias
    mine = vae(prior=MixturePrior(LATENT))
    mine.decoder.requires_grad_(False)
    with torch.no_grad():
        for p in mine.parameters():
            p.add_(1.0)
    before = {name: t.clone() for name, t in mine.state_dict().items()}
    _, q = zoo.load_pair(tmp_path, model=mine, trust=(HERE,))
    # the guide holds them too, and has values for them
    assert same(before, dict(mine.state_dict()))
    assert [name for name, p in mine.named_parameters() if not p.requires_grad] == [
        "decoder.0.weight", "decoder.0.bias"
    ]  # fmt: skip
    assert q.model is mine
    assert q.parts[0] is mine.prior


def test_a_second_model_inside_a_guide_keeps_its_parameters(tmp_path):
    """It is no part of the guide's state dict, nor of the model's."""
    model, guide = vae(), guides.Amortized(vae(), hidden=(5,))
    with torch.no_grad():
        guide.model.decoder[0].bias.fill_(3.0)
    zoo.save_pair(tmp_path, model, guide)
    p, q = zoo.load_pair(tmp_path)
    assert q.model is not p
    assert same(q.model.decoder[0].bias, guide.model.decoder[0].bias)
    assert same(p.decoder[0].bias, model.decoder[0].bias)


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize(
    "guide", [partial(guides.Amortized, hidden=(5,)), AutoNormal, partial(guides.PerDatum, num_data=6)]
)
def test_copies_can_be_saved(way, guide, tmp_path):
    model = vae(prior=MixturePrior(LATENT))
    guide, x = guide(model), bits()
    terms(model, guide, x)
    model, guide = way((model, guide))
    zoo.save_pair(tmp_path, model, guide)
    assert scores(*zoo.load_pair(tmp_path), x).equal(scores(model, guide, x))


def scores(model, guide, x, num_particles=3):
    with torch.no_grad():
        pyro.clear_param_store()
        torch.manual_seed(1)
        return terms(model, guide, x, num_particles=num_particles).log_weights


def test_arguments_that_a_pickle_cannot_hold(tmp_path):
    """A module whose constructor was given a lambda could be pickled before; it still can, and says so when saved."""
    model = vae(likelihood=lambda features, size: Bernoulli(features, size), activation=partial(lambda x: nn.ReLU(), 1))
    again = pickle.loads(pickle.dumps(model))
    assert same(again.decoder[0].weight, model.decoder[0].weight)
    with pytest.raises(ValueError, match=r"model\.likelihood: .*<lambda>.* was lost when it was pickled"):
        zoo.save_pair(tmp_path, again)
    holder = Holder([{"x": torch.Generator(), "y": (1,)}, dist.Normal(0.0, 1.0)])
    holder.value = None
    again = pickle.loads(pickle.dumps(holder))
    assert again._arguments.args[0][0]["y"] == (1,)
    again = copy.deepcopy(Holder(i for i in range(3)).named)  # neither can a copy hold a generator
    assert again == {}


def test_a_copy_keeps_arguments_that_cannot_be_copied():
    holder = Holder(i for i in range(3))
    holder.value = None
    assert copy.deepcopy(holder)._arguments.args is not holder._arguments.args
    leaf = torch.ones(2, requires_grad=True)
    assert Holder(2 * leaf)._arguments.args[0].grad_fn is None  # nor does a record keep the graph of a tensor


def test_guides_made_past_a_constructor_can_be_saved(tmp_path):
    torch.manual_seed(0)
    model, x = vae(), bits()
    guide = guides.Amortized(model, hidden=(5,), family=partial(guides.IAF, num_flows=1, hidden=(4,), embedding=3))
    for number, made in enumerate([guide.per_datum(x), guide.per_datum(x).rows(torch.arange(3))]):
        zoo.save_pair(tmp_path / str(number), model, made)
        rows = x[: len(made.table)]
        assert scores(*zoo.load_pair(tmp_path / str(number)), rows).equal(scores(model, made, rows))
    with pytest.raises(ValueError, match="PerDatum: family: expected a constructor or a family made with context=0"):
        guides.PerDatum(model, 3, family=guides.Diagonal(LATENT, 4))


def test_positions_names_and_defaults_of_arguments(tmp_path):
    holder = Holder(1, 2, 3, name=4)
    zoo.save_pair(tmp_path, holder)
    found = zoo.load_pair(tmp_path, trust=(HERE,))[0]
    assert (found.value, found.more, found.named) == (1, (2, 3), {"name": 4})
    zoo.save_pair(tmp_path, zoo.VAE(3, 2))
    model = json.loads((tmp_path / "config.json").read_text())["pair"]["model"]
    assert [*model.items()][:4] == [("class", "zoo.VAE"), ("data_dim", 3), ("latent_dim", 2), ("hidden", [400])]


class Lenient(Recorded, nn.Module):
    """A default that no file can hold."""

    def __init__(self, size=2, function=lambda x: x, *, holder=None):
        super().__init__()
        self.size, self.function, self.holder = size, function, holder


def test_defaults_that_cannot_be_written_are_left_to_the_class(tmp_path):
    zoo.save_pair(tmp_path, Lenient(3, holder=Lenient()))
    found = zoo.load_pair(tmp_path, trust=(HERE,))[0]
    assert (found.size, found.function(5), found.holder.size) == (3, 5, 2)
    with pytest.raises(ValueError, match=r"model\.function: a lambda"):
        zoo.save_pair(tmp_path, Lenient(3, lambda x: x))


def test_signatures_are_those_of_the_constructors():
    import inspect

    assert [*inspect.signature(zoo.VAE).parameters][:3] == ["data_dim", "latent_dim", "hidden"]
    assert [*inspect.signature(guides.Smoother).parameters][:2] == ["model", "family"]


# --- Pyro's autoguides -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", [
    AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, partial(AutoLowRankMultivariateNormal, rank=2),
    partial(AutoNormal, init_loc_fn=init_to_mean, init_scale=0.3),
])  # fmt: skip
def test_autoguides_come_back(guide, tmp_path):
    """They make their parameters at their first call, for which the model draws data that its support allows."""
    model, x = zoo.LGSSM(local_level, marginal=False, level_variance=PyroParam(torch.tensor(0.5), constraints.positive),
                         observation_variance=torch.tensor(0.3)), torch.randn(3, 4, 1)  # fmt: skip
    made = guide(model)
    pyro.clear_param_store()
    made(x, None, torch.tensor([[True] * 3 + [False]] * 3))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1)
    zoo.save_pair(tmp_path, model, made)
    pyro.clear_param_store()
    p, q = zoo.load_pair(tmp_path)
    for (name, old), new in zip(made.state_dict().items(), q.state_dict().values(), strict=True):
        assert torch.equal(old, new), name
    assert q.model is p or isinstance(q.model, partial)
    pyro.clear_param_store()
    torch.manual_seed(0)
    first = made(x)
    pyro.clear_param_store()
    torch.manual_seed(0)
    assert torch.equal(q(x)["z"], first["z"])


@pytest.mark.parametrize("guide", [
    partial(AutoIAFNormal, hidden_dim=[15], num_transforms=2, stable=True),
    AutoIAFNormal,
    partial(AutoNormalizingFlow, init_transform_fn=partial(transforms.spline_autoregressive, hidden_dims=[15])),
    partial(AutoNormalizingFlow, init_transform_fn=partial(transforms.iterated, 2, transforms.radial)),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_autoguides_of_flows_come_back(guide, seed, tmp_path):
    """The order of the variables is drawn when the flow is made."""
    model, x = vae(), bits()
    torch.manual_seed(seed)
    pyro.clear_param_store()
    made = guide(model)
    made(x)
    zoo.save_pair(tmp_path, model, made)
    found = []
    for q in (made, zoo.load_pair(tmp_path)[1]):
        pyro.clear_param_store()
        torch.manual_seed(0)
        trace = pyro.poutine.trace(q).get_trace(x)
        found.append((trace.nodes["z"]["value"], trace.log_prob_sum()))
    assert same(*found)


def test_an_autoguide_that_drops_its_first_call_is_refused(tmp_path):
    model, x = vae(), bits()
    guide = AutoStructured(model)
    pyro.clear_param_store()
    guide(x)
    with pytest.raises(ValueError, match="save_pair: guide: AutoStructured does not keep its first call"):
        zoo.save_pair(tmp_path, model, guide)


def test_an_autoguide_that_was_first_called_by_keywords(tmp_path):
    model, x = zoo.PPCA(DATA, LATENT), torch.randn(3, DATA)
    guide = AutoNormal(model)
    pyro.clear_param_store()
    guide(x, mask=x > 0)
    zoo.save_pair(tmp_path, model, guide)
    assert json.loads((tmp_path / "config.json").read_text())["pair"]["prototype"]["kwargs"] == {
        "mask": {"shape": [3, DATA], "dtype": "bool"}
    }
    found = zoo.load_pair(tmp_path)[1].state_dict()
    assert same(dict(found), dict(guide.state_dict()))


def test_an_autoguide_of_another_program_is_refused(tmp_path):
    model = vae()
    with pytest.raises(ValueError, match=r"save_pair: guide\.model: .*_bound_partial"):
        zoo.save_pair(tmp_path, model, AutoNormal(pyro.poutine.block(model)))
    guide = AutoDelta(Free())
    guide({"x": 1})
    with pytest.raises(ValueError, match="its parameters were made at a call with argument 1 = dict, no tensor"):
        zoo.save_pair(tmp_path, Free(), guide)


class Free(PyroModule):
    """A program that takes no tensor."""

    def forward(self, given):
        return pyro.sample("z", dist.Normal(0.0, 1.0))


# --- state of the caller, dtypes -------------------------------------------------------------------------------------


class Dirty(Recorded, nn.Module):
    """A constructor that draws and touches Pyro's store."""

    def __init__(self, size):
        super().__init__()
        pyro.param("dirty", torch.randn(size))
        self.weight = nn.Parameter(torch.randn(size) + random.random() + numpy.random.rand())  # noqa: NPY002


def caller():
    store = pyro.get_param_store()
    return {
        "torch": torch.get_rng_state().tolist(), "numpy": numpy.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(), "dtype": torch.get_default_dtype(), "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(), "store": {name: id(p) for name, p in store._params.items()},
        "constraints": dict(store._constraints),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_callers_state_is_left_alone(dtype, tmp_path):
    module = Dirty(3)
    pyro.param("own", torch.ones(1), constraints.positive)
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        with torch.no_grad():
            before = caller()
            zoo.save_pair(tmp_path, module)
            assert caller() == before
            found, _ = zoo.load_pair(tmp_path, trust=(HERE,))
            assert caller() == before
        with pytest.raises(ValueError, match="trust"):
            zoo.load_pair(tmp_path)
        with torch.inference_mode():
            trained = zoo.load_pair(tmp_path, trust=(HERE,))[0].weight
            assert trained.requires_grad
        # tensors of inference mode cannot be kept for a gradient
        (trained * trained).sum().backward()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert found.weight.requires_grad
    assert not found.weight.is_inference()
    assert found.weight.device.type == "cpu"
    assert torch.equal(found.weight, module.weight)


def test_dtypes_are_those_of_the_pair(tmp_path):
    """Of a pair made in float32 and moved to float64 too, whose constants keep the digits of float32."""
    model = vae()
    guide = guides.Amortized(model, hidden=(5,), family=guides.Mixture)
    model.double(), guide.double()
    guide.encoder[0].half()
    zoo.save_pair(tmp_path, model, guide)
    x = bits().double()
    p, q = zoo.load_pair(tmp_path)
    assert same(dict(q.named_buffers()), dict(guide.named_buffers()))
    assert {n: t.dtype for n, t in q.state_dict().items()} == {n: t.dtype for n, t in guide.state_dict().items()}
    q.encoder[0].double(), guide.encoder[0].double()
    assert scores(p, q, x).equal(scores(model, guide, x))


def test_half_precision_on_the_disk_alone(tmp_path):
    model = zoo.VAE(50, LATENT, (40,))
    guide = guides.Amortized(model, hidden=(40,))
    zoo.save_pair(tmp_path / "full", model, guide)
    zoo.save_pair(tmp_path / "half", model, guide, stored=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    p, _ = zoo.load_pair(tmp_path / "half")
    assert p.decoder[0].weight.dtype == torch.float32
    assert torch.equal(p.decoder[0].weight, model.decoder[0].weight.half().float())
    load_model(model, tmp_path / "half")
    assert torch.equal(p.decoder[0].weight, model.decoder[0].weight)
    with torch.no_grad():
        model.decoder[0].weight[0, 0] = 1e6
    with pytest.raises(
        ValueError, match=r"stored: model\.decoder\.0\.weight has values up to 1e\+06, beyond torch\.float16"
    ):
        zoo.save_pair(tmp_path / "half", model, guide, stored=torch.float16)
    with pytest.raises(ValueError, match=r"stored: .* beyond torch\.float8_e5m2"):
        zoo.save_pair(tmp_path / "half", model, guide, stored=torch.float8_e5m2)
    with pytest.raises(ValueError, match=r"stored: expected a floating dtype"):
        zoo.save_pair(tmp_path / "half", model, guide, stored=torch.int8)


def test_frozen_parameters_stay_frozen(tmp_path):
    model, guide = pair()
    model.decoder.requires_grad_(False)
    zoo.save_pair(tmp_path, model, guide)
    p, q = zoo.load_pair(tmp_path)
    assert not any(w.requires_grad for w in p.decoder.parameters())
    assert all(w.requires_grad for part in (p.emission, q) for w in part.parameters())


# --- halves, trainings, files ----------------------------------------------------------------------------------------


def test_the_halves_of_a_pair(tmp_path):
    model, guide = pair()
    zoo.save_pair(tmp_path, model)
    assert zoo.load_pair(tmp_path)[1] is None
    pyro.clear_param_store()
    automatic = AutoNormal(model)
    automatic(bits())
    for half in (guide, automatic):
        zoo.save_pair(tmp_path, None, half)
        p, q = zoo.load_pair(tmp_path)
        assert p is None
        assert same(dict(q.state_dict()), dict(half.state_dict()))
    # the last guide's model came back as well
    assert scores(arguments_of(q).kwargs["model"], q, bits()).shape == (3, 6)
    zoo.save_pair(tmp_path, model, guide)
    mine = zoo.VAE(DATA, LATENT, (5,))
    p, q = zoo.load_pair(tmp_path, model=mine)
    assert p is mine
    assert q.model is mine
    assert not torch.equal(mine.decoder[0].weight, model.decoder[0].weight)
    assert torch.equal(q.encoder[0].weight, guide.encoder[0].weight)
    other, theirs = zoo.VAE(DATA, LATENT, (5,)), guides.Amortized(mine, hidden=(5,))
    load_model(other, tmp_path)
    load_model(theirs, tmp_path / "model.safetensors")
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    assert same(dict(theirs.state_dict()), dict(guide.state_dict()))
    alone = tmp_path / "alone.safetensors"
    save_model(model, alone)
    load_model(other, alone)
    assert load_file(alone).keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match=r"decoder\.0\.bias: \[5\], \[6\]; .* decoder\.2\.weight: absent"):
        load_model(zoo.VAE(DATA, LATENT, (6, 3)), tmp_path / "model.safetensors")


class Twin(RootModule):
    """Half of a pair whose halves have the same names."""

    def __init__(self, name, model=None):
        super().__init__(name)
        self._model, self.weight = (model,), nn.Parameter(torch.randn(2))


def test_halves_with_the_same_names(tmp_path):
    model = Twin("model")
    guide = Twin("guide", model)
    zoo.save_pair(tmp_path, model, guide)
    for half in (model, guide):
        other = Twin(half._pyro_name.partition("#")[0], model if half is guide else None)
        load_model(other, tmp_path)
        assert torch.equal(other.weight, half.weight)


def test_another_architecture_of_equal_shapes_is_refused_by_the_argument(tmp_path):
    model, guide = pair()
    zoo.save_pair(tmp_path / "pair", model, guide)
    other = vae(activation=nn.Tanh)
    said = r"model\.activation: torch\.nn\.ReLU, torch\.nn\.Tanh"
    with pytest.raises(ValueError, match=said):
        zoo.load_pair(tmp_path / "pair", model=other)
    with pytest.raises(ValueError, match=r"model: another architecture .*model\.decoder\.0\.bias: \[5\], \[6\]"):
        zoo.load_pair(tmp_path / "pair", model=zoo.VAE(DATA, LATENT, (6,)))
    for loss in (other, ELBO()(other, guides.Amortized(other, hidden=(5,)))):
        with pytest.raises(
            ValueError, match=rf"config\.json: arguments of another model and guide .*{said}; .*shapes alone"
        ):
            load_model(loss, tmp_path / "pair")
        load_model(loss, tmp_path / "pair" / "model.safetensors")  # a bare file knows shapes alone
    theirs = guides.Amortized(model, hidden=(5,), activation=nn.Tanh)
    with pytest.raises(ValueError, match=r"guide\.activation: torch\.nn\.ReLU, torch\.nn\.Tanh"):
        load_model(theirs, tmp_path / "pair")
    unwritable = vae(likelihood=lambda features, size: Bernoulli(features, size))
    load_model(unwritable, tmp_path / "pair")  # nothing is known of its arguments
    (tmp_path / "pair" / "config.json").write_text(json.dumps({"settings": {}}))  # as before there were descriptions
    load_model(other, tmp_path / "pair")


def train(loss, folder, epochs=1, **options):
    return fit(loss, bits(), epochs=epochs, batch_size=3, progress=False, out=folder, **options)


def test_a_training_can_be_loaded_without_its_script(tmp_path, capsys):
    torch.manual_seed(0)
    model = vae(likelihood=partial(Bernoulli, mean=torch.full((DATA,), 0.25)))
    guide = guides.Amortized(model, hidden=(5,))
    train(ELBO()(model, guide), tmp_path, 2)
    assert capsys.readouterr().out == ""
    p, q = zoo.load_pair(tmp_path)
    x = bits()
    assert scores(p, q, x).equal(scores(model, guide, x))
    assert "argument.0" in load_file(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"save_pair: .* holds a training"):
        zoo.save_pair(tmp_path, model, guide)
    other = vae(likelihood=partial(Bernoulli, mean=torch.full((DATA,), 0.5)), activation=nn.Tanh)
    with pytest.raises(ValueError, match=r"model\.activation: torch\.nn\.ReLU, torch\.nn\.Tanh"):
        train(ELBO()(other, guides.Amortized(other, hidden=(5,))), tmp_path, 3, resume=True)
    # the mean of the data is where a bias starts; a training that goes on has the bias itself
    other = vae(likelihood=partial(Bernoulli, mean=torch.full((DATA,), 0.5)))
    loss = ELBO()(other, guides.Amortized(other, hidden=(5,)))
    train(loss, tmp_path, 3, resume=True)

    # a folder from before there were descriptions has one as soon as its training goes on, be it already at its end
    (tmp_path / "config.json").unlink()
    save_model(loss, tmp_path / "model.safetensors")
    train(loss, tmp_path, 3, resume=True)
    assert scores(*zoo.load_pair(tmp_path), x).equal(scores(loss.model, loss.guide, x))


def test_a_pair_that_cannot_be_built_again_trains_as_ever(tmp_path, capsys):
    model = vae(likelihood=lambda features, size: Bernoulli(features, size))
    loss = ELBO()(model, guides.Amortized(model, hidden=(5,)))
    train(loss, tmp_path)
    said = "model.likelihood: a lambda has no import path"
    assert capsys.readouterr().out.count(said) == 1
    with pytest.raises(ValueError, match=f"cannot be built again, since {said}"):
        zoo.load_pair(tmp_path)
    other = ELBO()(model, guides.Amortized(model, hidden=(5,)))
    load_model(other, tmp_path)
    train(other, tmp_path, 2, resume=True)
    train(Loss(), tmp_path / "loss")
    with pytest.raises(ValueError, match="since Loss has no model and guide that are modules"):
        zoo.load_pair(tmp_path / "loss")


class Loss(nn.Module):
    """A loss that is no pair."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DATA))

    def forward(self, x):
        return ((x - self.weight) ** 2).sum()


@pytest.mark.parametrize("stop", ["model.safetensors.next", "config.json", "model.safetensors"])
def test_a_kill_leaves_the_old_pair_or_the_new_one(stop, tmp_path, monkeypatch):
    folder = tmp_path / "pair"
    (old, guide), (new, _) = pair(), pair()
    with torch.no_grad():
        new.decoder[0].bias.fill_(7.0)
    zoo.save_pair(folder, old, guide)
    move = files.os.replace

    def killed(source, target):
        if str(target).endswith(f"/{stop}"):
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        zoo.save_pair(folder, new, guides.Amortized(new, hidden=(5,)))
    monkeypatch.undo()
    expected = new if stop == "model.safetensors" else old
    assert torch.equal(zoo.load_pair(folder)[0].decoder[0].bias, expected.decoder[0].bias)
    other = zoo.VAE(DATA, LATENT, (5,))
    load_model(other, folder)
    assert torch.equal(other.decoder[0].bias, expected.decoder[0].bias)


def test_config_is_for_people(tmp_path):
    model, guide = pair(activation=nn.Tanh)
    zoo.save_pair(tmp_path, model, guide, about={"data": "none", "figure": [1.5, 0.1]})
    text = (tmp_path / "config.json").read_text()
    assert '"hidden": [5],' in text
    assert '"figure": [1.5, 0.1]' in text
    assert json.loads(text)["about"] == {"data": "none", "figure": [1.5, 0.1]}
    assert json.loads(text)["pair"]["model"]["activation"] == {"import": "torch.nn.Tanh"}


def test_structural_components_are_values(tmp_path):
    assert seasonal(4) == seasonal(4) != seasonal(5)
    assert replace(arima(1), q=1) == arima(1, 0, 1)
    model = zoo.LGSSM(seasonal(4), seasonal_variance=PyroParam(torch.tensor(0.5), constraints.positive),
                      observation_variance=torch.tensor(0.3), priors={})  # fmt: skip
    zoo.save_pair(tmp_path, model, guides.Exact(model))
    found, _ = zoo.load_pair(tmp_path)
    x = torch.randn(2, 9, 1)
    assert torch.equal(found.log_prob(x), model.log_prob(x))


def test_priors_of_a_model_are_saved(tmp_path):
    model = zoo.LGSSM(
        local_level, priors={"level_variance": dist.LogNormal(0.0, 1.0)}, observation_variance=torch.ones(())
    )
    zoo.save_pair(tmp_path, model)
    found = zoo.load_pair(tmp_path)[0].priors["level_variance"]
    assert torch.equal(found.log_prob(torch.tensor(2.0)), model.priors["level_variance"].log_prob(torch.tensor(2.0)))
