"""`fit` on sequences: buckets, streams whose state is carried and saved, what is refused."""

import copy
from dataclasses import replace
from functools import partial

import pyro
import pytest
import torch
from torch import Tensor, nn

import guides
from zoo import DMM, SRNN
from zoo.data import Buckets, Sequences, Streams, load
from zoo.infer import ELBO, IWELBO, Tempered, fit
from zoo.parts.conditionals import Normal


class Sum(nn.Module):
    """A stand-in: x_t ~ N(w z_t + v m, 1), m the mean of all earlier chunks' frames and draws: what it carries."""

    carries = True

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.3))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, u=None, mask=None, carry=None) -> None:
        self.seen.append(None if carry is None else carry[0].clone())
        m = x.new_zeros(len(x)) if carry is None else carry[0]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros_like(x), 1.0).to_event(2))
            loc = self.w * z + self.v * m[:, None, None]
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0).to_event(2), obs=x)

    def carry_on(self, z: Tensor, x: Tensor, u=None, mask=None, carry=None) -> tuple[Tensor, Tensor]:
        m, count = (x.new_zeros(len(x)), x.new_zeros(len(x))) if carry is None else carry
        return (m * count + (self.w * z + x).mean((1, 2))) / (count + 1), count + 1


class Guess(nn.Module):
    """q(z | x, carry), which draws from the carried state too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.2))

    def forward(self, x: Tensor, u=None, mask=None, carry=None) -> None:
        m = x.new_zeros(len(x)) if carry is None else carry[0]
        with pyro.plate("data", len(x)):
            loc = self.a * x + self.b * m[:, None, None]
            pyro.sample("z", pyro.distributions.Normal(loc, 0.7).to_event(2))


def chunks(num: int = 8, seed: int = 0) -> Sequences:
    frames = torch.randn(num * 5, 2, generator=torch.Generator().manual_seed(seed)) + 1
    return Sequences(frames, torch.full((num,), 5), ("a", "b"))


def pair(objective=None) -> nn.Module:
    torch.manual_seed(0)
    return (objective or ELBO())(Sum(), Guess())


def srnn_pair() -> tuple[nn.Module, Streams, Streams]:
    torch.manual_seed(0)
    model = SRNN(4, 2, recurrent=5, hidden=(6,))
    guide = guides.Smoother(model, family=guides.Residual, hidden=(6,), recurrent=4)
    bits = (torch.rand(26 * 8, 4, generator=torch.Generator().manual_seed(1)) < 0.4).to(torch.uint8)
    songs = Sequences(bits, torch.tensor([100, 60, 48]), tuple("abcd"), num_levels=2)
    loss = Tempered(ELBO(analytic_kl=True), kl_weight=lambda step: min(1.0, 0.2 + step / 10))(model, guide)
    return loss, Streams.joined(songs, num=2, length=10), Streams.joined(songs[:2], num=2, length=10)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


OPTIONS = {"batch_size": 2, "progress": False, "seed": 3}


# Carried state


@pytest.mark.parametrize("objective", [ELBO(), ELBO(2), IWELBO(3), Tempered(ELBO(analytic_kl=True), 0.5)])
def test_each_chunk_starts_from_the_state_of_the_last(objective):
    """The carries that the model sees in training: none at the start of an epoch, then means of the earlier chunks."""
    loss = pair(objective)
    begun = []
    step = torch.optim.SGD.step

    class Watched(torch.optim.SGD):
        def step(self, *args, **kwargs):
            begun.append(loss.model.seen[-1])  # the training's own run is the latest
            return step(self, *args, **kwargs)

    fit(loss, Streams(chunks(), num=2), epochs=2, optimizer=lambda p: Watched(p, lr=0.0), **OPTIONS)
    for epoch in (begun[:4], begun[4:]):
        assert epoch[0] is None
        assert all(carry is not None and carry.shape == (2,) and not carry.requires_grad for carry in epoch[1:])
    x, w = chunks().values.mean((1, 2)), loss.model.w.item()
    for number in (1, 2, 3):
        drawn = begun[number] - torch.stack([x[: 2 * number][s::2].mean() for s in range(2)])
        assert drawn.abs().max() < 4.5 * w * 1.5, "x's part is exact; z's is noise of scale w"
        assert drawn.abs().min() > 0


def test_the_loss_of_a_step_is_that_of_its_chunk_given_the_carry():
    """The whole epoch by hand: the same noise, the state carried by the same rule, detached."""
    loss = pair()
    other = copy.deepcopy(loss)
    rows = Streams(chunks(), num=2)
    fit(loss, rows, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **OPTIONS)
    pyro.set_rng_seed(3)
    carry, optimizer = None, torch.optim.SGD(other.parameters(), lr=0.1)
    for index in rows.batches(2, 0, 0):
        args = rows.batch(index, torch.Generator())
        noise = torch.get_rng_state()
        value = other(*args, **({} if carry is None else {"carry": carry})) / 2
        after = torch.get_rng_state()
        torch.set_rng_state(noise)
        m = torch.zeros(2) if carry is None else carry[0]
        with torch.no_grad():
            z = (
                torch.normal(torch.zeros(2, 5, 2), 1.0) * 0.7
                + other.guide.a * args[0]
                + other.guide.b * m[:, None, None]
            )
            carry = other.model.carry_on(z, *args, carry=carry)
        torch.set_rng_state(after)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for one, two in zip(loss.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("stop", "make"),
    [(3, "stand-in"), (4, "stand-in"), (6, "stand-in"), (4, "srnn"),
     *(pytest.param(stop, "srnn", marks=pytest.mark.thorough) for stop in (3, 6))],
)  # fmt: skip
def test_resumed_in_an_epoch_or_between_two_it_is_bit_equal(make, stop, tmp_path):
    def build():
        if make == "srnn":
            return srnn_pair()
        return pair(), Streams(chunks(), num=2), Streams(chunks(4, seed=1), num=2)

    loss, rows, held_out = build()
    total = 2 * len(rows.batches(2, 0, 0)) + 1
    straight = fit(loss, rows, validation=held_out, steps=total, out=tmp_path / "a", **OPTIONS)
    again, _, _ = build()
    fit(again, rows, validation=held_out, steps=stop, out=tmp_path / "b", **OPTIONS)
    last, _, _ = build()
    resumed = fit(last, rows, validation=held_out, steps=total, out=tmp_path / "b", resume=True, **OPTIONS)
    checkpoints = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in "ab"]
    for name, value in checkpoints[0]["loss"].items():
        assert torch.equal(value, checkpoints[1]["loss"][name]), name
    carries = [checkpoint["ranks"][0]["carry"] for checkpoint in checkpoints]
    assert carries[0]
    assert all(torch.equal(a, b) for a, b in zip(*carries, strict=True))
    assert straight.history[-1]["validation"] == resumed.history[-1]["validation"]


def test_the_carried_state_is_part_of_a_resumed_training(tmp_path):
    """Without it the resumed training is another one: so that the test above can fail."""
    rows = Streams(chunks(), num=2)
    loss = pair()
    fit(loss, rows, steps=6, out=tmp_path / "a", **OPTIONS)
    again = pair()
    fit(again, rows, steps=3, out=tmp_path / "b", **OPTIONS)
    checkpoint = torch.load(tmp_path / "b" / "last.pt", weights_only=True)
    checkpoint["ranks"][0]["carry"] = [torch.zeros_like(t) for t in checkpoint["ranks"][0]["carry"]]
    torch.save(checkpoint, tmp_path / "b" / "last.pt")
    fit(again, rows, steps=6, out=tmp_path / "b", resume=True, **OPTIONS)
    assert not same(loss, again)


def test_validation_carries_a_state_of_its_own():
    """Its value depends on nothing but the parameters: the same before and after an epoch without learning."""
    loss = pair()
    held_out = Streams(chunks(6, seed=1), num=2)
    done = fit(loss, Streams(chunks(), num=2), validation=held_out, epochs=3,
               optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **OPTIONS)  # fmt: skip
    assert len({record["validation"] for record in done.history}) == 1
    apart = fit(pair(), Streams(chunks(), num=2), validation=Buckets(chunks(6, seed=1), multiple=1), epochs=1,
                optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **OPTIONS)  # fmt: skip
    assert apart.history[0]["validation"] != done.history[0]["validation"]


def test_known_first_frames_are_given_to_the_model():
    """x_0 of the chunks enters d_1, so that another x_0 gives another loss from the first epoch on."""
    losses = []
    for flipped in (False, True):
        loss, rows, _ = srnn_pair()
        if flipped:
            rows.sequences.first[:2] = 1 - rows.sequences.first[:2]
        losses.append(fit(loss, rows, steps=1, **OPTIONS).history[0]["train"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("rows", [Buckets, partial(Streams, num=2)])
def test_the_state_before_a_known_first_frame_is_learned(rows):
    for model in (DMM(2, 2, hidden=(4,), likelihood=Normal), SRNN(2, 2, recurrent=3, hidden=(4,), likelihood=Normal)):
        loss = ELBO()(model, guides.Smoother(model, hidden=(4,), recurrent=3))
        fit(loss, rows(replace(chunks(), first=torch.randn(8, 2))), epochs=1, **OPTIONS)
        assert (model.z_0 != 0).all()
        assert isinstance(model, DMM) or (model.d_0 != 0).all()


# Buckets


@pytest.mark.thorough
@pytest.mark.parametrize("analytic", [False, True])
def test_a_dmm_learns_from_buckets(analytic):
    torch.manual_seed(0)
    data = load("cadences")
    model = DMM(88, 4, hidden=(16,), transition_hidden=(8,))
    guide = guides.Smoother(model, hidden=(16,), recurrent=8)
    done = fit(
        ELBO(analytic_kl=analytic)(model, guide), Buckets(data.train[:60].cut(20)), batch_size=10, epochs=6,
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2), validation=Buckets(data.valid[:20].cut(20)), clip=50.0,
        progress=False,
    )  # fmt: skip
    assert done.history[-1]["train"] < 0.6 * done.history[0]["train"]
    assert done.history[-1]["validation"] < 0.9 * done.history[0]["validation"]


def test_buckets_resume_bit_equal(tmp_path):
    def build():
        torch.manual_seed(0)
        model = SRNN(88, 3, recurrent=4, hidden=(5,))
        return ELBO()(model, guides.Filter(model, hidden=(5,), recurrent=4))

    rows = Buckets(load("cadences").train[:13].cut(15))
    one, other = build(), build()
    fit(one, rows, steps=9, **OPTIONS, out=tmp_path / "a")
    fit(other, rows, steps=4, **OPTIONS, out=tmp_path / "b")
    fit(other, rows, steps=9, **OPTIONS, out=tmp_path / "b", resume=True)
    assert same(one, other)


# Bad input


def test_nan_under_a_mask_does_not_matter_and_outside_it_is_named():
    x, mask = torch.randn(6, 5, 2), torch.arange(5) < torch.tensor([5, 3, 4, 5, 1, 2])[:, None]
    results = []
    for hidden in (0.0, float("nan")):
        torch.manual_seed(0)
        model = SRNN(2, 2, recurrent=3, hidden=(4,), likelihood=Normal)
        loss = ELBO()(model, guides.Smoother(model, hidden=(4,), recurrent=3))
        fit(loss, (x.masked_fill(~mask[..., None], hidden), None, mask), steps=4, **OPTIONS)
        results.append(loss)
    assert same(*results)
    wrong = x.clone()
    wrong[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"data: x: NaN or infinite in 1 observed frames.*sequence 3, frame 2"):
        fit(loss, (wrong, None, mask), steps=4, **OPTIONS)
    with pytest.raises(ValueError, match=r"NaN or infinite values in 1 of 6 rows: 3; the first is sequence 3, frame 2"):
        fit(loss, wrong, steps=4, **OPTIONS)
    with pytest.raises(ValueError, match=r"mask: expected torch\.bool"):
        fit(loss, (x, None, mask[:, :4]), steps=4, **OPTIONS)


def test_rows_outside_the_support_are_named_as_the_caller_counts_them():
    data = load("cadences").train[:12]
    frames = data.frames.float()
    wrong = int(data.lengths[:7].sum()) + 2
    frames[wrong, 5] = 0.5
    model = DMM(88, 3, hidden=(5,), transition_hidden=(5,))
    loss = ELBO()(model, guides.Filter(model, hidden=(5,), recurrent=4))
    with pytest.raises(ValueError, match=r"data: .*rows 7 "):
        fit(loss, Buckets(Sequences(frames, data.lengths, data.columns)), epochs=1, batch_size=4, progress=False)
    x = torch.zeros(5, 3, 88)
    for row in range(5):  # of the very first batch too
        for value, said in ((0.5, rf"data: .*rows {row} "), (float("nan"), f"data: .*sequence {row}, frame 1")):
            wrong = x.clone()
            wrong[row, 1] = value
            with pytest.raises(ValueError, match=said):
                fit(loss, (wrong, None, torch.ones(5, 3, dtype=torch.bool)), epochs=1, batch_size=2, progress=False)


def test_streams_need_a_model_that_carries_and_batches_of_their_number():
    rows = Streams(chunks(), num=2)
    with pytest.raises(ValueError, match="batch_size 4: these are 2 parallel streams"):
        fit(pair(), rows, epochs=1, batch_size=4, progress=False)
    with pytest.raises(ValueError, match="batch_size 2: these are 4 parallel streams"):
        fit(pair(), rows, epochs=1, batch_size=2, validation=Streams(chunks(), num=4), progress=False)

    class Forgetful(Sum):
        carry_on = None

    with pytest.raises(ValueError, match="Forgetful carries no state"):
        fit(ELBO()(Forgetful(), Guess()), rows, epochs=1, **OPTIONS)


def test_no_graph_is_compiled_of_sequences():
    for rows in (Streams(chunks(), num=2), Buckets(chunks())):
        with pytest.raises(ValueError, match="compile: a graph has one shape"):
            fit(pair(), rows, epochs=1, compile=True, **OPTIONS)


def test_sequences_of_one_length_may_be_compiled(monkeypatch):
    seen = []
    monkeypatch.setattr("zoo.infer.training.prepare.compiled", lambda loss, *args: seen.append(args) or loss)
    fit(pair(), chunks(), epochs=1, compile=True, **OPTIONS)
    [(x, u, mask)] = seen
    assert (x.shape, u, mask) == ((2, 5, 2), None, None)


def test_a_state_that_is_no_tensor_cannot_be_carried():
    class Strange(Sum):
        def carry_on(self, z, *args, **kwargs):
            return ("words",)

    with pytest.raises(ValueError, match="carry_on of Strange: expected tensors"):
        fit(ELBO()(Strange(), Guess()), Streams(chunks(), num=2), epochs=1, **OPTIONS)
