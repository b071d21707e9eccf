"""Callbacks: when they are called, what they may do to a training, and what is kept of them."""

import collections
import copy
import functools
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from guides import Amortized
from zoo import VAE
from zoo.infer import ELBO, fit

quiet = functools.partial(fit, progress=False)
X = torch.randn(70, 4, generator=torch.Generator().manual_seed(3)).sigmoid().round()


def pair():
    torch.manual_seed(1)
    model = VAE(4, 2, (8,))
    return ELBO()(model, Amortized(model, hidden=(8,)))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class Calls:
    """Notes each call, and answers as it is told to."""

    def __init__(self, **answers):
        self.answers, self.seen = answers, []

    def started(self, now):
        return self.note("started", now)

    def stepped(self, now):
        return self.note("stepped", now)

    def epoch_ended(self, now):
        return self.note("epoch_ended", now)

    def note(self, name, now):
        assert not torch.is_grad_enabled()
        assert (name == "epoch_ended") == (now.record is not None)
        if name != "stepped":
            assert not now.loss.training
        self.seen.append((name, now.epoch, now.step))
        answer = self.answers.get(name)
        return answer(now) if callable(answer) else answer


def test_callbacks_are_called_at_the_start_after_each_step_and_after_each_epoch(tmp_path):
    calls, moments = Calls(epoch_ended=lambda now: moments.append(now)), []
    result = quiet(pair(), X, epochs=2, batch_size=32, out=tmp_path, callbacks=[calls])
    steps = [[("stepped", epoch, 3 * epoch + step) for step in (1, 2, 3)] for epoch in (0, 1)]
    assert calls.seen == [
        ("started", 0, 0), *steps[0], ("epoch_ended", 1, 3), *steps[1], ("epoch_ended", 2, 6)
    ]  # fmt: skip
    assert [now.record for now in moments] == result.history
    assert json.loads((tmp_path / "config.json").read_text())["run"]["callbacks"] == ["Calls"]
    assert all((now.total, now.writes, now.folder) == (6, True, tmp_path) for now in moments)


def test_noise_and_modes_of_a_callback_leave_the_training_as_it_is():
    loss, twin = pair(), pair()
    before = torch.get_rng_state()
    noisy = Calls(**{name: lambda now: torch.randn(3).sum() > 1e9 for name in ("started", "stepped", "epoch_ended")})
    quiet(loss, X, epochs=2, batch_size=32, callbacks=[noisy])
    quiet(twin, X, epochs=2, batch_size=32)
    assert same(loss, twin)
    assert loss.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ({"started": True}, (0, 0, [])),
        ({"stepped": lambda now: now.step == 4}, (1, 4, [3, 4])),
        ({"stepped": lambda now: now.step == 3}, (1, 3, [3])),
        ({"epoch_ended": lambda now: now.epoch == 2}, (2, 6, [3, 6])),
    ],
    ids=["started", "within an epoch", "at its last step", "epoch_ended"],
)
def test_a_callback_may_end_the_training(answers, end, tmp_path):
    loss = pair()
    result = quiet(loss, X, epochs=9, batch_size=32, out=tmp_path, callbacks=[Calls(), Calls(**answers)])
    assert (result.epochs, result.step, [record["step"] for record in result.history]) == end
    assert not result.interrupted
    twin = pair()
    quiet(twin, X, epochs=4, batch_size=32, out=tmp_path, resume=True)
    straight = pair()
    quiet(straight, X, epochs=4, batch_size=32)
    assert same(twin, straight)


@pytest.mark.parametrize(("name", "step"), [("epoch_ended", 6), ("stepped", 6), ("stepped", 4)])
def test_an_error_of_a_callback_loses_no_step(name, step, tmp_path):
    def fail(now):
        if now.step == step:
            raise KeyError("pictures")

    with pytest.raises(KeyError, match="pictures") as error:
        quiet(pair(), X, epochs=3, batch_size=32, out=tmp_path, callbacks=[Calls(**{name: fail})])
    assert error.value.__notes__ == [f"Raised by a callback after step {step}; the training is saved up to there."]
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["step"] == step
    resumed, straight = pair(), pair()
    quiet(resumed, X, epochs=3, batch_size=32, out=tmp_path, resume=True)
    history = quiet(straight, X, epochs=3, batch_size=32).history
    assert same(resumed, straight)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(history) == 3


@pytest.mark.parametrize("name", ["stepped", "epoch_ended"])
@pytest.mark.parametrize("end", [lambda now: sys.exit("no time left"), lambda now: torch.ones(2)])
def test_whatever_ends_a_callback_loses_no_step_and_no_call_of_the_others(end, name, tmp_path):
    failing, after = Calls(**{name: lambda now: now.step == 3 and end(now)}), Counting()
    with pytest.raises((SystemExit, RuntimeError)):
        quiet(pair(), X, epochs=3, batch_size=32, out=tmp_path, callbacks=[failing, after])
    assert after.seen[-1] == ("epoch_ended", 1, 3)
    resumed, straight, counting = pair(), pair(), Counting()
    quiet(resumed, X, epochs=3, batch_size=32, out=tmp_path, resume=True, callbacks=[counting])
    quiet(straight, X, epochs=3, batch_size=32)
    assert same(resumed, straight)
    assert counting.count == 9


