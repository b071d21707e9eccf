"""The refusals of `fit` before its first step, each by its kind; all that it leaves alone; Pyro's own objectives."""

import functools
import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.optim import lr_scheduler

import guides
from zoo import DMM, VAE, VRNN
from zoo.infer import ELBO, IWELBO, MAP, fit
from zoo.mixture import GaussianMixture
from zoo.parts.conditionals import FlowPrior

BITS = (torch.rand(9, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def pair(objective=None):
    torch.manual_seed(0)
    model = VAE(6, 2, (4,))
    return (objective or ELBO())(model, guides.Amortized(model, hidden=(4,)))


def train(loss=None, data=BITS, **options):
    options = {"batch_size": len(data), "progress": False} | options
    if "epochs" not in options:
        options.setdefault("steps", 2)
    return fit(pair() if loss is None else loss, data, **options)


class Hungry:
    """A schedule that asks for a value at each step."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, metrics):
        raise AssertionError

    state_dict = load_state_dict = step


def of_pyro():
    # made anew each time: Pyro takes the options out of the dictionary
    return pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {}, "gamma": 0.9})


OPTIMIZERS = {
    "made": (lambda: torch.optim.Adam(pair().parameters()), "got a Adam that is made already"),
    "of pyro, by parameter": (lambda: pyro.optim.Adam(lambda name: {"lr": 0.1}), "options by parameter, .* groups="),
    "of pyro, clipping": (lambda: pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 1.0}), "clips each gradient .* clip="),
    "a schedule of pyro": (of_pyro, "got PyroLRScheduler of pyro.optim; schedule= takes one of torch's"),
    "a constructor of pyro": (lambda: pyro.optim.ClippedAdam, "one of pyro.optim without its options"),
    "a word": (lambda: "adam", "got 'adam'"),
    "LBFGS": (lambda: torch.optim.LBFGS, "LBFGS wants closure at each step"),
    "another thing": (lambda: lambda parameters: nn.Linear(1, 1), "it made a Linear"),
    "one that fails": (lambda: functools.partial(torch.optim.SGD, lr=-1.0), r"failed \(ValueError: Invalid learning"),
}
SCHEDULES = {
    "number": (lambda: 0.99, "got 0.99"),
    "one that wants more": (lambda: Hungry, "Hungry wants metrics at each step; expected one that counts steps alone"),
    "made": (lambda: lr_scheduler.ExponentialLR(torch.optim.Adam(pair().parameters()), 0.9), "made already"),
    "of pyro": (of_pyro, "made already"),
    "incomplete": (lambda: lr_scheduler.ExponentialLR, r"ExponentialLR of that alone failed \(TypeError: .*gamma"),
    "another thing": (lambda: lambda optimizer: 3, "it made a int"),
}  # fmt: skip


def test_optimisers_of_pyro_are_those_of_torch_that_they_make():
    theirs = train(optimizer=pyro.optim.ClippedAdam({"lr": 0.1, "clip_norm": 5.0}), steps=3)
    ours = train(optimizer=functools.partial(pyro.optim.clipped_adam.ClippedAdam, lr=0.1, clip_norm=5.0), steps=3)
    assert theirs.history[-1]["train"] == ours.history[-1]["train"]
    theirs = train(optimizer=pyro.optim.Adam({"lr": 0.1}), steps=3)
    ours = train(optimizer=functools.partial(torch.optim.Adam, lr=0.1), steps=3)
    assert theirs.history[-1]["train"] == ours.history[-1]["train"]


def test_the_report_names_sites_that_are_not_used():
    done = train(validation=BITS)
    assert "2 epochs, 2 steps" in str(done)
    assert f"validation {done.best['validation']:.3f}" in str(done)
    assert ("worth a look: KL of z below 0.01" in str(done)) == (done.best["kl"]["z"] < 0.01)
    done.best["kl"] = {"z_1": 3.0, "z_2": 0.004}
    assert str(done).count("worth a look: KL of z_2 below 0.01 nats per datum") == 1
    # a KL of exactly 0 is that of a site which the guide leaves to the model
    done.best["kl"] = {"z_1": 0.0, "z_2": 0.4}
    assert "worth a look" not in str(done)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimisers_of_another_kind(kind):
    make, said = OPTIMIZERS[kind]
    with pytest.raises(TypeError, match=rf"optimizer: .*{said}"):
        train(optimizer=make())


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_of_another_kind(kind):
    make, said = SCHEDULES[kind]
    with pytest.raises(TypeError, match=rf"schedule: .*{said}"):
        train(schedule=make())


def test_a_loss_without_its_pair():
    with pytest.raises(TypeError, match=r"loss: IWELBO has no pair yet; expected IWELBO\(\.\.\.\)\(model, guide\)"):
        train(IWELBO(3))
    with pytest.raises(TypeError, match=r"loss: expected a torch.nn.Module, objective\(model, guide\), got function"):
        train(lambda x: x.sum())


@pytest.mark.parametrize("make", [lambda h: VAE(6, 2, hidden=h), lambda h: DMM(6, 2, hidden=h),
                                  lambda h: VRNN(6, 2, hidden=h), lambda h: guides.Amortized(VAE(6, 2), hidden=h),
                                  lambda h: guides.Smoother(DMM(6, 2), hidden=h), lambda h: FlowPrior(4, hidden=h),
                                  lambda h: guides.IAF(3, 2, hidden=h), lambda h: guides.Spline(3, 2, hidden=h),
                                  lambda h: DMM(6, 2, transition_hidden=h)])  # fmt: skip
def test_widths_that_are_no_tuple(make):
    with pytest.raises(TypeError, match=r"hidden: expected a tuple of layer widths such as \(100,\), got 100"):
        make(100)
    with pytest.raises(TypeError, match="hidden: expected a tuple of layer widths"):
        make((4.5,))
    with pytest.raises(ValueError, match=r"hidden: expected widths >= 1, got \(4, 0\)"):
        make((4, 0))
    assert make(np.array([4]))


def test_numpys_integers_are_integers():
    one, two = train(steps=np.int64(2), seed=np.int32(3), batch_size=np.int64(9)), train(steps=2, seed=3)
    assert one.history[-1]["train"] == two.history[-1]["train"]
    assert type(one.step) is int
    assert VAE(np.int64(6), np.int64(2))(BITS).shape == (9, 6)
    model = VRNN(6, 2, recurrent=np.int64(3), hidden=(4,))
    assert guides.Smoother(model, recurrent=np.int64(5), hidden=(np.int64(4),))(BITS[:, None]).shape == (9, 1, 2)


@pytest.mark.parametrize("value", [0, 2.0, True])
@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_other_numbers_are_not(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got {value}"):
        train(**{name: value})


@pytest.mark.parametrize("dtype", [torch.float64, torch.long, torch.bool, torch.float16])
def test_rows_of_another_type(dtype):
    """The program itself takes tensors of its parameters' dtype alone; doors in front of it bring them there."""
    x, loss = BITS.to(dtype), pair()
    said = f"x: expected torch.float32 like the model's parameters, got {dtype}; convert one of the two"
    for door in (loss, loss.model):
        with pytest.raises(ValueError, match=said):
            door(x)
    assert loss.guide.posterior(x).mean.equal(loss.guide.posterior(BITS).mean)
    assert train(pair(), x).history[-1]["train"] == train(pair(), BITS).history[-1]["train"]


def test_a_row_without_its_batch_axis_is_refused_at_every_door():
    loss, row = pair(), BITS[0]
    mixture = GaussianMixture(6, 2)
    for door in (loss, loss.model, loss.guide, loss.guide.posterior, loss.guide.per_datum, mixture):
        with pytest.raises(ValueError, match=r"x: expected shape \(N, 6\), got \(6,\); x.unsqueeze\(0\) makes"):
            door(row)
    for door in (loss, loss.guide, mixture):
        with pytest.raises(ValueError, match=r"x: expected shape \(N, 6\), got \(1, 9, 6\)$"):
            door(BITS[None])
    own = guides.Amortized(loss.model, encoder=nn.Linear(6, 3), context=3)
    with pytest.raises(ValueError, match=r"expected features of shape \(6, 3\) from Linear, got"):
        own(row)


def normed():
    loss = pair()
    loss.model.decoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU())
    return loss


def test_one_row_left_over_for_a_batch_norm():
    with pytest.raises(ValueError, match=r"batch_size: one row is left over .* the batch norm model\.decoder\.1"):
        train(normed(), batch_size=4, epochs=2)
    assert train(normed(), batch_size=4, epochs=3, drop_last=True).step == 6
    assert train(normed(), batch_size=3, epochs=3, drop_last=True).step == 9
    assert train(normed().eval(), batch_size=4, epochs=1).step == 3
    assert train(batch_size=4, epochs=1).step == 3


def test_drop_last_is_part_of_the_settings(tmp_path):
    train(batch_size=4, epochs=1, drop_last=True, out=tmp_path)
    with pytest.raises(ValueError, match=r"drop_last: True, absent"):
        train(batch_size=4, epochs=2, out=tmp_path, resume=True)


def test_data_that_require_a_gradient_are_data():
    x = BITS.clone().requires_grad_()
    assert train(data=x).step == 2
    assert x.grad is None
    assert train().history[-1]["train"] == train(data=x).history[-1]["train"]


def test_the_random_streams_are_where_they_were():
    """Data sets simulated between trainings would all be the same one."""

    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]  # noqa: NPY002

    losses = [pair() for _ in range(3)]
    pyro.set_rng_seed(5)
    expected = [draws(), draws()]
    pyro.set_rng_seed(5)
    train(losses[0])
    first = draws()
    with pytest.raises(FloatingPointError):
        train(losses[1], optimizer=functools.partial(torch.optim.SGD, lr=math.inf))
    train(losses[2], validation=BITS)
    assert [first, draws()] == expected


