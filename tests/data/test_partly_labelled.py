"""Semi-supervised sets: which rows keep their labels, and the batches of an epoch."""

import pytest
import torch
from torch import nn

from zoo.data import Binarized, PartlyLabelled, Split, load
from zoo.infer import fit


def data(num=200, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (num,), generator=generator)
    return torch.arange(num)[:, None] + torch.zeros(1, 3), labels


def test_classes_keep_equally_many_labels_chosen_by_the_seed():
    x, y = data()
    few = PartlyLabelled((x, y), 24, seed=3)
    kept = few.labels >= 0
    assert few.labels[kept].bincount().tolist() == [6] * 4
    assert torch.equal(few.labelled, kept.nonzero()[:, 0])
    assert torch.equal(few.labels[kept], y[kept])
    assert (few.labels[~kept] == -1).all()
    assert torch.equal(PartlyLabelled((x, y), 24, seed=3).labelled, few.labelled)
    assert not torch.equal(PartlyLabelled((x, y), 24, seed=4).labelled, few.labelled)
    assert torch.equal(y, data()[1])


def test_which_rows_are_chosen_is_uniform():
    # each of 10 rows of a class keeps its label with probability 1/2; 400 seeds, two-sided failure rate below 1e-5
    # for all 20 rows together
    y = torch.arange(20) % 2
    counts = sum((PartlyLabelled((y[:, None], y), 10, seed=s).labels >= 0).double() for s in range(400))
    assert ((counts - 200).abs() < 5.1 * 10).all()