def test_a_callback_has_a_record_of_its_own(tmp_path):
    def add(now):
        now.record["picture"] = torch.ones(2)
        now.record["kl"].clear()

    history = quiet(pair(), X, epochs=1, batch_size=32, out=tmp_path, callbacks=[Calls(epoch_ended=add)]).history
    assert "picture" not in history[0]
    assert history[0]["kl"].keys() == {"z"}


def test_an_error_at_the_start_is_raised_there(tmp_path):
    def fail(now):
        raise KeyError("login")

    with pytest.raises(KeyError, match="login"):
        quiet(pair(), X, epochs=1, batch_size=32, callbacks=[Calls(started=fail)])


class Counting(Calls):
    """A callback with a state: the number of steps it has seen."""

    count = 0

    def stepped(self, now):
        self.count += 1

    def epoch_ended(self, now):
        self.note("epoch_ended", now)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_the_state_of_a_callback_is_resumed(tmp_path):
    first, second = Counting(), Counting()
    quiet(pair(), X, epochs=1, batch_size=32, out=tmp_path, callbacks=[first, second])
    first.count = second.count = -100  # all must come from the file
    options = {"epochs": 3, "batch_size": 32, "out": tmp_path, "resume": True}
    quiet(pair(), X, callbacks=[Calls(), first, second, late := Counting()], **options)
    assert (first.count, second.count, late.count) == (9, 9, 6)
    with pytest.raises(ValueError, match=r"last.pt: holds the state of the callback Counting 1, which is not among"):
        quiet(pair(), X, callbacks=[Calls()], **options | {"epochs": 4})


class Remembering(Calls):
    """A callback with a state that the caller chooses."""

    state = None

    def state_dict(self):
        return self.state() if callable(self.state) else {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (np.float64(1.5), 1.5),
        ({"best": [np.float32(0.5), (np.int64(3), True)]}, {"best": [0.5, (3, True)]}),
        (collections.Counter("aab"), collections.Counter("aab")),
    ],
)
def test_numbers_of_numpy_are_numbers(state, expected, tmp_path):
    first, second = Remembering(), Remembering()
    first.answers["stepped"] = lambda now: setattr(first, "state", state)
    quiet(pair(), X, epochs=1, batch_size=32, out=tmp_path, callbacks=[first])
    quiet(pair(), X, epochs=2, batch_size=32, out=tmp_path, callbacks=[second], resume=True)
    assert second.state == expected


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (collections.deque([1]), ValueError, r"callback Remembering 1: .* because of collections\.deque; expected"),
        (lambda: {"state": lambda: 0}, ValueError, r"callback Remembering 1: its state cannot be saved \("),
        (lambda: {}["figure"], KeyError, "figure"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_a_state_that_cannot_be_saved_loses_no_step(state, kind, message, early, tmp_path):
    """Such a state is found at the start, or as soon as there is one: all else of the training is saved."""
    first, counting = Remembering(), Counting()
    if early:
        first.state = state
    else:
        first.answers["stepped"] = lambda now: setattr(first, "state", state)
    with pytest.raises(kind, match=message):
        quiet(pair(), X, epochs=2, batch_size=32, out=tmp_path, callbacks=[first, counting])
    assert (tmp_path / "last.pt").exists() != early
    resumed, straight, again = pair(), pair(), Counting()
    quiet(resumed, X, epochs=2, batch_size=32, out=tmp_path, callbacks=[again], resume=True)
    quiet(straight, X, epochs=2, batch_size=32)
    assert same(resumed, straight)
    assert again.count == 6


def test_a_checkpoint_from_before_callbacks_and_averages_goes_on(tmp_path):
    straight, resumed = pair(), pair()
    quiet(straight, X, epochs=2, batch_size=32)
    quiet(pair(), X, epochs=1, batch_size=32, out=tmp_path)
    checkpoint = torch.load(tmp_path / "last.pt", weights_only=True)
    assert not {"average", "groups", "drop_last"} & checkpoint["settings"].keys()
    assert checkpoint["settings"]["schedule"] is None
    del checkpoint["average"], checkpoint["ranks"][0]["callbacks"]
    torch.save(checkpoint, tmp_path / "last.pt")
    quiet(resumed, X, epochs=2, batch_size=32, out=tmp_path, resume=True, callbacks=[Counting()])
    assert same(straight, resumed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Calls(), "got Calls"),
        ([Calls(), nn.Linear(1, 1)], "number 1 is a Linear"),
        ([Calls], "number 0 is the class Calls itself"),
        ([print], "number 0 is a builtin_function_or_method"),
    ],
)
def test_other_things_are_no_callbacks(given, message):
    loss = pair()
    before = copy.deepcopy(loss)
    with pytest.raises(TypeError, match=rf"callbacks: expected a list of objects with the methods .*{message}"):
        quiet(loss, X, epochs=1, batch_size=32, callbacks=given)
    assert same(loss, before)
