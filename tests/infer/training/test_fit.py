"""Training: the optimisation itself, bit-equal resumption, what is written when, and clear errors."""

import copy
import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from guides import Amortized, Smoother
from zoo import DMM, PPCA, VAE
from zoo.infer import ELBO, IWELBO, Tempered, fit, load_model, save_model, terms
from zoo.infer.training.step.batches import epoch_order
from zoo.infer.training.step.compiled import compiled

quiet = functools.partial(fit, progress=False)


@pytest.fixture(autouse=True)
def sigint_as_in_a_terminal():
    """A shell's background jobs ignore Ctrl-C and hand that on; these tests are of a process that does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Regression(nn.Module):
    """-sum_n log N(y_n | x_n A + b, 1) up to a constant: no noise, and a solution in closed form."""

    def __init__(self, features=3):
        super().__init__()
        self.line = nn.Linear(features, 1, dtype=torch.float64)

    def forward(self, x, y):
        return 0.5 * (self.line(x).squeeze(-1) - y).square().sum()


class Model(PyroModule):
    """z ~ N(0, 1), x ~ N(decoder(z), 1)."""

    def __init__(self, data_dim=4, norm=nn.BatchNorm1d):
        super().__init__("model")
        self.decoder = nn.Sequential(nn.Linear(2, 8), norm(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, data_dim))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self, data_dim=4):
        super().__init__("guide")
        self.encoder = nn.Linear(data_dim, 4)

    def forward(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


class Noisy:
    """Data that draws its noise at each visit, and notes the rows it was asked for."""

    def __init__(self, x):
        self.x, self.asked = x, []

    def __len__(self):
        return len(self.x)

    def batch(self, index, generator):
        self.asked.append(index)
        return (self.x[index] + torch.rand(len(index), self.x.shape[1], generator=generator),)


def regression_data(num=50):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(num, generator=generator, dtype=torch.float64)
    return x, y


def pair(objective=None, seed=1, norm=nn.BatchNorm1d):
    torch.manual_seed(seed)
    return (objective or ELBO())(Model(norm=norm), Guide())


def data(num=70):
    return torch.randn(num, 4, generator=torch.Generator().manual_seed(3))


def sgd(lr):
    return functools.partial(torch.optim.SGD, lr=lr)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_time(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- the optimisation


def test_every_step_descends_the_mean_of_its_batch():
    x, y = regression_data()
    loss, by_hand = Regression(), Regression()
    by_hand.load_state_dict(loss.state_dict())
    quiet(loss, (x, y), epochs=3, batch_size=16, optimizer=sgd(0.1), seed=4)  # batches of 16, 16, 16 and 2
    for epoch in range(3):
        for index in epoch_order(50, 4, epoch).split(16):
            by_hand.zero_grad()
            (by_hand(x[index], y[index]) / len(index)).backward()
            with torch.no_grad():
                for p in by_hand.parameters():
                    p -= 0.1 * p.grad
    for p, q in zip(loss.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_full_batches_reach_the_least_squares_solution():
    x, y = regression_data()
    loss = Regression()
    result = quiet(loss, (x, y), steps=800, batch_size=50, optimizer=sgd(0.5))
    design = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    exact = torch.linalg.lstsq(design, y.unsqueeze(-1)).solution.squeeze(-1)
    torch.testing.assert_close(torch.cat([loss.line.weight.flatten(), loss.line.bias]), exact, rtol=1e-9, atol=1e-9)
    residual = (design @ exact - y).square().mean().item() / 2
    assert result.history[-1]["train"] == pytest.approx(residual, rel=1e-9)


def test_an_epoch_visits_every_row_once_in_a_new_order():
    rows = Noisy(data(10))
    quiet(pair(), rows, epochs=2, batch_size=4, seed=1)
    visits = torch.cat(rows.asked[-6:])  # before them the pair and the values of every row are checked
    first, second = visits[:10], visits[10:]
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert not torch.equal(first, second)
    assert not torch.equal(first, epoch_order(10, 2, 0))
    assert torch.equal(first, epoch_order(10, 1, 0))


def test_steps_may_end_within_an_epoch():
    result = quiet(pair(), data(), steps=7, batch_size=16)  # five batches an epoch
    assert (result.step, result.epochs) == (7, 1)
    assert [(r["epoch"], r["step"]) for r in result.history] == [(1, 5), (2, 7)]


def test_the_schedule_moves_at_every_step_and_the_rate_is_recorded():
    halve = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    result = quiet(Regression(), regression_data(), epochs=2, batch_size=25, optimizer=sgd(0.1), schedule=halve)
    assert [r["lr"] for r in result.history] == pytest.approx([0.1 * 0.5**2, 0.1 * 0.5**4], rel=1e-12)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_clip_bounds_the_global_norm(clip):
    loss, (x, y) = Regression(), regression_data()
    before = torch.cat([p.detach().flatten().clone() for p in loss.parameters()])
    (loss(x, y) / 50).backward()
    norm = torch.cat([p.grad.flatten() for p in loss.parameters()]).norm().item()
    quiet(loss, (x, y), steps=1, batch_size=50, optimizer=sgd(1.0), clip=clip)
    moved = (torch.cat([p.detach().flatten() for p in loss.parameters()]) - before).norm().item()
    assert moved == pytest.approx(min(norm, clip), rel=1e-5)  # torch divides by the norm + 1e-6


class Prior(PyroModule):
    """The guide that is the prior: log p - log q is zero at every draw."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def test_records_are_nats_per_datum():
    (x, y), loss = regression_data(), Regression()
    exact = loss(x, y).item() / 50
    record = quiet(loss, (x, y), epochs=1, batch_size=16, optimizer=sgd(0.0), validation=(x, y)).history[0]
    assert record["train"] == pytest.approx(exact, rel=1e-12)
    assert record["validation"] == pytest.approx(exact, rel=1e-12)
    assert (record["kl"], record["beta"]) == ({}, None)
    torch.manual_seed(0)
    loss = Tempered(ELBO(), lambda step: step / 5)(Model(), Prior("guide"))
    record = quiet(loss, data(), epochs=1, batch_size=70).history[0]
    assert record["kl"] == {"z": 0.0}
    assert record["beta"] == pytest.approx(1 / 5)  # of the step to come


