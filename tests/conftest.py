"""What several files of tests share."""

import pyro
import pytest
import torch


@pytest.fixture
def double_precision():
    """float64, so that equalities are equalities to rounding; the same seed and an empty store for every test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
