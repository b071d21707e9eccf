"""Figures of latents: curves are the densities, panels the coordinates; wrong arguments are named."""

import numpy as np
import pytest
import torch
from gaussian_pairs import Given, LinearGaussian
from matplotlib.colors import to_hex

from zoo.infer import exact_reference, grid_reference, posterior_draws
from zoo.infer.reference.inference_data import to_inference_data
from zoo.plots import plot_latents, plot_marginals, plot_overlay, plot_pairs
from zoo.plots.look import DRAWS, EXACT, GUIDE, looks


def posteriors(latent_dim=2):
    model = LinearGaussian(latent_dim=latent_dim)
    x = model.data(3)
    guide = posterior_draws(model, Given(model), x, num_draws=4000, seed=0)
    return model, x, {"guide": guide, "exact": exact_reference(model, x)}


def test_densities_of_one_coordinate_are_those_of_the_posterior():
    model, x, found = posteriors(latent_dim=1)
    found["grid"] = grid_reference(model, x)
    figure = plot_marginals(found, data=[2], columns=1)
    drawn, exact, grid = figure.axes[0].lines
    assert [to_hex(line.get_color()) for line in (drawn, exact)] == [GUIDE, EXACT]
    assert to_hex(grid.get_color()) not in (GUIDE, EXACT)
    q = model.posterior(x[2:])
    normal = torch.distributions.Normal(q.mean[0, 0], q.variance[0, 0].sqrt())
    for line, tolerance in ((exact, 1e-6), (grid, 1e-6), (drawn, 0.1)):
        z, density = (torch.as_tensor(part) for part in line.get_data())
        peak = normal.log_prob(normal.mean).exp()
        assert (density - normal.log_prob(z).exp()).abs().max() < tolerance * peak
    assert len(figure.legends[0].get_texts()) == 3


def test_panels_are_data_and_coordinates():
    _, _, found = posteriors()
    assert len(plot_marginals(found).axes) == 6
    figure = plot_pairs(found, 1)
    assert len(figure.axes) == 3
    assert [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes] == [("", ""), ("z[0]", "z[1]"), ("z[1]", "")]
    assert len(plot_marginals(found, coordinates=["z[1]"], data=[0]).axes) == 1


@pytest.mark.parametrize(
    "kinds", [[EXACT] * 4, [GUIDE] * 4, [GUIDE, EXACT, EXACT, DRAWS, DRAWS], [GUIDE, EXACT, GUIDE, EXACT, GUIDE]]
)
def test_posteriors_have_colours_of_their_own(kinds):
    found = looks(kinds)
    assert len({colour for colour, _ in found}) == len(kinds)
    assert {found[kinds.index(kind)][0] for kind in kinds} == {*kinds}
    assert len(set(looks([EXACT, GUIDE] * 5))) == 10  # beyond the colours by their dashes


def test_references_of_one_kind_are_told_apart_in_an_overlay():
    model, x, found = posteriors()
    exact, q = found["exact"], model.posterior(x)
    drawn = to_inference_data({"z": q.sample((400,)).reshape(4, 100, 3, 2)})
    figure = plot_overlay(Given(model), [exact, exact, drawn, drawn], x, model=model, data=[0], num_draws=500)
    lines = figure.legends[0].legend_handles
    assert len({to_hex(line.get_color()) for line in lines}) == 5
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["guide", "exact posterior", "exact posterior, 2"]
    assert len(set(labels)) == 5
    shown = {to_hex(c) for part in figure.axes[0].collections for c in part.get_edgecolors()}
    dots = {to_hex(line.get_color()) for line in figure.axes[0].lines}
    assert shown | dots == {to_hex(line.get_color()) for line in lines}


def test_labels_have_a_colour_each():
    z, labels = torch.randn(50, 3), torch.arange(50) % 12
    figure = plot_latents(z, labels, coordinates=(0, 2))
    lines = figure.axes[0].lines
    assert len({to_hex(line.get_color()) for line in lines}) == 12
    np.testing.assert_allclose(lines[3].get_xdata(), z[labels == 3, 0])
    np.testing.assert_allclose(lines[3].get_ydata(), z[labels == 3, 2])
    assert len({to_hex(line.get_color()) for line in plot_latents(z, torch.arange(50)).axes[0].lines}) == 50


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        (lambda found: plot_marginals({}), "plot_marginals: expected posteriors of the same data"),
        (lambda found: plot_marginals({"a": torch.zeros(3)}), "a: expected draws in arviz's container"),
        (lambda found: plot_marginals(found, data=[3]), "data: expected some of the rows 0..2"),
        (lambda found: plot_marginals(found, coordinates=["y"]), "guide: no coordinate 'y'"),
        (lambda found: plot_pairs(found, 7), "datum: expected one of the rows 0..2, got 7"),
        (lambda found: plot_pairs(found, coordinates=["z[0]"]), "coordinates: expected two or more"),
        (lambda found: plot_latents(torch.zeros(3, 2), torch.zeros(3)), "expected z"),
        (lambda found: plot_latents(torch.zeros(3, 2), torch.arange(3), coordinates=(0, 2)), "coordinates"),
    ],
)
def test_wrong_arguments_are_named(plot, words):
    _, _, found = posteriors()
    with pytest.raises(ValueError, match=words):
        plot(found)


def test_grid_of_several_coordinates_has_no_draws():
    model, x, _ = posteriors()
    with pytest.raises(ValueError, match="grid: a grid of 2 coordinates has no draws of one"):
        plot_pairs({"grid": grid_reference(model, x, points=33)})
