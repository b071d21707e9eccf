"""Starts found in the data: the code of a Kalman VAE at components of blurred frames."""

import random

import numpy
import pytest
import torch

import guides
from zoo import KVAE, VAE, MixedDynamics, start_at_components
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import Maps, mlp

PICTURE = Maps(12, 12)


def pair(code_dim=2, picture=PICTURE, control_dim=0, marginal=True):
    torch.manual_seed(0)
    dynamics = MixedDynamics(code_dim, 2 * code_dim, control_dim, recurrent=4)
    model = KVAE(dynamics, mlp(code_dim, (32,)), Bernoulli(32, picture), picture, marginal=marginal)
    encoder = mlp(picture, (32,))
    return model, guides.KalmanSmoother(model, encoder=encoder, context=32, family=guides.BoundedDiagonal)


def squares(num=600):
    """Pictures of a square of 3 x 3, and the places of its first pixel, `(num, 2)`; uint8, as videos are."""
    place = torch.randint(0, 10, (num, 2), generator=torch.Generator().manual_seed(0))
    pixels = torch.arange(12)
    inside = (pixels >= place.unsqueeze(-1)) & (pixels < place.unsqueeze(-1) + 3)
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).flatten(1).to(torch.uint8), place.double()


def explained(code, place):
    """R^2 of the best affine map from codes to places, the smaller of the two coordinates'."""
    known = torch.cat([code.double(), torch.ones(len(code), 1).double()], -1)
    error = place - known @ torch.linalg.lstsq(known, place).solution
    return (1 - error.square().sum(0) / (place - place.mean(0)).square().sum(0)).min().item()


@torch.no_grad()
def codes(guide, frames):
    return guide.codes(frames.float().unsqueeze(1)).mean.squeeze(1)


def test_the_code_starts_untwisted_and_the_decoder_inverts_it():
    model, guide = pair()
    x, place = squares()
    before = model.decode(codes(guide, x)).log_prob(x.float()).mean()
    start_at_components(model, guide, x, blur=7)
    found = codes(guide, x)
    assert explained(found, place) > 0.85
    # 2 is the documented scale; a component that is learned only in part has less
    assert ((found.std(0) > 1.7) & (found.std(0) < 2.2)).all()
    # 9 of 144 pixels are set, all of which the decoder has to place: far above a picture without a square
    blank = 9 * torch.tensor(9 / 144).log() + 135 * torch.tensor(135 / 144).log()
    after = model.decode(found).log_prob(x.float()).mean()
    assert before < blank
    assert after > 0.6 * blank


def test_components_of_sharp_pictures_say_less_of_the_place():
    """The reason for the blur: without it the code starts twisted."""
    x, place = squares()
    sharp, blurred = pair(), pair()
    start_at_components(*sharp, x, blur=1, steps=120)
    start_at_components(*blurred, x, blur=7, steps=120)
    assert explained(codes(sharp[1], x), place) < explained(codes(blurred[1], x), place) - 0.05


@pytest.mark.parametrize("lead", [(600,), (30, 20)], ids=str)
def test_frames_of_any_leading_axes_and_codes_of_any_size(lead):
    x, _ = squares()
    model, guide = pair(code_dim=3)
    start_at_components(model, guide, x.reshape(*lead, 144), blur=7, scale=0.5, steps=100)
    assert (codes(guide, x).std(0) - 0.5).abs().max() < 0.15


@pytest.mark.parametrize("options", [{"control_dim": 1}, {"marginal": False}], ids=str)
def test_every_form_of_the_model_starts_alike(options):
    """The code of a frame depends neither on controls nor on z."""
    x, _ = squares(50)
    plain, other = pair(), pair(**options)
    # a model with controls draws one matrix more before its networks
    for half, twin in zip(plain, other, strict=True):
        twin.load_state_dict(half.state_dict(), strict=False)
    start_at_components(*plain, x, blur=3, steps=3)
    start_at_components(*other, x, blur=3, steps=3)
    found = other[1].encoder[0].weight
    assert torch.equal(found, plain[1].encoder[0].weight)


