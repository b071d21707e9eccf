"""Guides of vectors: what they read of a program's arguments, which they refuse by name, rows of their own."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo import DMM, M2, VAE, Hierarchical
from zoo.infer import ELBO, active_units, gaps, log_likelihood, terms
from zoo.parts.conditionals import Normal
from zoo.ppca import PPCA


class Pairs(PyroModule):
    """p(z) p(x | z) p(y | z), all scalar and Gaussian: p(x, y) is N(0, 1 + s^2 on the diagonal, 1 beside it)."""

    data_dim = latent_dim = 1

    def __init__(self, scale=0.5):
        super().__init__("pairs")
        self.scale = scale

    def forward(self, x, y=None, weight=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, self.scale).to_event(1), obs=x)
            if y is not None:
                pyro.sample("y", dist.Normal(z, self.scale).to_event(1), obs=y)


class Both(nn.Module):
    """What the exact posterior reads: x + y, whatever they are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, y=None, weight=None):
        self.seen.append((y is not None, weight))
        return x if y is None else x + y


def exact_encoder(model):
    """The exact posterior of x and y, by an encoder of all arguments."""
    guide = guides.Amortized(model, encoder=Both(), context=1)
    precision = 1 + 2 / model.scale**2
    with torch.no_grad():
        guide.family.head.weight.copy_(torch.tensor([[1 / model.scale**2 / precision], [0.0]]))
        guide.family.head.bias.copy_(torch.tensor([0.0, -0.5 * math.log(precision)]))
    return guide


@pytest.mark.usefixtures("double_precision")
def test_an_encoder_of_ones_own_is_given_all_arguments():
    model, x, y = Pairs(), torch.randn(5, 1), torch.randn(5, 1)
    guide = exact_encoder(model)
    covariance = torch.eye(2) * model.scale**2 + 1
    exact = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(torch.cat([x, y], -1))
    for args, kwargs in (((x, y), {}), ((x,), {"y": y})):
        found = terms(model, guide, *args, num_particles=4, **kwargs)
        torch.testing.assert_close(found.log_weights, exact.expand(4, 5))
    torch.testing.assert_close(guide.per_datum(x, y).table, guide.family.head(x + y))
    measured = gaps(model, guide, x, y, steps=3, num_particles=20, seed=0)
    torch.testing.assert_close(measured.elbo, exact)
    assert set(active_units(guide, x, y, num_particles=5)) == {"z"}
    terms(model, guide, x, y, weight="heavy")
    assert guide.encoder.seen[-1] == (True, "heavy")


def test_what_a_stock_guide_does_not_read_it_refuses_by_name():
    model, x, y = Pairs(), torch.randn(5, 1), torch.randn(5, 1)
    guide = guides.Amortized(model, hidden=(3,))
    assert ELBO()(model, guide)(x).isfinite()
    assert ELBO()(model, guide)(x, None, weight=None).isfinite()
    for call in (
        lambda: ELBO()(model, guide)(x, y),
        lambda: ELBO()(model, guide)(x, y=y),
        lambda: guide(x, y),
        lambda: guide.posterior(x, y=y),
        lambda: guide.per_datum(x, y),
        lambda: log_likelihood(model, guide, x, y, num_particles=3),
        lambda: gaps(model, guide, x, y, steps=2, num_particles=5),
    ):
        with pytest.raises(ValueError, match=r"Amortized: reads x alone, and was given y too, .* of Pairs .* encoder="):
            call()
    with pytest.raises(ValueError, match="given y, weight too"):
        guide(x, y, 3.0)
    with pytest.raises(ValueError, match="given y, argument 4 too"):
        guide(x, y, None, 3.0)


def test_what_stands_under_a_mask_cannot_matter():
    model = PPCA(4, 2)
    x, mask = torch.randn(6, 4), torch.rand(6, 4) < 0.7
    exact = guides.Exact(model)
    other = torch.where(mask, x, 77.0)
    torch.testing.assert_close(ELBO()(model, exact)(x, mask), ELBO()(model, exact)(other, mask), rtol=1e-4, atol=1e-4)


def test_encoder_and_context_come_together():
    with pytest.raises(ValueError, match="`encoder` and `context`"):
        guides.Amortized(VAE(6, 2), encoder=nn.Linear(6, 3))


def test_exact_needs_a_posterior():
    with pytest.raises(ValueError, match=r"Exact: VAE has no posterior; posterior\(x\) gives the exact one"):
        guides.Exact(VAE(6, 2))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: guides.Amortized(VAE(6, 2), encoder=lambda x: x, context=6), "encoder: expected a module such as"),
        (lambda: guides.Labelled(M2(6, 2, 3), classifier=lambda x: x), "classifier: expected a module such as"),
        (lambda: guides.Amortized(VAE(6, 2), family=guides.Diagonal(2, 6)), "family: expected a constructor such as"),
        (lambda: guides.Amortized(VAE(6, 2), family="iaf"), "family: expected a constructor such as .*, got 'iaf'"),
        (lambda: guides.Amortized(VAE(6, 2), family=nn.Linear), "constructor of a guides.Family, got one of Linear"),
        (lambda: guides.PerDatum(VAE(6, 2), 5, family=lambda *sizes: {}), "got one of dict"),
        (lambda: guides.TopDown(Hierarchical(6, (3, 2)), family=guides.Diagonal(3, 0)), "family: expected a constr"),
        (lambda: guides.Smoother(DMM(6, 2), family=guides.Diagonal(2, 100)), "family: expected a constructor such as"),
    ],
)
def test_parts_that_nothing_would_train_are_refused(build, said):
    with pytest.raises(TypeError, match=said):
        build()


def nothing(x):
    """A program without attributes."""


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: guides.Amortized(Hierarchical(6, (3, 2))), "Amortized: Hierarchical has no latent_dim"),
        (lambda: guides.Amortized(nothing), "Amortized: nothing has no latent_dim"),
        (lambda: guides.PerDatum(Hierarchical(6, (3, 2)), 5), "PerDatum: Hierarchical has no latent_dim"),
        (lambda: guides.Labelled(nothing), "Labelled: nothing has no num_classes"),
        (lambda: guides.Auxiliary(nothing), "Auxiliary: nothing has no auxiliary_dim"),
        (lambda: guides.TopDown(nothing), "TopDown: nothing has no data_dim"),
        (lambda: guides.Filter(nothing), "Filter: nothing has no"),
        (lambda: guides.Amortized(DMM(6, 2)), "DMM: a model of sequences, .* guides.Smoother"),
    ],
)
def test_guides_name_what_a_model_lacks(build, said):
    with pytest.raises(ValueError, match=said):
        build()


@pytest.mark.parametrize(
    ("index", "said"),
    [(None, "a batch of 3 rows out of 9 data points needs row numbers"), ([0, 1], "index must name the 3 rows of x"),
     ([0, 1, 9], "index has row 9 of 9 data points"), ([0, -1, 2], "index has row -1 of 9 data points")],
)  # fmt: skip
def test_rows_that_a_table_does_not_have(index, said):
    model = VAE(6, 2, (3,), likelihood=Normal)
    guide, x = guides.PerDatum(model, 9), torch.randn(3, 6)
    kwargs = {} if index is None else {"index": torch.tensor(index)}
    with pytest.raises(ValueError, match=f"PerDatum: {said}"):
        ELBO()(model, guide)(x, **kwargs)