def silent(x):
    """A guide of a model whose only latent is summed out."""


def test_pyros_objective_for_summed_out_latents_trains():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(40, 2), torch.randn(40, 2) + 6])
    model = GaussianMixture(2, 2)
    before = model.log_prob(x).mean().item()
    loss = TraceEnum_ELBO(max_plate_nesting=1)(model, silent)
    adam = functools.partial(torch.optim.Adam, lr=0.1)
    found = train(loss, x, steps=60, optimizer=adam, validation=x)
    assert found.history[-1]["train"] < -before
    assert found.best["validation"] == pytest.approx(-model.log_prob(x).mean().item(), rel=1e-5)


class Point(PyroModule):
    def __init__(self):
        super().__init__("point")
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.linear(x)).to_event(1))


def test_map_is_trained_and_shown_as_a_log_joint(capsys):
    torch.manual_seed(0)
    model, guide = VAE(6, 2, (4,)), Point()
    found = train(MAP()(model, guide), steps=30, progress=True, validation=BITS)
    assert found.history[-1]["train"] < found.history[0]["train"]
    assert found.history[0]["kl"] == {}
    z = guide.linear(BITS)
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + model.likelihood(z).log_prob(BITS)
    assert found.history[-1]["validation"] == pytest.approx(-joint.mean().item(), rel=1e-5)
    assert "log joint -" in capsys.readouterr().err


