"""Figures of numbers over a training."""

import numpy as np
import pytest
import torch

from zoo.infer import Fit
from zoo.plots import plot_elbo_history, plot_kl_history, plot_traversal, plot_waveforms
from zoo.plots.look import styles


def test_levels_are_drawn_from_the_top_each_with_its_course():
    short = [{"epoch": n, "kl": {"z_1": 2.0 * n, "z_10": 0.5, "z_2": -0.1}} for n in range(1, 6)]
    late = [*short[:1], {"epoch": 2, "kl": {}}, {"epoch": 3, "kl": {"z_1": 6.0, "z_10": 0.5, "z_2": 0.0}}]
    figure = plot_kl_history({"short": short, "late": late, "no latent": [{"epoch": 1, "kl": {}}]})
    first, second, third = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["short", "late", "no latent"]
    assert [line.get_label() for line in first.lines] == ["z_10", "z_2", "z_1"]
    assert first.get_yscale() == "log"
    _, shut, lowest = first.lines
    assert lowest.get_ydata().tolist() == [2, 4, 6, 8, 10]
    assert (shut.get_ydata() > 0).all(), "a logarithmic axis has no place for what is shut"
    assert second.lines[0].get_xdata().tolist() == [1, 3]
    assert not third.lines
    figure.canvas.draw()


@pytest.mark.parametrize(("number", "lines"), [(1, 1), (3, 1), (4, 2), (6, 2)])
def test_panels_stand_in_lines_of_three(number, lines):
    figure = plot_kl_history({f"run {n}": [{"epoch": 1, "kl": {"z": 1.0}}] for n in range(number)})
    shown = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in shown] == [f"run {n}" for n in range(number)]
    assert len({ax.get_subplotspec().rowspan.start for ax in shown}) == lines
    assert len({ax.get_ylim() for ax in shown}) == 1, "one scale, so that panels compare"


@pytest.mark.parametrize(("epochs", "width"), [(100, 1), (300, 6)])
def test_a_long_course_is_a_running_mean(epochs, width):
    values = np.random.default_rng(0).uniform(1, 2, epochs)
    history = [{"epoch": n + 1, "kl": {"z": value}} for n, value in enumerate(values)]
    (line,) = plot_kl_history({"x": history}).axes[0].lines
    expected = [values[n : n + width].mean() for n in range(epochs - width + 1)]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (width, epochs), "at the last epoch of each window"


def test_a_fit_is_drawn_by_its_epochs():
    history = [{"epoch": n, "train": 90.0 - n, "validation": 91.0 - n if n % 2 else None} for n in range(1, 5)]
    fitted = Fit(history, None, 4, 40, None, False, 1.0)
    figure = plot_elbo_history(fitted)
    train, validation = figure.axes[0].lines
    assert (train.get_label(), validation.get_label()) == ("training", "validation")
    assert train.get_ydata().tolist() == [-89, -88, -87, -86]
    assert validation.get_xdata().tolist() == [1, 3]
    assert figure.axes[0].get_xlabel() == "epoch"
    several = plot_elbo_history({"a": fitted, "b": ([1, 2], [-3.0, -2.0])})
    assert [line.get_label() for line in several.axes[0].lines] == ["a, training", "a, validation", "b"]
    assert plot_elbo_history({"b": ([1, 2], [-3.0, -2.0])}).axes[0].get_xlabel() == "step"


def test_no_two_of_twenty_curves_look_alike():
    figure = plot_elbo_history({str(n): ([1, 2], [-3.0, -2.0]) for n in range(20)})
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 20
    assert len(set(styles())) == 20


def test_waveforms_have_a_unit():
    sound = {"tone": torch.linspace(-1, 1, 800).sin()}
    assert plot_waveforms(sound, 8000).axes[0].get_ylabel() == "amplitude, full scale = 1"
    assert plot_waveforms(sound, 8000, unit="sd").axes[0].get_ylabel() == "amplitude, sd"


def test_traversal_moves_one_coordinate_in_each_row():
    asked = []

    def decode(z):
        asked.append(z.clone())
        return torch.sigmoid(z[:, :1]).expand(-1, 6)

    figure = plot_traversal(decode, torch.tensor([0.5, -1.0, 2.0]), (2, 3), coordinates=[0, 2], values=(-2.0, 2.0))
    assert asked[0].tolist() == [[-2, -1, 2], [2, -1, 2], [0.5, -1, -2], [0.5, -1, 2]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["z[0]", "z[2]"]
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["-2", "2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"z": torch.zeros(1, 2)}, "z: expected shape"),
        ({"coordinates": [2]}, "coordinates: expected some of 0..1"),
        ({"values": ()}, "values: there must be at least one"),
    ],
)
def test_traversal_names_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=f"plot_traversal: {words}"):
        plot_traversal(lambda z: z, **{"z": torch.zeros(2), "image_shape": (1, 2)} | arguments)
