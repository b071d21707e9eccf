"""Fixtures that several files of tests share."""

import pytest
import torch


@pytest.fixture
def double_precision():
    """float64, so that equalities are equalities to rounding; the same seed for every test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
