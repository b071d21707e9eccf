"""Rows of autoregressive decoders: losses that train, exact figures, and the remark on a decoder that ignores z."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from rows import densities
from rows.row import Splits

BITS = (torch.rand(3, 784, generator=torch.Generator().manual_seed(0)) < 0.2).float()


@pytest.mark.parametrize("row", densities.ROWS, ids=lambda row: row.name)
def test_rows_build_train_and_evaluate(row):
    splits = Splits(BITS, BITS, BITS)
    torch.manual_seed(0)
    loss = row.build(splits)
    loss(BITS).backward()
    figures = row.evaluate(loss.model, loss.guide, splits)
    assert {row.figure, row.check[0], "kl", "error", "num_test"} <= figures.keys()
    # L_1 has one draw in a check: a few nats of some 550
    rtol = 1e-5 if row.evaluate is densities.evaluate_exact else 0.02
    assert row.check[1](loss.model, loss.guide, splits) == pytest.approx(figures[row.check[0]], rel=rtol)
    assert figures["kl"].keys() == ({"z"} if row.evaluate is densities.evaluate_latent else set())


def test_a_decoder_that_ignores_z_is_said_so():
    assert densities.remark({"z_1": 12.0, "z_2": 0.1}) == "The decoder ignores z_2 (KL 0.10 nats)."
    assert densities.remark({"z": 3.0}) == ""