def test_validation_is_untempered_and_has_the_same_noise_each_time():
    options = {"epochs": 3, "batch_size": 70, "optimizer": sgd(0.0), "validation": data(30)}
    plain = quiet(pair(norm=nn.LayerNorm), data(), **options).history
    tempered = quiet(pair(Tempered(ELBO(), 0.0), norm=nn.LayerNorm), data(), **options).history
    assert len({r["validation"] for r in plain + tempered}) == 1
    assert len({r["train"] for r in plain + tempered}) == 6
    assert all(t["train"] < p["train"] for t, p in zip(tempered, plain, strict=True))


def test_what_is_shown_written_and_validated_does_not_change_the_training(tmp_path, capsys):
    losses = [pair(), pair(), pair()]
    quiet(losses[0], data(), epochs=3, batch_size=32)
    fit(losses[1], data(), epochs=3, batch_size=32, out=tmp_path / "a", tensorboard=True)
    assert "nats" in capsys.readouterr().err
    assert any((tmp_path / "a" / "tensorboard").iterdir())
    result = quiet(losses[2], data(), epochs=3, batch_size=32, validation=data(30), out=tmp_path / "b")
    assert same(losses[0], losses[1])
    last = torch.load(tmp_path / "b" / "last.pt", weights_only=True)["loss"]
    assert all(torch.equal(last[name], t) for name, t in losses[0].state_dict().items())
    assert result.best["validation"] == min(r["validation"] for r in result.history)