def test_doubles_are_trained_as_doubles():
    model, guide = (half.double() for half in pair())
    start_at_components(model, guide, squares(50)[0], blur=3, steps=2)
    assert {p.dtype for half in (model, guide) for p in half.parameters()} == {torch.float64}


def test_what_the_caller_owns_stays_as_it_was():
    x, _ = squares(50)
    model, guide = pair()
    still = model.dynamics.requires_grad_(False), [p.clone() for p in model.dynamics.parameters()]
    guide.eval()
    states = torch.get_rng_state(), numpy.random.get_state()[1], random.getstate()  # noqa: NPY002
    with torch.no_grad():
        start_at_components(model, guide, x, blur=3, steps=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (numpy.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    assert not guide.training
    assert all(p.grad is None for half in (model, guide) for p in half.parameters())
    assert all(torch.equal(p, before) for p, before in zip(still[0].parameters(), still[1], strict=True))
    # seeded: the same start again, whatever the caller's stream
    again = pair()
    torch.manual_seed(5)
    start_at_components(*again, x, blur=3, steps=2)
    assert torch.equal(codes(guide, x), codes(again[1], x))


def test_many_frames_are_thinned_out(monkeypatch):
    """More frames than the memory bound: the start is that of the frames that are kept, the last among them."""
    x, _ = squares(61)
    monkeypatch.setattr("zoo.parts.starts.components.MOST", 31)
    thinned, kept = pair(), pair()
    start_at_components(*thinned, x, blur=3, steps=2)
    start_at_components(*kept, x[::2], blur=3, steps=2)
    assert torch.equal(codes(thinned[1], x), codes(kept[1], x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 12, 12)}, r"x: expected shape \(..., Maps\(12, 12, 1\)\), got \(5, 12, 12\)"),
        ({"x": torch.full((5, 144), float("nan"))}, r"x: NaN or infinite; give observed frames alone, x\[mask\]"),
        ({"x": squares(2)[0]}, r"x: expected more frames than the 2 entries of the code, got 2"),
        ({"x": torch.ones(9, 144)}, r"x: the frames vary in fewer than 2 directions"),
        ({"blur": 4}, "blur: expected an odd width, so that a box has a middle, got 4"),
        ({"picture": Maps(12, 10)}, r"picture: expected Maps\(height, width\) of 144 entries, .* Maps\(12, 10, 1\)"),
        ({"steps": 0}, "steps"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        start_at_components(*pair(), **{"x": squares(9)[0], "blur": 3, **change})


def test_another_pair_is_named():
    model = VAE(144, 2, (4,))
    with pytest.raises(ValueError, match="start_at_components: VAE has no code_dim; it serves a KVAE"):
        start_at_components(model, guides.Amortized(model), squares(9)[0])
    with pytest.raises(ValueError, match="start_at_components: Smoother has no codes; it serves a KVAE"):
        start_at_components(pair()[0], guides.Smoother(pair(marginal=False)[0]), squares(9)[0])


def test_a_guide_of_another_size_and_a_pair_without_parameters_are_named():
    with pytest.raises(ValueError, match="guide: expected codes of 2 entries, as the model has, got 3"):
        start_at_components(pair()[0], pair(code_dim=3)[1], squares(9)[0], blur=3)
    frozen = [half.requires_grad_(False) for half in pair()]
    with pytest.raises(ValueError, match="start_at_components: no parameter of model and guide has requires_grad"):
        start_at_components(*frozen, squares(9)[0], blur=3)


def test_data_that_are_no_pictures_are_named_and_taken_without_blur():
    model, guide = pair(picture=144)
    with pytest.raises(ValueError, match=r"picture: .* got 144; blur=1 takes frames as they are"):
        start_at_components(model, guide, squares(9)[0])
    with pytest.raises(TypeError, match=r"x: expected a torch\.Tensor, got list"):
        start_at_components(model, guide, [0.0])
    start_at_components(model, guide, squares(9)[0], blur=1, steps=1)
