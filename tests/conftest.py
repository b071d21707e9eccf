"""Fixtures that several files of tests share."""

import pyro
import pytest
import torch


@pytest.fixture
def double_precision():
    """float64, so that equalities are equalities to rounding; the same seed for every test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def empty_store():
    """Pyro's parameter store goes by name: modules of one test must not meet those of another."""
    pyro.clear_param_store()