def test_the_best_by_validation_is_kept_and_patience_stops(tmp_path):
    loss, (x, y) = Regression(), regression_data()
    worse = functools.partial(torch.optim.SGD, lr=0.1, maximize=True)
    twin = Regression()
    twin.load_state_dict(loss.state_dict())
    options = {"epochs": 9, "batch_size": 50, "optimizer": worse, "validation": (x, y), "patience": 2, "out": tmp_path}
    result = quiet(loss, (x, y), **options)
    quiet(twin, (x, y), epochs=1, batch_size=50, optimizer=worse)
    assert (result.epochs, result.best["epoch"]) == (3, 1)
    assert same(loss, twin)
    load_model(twin, tmp_path)
    assert same(loss, twin)
    latest = torch.load(tmp_path / "last.pt", weights_only=True)["loss"]
    assert not torch.equal(latest["line.bias"], loss.line.bias)
    again = Regression()  # a finished training, called again: the best once more, from the file
    assert quiet(again, (x, y), resume=True, **options).epochs == 3
    assert same(loss, again)


class Table(PyroModule):
    """A guide with a row for each datum, which is told the row numbers."""

    def __init__(self, num):
        super().__init__("guide")
        self.table, self.seen = nn.Parameter(torch.zeros(num, 2)), []

    def forward(self, x, index=None):
        self.seen.append((x, index))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.table[index], 1.0).to_event(1))


def test_guides_of_each_datum_get_the_row_numbers():
    x = data()
    loss = ELBO()(Model(), Table(70))
    quiet(loss, x, epochs=1, batch_size=32)
    assert all(torch.equal(x[index], batch) for batch, index in loss.guide.seen)
    assert (loss.guide.table != 0).all()
    with pytest.raises(ValueError, match="index"):
        quiet(loss, x, epochs=1, batch_size=32, validation=x)


def test_cuda_is_one_argument():
    if torch.cuda.is_available():
        loss = ELBO()(VAE(4, 2, (8,)), Guide())
        quiet(loss, data().sigmoid().round(), steps=2, batch_size=16, device="cuda")
        assert all(p.is_cuda for p in loss.parameters())
    else:
        with pytest.raises(ValueError, match="no CUDA device"):
            quiet(pair(), data(), steps=2, batch_size=16, device="cuda")


# ---- resumption


def plain():
    return pair(), data(), {}


def everything():
    schedule = functools.partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[4, 9], gamma=0.3)
    adam = functools.partial(torch.optim.AdamW, lr=0.01)
    options = {"schedule": schedule, "clip": 0.5, "validation": data(30), "optimizer": adam}
    return pair(Tempered(IWELBO(3), lambda step: min(1.0, step / 12)), norm=nn.LayerNorm), Noisy(data()), options


def autoguide():
    torch.manual_seed(2)
    model = Model()
    return ELBO()(model, AutoNormal(pyro.poutine.block(model, hide=["x"]))), data(32), {"batch_size": 32}


def test_pyros_autoguides_keep_their_rows():
    """Their parameters are of the rows in order: each epoch's permutation would give every row all posteriors' mean."""
    torch.manual_seed(0)
    model = PPCA(2, 1)
    x = 5.0 * torch.arange(6.0)[:, None] + torch.randn(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.ones(2, 1))
    auto = AutoNormal(model)
    terms(model, auto, x)
    model.requires_grad_(False)  # after the guide's first call, which thaws it
    loss = ELBO()(model, auto)
    fit(loss, x, epochs=400, batch_size=6, optimizer=functools.partial(torch.optim.Adam, lr=0.2), progress=False)
    exact = model.posterior(x).mean
    assert (exact.diff(dim=0) > 2.0).all()
    assert ((auto.locs.z - exact).abs() < 1.0).all(), (auto.locs.z, exact)
    for options in ({"batch_size": 4}, {"batch_size": 6, "validation": x}):
        with pytest.raises(
            ValueError, match=r"AutoNormal has parameters for each row of the data, in order: give batch"
        ):
            fit(loss, x, epochs=1, **options)


