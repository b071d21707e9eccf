"""The exponential moving average of a training's parameters: its recursion, and where the averages go."""

import functools
import math
import signal

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from safetensors.torch import load_file
from torch import nn

from guides import Amortized
from zoo import VAE
from zoo.infer import ELBO, Tempered, fit
from zoo.infer.training import checkpoint
from zoo.infer.training.step.average import Average

quiet = functools.partial(fit, progress=False)
sgd = functools.partial(torch.optim.SGD, lr=0.1)
X = torch.rand(70, 4, generator=torch.Generator().manual_seed(3)).round()


class Noting:
    """Notes the weights before the training and after each step, and those at the end of each epoch."""

    def __init__(self):
        self.weights, self.ends = [], []

    def started(self, now):
        self.weights.append(copy_of(now.loss))

    def stepped(self, now):
        self.weights.append(copy_of(now.loss))

    def epoch_ended(self, now):
        self.ends.append(copy_of(now.loss))


def copy_of(loss):
    return {name: value.clone() for name, value in loss.state_dict().items()}


def vae():
    torch.manual_seed(1)
    model = VAE(4, 2, (8,))
    return ELBO()(model, Amortized(model, hidden=(8,)))


def normed():
    loss = vae()
    loss.model.decoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 8))
    return loss


class Shared(PyroModule):
    """A guide with the model's first layer, and a row of its own for each datum."""

    def __init__(self, model):
        super().__init__("guide")
        self.layer, self.table = model.decoder, nn.Parameter(torch.zeros(70, 2))

    def forward(self, x, index=None):
        loc = self.table[index] + self.layer(self.table[index])[:, :2]
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def shared():
    torch.manual_seed(1)
    model = VAE(4, 2, (8,))
    return ELBO()(model, Shared(model))


