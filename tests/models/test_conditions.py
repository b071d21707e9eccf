"""Conditions: all static models and their guides, a user's own model, and all that is refused."""

from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn

import guides
from zoo import ADGM, BIVA, M1M2, M2, VAE, Hierarchical, WithAuxiliary
from zoo.infer import ELBO, IWELBO, SemiSupervised, gaps, log_likelihood, terms
from zoo.parts.conditionals import MixturePrior, Normal
from zoo.parts.networks import WithHead

pytestmark = pytest.mark.usefixtures("double_precision")

N, DATA, LATENT, SIZE = 4, 5, 2, 3
GAUSSIAN = partial(Normal, heteroscedastic=True)


class Shifted(nn.Module):
    """p(z | y) = N(A y, s^2 I)."""

    def __init__(self, scale=0.7):
        super().__init__()
        self.matrix, self.scale = nn.Parameter(torch.randn(LATENT, SIZE)), scale

    def forward(self, y):
        return dist.Normal(y @ self.matrix.T, self.scale).to_event(1)


def linear(**settings):
    """A conditional VAE whose decoder is linear."""
    return VAE(DATA, LATENT, (7,), likelihood=Normal, activation=nn.Identity, condition_dim=SIZE, **settings)


def exact(model, x, y):
    """p(z | x, y) and p(x | y) of `linear(prior=Shifted())`, by the joint Gaussian."""
    prior = model.prior(y)
    zero = torch.zeros(1, LATENT)
    weight = torch.autograd.functional.jacobian(lambda z: model.likelihood(z, y[:1]).mean.sum(0), zero).squeeze(1)
    noise = model.likelihood(zero, y[:1]).variance[0].detach()
    mean = model.likelihood(prior.mean, y).mean
    of_x = model.prior.scale**2 * weight @ weight.T + torch.diag(noise)
    gain = model.prior.scale**2 * weight.T @ torch.linalg.inv(of_x)
    left = model.prior.scale**2 * (torch.eye(LATENT) - gain @ weight)
    posterior = dist.MultivariateNormal(prior.mean + (x - mean) @ gain.T, (left + left.T) / 2)
    return posterior, dist.MultivariateNormal(mean, of_x).log_prob(x)


