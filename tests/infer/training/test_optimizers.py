"""Options of the optimiser by name of a parameter, and the schedule that waits for a better validation loss."""

import functools
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from guides import Amortized
from zoo import VAE
from zoo.data import Buckets, Sequences
from zoo.infer import ELBO, fit

quiet = functools.partial(fit, progress=False)
X = torch.rand(70, 4, generator=torch.Generator().manual_seed(3)).round()


class Noting:
    """Notes the groups of the optimiser, as name -> options."""

    def __init__(self):
        self.options = {}

    def started(self, now):
        held = {p: group for group in now.optimizer.param_groups for p in group["params"]}
        self.options = {name: held[p] for name, p in now.loss.named_parameters() if p in held}
        assert len(self.options) == len(held)

    def stepped(self, now): ...

    def epoch_ended(self, now): ...


def pair():
    torch.manual_seed(1)
    model = VAE(4, 2, (8,))
    return ELBO()(model, Amortized(model, hidden=(8,)))


def test_options_go_to_the_parameters_that_their_patterns_name(tmp_path):
    noting = Noting()
    groups = {"guide.*": {"lr": 1e-4}, "*.bias": {"weight_decay": 0.5}}
    quiet(pair(), X, steps=1, batch_size=16, groups=groups, callbacks=[noting], out=tmp_path)
    assert len(noting.options) == 8
    for name, options in noting.options.items():
        assert options["lr"] == (1e-4 if name.startswith("guide.") else 1e-3), name
        assert options["weight_decay"] == (0.5 if name.endswith(".bias") else 0), name
        assert options["fused"], name
    settings = json.loads((tmp_path / "config.json").read_text())["settings"]
    assert settings["groups"] == groups
    assert len(settings["optimizer"]["groups"]) == 4


def test_a_learning_rate_of_a_group_is_that_of_its_steps():
    loss, start = pair(), pair()
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    quiet(loss, X, steps=3, batch_size=16, optimizer=sgd, groups={"guide.*": {"lr": 0.0}})
    for (name, p), q in zip(loss.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(p, q) == name.startswith("guide."), name


def test_shared_parameters_go_by_the_names_of_both_and_frozen_ones_stay_out():
    loss, noting = pair(), Noting()
    loss.guide.shared = loss.model.decoder  # no part of the guide's program, which needs no gradient of it
    loss.guide.encoder.requires_grad_(False)
    quiet(loss, X, steps=1, batch_size=16, groups={"guide.shared.*": {"lr": 0.5}}, callbacks=[noting])
    assert not any(name.startswith("guide.encoder") for name in noting.options)
    assert {name for name, o in noting.options.items() if o["lr"] == 0.5} == {
        name for name, _ in loss.named_parameters() if name.startswith("model.decoder")
    }


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adamax])
def test_groups_resume_bit_equal(optimizer, tmp_path):
    def run(out, epochs, loss, groups, **options):
        make = functools.partial(optimizer, lr=0.01)
        schedule = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
        options |= {"optimizer": make, "schedule": schedule, "batch_size": 16, "out": tmp_path / out}
        return quiet(loss, X, epochs=epochs, groups=groups, **options).history

    groups = {"guide.*": {"lr": 0.1}, "*.bias": {"weight_decay": 0.3}}
    straight, resumed = pair(), pair()
    history = run("straight", 3, straight, groups)
    run("parts", 1, pair(), groups)
    run("parts", 3, resumed, dict(reversed(groups.items())), resume=True)
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert history[-1]["lr"] == pytest.approx(0.01 * 0.9**15, rel=1e-12), "the model's weights are the first group"
    with pytest.raises(ValueError, match=r"groups\.guide\.\*\.lr: 0\.1, 0\.2"):
        run("parts", 4, pair(), groups | {"guide.*": {"lr": 0.2}}, resume=True)
    with pytest.raises(ValueError, match=r"groups: .*, absent"):
        run("parts", 4, pair(), None, resume=True)