def expected(weights, decay):
    """The recursion in double precision, of the weights after 0, 1, 2, ... steps."""
    average = {name: value.double() for name, value in weights[0].items()}
    for n, latest in enumerate(weights[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * value + (1 - d) * latest[name].double() for name, value in average.items()}
    return average


@pytest.mark.parametrize("make", [vae, normed, shared])
@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_averages_follow_their_recursion_and_change_no_step(make, decay, tmp_path):
    noting, loss, plain = Noting(), make(), make()
    quiet(loss, X, steps=7, batch_size=32, optimizer=sgd, average=decay, callbacks=[noting], out=tmp_path)
    quiet(plain, X, steps=7, batch_size=32, optimizer=sgd)
    found, averages = loss.state_dict(), expected(noting.weights, decay)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, noting.weights[-1][name]), "the averages have a say in the training"
        if value.is_floating_point():
            torch.testing.assert_close(found[name].double(), averages[name], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(found[name], value), "batches are counted, not averaged"
    assert all(torch.equal(value, found[name]) for name, value in load_file(tmp_path / "model.safetensors").items())
    assert all(torch.equal(value, found[name]) for name, value in noting.ends[-1].items())
    assert not all(torch.equal(found[name], value) for name, value in plain.state_dict().items())
    last = torch.load(tmp_path / "last.pt", weights_only=True)["loss"]
    assert all(torch.equal(last[name], value) for name, value in plain.state_dict().items())


class Parabola(nn.Module):
    """(w - 3)^2 / 2 for each datum, so that the validation loss tells w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        return len(x) * (self.w - 3).square() / 2


def test_the_averages_are_validated_and_the_best_of_them_kept():
    noting, loss = Noting(), Parabola()
    fast = functools.partial(torch.optim.SGD, lr=1.9)  # w jumps to and fro around 3, and its average stays near
    options = {"epochs": 6, "batch_size": 70, "validation": X, "average": 0.6, "callbacks": [noting]}
    result = quiet(loss, X, optimizer=fast, **options)
    averages = [expected(noting.weights[: n + 1], 0.6)["w"] for n in range(1, 7)]
    losses = [((w - 3).square() / 2).item() for w in averages]
    assert [record["validation"] for record in result.history] == pytest.approx(losses, rel=1e-12)
    best = min(range(6), key=losses.__getitem__)
    assert result.best["epoch"] == best + 1
    assert loss.w.item() == pytest.approx(averages[best].item(), rel=1e-12)


@pytest.mark.parametrize("interrupted", [False, True], ids=["ended", "interrupted"])
@pytest.mark.parametrize("validation", [None, X[:30]], ids=["latest", "best"])
def test_averages_resume_bit_equal(validation, interrupted, tmp_path):
    class Interrupting:
        def started(self, now): ...

        def stepped(self, now):
            if interrupted and now.step == 7:
                signal.raise_signal(signal.SIGINT)

        def epoch_ended(self, now): ...

    def run(out, epochs, callbacks=(), **options):
        torch.manual_seed(1)
        model = VAE(4, 2, (8,))
        loss = Tempered(ELBO(), lambda step: step / 20)(model, Amortized(model, hidden=(8,)))
        options |= {"average": 0.99, "batch_size": 16, "validation": validation, "out": tmp_path / out}
        return loss, quiet(loss, X, epochs=epochs, callbacks=callbacks, **options)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        first, part = run("parts", 4 if interrupted else 2, [Interrupting()])
    finally:
        signal.signal(signal.SIGINT, before)
    assert part.interrupted == interrupted
    kept = load_file(tmp_path / "parts" / "model.safetensors")
    assert validation is not None or all(torch.equal(value, kept[name]) for name, value in first.state_dict().items())
    resumed, _ = run("parts", 4, resume=True)
    straight, _ = run("straight", 4)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in resumed.state_dict().items())
    last = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("parts", "straight")]
    assert last[0]["average"]["num"] == last[1]["average"]["num"] == 20
    for name, value in last[0]["average"]["averages"].items():
        assert torch.equal(value, last[1]["average"]["averages"][name])
    with pytest.raises(ValueError, match=r"cannot resume with other settings .*average: 0\.99, absent"):
        quiet(vae(), X, epochs=9, batch_size=16, out=tmp_path / "parts", resume=True)


class Failing:
    """Raises an error after step 3."""

    def started(self, now): ...

    def stepped(self, now):
        if now.step == 3:
            raise KeyError("picture")

    def epoch_ended(self, now): ...


@pytest.mark.parametrize("kind", ["callback", "disk"])
def test_averages_are_given_after_an_error_too(kind, tmp_path, monkeypatch):
    """The error of a full disk tells the caller to save the loss; without a folder its weights are all there is."""
    loss, expected = vae(), vae()
    quiet(expected, X, steps=3, batch_size=20, average=0.9)
    options, error = {"callbacks": [Failing()]}, KeyError
    if kind == "disk":
        options, error = {"out": tmp_path, "steps": 3}, OSError
        monkeypatch.setattr(checkpoint, "save_model", full)
    with pytest.raises(error):
        quiet(loss, X, **{"steps": 9, "batch_size": 20, "average": 0.9} | options)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in loss.state_dict().items())


def full(*args):
    raise OSError(28, "No space left on device")


def test_a_buffer_that_came_down_from_infinity_goes_on_as_it_began(tmp_path):
    loss, straight = Least(), Least()
    quiet(loss, X, epochs=1, batch_size=35, average=0.9, out=tmp_path)
    assert loss.least.isfinite()
    quiet(loss, X, epochs=2, batch_size=35, average=0.9, out=tmp_path, resume=True)
    quiet(straight, X, epochs=2, batch_size=35, average=0.9)
    assert torch.equal(loss.w, straight.w)
    assert torch.equal(loss.least, straight.least)


class Least(nn.Module):
    """A loss that notes the least of its batches."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.register_buffer("least", torch.tensor(math.inf))

    def forward(self, x):
        self.least = torch.minimum(self.least, x.sum()) if self.training else self.least
        return (self.w - x).square().sum()


@pytest.mark.thorough
def test_a_compiled_graph_sees_the_weights_that_are_put_back(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    losses, histories = (vae(), vae()), []
    for loss, compile in zip(losses, (False, True), strict=True):
        options = {"epochs": 3, "batch_size": 32, "average": 0.9, "validation": X[:30], "compile": compile}
        histories.append(quiet(loss, X, optimizer=sgd, **options).history)
    for record, other in zip(*histories, strict=True):
        assert record["validation"] == pytest.approx(other["validation"], rel=1e-5)
        assert record["train"] == pytest.approx(other["train"], rel=1e-5)
    for p, q in zip(losses[0].parameters(), losses[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


class Kinds(nn.Module):
    """Parameters and buffers of every kind of number."""

    def __init__(self):
        super().__init__()
        self.short = nn.Parameter(torch.zeros(3, dtype=torch.float16))
        self.brain = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
        self.long_real = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.complex = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("counts", torch.zeros(3, dtype=torch.long))
        self.register_buffer("bounds", torch.tensor([-math.inf, 0.0, math.inf]))
        self.register_buffer("moving", torch.zeros(3))


def test_each_kind_of_number_is_averaged_as_it_can_be():
    loss = Kinds()
    average = Average(loss, 0.999)
    for step in range(1, 2001):
        with torch.no_grad():
            for p in (loss.short, loss.brain, loss.long_real, loss.complex, loss.frozen, loss.counts):
                p.fill_(step % 2)
        loss.moving = torch.full((3,), float(step % 2))  # a buffer that is replaced, and not written to
        average.update()
    exact = 0.0
    for n in range(1, 2001):
        d = min(0.999, (1 + n) / (10 + n))
        exact = d * exact + (1 - d) * (n % 2)
    # In half precision the sum would stop where a thousandth of 1/2 is less than the spacing, far from 1/2.
    with average.in_place():
        for name, spacing in (("short", 2.0**-11), ("brain", 2.0**-8), ("long_real", 1e-12), ("complex", 1e-4)):
            assert (getattr(loss, name) - exact).abs().max() <= spacing, name
        assert (loss.moving - exact).abs().max() < 1e-4
        assert torch.equal(loss.bounds, torch.tensor([-math.inf, 0.0, math.inf]))
        assert (loss.counts == 0).all()
        assert (loss.frozen == 0).all()
    assert (loss.long_real == 0).all()
    assert (loss.moving == 0).all()


def test_parameters_that_both_share_are_averaged_once():
    loss = shared()
    names = [name for name in Average(loss, 0.9).averages if "decoder" in name or "layer" in name]
    assert len(names) == len(list(loss.model.decoder.parameters()))


@pytest.mark.parametrize("average", [0, 1, 1.5, -0.1, math.nan, True, "0.9"])
def test_a_decay_is_a_number_between_0_and_1(average):
    with pytest.raises(ValueError, match=r"average must be a number between 0 and 1, such as 0\.999, got"):
        quiet(vae(), X, steps=1, batch_size=16, average=average)