def test_with_the_exact_posterior_every_bound_is_log_p_of_x_given_y():
    model, x, y = linear(prior=Shifted()), torch.randn(N, DATA), torch.randn(N, SIZE)
    expected = exact(model, x, y)[1]

    def guide(x, mask=None, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", exact(model, x, y)[0])

    for objective in (ELBO(), IWELBO(3)):
        torch.testing.assert_close(-objective(model, guide)(x, y=y), expected.sum())
    assert expected.std() > 0.1


def test_classes_are_one_hot_vectors_to_the_last_bit():
    model = VAE(DATA, LATENT, (6,), condition_dim=SIZE)
    guide, x, y = guides.Amortized(model, hidden=(6,)), torch.rand(N, DATA).round(), torch.tensor([2, 0, 1, 2])
    losses = []
    for condition in (y, torch.eye(SIZE)[y]):
        torch.manual_seed(1)
        losses.append(ELBO()(model, guide)(x, y=condition))
    assert torch.equal(*losses)


class Own(PyroModule):
    """A user's p(x, z | y), its condition being its second argument."""

    data_dim, latent_dim, condition_dim = DATA, LATENT, SIZE

    def __init__(self):
        super().__init__("own")
        self.of_z, self.of_x = nn.Linear(SIZE, LATENT), nn.Linear(LATENT + SIZE, DATA)

    def prior(self, y):
        return dist.Normal(self.of_z(y), 1.0).to_event(1)

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(y))
            inputs = torch.cat([z, y.expand(*z.shape[:-1], SIZE)], -1)
            pyro.sample("x", dist.Normal(self.of_x(inputs), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("family", [guides.Diagonal, guides.PrecisionWeighted])
def test_a_users_model_of_x_and_y_works_with_the_stock_guides(family):
    model, x, y = Own(), torch.randn(N, DATA), torch.randn(N, SIZE)
    for guide in (guides.Amortized(model, family=family, hidden=(4,)), guides.PerDatum(model, N, family=family)):
        losses = []
        for args, kwargs in (((y,), {}), ((), {"y": y})):
            torch.manual_seed(0)
            losses.append(ELBO()(model, guide)(x, *args, **kwargs))
        assert torch.equal(*losses)
    guide = guides.Amortized(model, family=family, hidden=(4,))
    assert (guide.posterior(x, y).mean != guide.posterior(x, y + 1).mean).all()
    with pytest.raises(ValueError, match="y: Own was built with condition_dim = 3, and was given no condition"):
        guide(x)


def conditioned():
    """name -> model, guide, name of the condition."""
    vae = partial(VAE, DATA, LATENT, (6,), likelihood=Normal, condition_dim=SIZE)
    classes = {"likelihood": Normal, "condition_dim": SIZE}
    hidden = ((6,), (5,))
    found = {
        "vae": (m := vae(), guides.Amortized(m, hidden=(6,)), "y"),
        "mixture prior": (m := vae(prior=MixturePrior(LATENT)), guides.Amortized(m, hidden=(6,)), "y"),
        "reads the prior": (m := vae(), guides.Amortized(m, family=guides.Residual, hidden=(6,)), "y"),
        "per datum": (m := vae(), guides.PerDatum(m, N, family=guides.PrecisionWeighted), "y"),
        "m2": (m := M2(DATA, LATENT, 3, (6,), **classes), guides.Labelled(m, hidden=(6,)), "c"),
        "adgm": (m := ADGM(DATA, LATENT, 3, (6,), **classes), guides.Auxiliary(m, hidden=(6,)), "c"),
        "sdgm": (m := ADGM(DATA, LATENT, 3, (6,), True, **classes), guides.Auxiliary(m, hidden=(6,)), "c"),
        "auxiliary": (
            m := WithAuxiliary(vae(), WithHead((DATA, LATENT), 2, GAUSSIAN, (6,))),
            guides.Auxiliary(m, hidden=(6,), family=guides.Residual),
            "y",
        ),
    }
    m = M1M2(vae(), M2(LATENT, 2, 3, (6,), likelihood=GAUSSIAN, condition_dim=SIZE))
    guide = guides.StackedLabelled(m, guides.Amortized(m.m1, hidden=(6,)), guides.Labelled(m.m2, hidden=(6,)))
    found["m1m2"] = (m, guide, "c")
    for skip, made in ((False, guides.BottomUp), (True, guides.TopDown), (True, guides.Ladder)):
        m = Hierarchical(DATA, (3, 2), hidden, skip, likelihood=Normal, condition_dim=SIZE)
        found[made.__name__] = (m, made(m, hidden=hidden), "y")
    m = BIVA(DATA, (3, 2), hidden, likelihood=Normal, condition_dim=SIZE)
    found["biva"] = (m, guides.Bidirectional(m, hidden=((6,), (5,), (5,))), "y")
    found["prior below"] = (m, guides.PriorBelow(found["biva"][1], 1), "y")
    return found


@pytest.mark.parametrize("name", ["vae", "mixture prior", "reads the prior", "per datum", "m2", "adgm", "sdgm",
                                  "auxiliary", "m1m2", "BottomUp", "TopDown", "Ladder", "biva",
                                  "prior below"])  # fmt: skip
def test_model_and_guide_see_the_condition_of_their_own_row(name):
    model, guide, word = conditioned()[name]
    x, y = torch.randn(N, DATA), torch.randn(N, SIZE)
    changed = y.clone()
    changed[2] += 1
    found = []
    for condition in (y, changed):
        torch.manual_seed(3)
        run = terms(model, guide, x, num_particles=2, **{word: condition})
        found.append(run.log_over_summed(run.log_weights))
    differs = (found[0] - found[1]).abs() > 1e-9
    assert differs[:, 2].all()
    assert not differs[:, [0, 1, 3]].any()
    gradient = torch.autograd.grad(found[0].sum(), [p for half in (model, guide) for p in half.parameters()],
                                   allow_unused=True)  # fmt: skip
    assert all(g is None or g.isfinite().all() for g in gradient)
    with pytest.raises(ValueError, match=f"{word}: .* was built with condition_dim = 3, and was given no condition"):
        model(x)


def test_evaluation_takes_conditions():
    model, guide, _ = conditioned()["vae"]
    x, y = torch.randn(N, DATA), torch.tensor([0, 1, 2, 0])
    assert log_likelihood(model, guide, x, None, y, num_particles=20, max_bytes=2000).per_datum.shape == (N,)
    assert gaps(model, guide, x, y=y, steps=2).total.shape == (N,)
    m2, labelled, _ = conditioned()["m2"]
    labels, mask = torch.tensor([0, -1, 2, -1]), torch.rand(N, DATA) < 0.7
    loss = SemiSupervised(ELBO(), alpha=10.0)(m2, labelled)
    loss(x, labels, mask, y).backward()
    assert all(p.grad is not None for p in labelled.logits.parameters())
    # the classifier is trained at the mask: what is missing changes nothing
    torch.manual_seed(0)
    value = loss(x, labels, mask, y)
    torch.manual_seed(0)
    assert torch.equal(value, loss(x.masked_fill(~mask, torch.nan), labels, mask, y))
    torch.testing.assert_close(labelled.predict(x, mask, y).sum(-1), torch.ones(N))


def test_generate_draws_given_the_condition():
    model = linear(prior=Shifted(scale=1e-7))
    with torch.no_grad():
        model.emission.log_scale.fill_(-16.0)
    y = torch.randn(N, SIZE)
    latents, x = model.generate(N, y)
    torch.testing.assert_close(latents["z"], y @ model.prior.matrix.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(x, model.likelihood(latents["z"], y).mean, atol=1e-5, rtol=0)
    one, _ = model.generate(3, y[0])
    torch.testing.assert_close(one["z"], latents["z"][:1].expand(3, -1), atol=1e-5, rtol=0)
    of_class, _ = model.generate(2, torch.tensor(1))
    torch.testing.assert_close(of_class["z"], model.prior.matrix[:, 1].expand(2, -1), atol=1e-5, rtol=0)
    assert VAE(DATA, LATENT).generate(3)[1].shape == (3, DATA)
    assert conditioned()["TopDown"][0].generate(3, y=torch.tensor(2))[1].shape == (3, DATA)
    assert conditioned()["m2"][0].generate(num=3, c=y[0])[1].shape == (3, DATA)
    assert conditioned()["m1m2"][0].generate(torch.tensor([0, 1]), c=y[:2])[1].shape == (2, DATA)


def test_a_prior_that_takes_no_condition_stays_p_of_z():
    model = VAE(DATA, LATENT, (4,), condition_dim=SIZE, prior=MixturePrior(LATENT))
    z = pyro.poutine.trace(model).get_trace(torch.zeros(N, DATA), y=torch.randn(N, SIZE)).nodes["z"]
    torch.testing.assert_close(z["fn"].log_prob(z["value"]), model.prior().log_prob(z["value"]))


def bad(y=None, mask=None, size=SIZE, **keywords):
    model = VAE(DATA, LATENT, (4,), condition_dim=size)
    model(torch.zeros(N, DATA), mask, y, **keywords)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: bad(), ValueError, "y: VAE was built with condition_dim = 3, and was given no condition"),
        (lambda: bad(torch.zeros(N).long(), size=0), ValueError, "y: VAE was built without a condition"),
        (lambda: bad(torch.ones(N, DATA).bool()), ValueError, "got torch.bool .*; a mask is given as mask="),
        (lambda: bad(mask=torch.zeros(N).long()), ValueError, "mask: expected torch.bool .* by its keyword, y= or c="),
        (lambda: bad(torch.zeros(N, 2)), ValueError, r"vectors torch.float64 \(4, 3\), got torch.float64 \(4, 2\)"),
        (lambda: bad(torch.zeros(N, SIZE).float()), ValueError, "y: expected .* got torch.float32"),
        (lambda: bad(torch.zeros(N).int()), ValueError, "y: expected classes int64 .* got torch.int32"),
        (lambda: bad(torch.tensor([0, 1, 3, 0])), ValueError, r"got 3 at datum 2, counted from 0 \(1 such\)"),
        (lambda: bad(torch.full((N, SIZE), torch.nan)), ValueError, "got NaN or infinity at datum 0"),
        (lambda: bad([0, 1, 2, 0]), TypeError, "y: expected a torch.Tensor, got list"),
        (lambda: VAE(DATA, LATENT, condition_dim=-1), ValueError, "condition_dim: expected a whole number, at least 0"),
        (lambda: VAE(DATA, LATENT, (), condition_dim=2), ValueError, "hidden: a stage needs at least one width"),
        (lambda: VAE(DATA, LATENT).generate(3, torch.zeros(3).long()), ValueError, "y: VAE was built without"),
        (lambda: linear().generate(3), ValueError, "y: VAE was built with condition_dim = 3"),
        (lambda: linear().generate(0, torch.tensor(1)), ValueError, "num: expected a whole number, at least 1"),
        (lambda: M2(DATA, LATENT, 3)(torch.zeros(N, DATA), torch.ones(N, DATA).bool()), ValueError,
         "y: expected torch.int64 .*; a mask is given as mask="),
        (lambda: M2(DATA, LATENT, 3)(torch.zeros(N, DATA), c=torch.zeros(N, 2)), ValueError, "c: M2 was built without"),
        (lambda: M1M2(linear(), M2(LATENT, 2, 3, condition_dim=2)), ValueError, "m2: expected the condition_dim of m1"),
        (lambda: guides.Amortized(VAE(DATA, LATENT))(torch.zeros(N, DATA), y=torch.zeros(N).long()), ValueError,
         "y: VAE was built without a condition"),
        (lambda: guides.TopDown(Hierarchical(DATA, (2, 2)))(torch.zeros(N, DATA), None, torch.zeros(N, 2)), ValueError,
         "y: Hierarchical was built without a condition"),
        (lambda: ELBO()(Hierarchical(DATA, (2, 2)), guides.TopDown(Hierarchical(DATA, (2, 2), condition_dim=2)))(
            torch.zeros(N, DATA)), ValueError, "guide: TopDown was built for a Hierarchical of condition_dim = 2"),
    ],
)  # fmt: skip
def test_bad_conditions_are_refused_by_name(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_a_model_that_states_a_size_and_takes_no_condition_is_refused():
    class Deaf(Own):
        def forward(self, x, label):
            """Takes a condition of another name."""

    with pytest.raises(ValueError, match="Deaf: states condition_dim = 3, but its program has no argument y or c"):
        guides.Amortized(Deaf())


def test_gaps_of_a_hierarchy_with_a_condition_and_missing_entries():
    model = Hierarchical(4, (3, 2), hidden=((5,), (5,)), likelihood=Normal, condition_dim=2)
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 1])
    guide = guides.Ladder(model, hidden=((5,), (5,)), flags=True)
    assert gaps(model, guide, x, x < 0.5, y, steps=2, num_particles=30, seed=0).amortization.shape == (3,)