@pytest.mark.parametrize(
    ("groups", "kind", "message"),
    [
        ({"giude.*": {"lr": 1.0}}, ValueError, r"no parameter is called 'giude\.\*'; the nearest names are guide\.e"),
        ({"Model.*": {"lr": 1.0}}, ValueError, r"no parameter is called 'Model\.\*'; the nearest names are model\."),
        ({"guide.*": {"rate": 1.0}}, ValueError, r"'guide\.\*': Adam has no option 'rate'; it has lr, betas"),
        ({"guide.*": {"params": []}}, ValueError, r"'guide\.\*': Adam has no option 'params'"),
        ({"guide.*": {"lr": -1.0}}, ValueError, r"'guide\.\*': Invalid learning rate: -1\.0"),
        ({"guide.*": {"betas": 0.9}}, ValueError, r"'guide\.\*': .*float"),
        ({"guide.*": {"lr": 1.0}, "*.bias": {"lr": 2.0}}, ValueError,
         r"'guide\.\*' and '\*\.bias' both match guide\..*bias and set its lr, to 1\.0 and 2\.0"),
        ({"guide.*": 0.1}, TypeError, r"groups: expected options by name, such as .*got \{'guide\.\*': 0\.1\}"),
        ({"guide.*": {}}, TypeError, "groups: expected options by name"),
        ([{"lr": 0.1}], TypeError, "groups: expected options by name"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be(groups, kind, message):
    with pytest.raises(kind, match=message):
        quiet(pair(), X, steps=1, batch_size=16, groups=groups)


def test_groups_of_frozen_parameters():
    loss = pair()
    loss.guide.requires_grad_(False)
    with pytest.raises(ValueError, match=r"all 4 parameters called 'guide\.\*' are frozen"):
        quiet(loss, X, steps=1, batch_size=16, groups={"guide.*": {"lr": 0.1}})


class Scaled(torch.optim.SGD):
    """An optimiser that wants more than its defaults to be made."""

    def __init__(self, parameters, scale):
        assert scale == 2.0
        super().__init__(parameters, lr=0.05 * scale)


@pytest.mark.parametrize("groups", [None, {"model.*": {"lr": 0.0}}])
def test_an_optimiser_of_ones_own_takes_groups(groups):
    loss, start, noting = pair(), pair(), Noting()
    options = {"optimizer": lambda p: Scaled(p, 2.0), "groups": groups, "callbacks": [noting]}
    history = quiet(loss, X, steps=2, batch_size=16, **options).history
    assert history[-1]["lr"] == 0.1, "of the guide, which no pattern names, though the model comes first"
    for (name, p), q in zip(loss.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(p, q) == (groups is not None and name.startswith("model.")), name


def test_a_rate_that_is_a_tensor_stays_the_callers(tmp_path):
    def run(out, epochs, **options):
        loss = pair()
        options |= {"groups": {"guide.*": {"lr": own[1]}}, "schedule": halve, "optimizer": make}
        quiet(loss, X, epochs=epochs, batch_size=32, out=tmp_path / out, **options)
        return loss

    own = torch.tensor(0.01), torch.tensor(0.1)
    make = functools.partial(torch.optim.Adam, lr=own[0], fused=True)
    halve = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    straight = run("straight", 2)
    run("parts", 1)
    resumed = run("parts", 2, resume=True)
    assert [rate.item() for rate in own] == pytest.approx([0.01, 0.1])
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_numbers_of_numpy_are_as_good_as_pythons(tmp_path):
    adam = functools.partial(torch.optim.Adam, lr=np.float64(0.01))
    schedule = functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: np.cos(step / 20))
    options = {"optimizer": adam, "groups": {"*.bias": {"lr": np.float64(0.1)}}, "clip": np.float64(0.5)}
    options |= {"batch_size": np.int64(16), "schedule": schedule}
    losses = [pair() for _ in range(3)]
    quiet(losses[0], X, steps=np.int64(7), out=tmp_path / "a", average=np.float32(0.5), **options)
    quiet(losses[1], X, steps=3, out=tmp_path / "b", average=np.float32(0.5), **options)
    quiet(losses[2], X, steps=7, out=tmp_path / "b", average=np.float32(0.5), resume=True, **options)
    assert all(torch.equal(p, q) for p, q in zip(losses[0].parameters(), losses[2].parameters(), strict=True))
    with pytest.raises(ValueError, match=r"average: 0\.5, 0\.25"):
        quiet(pair(), X, steps=8, out=tmp_path / "b", average=np.float32(0.25), resume=True, **options)


def test_equal_values_of_two_patterns_are_one():
    quiet(pair(), X, steps=1, batch_size=16, groups={"guide.*": {"lr": 0.1}, "*.bias": {"lr": 0.1}})


# ---- the schedule

SCHEDULES = {
    "of a number": lambda o, value: lr_scheduler.ExponentialLR(o, gamma=value),
    "of numbers": lambda o, value: lr_scheduler.MultiStepLR(o, milestones=[2, 9], gamma=value),
    "in parts": lambda o, value: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, value)], [3]
    ),
    "plateau": lambda o, value: ReduceLROnPlateau(o, factor=value),
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_other_options_of_a_schedule_are_refused_when_resuming(make, tmp_path):
    options = {"batch_size": 16, "validation": X[:30], "out": tmp_path}
    quiet(pair(), X, steps=3, schedule=lambda o: make(o, 0.9), **options)
    with pytest.raises(ValueError, match=r"cannot resume with other settings .*schedule\..*0\.9.*0\.5"):
        quiet(pair(), X, steps=6, schedule=lambda o: make(o, 0.5), resume=True, **options)
    with pytest.raises(ValueError, match=r"cannot resume with other settings .*schedule"):
        quiet(pair(), X, steps=6, resume=True, **options)
    # A checkpoint from before options of schedules were compared.
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    checkpoint["settings"]["schedule"] = checkpoint["settings"]["schedule"]["class"]
    torch.save(checkpoint, tmp_path / "last.pt")
    assert quiet(pair(), X, steps=6, schedule=lambda o: make(o, 0.9), resume=True, **options).step == 6


class Stateless:
    """A schedule without a state, from which no training could be resumed."""

    def __init__(self, optimizer): ...

    def step(self): ...


def test_a_schedule_has_a_state():
    with pytest.raises(TypeError, match=r"schedule: expected .*LRScheduler.*, it made a Stateless"):
        quiet(pair(), X, steps=1, batch_size=16, schedule=Stateless)


# ---- the plateau


class Level(nn.Module):
    """A loss that no step makes better: its gradient is that of w, its value that of the data."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x.sum() + self.w - self.w.detach()


@pytest.mark.parametrize("batch_size", [70, 16])
def test_a_plateau_counts_epochs(batch_size):
    schedule = functools.partial(ReduceLROnPlateau, factor=0.5, patience=1)
    options = {"optimizer": functools.partial(torch.optim.SGD, lr=1.0), "validation": X, "schedule": schedule}
    history = quiet(Level(), X, epochs=6, batch_size=batch_size, **options).history
    # The first epoch is the best one; after the third, the second without a better loss, the rate is halved, and so on.
    assert [record["lr"] for record in history] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_a_plateau_resumes_bit_equal(length, tmp_path):
    whole, part = ({"epochs": 8}, {"epochs": 4}) if length == "epochs" else ({"steps": 24}, {"steps": 13})

    def run(out, loss, **options):
        schedule = functools.partial(ReduceLROnPlateau, patience=0, threshold=0.1)
        options |= {"validation": X[:30], "batch_size": 32, "out": tmp_path / out, "schedule": schedule}
        return [record["lr"] for record in quiet(loss, X, **options).history]

    straight, resumed = pair(), pair()
    rates = run("straight", straight, **whole)
    run("parts", pair(), **part)
    assert run("parts", resumed, resume=True, **whole) == rates
    assert len(set(rates)) > 2
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": ReduceLROnPlateau}, "ReduceLROnPlateau waits for a better validation loss: give validation="),
        ({"schedule": lambda o: ReduceLROnPlateau(o, mode="max"), "validation": X}, "ReduceLROnPlateau has mode='max'"),
    ],
)
def test_plateaus_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=rf"schedule: {message}"):
        quiet(pair(), X, steps=1, batch_size=16, **options)


# ---- drop_last


def test_rows_that_an_epoch_may_leave_out_are_looked_over_too():
    x = X.clone()
    x[-1] = 0.5  # the last in the order of the file; the epochs' orders have it among their batches
    with pytest.raises(ValueError, match=r"data: .*69"):
        quiet(pair(), x, steps=1, batch_size=16, drop_last=True)


def test_data_that_choose_their_batches_leave_none_out():
    music = Buckets(Sequences(torch.zeros(12, 4), torch.tensor([5, 4, 3]), ("a", "b", "c", "d")))
    with pytest.raises(ValueError, match="drop_last: Buckets chooses its batches itself"):
        quiet(pair(), music, epochs=1, batch_size=2, drop_last=True)
