"""Reliability plots of classifiers."""

import numpy as np
import pytest
import torch

from zoo.plots import plot_reliability


def draws(num, classes=4, sharper=1.0, seed=0):
    """Labels drawn from the probabilities, which are then made sharper."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(num, classes, generator=generator)
    y = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return (sharper * logits).softmax(-1), y


def error_of(figure, curve=0):
    return float(figure.axes[0].get_legend().get_texts()[curve].get_text().rsplit(": ", 1)[1])


def test_points_and_error_are_those_of_a_loop_over_bins():
    probabilities, y = draws(500, sharper=2.0)
    figure = plot_reliability({"M2": (probabilities, y)}, bins=8)
    confidence, right = probabilities.max(-1).values.numpy(), (probabilities.argmax(-1) == y).numpy()
    expected, error = [], 0.0
    for low in np.arange(8) / 8:
        inside = (confidence > low) & (confidence <= low + 1 / 8)
        if inside.any():
            expected.append((confidence[inside].mean(), right[inside].mean()))
            error += inside.mean() * abs(np.subtract(*expected[-1]))
    np.testing.assert_allclose(figure.axes[0].lines[1].get_xydata(), expected, rtol=1e-6)
    assert error_of(figure) == pytest.approx(error, abs=6e-4)
    figure.canvas.draw()


def test_a_classifier_that_states_its_probabilities_lies_on_the_diagonal():
    # each bin's share has standard deviation below 0.5 / sqrt(count); failure rate below 1e-5 for all ten bins
    num = 20_000
    figure = plot_reliability({"right": draws(num), "too sure": draws(num, sharper=3.0)})
    mean, share = figure.axes[0].lines[1].get_xydata().T
    counts = np.histogram(draws(num)[0].max(-1).values, bins=np.linspace(0, 1, 11))[0]
    assert (np.abs(share - mean) < 4.9 * 0.5 / np.sqrt(counts[counts > 0])).all()
    sure, right = figure.axes[0].lines[2].get_xydata().T
    assert right[-1] < sure[-1] - 0.05
    assert error_of(figure, 1) > 0.05 > error_of(figure)


def test_certainty_of_single_precision_is_no_error():
    probabilities = torch.tensor([[1.0 + 1e-7, 0.0], [1.0, 0.0]])
    assert error_of(plot_reliability({"sure": (probabilities, torch.tensor([0, 0]))})) == 0.0


@pytest.mark.parametrize(
    ("probabilities", "y", "message"),
    [
        (torch.rand(5), torch.zeros(5), r"q: expected probabilities \(N, C\) and labels \(N,\), got \(5,\) and \(5,\)"),
        (torch.rand(5, 2), torch.zeros(4), r"got \(5, 2\) and \(4,\)"),
        (torch.rand(0, 2), torch.zeros(0), r"got \(0, 2\) and \(0,\)"),
        (
            torch.tensor([[-1.0, 2.0]]),
            torch.zeros(1).long(),
            r"q: expected probabilities in \[0, 1\], got values from -1.0 to 2",
        ),
        (torch.tensor([[torch.nan, 0.5]]), torch.zeros(1).long(), r"q: expected probabilities in \[0, 1\]"),
        (torch.ones(3, 1), torch.tensor([0, -1, 0]), "q: expected integers 0 to 0 as labels, got torch.int64, -1 to 0"),
        (torch.full((2, 2), 0.5), torch.tensor([0, 2]), "q: expected integers 0 to 1 as labels, got .* 0 to 2"),
        (torch.full((2, 2), 0.5), torch.zeros(2), "q: expected integers 0 to 1 as labels, got torch.float32"),
    ],
)
def test_predictions_that_cannot_be(probabilities, y, message):
    with pytest.raises(ValueError, match=message):
        plot_reliability({"q": (probabilities, y)})
