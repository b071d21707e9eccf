"""Trainings with few labels on the digits of scikit-learn, to a target; and images by class, read by a classifier."""

from functools import partial

import pyro
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import guides
from zoo import ADGM, M2
from zoo.data import Binarized, PartlyLabelled, load
from zoo.infer import ELBO, SemiSupervised, classification_error, fit

HIDDEN, LATENT, STEPS = (128,), 10, 4000


def m2():
    model = M2(64, LATENT, 10, HIDDEN)
    return model, guides.Labelled(model, hidden=HIDDEN)


def sdgm():
    model = ADGM(64, LATENT, 10, HIDDEN, skip=True)
    return model, guides.Auxiliary(model, hidden=HIDDEN)


def trained(build, rows, steps, objective):
    pyro.set_rng_seed(0)
    model, guide = build()
    fit(objective(model, guide), rows, steps=steps, batch_size=200, average=0.998, progress=False,
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps))  # fmt: skip
    return model, guide


@pytest.mark.slow
@pytest.mark.parametrize("build", [m2, sdgm])
def test_unlabelled_digits_teach_what_a_hundred_labels_do_not(build):
    digits = load("digits")
    rows = PartlyLabelled(Binarized(digits.train, labels=True), num_labels=100, seed=0)
    few = digits.train[rows.labelled]
    # both held-out splits, since nothing is chosen by either: 600 images, of which a per cent is six
    images = torch.cat([digits.valid.images, digits.test.images])
    labels = torch.cat([digits.valid.labels, digits.test.labels])
    logistic = LogisticRegression(max_iter=1000).fit(few.images.numpy(), few.labels.numpy())
    of_labels_alone = 1 - logistic.score(images.numpy(), labels.numpy())
    _, guide = trained(build, rows, STEPS, SemiSupervised(ELBO(), 20.0))
    found = classification_error(guide, images, labels, seed=1)
    assert found <= 0.85 * of_labels_alone


@pytest.mark.slow
def test_a_classifier_of_real_digits_reads_the_class_that_was_asked_for():
    digits = load("digits")
    model, _ = trained(m2, Binarized(digits.train, labels=True), 2_000, ELBO())
    classifier = SVC().fit(digits.train.images.numpy(), digits.train.labels.numpy())
    y = torch.arange(10).repeat(100)
    latents, _ = model.generate(y)
    # means, since bits of 8 x 8 pixels are hard to read even of real digits
    drawn = model.likelihood(y, latents["z"]).mean.detach()
    score = classifier.score(drawn.numpy(), y.numpy())
    assert score >= 0.95
