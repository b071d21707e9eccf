"""The averages a, b, c: exact where the posterior is, by hand elsewhere; conventions; bad input."""

from functools import partial

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from state_spaces import linear_gaussian
from torch import Tensor

import guides
from zoo import DMM, LGSSM, SRNN
from zoo.infer import ELBO, fit, log_likelihood, mask_of, sequence_log_likelihood, smc_log_likelihood, terms
from zoo.parts import kalman
from zoo.parts.conditionals import Normal
from zoo.parts.networks import Dropped

LENGTHS = torch.tensor([3, 9, 1, 6, 9])


def lgssm(dtype=torch.float64):
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = linear_gaussian()
    x, u = torch.randn(5, 9, 3), torch.randn(5, 9, 2)
    torch.set_default_dtype(torch.float32)
    return model, x, u, mask_of(LENGTHS, 9)


def srnn(lengths=LENGTHS, family=guides.Residual):
    torch.manual_seed(0)
    model = SRNN(4, 3, recurrent=5, hidden=(6,))
    guide = guides.Smoother(model, family=family, hidden=(6,), recurrent=5)
    x = (torch.rand(len(lengths), int(lengths.max()), 4) < 0.5).float()
    return model, guide, x, mask_of(lengths, x.shape[1])


@pytest.mark.parametrize("num_particles", [1, 2, 7])
@pytest.mark.parametrize("entries", [False, True])
def test_under_the_exact_posterior_every_bound_is_the_evidence(num_particles, entries):
    model, x, u, mask = lgssm()
    if entries:
        mask = mask.unsqueeze(-1) & (torch.rand(x.shape) < 0.8)
        mask[:, 0] = True
    x = x.masked_fill(~(mask if entries else mask.unsqueeze(-1)), float("nan"))
    found = sequence_log_likelihood(
        model, guides.Exact(model), x, u, mask, data="known LGSSM", num_particles=num_particles, batch_size=2
    )
    exact = model.log_prob(x, u, mask)
    frames = (mask.any(-1) if entries else mask).sum(1)
    assert torch.equal(found.frames, frames)
    assert torch.allclose(found.log_p, exact, rtol=0, atol=1e-9)
    assert torch.allclose(found.bound, exact, rtol=0, atol=1e-9)
    pooled, mean = -(exact.sum() / frames.sum()).item(), -(exact / frames).mean().item()
    assert abs(pooled - mean) > 0.01, "or a and c could be exchanged unseen"
    assert [found.a, found.b] == pytest.approx([pooled, pooled], abs=1e-9)
    assert found.c == pytest.approx(mean, abs=1e-9)
    assert found.per_sequence == pytest.approx([exact.mean().item()] * 2, abs=1e-9)
    if num_particles > 1:
        assert found.monte_carlo_error == pytest.approx(0, abs=1e-6)


def test_lengths_in_one_batch_or_many_and_padding_do_not_matter():
    """Each sequence alone, unpadded, has the value that it has in a padded batch: compared by Monte Carlo errors."""
    model, guide, x, mask = srnn()
    whole = sequence_log_likelihood(model, guide, x, None, mask, data="bits", num_particles=2000, seed=0)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = log_likelihood(model, guide, x[row : row + 1, :length], num_particles=2000, seed=row + 1)
        scale = (alone.elbo_error.square() + whole.bound_error[row].square()).sqrt()
        assert abs(alone.elbo - whole.bound[row]) < 4.5 * scale
        scale = (alone.per_datum_error.square() + whole.log_p_error[row].square()).sqrt()
        assert abs(alone.per_datum - whole.log_p[row]) < 4.5 * scale + 0.01  # the bias of a logarithm
    assert (whole.log_p > whole.bound).all()


