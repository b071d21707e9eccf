"""Objectives of data without labels against a loop over the classes by hand, at the same draws; their gradients."""

import math
from functools import partial

import pytest
import torch
from labelled_pairs import BUILDS, CLASSES, N, build, log_p, log_q
from pyro.infer import TraceEnum_ELBO
from tiers import thorough_but

from zoo.infer import ELBO, IWELBO, RenyiELBO, Tempered, fit, kl_per_site, terms

pytestmark = pytest.mark.usefixtures("double_precision")

every = pytest.mark.parametrize("name", BUILDS)
particles = pytest.mark.parametrize("K", thorough_but([3], [1, 3]))


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def by_hand(model, guide, x, run, K):
    """log q(y), log p(x | ...) and the log ratios at the draws of a run, class by class, each `(C, K, N)`."""
    found = []
    for c in range(CLASSES):
        y = torch.full((N,), c)
        drawn = {site: z[c] if z.dim() == 4 else z for site, z in run.latents.items() if site != "y"}
        p, q = log_p(model, x, y, drawn), log_q(guide, x, y, drawn)
        sites = {site: (p[site] - q[site]).expand(K, N) for site in q}
        found.append({"log q": q["y"].expand(K, N), "x": p["x"].expand(K, N), **sites})
    return {site: torch.stack([one[site] for one in found]) for site in found[0]}


def log_weights(scores):
    return sum(score for site, score in scores.items() if site != "log q")


def elbo(scores):
    return (scores["log q"].exp() * log_weights(scores)).sum(0).mean(0)


def log_mean(scores, power=1.0):
    K = len(scores["x"][0])
    return ((scores["log q"] + power * log_weights(scores)).flatten(0, 1).logsumexp(0) - math.log(K)) / power


def tempered(scores, weight=0.3, free=0.0):
    """Free bits of a drawn site compare each draw's log ratio, those of y the exact KL given what was drawn before."""
    q, total = scores["log q"].exp(), scores["x"]
    for site, ratio in scores.items():
        if site in ("log q", "x"):
            continue
        if free and site == "y":
            ratio = torch.where((q * ratio).sum(0) < -free, ratio, torch.full_like(ratio, -free))
        elif free:
            ratio = ratio.clamp(max=-free)
        total = total + weight * ratio
    return (q * total).sum(0).mean(0)


OBJECTIVES = {
    "elbo": (ELBO, elbo),
    "iwelbo": (IWELBO, log_mean),
    "renyi": (lambda K: RenyiELBO(0.5, K), lambda scores: log_mean(scores, 0.5)),
    "tempered": (lambda K: Tempered(ELBO(K), kl_weight=0.3), tempered),
    "free bits": (lambda K: Tempered(ELBO(K), free_bits=0.4), lambda scores: tempered(scores, 1.0, 0.4)),
}


@pytest.mark.parametrize("name", thorough_but(["m2", "adgm"], BUILDS))
@particles
@pytest.mark.parametrize("word", OBJECTIVES)
def test_value_and_gradient_are_those_of_a_loop_over_classes(name, K, word):
    """A lost axis, a z shared by all classes, a wrong order of axes, or a measure without gradient fails here."""
    model, guide, x, _ = build(name)
    make, functional = OBJECTIVES[word]
    loss = make(K)(model, guide)
    if word == "iwelbo":  # q(y | .) cancels: with parameters to train it is refused
        (guide.m2 if name == "m1m2" else guide).logits.requires_grad_(False)
    torch.manual_seed(1)
    value = loss(x)
    torch.manual_seed(1)
    run = terms(model, guide, x, num_particles=K)
    expected = functional(by_hand(model, guide, x, run, K)).sum()
    close(-value, expected)
    parameters = [p for p in loss.parameters() if p.requires_grad]
    found, right = (torch.autograd.grad(v, parameters, allow_unused=True) for v in (-value, expected))
    for left, other in zip(found, right, strict=True):
        close(left, other)