@pytest.mark.parametrize(("batch_size", "per_batch"), [(20, None), (20, 3), (30, 28), (199, 1)])
def test_an_epoch_visits_each_unlabelled_row_once_and_the_labelled_ones_in_turns(batch_size, per_batch):
    few = PartlyLabelled(data(), 24, seed=0, per_batch=per_batch)
    each = batch_size // 2 if per_batch is None else per_batch
    epochs = [few.batches(batch_size, seed=1, epoch=epoch) for epoch in (None, 0, 1, 0)]
    for batches in epochs:
        labels = [few.labels[index] for index in batches]
        assert all((y >= 0).sum() == each for y in labels)
        assert all(len(index) == batch_size for index in batches[:-1])
        count = torch.cat(batches).bincount(minlength=200)
        assert (count[few.labels < 0] == 1).all()
        assert count[few.labelled].max() - count[few.labelled].min() <= 1
    assert [len(b) for b in epochs[0]] == [len(b) for b in epochs[1]] == [len(b) for b in epochs[2]]
    for a, b in zip(epochs[1], epochs[3], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(torch.cat(epochs[1]), torch.cat(epochs[2]))
    assert not torch.equal(torch.cat(few.batches(batch_size, seed=2, epoch=0)), torch.cat(epochs[1]))


def test_all_labels():
    x, y = data(classes=2)
    y = torch.arange(200) % 2
    batches = PartlyLabelled((x, y), 200, seed=0).batches(30, seed=0, epoch=0)
    assert torch.cat(batches).sort().values.tolist() == list(range(200))
    assert [len(index) for index in batches] == [30] * 6 + [20]


@pytest.mark.parametrize("kind", ["pair", "split", "binarized"])
def test_rows_keep_their_labels_whatever_x_is(kind):
    digits = load("digits").train
    source = {"pair": (digits.images, digits.labels), "split": digits, "binarized": Binarized(digits, labels=True)}[
        kind
    ]
    few = PartlyLabelled(source, 50, seed=0)
    index = torch.cat([few.labelled[:3], torch.tensor([5, 1])])
    x, y = few.batch(index, torch.Generator().manual_seed(2))
    expected = digits.images[index]
    if kind == "binarized":
        [expected] = Binarized(digits).batch(index, torch.Generator().manual_seed(2))
    assert torch.equal(x, expected)
    assert torch.equal(y, few.labels[index])
    assert y[:3].tolist() == digits.labels[few.labelled[:3]].tolist()
    assert torch.equal(digits[few.labelled].labels, few.labels[few.labelled])


def test_labels_that_the_source_lacks_are_never_chosen():
    x, y = data()
    y[::2] = -1
    few = PartlyLabelled((x, y), 24, seed=0)
    assert (few.labelled % 2 == 1).all()
    assert few.labels[few.labelled].bincount().tolist() == [6] * 4


class Seen(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.batches = nn.Parameter(torch.zeros(())), []

    def forward(self, x, y):
        if torch.is_grad_enabled():
            self.batches.append((x[:, 0].long(), y))
        return self.weight * len(x)


def test_a_resumed_training_sees_the_same_batches(tmp_path):
    few = PartlyLabelled(data(), 24, seed=0)
    straight, first, second = Seen(), Seen(), Seen()
    options = {"batch_size": 30, "progress": False, "seed": 4}
    fit(straight, few, steps=25, **options)
    fit(first, few, steps=15, out=tmp_path, **options)
    fit(second, few, steps=25, out=tmp_path, resume=True, **options)
    seen = first.batches + second.batches
    assert len(seen) == len(straight.batches) == 25
    for (x, y), (rows, labels) in zip(seen, straight.batches, strict=True):
        assert torch.equal(x, rows)
        assert torch.equal(y, labels)
        assert torch.equal(y, few.labels[rows])


def test_binarized_gives_labels_where_asked():
    digits = load("digits").train
    assert len(Binarized(digits).batch(torch.tensor([2]), torch.Generator())) == 1
    x, y = Binarized(digits, labels=True).batch(torch.tensor([2, 9]), torch.Generator())
    assert x.shape == (2, 64)
    assert y.tolist() == digits.labels[[2, 9]].tolist()
    for source in (digits.images, Split(digits.levels, None, 17)):
        with pytest.raises(ValueError, match=f"Binarized: labels were asked for, and this {type(source).__name__} has"):
            Binarized(source, labels=True)


@pytest.mark.parametrize(
    ("num_labels", "message"),
    [
        (22, "num_labels must be a multiple of the 4 classes, which have equally many labels each; got 22"),
        (3, "num_labels must be an integer >= 4, got 3"),
        (0, "num_labels must be an integer >= 4, got 0"),
        (24.0, "num_labels must be an integer >= 4, got 24.0"),
        (True, "num_labels must be an integer >= 4, got True"),
        (400, r"class 0 has \d+ rows, fewer than 100 labels"),
    ],
)
def test_numbers_of_labels_that_cannot_be(num_labels, message):
    with pytest.raises(ValueError, match=f"PartlyLabelled: {message}"):
        PartlyLabelled(data(), num_labels, seed=0)


@pytest.mark.parametrize("per_batch", [0, -1, 2.0])
def test_numbers_of_labels_of_a_batch_that_cannot_be(per_batch):
    with pytest.raises(ValueError, match="PartlyLabelled: per_batch must be an integer >= 1"):
        PartlyLabelled(data(), 24, seed=0, per_batch=per_batch)


@pytest.mark.parametrize(("per_batch", "batch_size"), [(20, 20), (None, 1)])
def test_batches_without_room_for_both_kinds(per_batch, batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size}: has no room for labelled and unlabelled rows"):
        PartlyLabelled(data(), 24, seed=0, per_batch=per_batch).batches(batch_size, 0, 0)


def test_labels_that_cannot_be():
    x, y = data()
    for wrong in (y.double(), y[:5], nn.functional.one_hot(y)):
        with pytest.raises(ValueError, match=r"PartlyLabelled: expected int64 labels of shape \(200,\)"):
            PartlyLabelled((x, wrong), 24, seed=0)
    with pytest.raises(ValueError, match=r"PartlyLabelled: every label is unknown \(-1\)"):
        PartlyLabelled((x, y.new_full((200,), -1)), 24, seed=0)
    with pytest.raises(ValueError, match=r"PartlyLabelled: the data have no labels \(Binarized\)"):
        PartlyLabelled(Binarized(x / 200), 24, seed=0)
    for other in (x, (x, y, y), [1, 2]):
        with pytest.raises(TypeError, match="PartlyLabelled: expected a Split, tensors"):
            PartlyLabelled(other, 24, seed=0)
