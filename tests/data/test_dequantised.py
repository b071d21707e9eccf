"""Dequantised levels: the bin of the level, fresh or fixed noise, refusals."""

import pytest
import torch

from zoo.data import Dequantised, Split, dequantise

LEVELS = torch.arange(256, dtype=torch.uint8).repeat(64).view(128, 128)
SPLIT = Split(LEVELS, None, 256)


@pytest.mark.parametrize("num_levels", [2, 16, 256])
def test_numbers_stay_in_the_bin_of_their_level(num_levels):
    levels = LEVELS % num_levels if num_levels < 256 else LEVELS
    x = dequantise(levels, seed=0, num_levels=num_levels)
    assert x.dtype == torch.float32
    assert 0 < x.min() <= x.max() < 1
    assert torch.equal((x * num_levels).floor(), levels.float())
    # uniform within the bin: mean 1/2 and variance 1/12 of 16,384 draws, five standard errors
    u = x.double() * num_levels - levels
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / u.numel()) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / u.numel()) ** 0.5


def test_the_ends_of_a_bin_are_never_reached(monkeypatch):
    for end in (0.0, 1 - 2.0**-24):
        monkeypatch.setattr(torch, "rand", lambda shape, end=end, **_: torch.full(shape, end))
        x = dequantise(SPLIT, seed=0)
        assert 0 < x.min() <= x.max() < 1
        assert torch.equal((x * 256).floor(), LEVELS.float())


def test_noise_is_the_generators():
    rows, index = Dequantised(SPLIT), torch.tensor([3, 1])
    (first,), (again,) = (rows.batch(index, torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(first, again)
    assert len(rows) == 128
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(rows.batch(index, generator)[0], rows.batch(index, generator)[0])
    assert torch.equal((first * 256).floor(), LEVELS[index].float())
    assert torch.equal(dequantise(SPLIT, seed=4), dequantise(SPLIT, seed=4))


@pytest.mark.parametrize(("levels", "num_levels", "error", "message"), [
    (SPLIT, 16, ValueError, "num_levels: a Split knows its own, 256"),
    (LEVELS, None, ValueError, "num_levels: expected the number of levels"),
    (LEVELS, 1, ValueError, "num_levels: expected the number of levels, at least 2, got 1"),
    (LEVELS, 16, ValueError, "levels: expected 0 to 15; 128 rows hold others"),
    (torch.tensor([[0], [-1]]), 16, ValueError, r"levels: expected 0 to 15; 1 rows .* \[1\]"),
    (LEVELS.float(), 256, TypeError, "levels: expected a Split or whole numbers .*, got torch.float32"),
    (LEVELS > 3, 2, TypeError, "got torch.bool"),
    ([0, 1], 2, TypeError, "got list"),
])  # fmt: skip
def test_other_levels_are_refused(levels, num_levels, error, message):
    with pytest.raises(error, match=message):
        Dequantised(levels, num_levels=num_levels)