@every
def test_bound_is_that_of_pyros_enumeration(name):
    """TraceEnum_ELBO draws the same noise in the same order, as one particle needs no axis."""
    model, guide, x, _ = build(name)
    parameters = [*model.parameters(), *guide.parameters()]
    torch.manual_seed(2)
    ours = ELBO()(model, guide)(x)
    torch.manual_seed(2)
    theirs = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x)
    close(ours, theirs)
    for left, right in zip(*(torch.autograd.grad(v, parameters) for v in (ours, theirs)), strict=True):
        close(left, right)


@every
def test_importance_weighted_bounds_do_not_depend_on_the_classifier(name):
    model, guide, x, _ = build(name)
    with torch.no_grad():
        values = []
        for shift in (0.0, 1.0):
            logits = (guide.m2 if name == "m1m2" else guide).logits
            logits.head.bias[0] += shift
            torch.manual_seed(3)
            values.append(IWELBO(3)(model, guide)(x))
    close(*values)


def test_an_importance_weighted_bound_does_not_train_a_classifier():
    model, guide, x, _ = build("m2")
    with pytest.raises(ValueError, match="site 'y': summed out, and its q cancels in this bound"):
        IWELBO(3)(model, guide)(x)


@every
def test_the_kl_of_y_is_exact(name):
    model, guide, x, _ = build(name)
    found = kl_per_site(model, guide, x, num_particles=3, seed=4)["y"]
    torch.manual_seed(4)
    with torch.no_grad():
        scores = by_hand(model, guide, x, terms(model, guide, x, num_particles=3), 3)
    assert (found >= 0).all()
    close(found, -(scores["log q"].exp() * scores["y"]).sum(0).mean(0))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["m2", "adgm", "sdgm"])
def test_doubly_has_the_mean_gradient_of_the_plain_estimator(name):
    """ADGM's a serves all classes: its weight is the sum of theirs, also where the path to a leads through z.

    z scores of all coordinates, from 100 means of 500 draws each: a largest of 6 is a failure rate of 1e-6 over some
    300 coordinates. With the weight of z on the path z -> a the largest is about 20.
    """
    model, guide, x, _ = build(name)
    guide.logits.requires_grad_(False)
    many = x.repeat(100, 1)
    means, variances = [], []
    for estimator in ("iwae", "doubly"):
        loss = IWELBO(3, gradient=estimator)(model, guide)
        parameters = [p for p in guide.parameters() if p.requires_grad]
        rows = torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(loss(many), parameters)]) for _ in range(100)]
        )
        means.append(rows.mean(0))
        variances.append(rows.var(0) / 100)
    error = (variances[0] + variances[1]).sqrt()
    z = ((means[1] - means[0]) / error)[error > 0]
    assert len(z) > 100
    assert z.abs().max() < 6


def test_doubly_does_not_train_a_classifier_either():
    model, guide, x, _ = build("adgm")
    with pytest.raises(ValueError, match="site 'y': summed out, and its q cancels in this bound"):
        IWELBO(3, gradient="doubly")(model, guide)(x)


@every
def test_doubly_leaves_value_and_random_stream_as_the_plain_estimator_does(name):
    model, guide, x, _ = build(name)
    (guide.m2 if name == "m1m2" else guide).logits.requires_grad_(False)
    found = []
    for estimator in ("iwae", "doubly"):
        torch.manual_seed(6)
        found.append((IWELBO(3, gradient=estimator)(model, guide)(x), torch.rand(())))
    close(*(value for value, _ in found))
    assert torch.equal(*(later for _, later in found))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "labelled"), [("m2", False), ("m2", True), ("m1m2", False), ("sdgm", False)])
def test_captured_graphs_train_as_the_plain_loop(name, labelled, monkeypatch):
    """A look at values within a network, such as that of `F.one_hot`, would break the graph."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    trained = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model, guide, x, y = build(name)
        loss = ELBO(2)(model, guide)
        data = (x, y) if labelled else x
        fit(
            loss,
            data,
            epochs=3,
            batch_size=N,
            optimizer=partial(torch.optim.SGD, lr=1e-3),
            progress=False,
            compile=compiled,
        )
        trained.append([p.detach() for p in loss.parameters()])
    for plain, captured in zip(*trained, strict=True):
        close(plain, captured)