@pytest.mark.thorough
def test_whole_sequences_train_on_a_captured_graph(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.manual_seed(0)
    model = DMM(3, 2, hidden=(4,), transition_hidden=(4,))
    loss = ELBO()(model, Smoother(model, hidden=(4,), recurrent=4))
    x, values = (torch.rand(4, 3, 3) < 0.5).float(), []
    for call in (compiled(loss, x), loss):
        torch.manual_seed(1)
        values.append(call(x))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("case", [plain, everything, autoguide])
@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_resuming_is_bit_equal(case, length, tmp_path):
    whole, parts = ({"epochs": 4}, {"epochs": 2}) if length == "epochs" else ({"steps": 14}, {"steps": 7})
    loss, x, options = case()
    options = {"batch_size": 16, "seed": 3, **options}
    straight = quiet(loss, x, out=tmp_path / "straight", **whole, **options)
    first, x, _ = case()
    quiet(first, x, out=tmp_path / "parts", **parts, **options)
    second, x, _ = case()
    with torch.no_grad():
        second(data(options["batch_size"]))  # autoguides have parameters from now on
        for p in second.parameters():
            p += 1.0  # it must all come from the checkpoint
    result = quiet(second, x, out=tmp_path / "parts", resume=True, **whole, **options)
    assert same(loss, second)
    assert not same(first, second)
    last = [torch.load(tmp_path / n / "last.pt", weights_only=True)["loss"] for n in ("straight", "parts")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert result.step == straight.step
    assert without_time(result.history) == without_time(straight.history)
    assert lines(tmp_path / "parts") == result.history
    assert len({record["epoch"] for record in result.history}) == len(result.history)


CHILD = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_fit import data, pair, quiet
torch.set_num_threads(1)
quiet(pair(), data(), epochs=100_000, batch_size=16, out=sys.argv[1])
"""


@pytest.mark.thorough
def test_a_killed_training_resumes_bit_equal(tmp_path):
    here = os.path.dirname(__file__)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path / "killed", here], cwd=Path(__file__).parents[3], stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / "metrics.jsonl").exists() or len(raw_lines(tmp_path / "killed")) < 3:
            assert child.poll() is None, child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05 * torch.rand(()).item())  # any moment will do, so another one in each run
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    done = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["progress"]["epoch"]
    assert done >= 2
    loss, straight = pair(), pair()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = quiet(loss, data(), epochs=done + 2, batch_size=16, out=tmp_path / "killed", resume=True)
        quiet(straight, data(), epochs=done + 2, batch_size=16)
    finally:
        torch.set_num_threads(threads)
    assert same(loss, straight)
    assert [r["epoch"] for r in lines(tmp_path / "killed")] == list(range(1, done + 3))
    assert result.epochs == done + 2
    assert not list((tmp_path / "killed").glob("*.tmp"))


def raw_lines(folder):
    return (folder / "metrics.jsonl").read_bytes().splitlines()


def test_a_torn_or_premature_metrics_line_disappears(tmp_path):
    quiet(pair(), data(), epochs=2, batch_size=16, out=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "step": 15, "train": 1.0}) + '\n{"epoch": 4, "st')
    quiet(pair(), data(), epochs=4, batch_size=16, out=tmp_path, resume=True)
    assert [r["epoch"] for r in lines(tmp_path)] == [1, 2, 3, 4]


def test_resuming_where_nothing_is_starts_at_the_beginning(tmp_path, capsys):
    loss, straight = pair(), pair()
    quiet(loss, data(), epochs=1, batch_size=16, out=tmp_path / "new", resume=True)
    quiet(straight, data(), epochs=1, batch_size=16)
    assert same(loss, straight)
    assert "starting at the beginning" in capsys.readouterr().out


def test_a_new_training_keeps_the_files_of_the_old_one(tmp_path):
    quiet(pair(), data(), epochs=2, batch_size=16, out=tmp_path)
    old = (tmp_path / "last.pt").read_bytes()
    quiet(pair(), data(), epochs=1, batch_size=16, out=tmp_path)
    assert (tmp_path / "last.pt.old").read_bytes() == old
    assert len(lines(tmp_path)) == 1


# ---- Ctrl-C


class Interrupting(nn.Module):
    """Sends SIGINT in the middle of the given evaluations."""

    def __init__(self, loss, *calls):
        super().__init__()
        self.loss, self.calls, self.count = loss, calls, 0

    def forward(self, x):
        if torch.is_grad_enabled():
            self.count += 1
            if self.count in self.calls:
                signal.raise_signal(signal.SIGINT)
        return self.loss(x)


@pytest.mark.parametrize("call", [7, 10], ids=["within an epoch", "at its end"])
def test_ctrl_c_saves_the_very_step_and_resumes_bit_equal(call, tmp_path, capfd):
    loss, straight = Interrupting(pair(), call), Interrupting(pair())
    result = quiet(loss, data(), epochs=4, batch_size=16, out=tmp_path)
    assert result.interrupted
    assert result.step == call
    assert str(tmp_path / "last.pt") in capfd.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Interrupting(pair())
    result = quiet(resumed, data(), epochs=4, batch_size=16, out=tmp_path, resume=True)
    history = quiet(straight, data(), epochs=4, batch_size=16).history
    assert not result.interrupted
    assert same(resumed, straight)
    assert without_time(result.history) == without_time(history)


def test_a_second_ctrl_c_aborts():
    class Stubborn(Interrupting):
        def forward(self, x):
            signal.raise_signal(signal.SIGINT) if torch.is_grad_enabled() else None
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        quiet(Stubborn(pair(), 1), data(), epochs=1, batch_size=16)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---- losses that are not finite


def test_a_non_finite_loss_names_site_rows_and_step_and_keeps_the_last_good_state(tmp_path):
    x = data()
    rows = epoch_order(70, 0, 0)[[37, 44]].tolist()  # of the third batch
    x[rows] = 1e30  # finite, but its squared distance to anything is not
    torch.manual_seed(0)
    loss = ELBO(num_particles=2)(Model(norm=nn.LayerNorm), Prior("guide"))
    good = copy.deepcopy(loss)
    with pytest.raises(FloatingPointError) as error:
        quiet(loss, x, epochs=2, batch_size=16, out=tmp_path)
    shown = f"rows {', '.join(map(str, rows))}. "
    for part in ("the loss is inf", "epoch 1, step 3 ", "'x' (observed): log p is -inf", shown, "no checkpoint yet"):
        assert part in str(error.value)
    quiet(good, x, steps=2, batch_size=16)
    assert same(loss, good)


def test_the_rows_named_are_those_of_the_very_draws():
    class Cliff(Prior):
        """p(x | z) is 0 where z_1 > 1.2, so which rows are lost is a matter of the noise."""

        def __init__(self):
            super().__init__("model")
            self.loc = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                if torch.is_grad_enabled():
                    self.fallen = (z[:, 0] > 1.2).nonzero().flatten()
                loc = torch.where(z[:, :1] > 1.2, 1e30, self.loc)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    model = Cliff()
    with pytest.raises(FloatingPointError, match="'x'") as error:
        quiet(ELBO()(model, Prior("guide")), data(), epochs=1, batch_size=16, seed=6)
    fallen = epoch_order(70, 6, 0)[:16][model.fallen].tolist()
    assert 1 < len(fallen) <= 5
    assert str(error.value).endswith(f"in rows {', '.join(map(str, fallen))}")


def test_a_non_finite_latent_is_named_and_the_checkpoint_survives(tmp_path):
    class Exploding(Guide):
        calls = 0

        def forward(self, x):
            if torch.is_grad_enabled():
                self.calls += 1
            loc = self.encoder(x)[:, :2] * (math.inf if self.calls > 8 else 1.0)
            with pyro.plate("data", len(x)):
                return pyro.sample("z", dist.Normal(loc, 1.0, validate_args=False).to_event(1))

    with pytest.raises(FloatingPointError, match=r"epoch 2, step 8 .*'z'.*last good checkpoint .*epoch 1, step 5"):
        quiet(ELBO()(Model(), Exploding()), data(), epochs=3, batch_size=16, out=tmp_path)
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    assert checkpoint["progress"]["epoch"] == 1
    assert all(t.isfinite().all() for t in checkpoint["loss"].values())


def test_a_non_finite_gradient_is_never_saved(tmp_path):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return (x.sum() * 0 + self.scale * self.scale).sqrt()  # value 0, gradient 0/0

    for length in ({"epochs": 1}, {"epochs": 2}, {"steps": 1}):
        with pytest.raises(FloatingPointError, match=r"parameters became NaN .* scale"):
            quiet(Root(), data(), batch_size=70, out=tmp_path, **length)
        assert not (tmp_path / "last.pt").exists()


# ---- bad input, bad files, bad disks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": None}, "either steps or epochs"),
        ({"steps": 3}, "either steps or epochs"),
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"epochs": None, "steps": 0}, "steps must be"),
        ({"epochs": 1.5}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 71}, "batch_size 71 .* 70 rows"),
        ({"clip": -1.0}, "clip must be"),
        ({"clip": math.nan}, "clip must be"),
        ({"seed": -1}, "seed must be"),
        ({"patience": 2}, "give validation="),
        ({"patience": 0, "validation": torch.zeros(3, 4)}, "patience must be"),
        ({"resume": True}, "give out="),
        ({"tensorboard": True}, "give out="),
        ({"data": torch.zeros(0, 4)}, "data is empty"),
        ({"data": (torch.zeros(5, 4), torch.zeros(4))}, r"equal lengths, got \[5, 4\]"),
        ({"data": torch.zeros(70, 4).index_fill(0, torch.tensor([3, 9]), math.nan)}, "data: NaN .* 2 of 70 rows: 3, 9"),
        ({"data": torch.full((70, 4), math.inf)}, "70 of 70 rows: 0, 1, 2, 3, 4 and 65 more"),
        ({"validation": torch.full((7, 4), math.nan)}, "validation: NaN"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(change, message, tmp_path):
    loss = pair()
    options = {"data": data(), "epochs": 1, "batch_size": 16, **change}
    with pytest.raises(ValueError, match=message):
        quiet(loss, options.pop("data"), **options)
    assert same(loss, pair())


def test_data_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"data must be a tensor, an array or a table, .* got set"):
        quiet(pair(), {1.0}, epochs=1)
    with pytest.raises(ValueError, match="without axes"):
        quiet(nn.Linear(4, 4), data(), epochs=1, batch_size=16)
    with pytest.raises(ValueError, match="no parameter"):
        quiet(pair().requires_grad_(False), data(), epochs=1, batch_size=16)


def test_resuming_with_other_settings_says_which(tmp_path):
    loss = pair(Tempered(ELBO(), 0.5))
    quiet(loss, data(), epochs=2, batch_size=32, out=tmp_path)
    adam = functools.partial(torch.optim.Adam, lr=1e-2, fused=True)
    with pytest.raises(ValueError, match="batch_size: 32, 64") as error:
        quiet(pair(Tempered(ELBO(), 0.7)), data(), epochs=4, batch_size=64, optimizer=adam, out=tmp_path, resume=True)
    assert "objective.kl_weight: 0.5, 0.7" in str(error.value)
    assert "optimizer.groups" in str(error.value)
    assert "seed" not in str(error.value)
    with pytest.raises(ValueError, match="already at step 6"):
        quiet(pair(Tempered(ELBO(), 0.5)), data(), epochs=1, batch_size=32, out=tmp_path, resume=True)
    assert quiet(loss, data(), epochs=3, batch_size=32, out=tmp_path, resume=True).epochs == 3


def damaged(content):
    middle = len(content) // 2
    return content[:middle] + bytes(255 - b for b in content[middle : middle + 40]) + content[middle + 40 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"hello", "no zip archive"),
        (lambda content: b"", "no zip archive"),
        (lambda content: content[: len(content) // 2], "no zip archive"),
        (damaged, "damaged|cannot be read"),
    ],
    ids=["foreign", "empty", "cut off", "damaged"],
)
def test_a_corrupt_checkpoint_is_named(change, message, tmp_path):
    quiet(pair(), data(), epochs=1, batch_size=32, out=tmp_path)
    (tmp_path / "last.pt").write_bytes(change((tmp_path / "last.pt").read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        quiet(pair(), data(), epochs=2, batch_size=32, out=tmp_path, resume=True)
    assert str(tmp_path / "last.pt") in str(error.value)


def test_a_foreign_checkpoint_is_named(tmp_path):
    torch.save({"loss": {}, "epoch": 3}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt: not a checkpoint of zoo.infer.fit, it lacks .*optimizer"):
        quiet(pair(), data(), epochs=2, batch_size=32, out=tmp_path, resume=True)
    quiet(ELBO()(Model(5), Guide(5)), torch.zeros(40, 5), epochs=1, batch_size=32, out=tmp_path)
    with pytest.raises(ValueError, match=r"model.decoder.4.weight: \[5, 8\], \[4, 8\]"):
        quiet(pair(), data(), epochs=2, batch_size=32, out=tmp_path, resume=True)


def test_models_are_saved_and_loaded_whole(tmp_path):
    loss, other = pair(seed=1), pair(seed=2)
    save_model(loss, tmp_path / "model.safetensors")
    load_model(other, tmp_path)
    assert same(loss, other)
    with pytest.raises(ValueError, match=r"guide.encoder.weight: \[4, 4\], \[4, 5\]"):
        load_model(ELBO()(Model(5), Guide(5)), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_model(other, tmp_path)
    with pytest.raises(FileNotFoundError):
        load_model(other, tmp_path / "nowhere.safetensors")
    loss.guide.encoder.weight = loss.model.decoder[0].weight = nn.Parameter(torch.zeros(2))
    save_model(loss, tmp_path / "model.safetensors")  # shared by both


def test_a_folder_that_cannot_be_made_or_written_shows_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="cannot create the output folder"):
            quiet(pair(), data(), epochs=1, batch_size=32, out=path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    loss = pair()
    with pytest.raises(OSError, match=r"cannot write to the output folder.*No space left") as error:
        quiet(loss, data(), epochs=1, batch_size=32, out=tmp_path / "full")
    assert error.value.errno == 28
    assert same(loss, pair())
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "last.pt"])
def test_a_disk_that_fills_up_loses_nothing(name, tmp_path, monkeypatch):
    replace, count = os.replace, []

    def full_later(source, target):
        count.append(os.path.basename(target))
        if count.count(name) == 3:
            raise OSError(28, "No space left on device")
        return replace(source, target)

    loss, straight, resumed = pair(), pair(), pair()
    monkeypatch.setattr(os, "replace", full_later)
    last = r"last good checkpoint is .*last.pt \(epoch 2, step 6\)"
    with pytest.raises(OSError, match=rf"No space left.*{last}.*save_model"):
        quiet(loss, data(), epochs=4, batch_size=32, out=tmp_path)
    monkeypatch.undo()
    quiet(straight, data(), epochs=3, batch_size=32)
    assert same(loss, straight)  # in memory
    quiet(resumed, data(), epochs=3, batch_size=32, out=tmp_path, resume=True)
    assert same(resumed, straight)  # from the disk
    assert [r["epoch"] for r in lines(tmp_path)] == [1, 2, 3]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_configuration_is_strict_json(tmp_path):
    quiet(pair(ELBO(analytic_kl=True)), data(), epochs=1, batch_size=32, out=tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    config = json.loads((tmp_path / "config.json").read_text(), parse_constant=refuse)
    objective = {"class": "ELBO", "num_particles": 1, "analytic_kl": True, "sticking": False}
    assert config["settings"]["objective"] == objective
    assert config["parameters"]["guide.encoder.weight"] == [4, 4]
    assert config["versions"]["torch"] == torch.__version__


# ---- compiled losses


def smooth_pair(objective):
    """No noise but the latent's, which a test can fix by the seed."""
    torch.manual_seed(0)
    model = VAE(4, 2, (8,), activation=nn.Tanh)
    return objective(model, Amortized(model, hidden=(8,)))


def check_compiled(steps):
    eager, captured = (smooth_pair(Tempered(ELBO(), lambda step: (step + 1) / 10)) for _ in range(2))
    x = data(16).sigmoid().round()
    with torch.no_grad():
        captured(x)
    graph = compiled(captured, x)
    assert [name for name, _ in graph.named_parameters()] == [f"loss.{name}" for name, _ in captured.named_parameters()]
    assert captured.elbo.step == 0  # capturing is no step
    for seed in range(steps):  # the weight moves on, and new noise is drawn each time
        gradients = []
        for loss in (eager, graph):
            loss.zero_grad()
            torch.manual_seed(seed)
            value = loss(x)
            value.backward()
            gradients.append([value.detach(), *(p.grad.clone() for p in loss.parameters())])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert captured.elbo.step == steps
    torch.manual_seed(9)
    short = graph(x[:5])
    torch.manual_seed(9)
    eager(x)  # keep the schedules together
    eager.elbo.step = steps
    torch.manual_seed(9)
    torch.testing.assert_close(short, eager(x[:5]), rtol=0, atol=0)  # another shape: not by the graph
    return eager


@pytest.mark.thorough
def test_captured_graph_has_the_gradients_of_the_loss(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    check_compiled(steps=3)
    loss, twin, x = smooth_pair(ELBO()), smooth_pair(ELBO()), data().sigmoid().round()
    quiet(loss, x, epochs=2, batch_size=16, compile=True)
    quiet(twin, x, epochs=2, batch_size=16)
    for p, q in zip(loss.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_a_captured_graph_keeps_constant_what_is_computed_under_no_grad(monkeypatch):
    """A graph has no gradient mode, so a constant of the program would be differentiated, silently."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)

    class Scaled(PyroModule):
        """p(z) N(x; z / |w|, 1), |w| held constant."""

        data_dim, latent_dim = 2, 2

        def __init__(self):
            super().__init__("model")
            self.w = nn.Parameter(torch.tensor([1.0, 2.0]))

        def forward(self, x):
            with torch.no_grad():
                size = (self.w * self.w).sum().sqrt()
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.w * z / size, 1.0).to_event(1), obs=x)

    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(6, 2)
    loss = ELBO()(model, Amortized(model, hidden=(4,)))
    loss(x)
    gradients = []
    for call in (loss, compiled(loss, x)):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(call(x), list(loss.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's compiler uses it itself
def test_compiled_graph_has_the_gradients_of_the_loss():
    with torch._inductor.config.patch(fallback_random=True):
        check_compiled(steps=3)


def test_a_step_counts_denormal_numbers_as_0_and_callbacks_do_not():
    """Adam's means of gradients that are 0 would become denormal, and stay so: slow, and of no effect."""
    seen = {"loss": [], "callback": []}
    weight = nn.Parameter(torch.ones(3))

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            seen["loss"].append((torch.tensor(1e-38) * 0.1).item())
            # of the first entry the gradient is 0 from the second step on
            first = 0 if len(seen["loss"]) < 2 else 1
            return (x * self.weight)[:, first:].square().sum()

    class Look:
        def started(self, now):
            pass

        def stepped(self, now):
            seen["callback"].append((torch.tensor(1e-38) * 0.1).item())
            seen["mean"] = now.optimizer.state[weight]["exp_avg"][0].item()

        def epoch_ended(self, now):
            pass

    fit(Loss(), torch.ones(4, 3), steps=1200, batch_size=4, callbacks=[Look()], progress=False)
    assert seen["mean"] == 0.0
    assert set(seen["loss"][-1000:]) == {0.0}
    assert 0.0 not in seen["callback"]