def test_pieces_of_particles_add_up():
    model, guide, x, mask = srnn()
    options = {"data": "bits", "num_particles": 64, "seed": 3}
    big = sequence_log_likelihood(model, guide, x, None, mask, **options)
    small = sequence_log_likelihood(model, guide, x, None, mask, max_bytes=1, **options)
    scale = (big.bound_error.square() + small.bound_error.square()).sqrt()
    assert ((big.bound - small.bound).abs() < 4.5 * scale).all()
    assert big.num_particles == small.num_particles == 64
    again = sequence_log_likelihood(model, guide, x, None, mask, **options)
    assert torch.equal(again.log_p, big.log_p)


def test_errors_are_those_of_a_sample_of_sequences():
    """The standard error of the pooled ratio by the jackknife, an independent estimate of the same to order 1/N."""
    model, x, u, mask = lgssm()
    x, u, mask = (v.repeat(20, *[1] * (v.dim() - 1)) for v in (x, u, mask))
    x = x + torch.randn(x.shape, dtype=x.dtype)
    found = sequence_log_likelihood(model, guides.Exact(model), x, u, mask, data="d", num_particles=1)
    n = len(x)
    left_out = torch.stack([
        -(found.bound.sum() - found.bound[i]) / (found.frames.sum() - found.frames[i]) for i in range(n)
    ])  # fmt: skip
    jackknife = ((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt()
    assert found.errors[1] == pytest.approx(jackknife.item(), rel=0.05)


# SRNN's convention


def test_the_first_frame_is_an_input_and_not_scored():
    """By hand: the model run on (x_0, x) is scored from x_1 on under the state that x_0 leads to."""
    model, guide, x, mask = srnn(torch.tensor([4, 4, 4]))
    first = 1 - x[:, 0]
    given = sequence_log_likelihood(model, guide, x, None, mask, data="bits", first=first, num_particles=500, seed=0)
    direct = terms(model, guide, x, None, mask, num_particles=500, carry=model.given(first)).log_weights.double()
    scale = (direct.var(0) / 500 + given.bound_error.square()).sqrt()
    assert ((direct.mean(0) - given.bound).abs() < 4.5 * scale).all()
    assert given.frames.tolist() == [4, 4, 4]
    other = sequence_log_likelihood(
        model, guide, x, None, mask, data="bits", first=1 - first, num_particles=500, seed=0
    )
    assert not torch.allclose(other.bound, given.bound, atol=1e-4), "the frame must be fed in"
    assert "first frame given and not scored" in str(given)
    assert "first frame scored" not in str(given)


def test_a_model_without_feedback_has_no_use_for_the_first_frame():
    torch.manual_seed(0)
    model = DMM(4, 3, hidden=(6,), transition_hidden=(6,))
    guide = guides.Filter(model, hidden=(6,), recurrent=5)
    x = (torch.rand(3, 4, 4) < 0.5).float()
    options = {"data": "bits", "num_particles": 300, "seed": 0}
    plain = sequence_log_likelihood(model, guide, x, **options)
    given = sequence_log_likelihood(model, guide, x, first=x[:, 0], **options)
    assert ((plain.bound - given.bound).abs() < 4.5 * (plain.bound_error + given.bound_error)).all()


class Counter(torch.nn.Module):
    """A stand-in whose log p is known: each frame costs the number of frames that came before it, in all chunks."""

    carries = True

    def forward(self, x: Tensor, u=None, mask=None, carry=None):
        import pyro

        before = x.new_zeros(len(x)) if carry is None else carry[0]
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(x.new_zeros(len(x), x.shape[1], 1), 1.0).to_event(2))
            cost = sum(before + t for t in range(x.shape[1]))
            pyro.sample("x", pyro.distributions.Delta(x, -cost, event_dim=2), obs=x)

    def carry_on(self, z, x, u=None, mask=None, carry=None):
        return ((x.new_zeros(len(x)) if carry is None else carry[0]) + x.shape[1],)


def certain(x, u=None, mask=None, carry=None):
    import pyro

    with pyro.plate("data", len(x)):
        pyro.sample("z", pyro.distributions.Normal(x.new_zeros(len(x), x.shape[1], 1), 1.0).to_event(2))


def test_the_state_is_carried_from_chunk_to_chunk():
    """Two streams of three chunks of two frames, the last batch one stream short: costs 0+1, 2+3, 4+5 by position."""
    x = torch.zeros(5, 2, 1)
    found = sequence_log_likelihood(Counter(), certain, x, data="chunks", streams=2, num_particles=3)
    assert found.bound.tolist() == [-1, -1, -5, -5, -9]
    assert found.log_p.tolist() == pytest.approx([-1, -1, -5, -5, -9])
    assert "state carried from sequence i to i + 2" in str(found)
    apart = sequence_log_likelihood(Counter(), certain, x, data="chunks", num_particles=3)
    assert apart.bound.tolist() == [-1] * 5
    assert "each sequence from its own start" in str(apart)


def test_chunks_of_a_model_without_latent_dependence_on_later_frames_are_the_whole():
    """A filter reads no later frame: chunk by chunk, given the drawn state, its bound is that of the whole in
    expectation over draws, up to the guide's own reset between chunks, which a context of one frame does not have."""
    torch.manual_seed(1)
    model = SRNN(4, 3, recurrent=5, hidden=(6,))
    guide = guides.Filter(model, hidden=(6,), recurrent=0)
    x = (torch.rand(2, 9, 4) < 0.5).float()
    whole = sequence_log_likelihood(model, guide, x, data="bits", num_particles=4000, seed=0)
    # Each sequence a hundred times: rows have draws of their own.
    chunks = torch.cat(x.repeat(100, 1, 1).split(3, 1))
    bound = sequence_log_likelihood(model, guide, chunks, data="bits", streams=200, num_particles=1, seed=0).bound
    draws = bound.reshape(3, 100, 2).sum(0)
    scale = (draws.var(0) / 100 + whole.bound_error.square()).sqrt()
    assert ((draws.mean(0) - whole.bound).abs() < 4.5 * scale).all()


# What is printed


def test_no_number_without_its_convention():
    model, guide, x, mask = srnn()
    found = sequence_log_likelihood(model, guide, x, None, mask, data="bits test (bits.npz)", num_particles=5, seed=0)
    shown = str(found)
    averages = ["importance-sampled with 5 particles", "pooled over frames", "mean of per-sequence means"]
    for part in ("bits test (bits.npz): a = ", "b = ", "c = ", *averages, "first frame scored", "28 frames scored"):
        assert part in shown, part
    assert shown.count("\n") == 0
    row = found.row()
    assert row["a"] == found.a
    assert row["convention"] == found.convention
    assert row["evaluated"] == "bits test (bits.npz)"
    with pytest.raises(ValueError, match="data: expected file and split"):
        sequence_log_likelihood(model, guide, x, None, mask, data=" ")


def per_sequence():
    """Four sequences, each with a mean of its own; they end at different times."""
    levels = torch.tensor([0.0, 10.0, 20.0, 30.0])
    each = torch.ones(4, 1, 1, 1)
    model = LGSSM(
        kalman.Parameters, marginal=False, initial_mean=torch.zeros(4, 1), initial_covariance=each[:, 0],
        transition_matrix=0.5 * each, transition_covariance=each, emission_matrix=each, emission_covariance=each,
        emission_bias=levels[:, None, None],
    )  # fmt: skip
    return model, levels[:, None, None] + torch.randn(4, 5, 1), mask_of(torch.tensor([5, 3, 4, 2]), 5)


def test_parameters_of_each_sequence_stay_with_it():
    model, x, mask = per_sequence()
    found = sequence_log_likelihood(model, guides.Exact(model), x, None, mask, data="d", num_particles=2, batch_size=2)
    torch.testing.assert_close(found.log_p, model.log_prob(x, None, mask).double(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="LGSSM has parameters for 4 sequences, each its own"):
        fit(ELBO()(model, guides.Filter(model, recurrent=4)), x, epochs=1, batch_size=4, progress=False)


def test_parameters_that_change_in_time_need_all_frames():
    torch.manual_seed(0)
    one = torch.ones(1, 1)
    model = LGSSM(kalman.Parameters, marginal=False, initial_mean=torch.zeros(1), initial_covariance=one,
                  transition_matrix=torch.rand(6, 1, 1), transition_covariance=one, emission_matrix=one,
                  emission_covariance=one)  # fmt: skip
    x, mask = torch.randn(3, 6, 1), mask_of(torch.tensor([4, 2, 3]), 6)
    found = sequence_log_likelihood(model, guides.Exact(model), x, None, mask, data="d", num_particles=2)
    torch.testing.assert_close(found.log_p, model.log_prob(x, None, mask).double(), rtol=1e-5, atol=1e-5)


# Bad input


def test_values_outside_the_support_are_named_wherever_they_are():
    model, guide, x, mask = srnn()
    x[1, 2, 0] = 0.5
    for batch_size in (1, 2, 5):
        with pytest.raises(ValueError, match="lie outside in rows 1 "):
            sequence_log_likelihood(model, guide, x, None, mask, data="bits", batch_size=batch_size)


def test_a_first_frame_that_is_not_finite_is_named():
    model, guide, x, mask = srnn()
    first = torch.zeros(5, 4)
    first[3, 1] = float("nan")
    with pytest.raises(ValueError, match="first: NaN or infinite, first for sequence 3"):
        sequence_log_likelihood(model, guide, x, None, mask, data="bits", first=first)


BAD = {
    "mask: expected torch.bool": {"mask": torch.ones(5, 9)},
    "mask: expected a torch.Tensor, got set": {"mask": {True}},
    r"mask: .* got torch.bool of shape \(5, 8\)": {"mask": torch.ones(5, 8, dtype=torch.bool)},
    "mask: no frame of sequence 2 is observed": {"mask": mask_of(LENGTHS, 9) & (torch.arange(5) != 2).unsqueeze(-1)},
    r"first: expected shape \(5, 4\)": {"first": torch.zeros(4, 4)},
    r"u: expected shape \(5, 9": {"u": torch.zeros(5, 8, 1)},
    "at least one sequence and one frame": {"x": torch.zeros(5, 0, 4)},
    "at least one particle": {"num_particles": 0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    model, guide, x, mask = srnn()
    arguments = {"x": x, "u": None, "mask": mask, "data": "bits"} | BAD[message]
    with pytest.raises(TypeError if "got set" in message else ValueError, match=message):
        sequence_log_likelihood(model, guide, **arguments)


def test_nan_under_the_mask_does_not_matter_and_outside_it_is_named():
    model, guide, x, mask = srnn()
    clean = sequence_log_likelihood(model, guide, x, None, mask, data="bits", num_particles=3, seed=0)
    hidden = x.masked_fill(~mask.unsqueeze(-1), float("nan"))
    same = sequence_log_likelihood(model, guide, hidden, None, mask, data="bits", num_particles=3, seed=0)
    assert torch.equal(clean.log_p, same.log_p)
    hidden[3, 5, 1] = float("nan")
    with pytest.raises(ValueError, match=r"x: NaN or infinite in 1 observed frames, .* sequence 3, frame 5"):
        sequence_log_likelihood(model, guide, hidden, None, mask, data="bits")


@pytest.mark.parametrize(("lengths", "row"), [([2, 0], 1), ([5, 2], 0), ([2, -1], 1)])
def test_lengths_that_cannot_be_are_named(lengths, row):
    with pytest.raises(ValueError, match=f"sequence {row} has .* frames, expected 1 to T = 4"):
        mask_of(torch.tensor(lengths), 4)


def test_a_carry_of_another_batch_is_refused():
    model, guide, x, mask = srnn()
    carry = model.given(x[:3, 0])
    with pytest.raises(ValueError, match="carry"):
        ELBO()(model, guide)(x, None, mask, carry=carry)
    z = torch.zeros(5, 9, 3)
    for few in (1, 3):
        with pytest.raises(ValueError, match=r"carry.z: expected shape \(5, 3\) for 5 sequences"):
            model.carry_on(z, x, None, mask, model.given(x[:few, 0]))
    with pytest.raises(TypeError, match=r"carry: expected a Carry, from carry_on or given, got tuple"):
        model(x, None, mask, tuple(carry))
    bad = model.given(x[:, 0])
    bad = bad._replace(z=bad.z.masked_fill(torch.arange(5)[:, None] == 2, float("inf")))
    with pytest.raises(ValueError, match=r"carry.z: NaN or infinite, first for sequence 2"):
        model(x, None, mask, bad)


def test_pyros_autoguides_keep_their_rows():
    """They hold a posterior for each row, in order: by length in batches, rows would meet those of others."""
    torch.manual_seed(0)
    model = DMM(2, 1, likelihood=Normal)
    x, mask = torch.randn(5, 9, 2), mask_of(torch.tensor([9, 2, 7, 4, 6]), 9)
    auto = AutoNormal(model, init_scale=1e-4)
    auto(x, None, mask)
    auto.locs.z.data = 10.0 * torch.arange(5.0)[:, None, None] + torch.randn(5, 9, 1)
    options = {"num_particles": 2, "seed": 0}
    found = sequence_log_likelihood(model, auto, x, None, mask, data="random", batch_size=2, **options)
    expected = log_likelihood(model, auto, x, None, mask, **options)
    assert torch.allclose(found.bound, expected.elbo.double(), rtol=0.01)
    assert (found.bound[:, None] / found.bound - 1).abs().fill_diagonal_(1).min() > 0.05, "or rows could be exchanged"


def test_dropout_is_that_of_training_alone():
    torch.manual_seed(0)
    model, _, x, mask = srnn()
    guide = guides.Smoother(model, hidden=(6,), recurrent=5, recurrence=partial(Dropped, probability=0.9))
    found = []
    for mode in (True, False):
        guide.train(mode)
        value = sequence_log_likelihood(model, guide, x, None, mask, data="random", num_particles=3, seed=0)
        found.append(torch.stack([value.log_p, smc_log_likelihood(model, guide, x, None, mask, seed=0)]))
        assert guide.training is mode
    assert torch.equal(*found)


def test_a_carried_state_meets_the_songs_own_first_frame():
    """`streams` with `first`: what is carried is the state, and x before the first frame is the one given."""
    torch.manual_seed(0)
    model = SRNN(4, 2, recurrent=5, hidden=(6,))
    guide = guides.Smoother(model, family=guides.Residual, hidden=(6,), recurrent=5)
    with torch.no_grad():
        for parameter in model.feature.parameters():
            parameter.mul_(20.0)  # so that x_0 matters
        model.prior.network[0].weight[:, :2] = 0.0  # and the z that is carried, another in each draw, does not
        guide.of_state.weight[:, :2] = 0.0
    x, first = (torch.rand(2, 4, 4) < 0.5).float(), torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    x[0, -1] = 1.0  # not the frame that the second song starts after
    options = {"num_particles": 20_000, "seed": 0}
    found = sequence_log_likelihood(model, guide, x, data="two songs", first=first, streams=1, **options)

    def second(carry):
        with torch.no_grad():
            return torch.stack([terms(model, guide, x[1:], num_particles=200, carry=carry).log_weights.mean()
                                for _ in range(100)])  # fmt: skip

    with torch.no_grad():
        start = model.given(first[:1])
        z = guide.posterior(x[:1], carry=start).sample()
        carry = model.carry_on(z, x[:1], carry=start)
    right, wrong = second(carry._replace(x=first[1:])), second(carry)
    error = (right.var() / 100).sqrt() + found.bound_error[1]
    assert (right.mean() - wrong.mean()).abs() > 10 * error, "or the two could not be told apart"
    assert (found.bound[1] - right.mean()).abs() < 5 * error


@pytest.mark.parametrize(
    "lengths", [[1, 2], torch.tensor([[1], [2]]), torch.tensor([True, False]), torch.tensor([1.5])]
)
def test_lengths_are_a_tensor_of_whole_numbers(lengths):
    with pytest.raises(ValueError, match=r"lengths: expected a tensor \(N,\) of whole numbers, got"):
        mask_of(lengths, 4)
