"""A hierarchy under a class: its summed bound against a loop over the classes, a labelled one, and refusals."""

import math

import pytest
import torch

import guides
from zoo import BIVA, VAE, Hierarchical, WithClass
from zoo.infer import ELBO, SemiSupervised, terms

N, DATA, CLASSES = 5, 9, 4
LOWER, UPPER = (7,), (6,)

pytestmark = pytest.mark.usefixtures("double_precision")


def biva():
    model = WithClass(BIVA(DATA, (3, 2), (LOWER, UPPER), condition_dim=CLASSES))
    levels = guides.Bidirectional(model.inner, hidden=(LOWER, LOWER, UPPER))
    return model, guides.Labelled(model, hidden=(5,), levels=levels)


def ladder():
    model = WithClass(Hierarchical(DATA, (3, 2), (LOWER, UPPER), condition_dim=CLASSES))
    return model, guides.Labelled(model, hidden=(5,), levels=guides.Ladder(model.inner, hidden=(LOWER, UPPER)))


def bits():
    return (torch.rand(N, DATA) < 0.5).double()


@pytest.mark.parametrize("build", [biva, ladder])
def test_the_summed_bound_and_its_gradient_are_those_of_a_loop_over_the_classes(build):
    model, guide = build()
    x, parameters = bits(), [*model.parameters(), *guide.parameters()]
    torch.manual_seed(1)
    loss = ELBO()(model, guide)(x)
    found = torch.autograd.grad(loss, parameters)

    # the hierarchy alone, over each row with each class; a draw for each, in the order of the summed run
    torch.manual_seed(1)
    classes = torch.arange(CLASSES)
    rows = terms(model.inner, guide.levels, x.repeat(CLASSES, 1), y=classes.repeat_interleave(N))
    given, log_q = rows.log_weights.reshape(CLASSES, N), guide.classifier(x).logits.T
    expected = -(log_q.exp() * (given - math.log(CLASSES) - log_q)).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, loop in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-10, atol=1e-12)


def test_with_labels_the_bound_is_that_of_the_hierarchy_given_them_and_their_prior():
    model, guide = biva()
    x, y = bits(), torch.tensor([0, 3, 1, 1, 2])
    torch.manual_seed(1)
    loss = ELBO()(model, guide)(x, y)
    torch.manual_seed(1)
    expected = ELBO()(model.inner, guide.levels)(x, y=y) + N * math.log(CLASSES)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_labels_train_the_classifier_and_rows_without_them_train_all():
    model, guide = biva()
    loss = SemiSupervised(ELBO(), 5.0)(model, guide)
    loss(bits(), torch.tensor([0, 3, -1, -1, -1])).backward()
    assert all((p.grad != 0).any() for p in [*model.parameters(), *guide.parameters()])


def test_a_mask_hides_entries_from_the_classifier_and_from_the_levels():
    model, guide = biva()
    x, seen = bits(), torch.rand(N, DATA) < 0.6
    losses = []
    for filled in (0.0, torch.nan):
        torch.manual_seed(1)
        losses.append(ELBO()(model, guide)(x.masked_fill(~seen, filled), mask=seen).item())
    assert losses[0] == losses[1]


def test_generates_classes_that_are_given_with_latents_that_are_given():
    model, _ = biva()
    latents, x = model.generate(torch.tensor([1, 2, 2]), fixed={"z_2": torch.ones(2)})
    assert latents["y"].tolist() == [1, 2, 2]
    assert x.shape == (3, DATA)
    assert [*latents] == ["y", "z_1_bu", "z_1_td", "z_2"]
    assert (latents["z_2"] == 1).all()


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: WithClass(VAE(DATA, 2)), TypeError, "model: expected a hierarchy with condition_dim.* got VAE"),
        (lambda: WithClass(BIVA(DATA, (3, 2))), ValueError, "model: BIVA takes no condition; build it with condition"),
        (lambda: WithClass(BIVA(DATA, (3, 2), condition_dim=1)), ValueError, "num_classes"),
        (lambda: guides.Labelled(biva()[0]), ValueError, r"WithClass has no latent_dim; .* levels=guides.TopDown"),
        (
            lambda: guides.Labelled(biva()[0], levels=biva()[1].levels),
            ValueError,
            "levels: expected a guide of model.inner, a hierarchy, got Bidirectional",
        ),
        (
            lambda: guides.Labelled((pair := biva())[0], levels=pair[1].levels, family=guides.Diagonal),
            ValueError,
            "levels: has families of its own",
        ),
        (lambda: biva()[1].posterior(bits(), torch.zeros(N)), TypeError, "posterior: .* is that of `levels`"),
        (lambda: ELBO()(ladder()[0], biva()[1])(bits()), ValueError, "guide: Bidirectional was built for a BIVA"),
        (lambda: ELBO()(*biva())(bits(), torch.full((N,), CLASSES)), ValueError, "y: expected classes 0 to 3, got 4"),
        (lambda: ELBO()(*biva())(bits()[:, 1:]), ValueError, "x: expected"),
    ],
)
def test_refusals(build, error, words):
    with pytest.raises(error, match=words):
        build()
