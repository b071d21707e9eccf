"""SemiSupervised over the zoo's models with classes."""

import functools

import pytest
import torch
from labelled_pairs import BUILDS, build
from tiers import thorough_but

from zoo.infer import ELBO, IWELBO, RenyiELBO, SemiSupervised, Tempered, classification_error, fit, plot_reliability
from zoo.infer.training.step.compiled import compiled

KNOWN = torch.tensor([False, True, False, True, True])
OBJECTIVES = {
    "ELBO": ELBO,
    "sticking": lambda: ELBO(sticking=True),
    "IWELBO": lambda: IWELBO(3),
    "doubly": lambda: IWELBO(2, gradient="doubly"),
    "Renyi": lambda: RenyiELBO(0.5, 2),
    "Tempered": lambda: Tempered(ELBO(), kl_weight=0.4, free_bits=0.2),
}


def gradients(pair, value):
    for p in (p for module in pair for p in module.parameters()):
        p.grad = None
    value.backward()
    found = [p.grad for module in pair for p in module.parameters()]
    return [value.detach(), *(torch.zeros(()) if g is None else g.clone() for g in found)]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", thorough_but(["adgm"], BUILDS))
def test_labelled_and_unlabelled_bounds_and_the_classifier_add_up(name, objective, double_precision):
    model, guide, x, y = build(name)
    loss = SemiSupervised(OBJECTIVES[objective](), 1.5)(model, guide)
    torch.manual_seed(1)
    found = gradients((model, guide), loss(x, torch.where(KNOWN, y, -1)))
    alone = OBJECTIVES[objective]()
    # in the bounds of importance weights q(y | x) cancels, and they refuse to train it without labels
    alone.cancels_summed = False
    alone = alone(model, guide)
    torch.manual_seed(1)
    labelled = alone(x[KNOWN], y[KNOWN]) - 1.5 * guide.classifier(x[KNOWN]).log_prob(y[KNOWN]).sum()
    expected = gradients((model, guide), labelled + alone(x[~KNOWN]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("name", BUILDS)
def test_graphs_of_mixed_batches(name, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.manual_seed(0)
    model, guide, x, y = build(name)
    loss, mixed = SemiSupervised(ELBO(), 1.5)(model, guide), torch.where(KNOWN, y, -1)
    graph = compiled(loss, x, mixed)
    for order in (range(5), [4, 2, 0, 1, 3]):
        values = []
        for call in (graph, loss):
            torch.manual_seed(2)
            values.append(gradients((model, guide), call(x[[*order]], mixed[[*order]])))
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", BUILDS)
def test_two_steps_and_an_evaluation(name):
    torch.manual_seed(0)
    model, guide, x, y = build(name)
    loss = SemiSupervised(Tempered(ELBO(), kl_weight=lambda step: step / 2), 1.5)(model, guide)
    result = fit(loss, (x, torch.where(KNOWN, y, -1)), steps=2, batch_size=5, validation=(x, y), progress=False)
    assert result.history[-1]["kl"]["y"] >= 0.0
    assert result.history[-1]["beta"] == 1.0
    share = classification_error(guide, x, y, seed=0) * 5
    assert share == pytest.approx(round(share))
    assert plot_reliability({name: (guide.predict(x), y)}).axes[0].lines


def test_labels_that_there_are_not_are_named_as_the_data_number_them():
    torch.manual_seed(0)
    model, guide, x, y = build("m2")
    wrong = torch.where(KNOWN, y, -1)
    wrong[3] = 4
    with pytest.raises(ValueError, match=r"^data: y: expected classes 0 to 3, got 4 at datum 3"):
        fit(SemiSupervised(ELBO(), 1.0)(model, guide), (x, wrong), steps=1, batch_size=5, progress=False)
