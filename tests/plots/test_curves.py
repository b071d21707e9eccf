"""Figures of numbers over a training."""

import numpy as np
import pytest

from zoo.plots import plot_kl_history


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
