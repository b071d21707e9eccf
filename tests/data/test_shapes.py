"""Simulated shapes: properties of the pictures and of their factors."""

import pytest
import torch

from zoo.data import load
from zoo.data.simulated.shapes import FACTORS, pictures_of, shapes

ALL = torch.cartesian_prod(
    torch.arange(3), torch.tensor([0, 5]), torch.arange(20), torch.tensor([7]), torch.tensor([7])
)


def test_rotations_differ_up_to_the_symmetry_of_the_shape():
    pictures = pictures_of(ALL.numpy(), 64).reshape(3, 2, 20, -1)
    for shape, different in enumerate((5, 10, 20)):
        for picture in pictures[shape]:
            assert len({row.tobytes() for row in picture}) == different


def test_no_shape_is_cut_and_places_move_the_centre():
    ends = torch.cartesian_prod(torch.arange(3), torch.tensor([5]), torch.arange(20), *2 * [torch.tensor([0, 15])])
    pictures = torch.from_numpy(pictures_of(ends.numpy(), 32)).reshape(3, 20, 2, 2, 32, 32)
    # the half that a shape has moved out of is empty: a shape cut at the left of x = 0 would show there at x = 15
    assert not pictures[:, :, 0, ..., 16:].any()
    assert not pictures[:, :, 1, ..., :16].any()
    assert not pictures[:, :, :, 0, 16:].any()
    assert not pictures[:, :, :, 1, :16].any()
    # x = 15 stands 16 pixels to the right of x = 0, y = 15 as many below y = 0
    assert torch.equal(pictures[:, :, 0, :, :, :16], pictures[:, :, 1, :, :, 16:])
    assert torch.equal(pictures[:, :, :, 0, :16], pictures[:, :, :, 1, 16:])


def test_larger_scales_cover_more():
    scales = torch.cartesian_prod(torch.arange(3), torch.arange(6), *3 * [torch.tensor([3])])
    areas = pictures_of(scales.numpy(), 64).sum(1).reshape(3, 6).astype(int)
    assert (areas[:, 1:] > areas[:, :-1]).all()


@pytest.mark.thorough
def test_the_set_keeps_its_factors():
    data = load("shapes")
    assert data.train.levels.shape == (12_000, 256)
    part = data.test[:5]
    assert torch.equal(torch.from_numpy(pictures_of(part.factors.numpy())), part.levels)
    assert torch.equal(part.factors[:, 0], part.labels)
    assert (data.train.factors.max(0).values + 1).tolist() == [*FACTORS.values()]


def test_a_seed_fixes_the_draw():
    assert torch.equal(shapes(9, seed=3).levels, shapes(9, seed=3).levels)
    assert not torch.equal(shapes(9, seed=3).levels, shapes(9, seed=4).levels)


@pytest.mark.parametrize(("arguments", "name"), [({"num": 0}, "num"), ({"num": 2, "side": 7}, "side"),
                                                 ({"num": 2, "seed": -1}, "seed")])  # fmt: skip
def test_bad_numbers_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number"):
        shapes(**arguments)
