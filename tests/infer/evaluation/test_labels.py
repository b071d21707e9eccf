"""Classification error of a guide that predicts."""

import pytest
import torch
from torch import nn

from zoo.infer import classification_error


class Classifier(nn.Module):
    """Probabilities that are made worse by noise in training mode."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.line, self.noise, self.sizes = nn.Linear(2, 3), noise, []

    def predict(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.sizes.append(len(x))
        logits = self.line(x)
        return (logits + self.noise * torch.randn_like(logits)).softmax(-1)


def test_the_error_is_the_share_of_wrong_classes_in_pieces_of_rows():
    torch.manual_seed(0)
    guide, x = Classifier(), torch.randn(2500, 2)
    y = torch.randint(3, (2500,))
    expected = (guide.line(x).argmax(-1) != y).double().mean().item()
    assert classification_error(guide, x, y) == expected
    assert guide.sizes == [1000, 1000, 500]
    assert guide.training
    assert classification_error(guide, x, guide.line(x).argmax(-1)) == 0.0


def test_a_seed_is_the_calls_own():
    guide, x, y = Classifier(noise=3.0), torch.randn(400, 2), torch.randint(3, (400,))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = classification_error(guide, x, y, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert classification_error(guide, x, y, seed=0) == first
    assert len({classification_error(guide, x, y, seed=seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(4), "y: expected an integer for each of 4 rows of x, got torch.float32"),
        (torch.zeros(3).long(), "y: expected an integer for each of 4 rows of x"),
        (torch.eye(4, 3).long(), "y: expected an integer for each of 4 rows of x"),
        (torch.tensor([0, 3, 1, -1]), "y: expected classes 0 to 2, others in rows 1, 3"),
    ],
)
def test_labels_that_cannot_be(y, message):
    with pytest.raises(ValueError, match=message):
        classification_error(Classifier(), torch.randn(4, 2), y)


def test_rows_of_labels_are_counted_from_the_first():
    y = torch.zeros(1500).long()
    y[1203] = 3
    with pytest.raises(ValueError, match=r"others in rows 1203$"):
        classification_error(Classifier(), torch.randn(1500, 2), y)


class Wide(Classifier):
    def predict(self, x):
        return super().predict(x).unsqueeze(0)


def test_guides_that_do_not_predict():
    x, y = torch.randn(4, 2), torch.zeros(4).long()
    with pytest.raises(TypeError, match=r"Linear has no predict\(x\)"):
        classification_error(nn.Linear(2, 3), x, y)
    with pytest.raises(
        ValueError, match=r"predict\(x\) of Wide: expected probabilities of shape \(4, C\), got \(1, 4, 3"
    ):
        classification_error(Wide(), x, y)
    with pytest.raises(ValueError, match="of 0 rows of x"):
        classification_error(Classifier(), x[:0], y[:0])