class Scalar(PyroModule):
    """A latent without an event axis; `blow` makes its density overflow."""

    def __init__(self, blow=1.0):
        super().__init__("scalar")
        self.blow = blow

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.blow * z.exp(), 1.0), obs=x)


class ScalarGuide(PyroModule):
    def __init__(self):
        super().__init__("scalar_guide")
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc + 0 * x, 1.0))


def test_a_failing_step_of_scalar_latents_names_the_site():
    x = torch.randn(20)
    with pytest.raises(FloatingPointError, match=r"site 'x' \(observed\): log p is -inf in rows"):
        train(ELBO()(Scalar(1e30), ScalarGuide()), x)
    guide = ScalarGuide()
    sgd = functools.partial(torch.optim.SGD, lr=math.inf)
    with pytest.raises(FloatingPointError, match=r"parameters became NaN or infinite|samples non-finite values"):
        train(ELBO(2)(Scalar(), guide), x, optimizer=sgd)


def test_an_optimiser_of_other_parameters_is_refused():
    other = [nn.Parameter(torch.zeros(2))]
    for make in (lambda p: torch.optim.Adam(other), lambda p: torch.optim.Adam(p[:2])):
        with pytest.raises(ValueError, match=r"optimizer: Adam holds other parameters than the \d+ of the loss"):
            train(optimizer=make)
    loss = pair()
    loss.model.requires_grad_(False)  # the way to train a part
    assert train(loss).step == 2
    strange = torch.optim.SGD(other, lr=0.1)
    with pytest.raises(ValueError, match="schedule: ExponentialLR is that of another optimizer"):
        train(schedule=lambda optimizer: lr_scheduler.ExponentialLR(strange, 0.9))


class Batches:
    """Rows that make their own batches, by a function of the row numbers."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(BITS)

    def batch(self, index, generator):
        return self.make(index)


def test_batches_of_another_kind():
    with pytest.raises(ValueError, match=r"batch\(index, generator\): asked for 4 rows, got 3"):
        train(data=Batches(lambda index: (BITS[index][:3],)), batch_size=4, drop_last=True)
    with pytest.raises(TypeError, match=r"batch\(index, generator\): expected a tuple of tensors, got Tensor"):
        train(data=Batches(lambda index: BITS[index]))


def test_data_that_turn_nan_within_a_training_are_named_and_not_the_guide():
    visits = []

    def make(index):
        visits.append(1)
        return (BITS[index].masked_fill(index[:, None] == 5, math.nan) if len(visits) > 6 else BITS[index],)

    with pytest.raises(FloatingPointError, match="argument 0 of the batch is NaN or infinite in rows 5"):
        train(data=Batches(make), steps=20, batch_size=9)


@pytest.mark.parametrize("anew", [False, True])
def test_rows_that_are_made_anew_are_not_looked_through(anew):
    """An epoch of a simulator may take as long as its training; its first batch is looked at all the same."""
    visits = []

    class Simulated(Batches):
        pass

    def make(index):
        visits.append(len(index))
        return (BITS[index],)

    Simulated.anew = anew
    train(data=Simulated(make), steps=2, batch_size=4, drop_last=True)
    looked = len(visits) - 2
    assert (looked == 1) == anew
