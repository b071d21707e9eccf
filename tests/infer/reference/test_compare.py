"""A guide held against a reference: known gaps, errors and ratios; verdicts k-hat alone would get wrong; pictures."""

import dataclasses
import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_pairs import Z_MAX, Given, LinearGaussian, MeanField, NoLogProb, shifted
from matplotlib.colors import to_hex
from torch.distributions import kl_divergence

from zoo.infer import exact_reference, grid_reference, hmc_reference
from zoo.infer.reference.compare import FAIR, GOOD, Limits, Verdict, compare
from zoo.infer.reference.inference_data import to_inference_data
from zoo.infer.reference.reference import as_reference
from zoo.plots import plot_elbo_history, plot_images, plot_kl, plot_overlay, plot_reconstructions
from zoo.plots.look import DRAWS, EXACT, GUIDE


@pytest.fixture
def model():
    return LinearGaussian(scale=0.5)


def draws_of(model, x, num=2000, chains=4):
    """Independent draws of the exact posterior, as a sampler would hand them over."""
    torch.manual_seed(0)
    z = model.posterior(x).sample(torch.Size([chains, num // chains]))
    return to_inference_data({"z": z}, attrs={"sampler": "NUTS"})


@pytest.mark.parametrize("make", [exact_reference, grid_reference, draws_of])
def test_the_posterior_itself_is_good_by_every_reference(model, make):
    x = model.data(4)
    found = compare(Given(model), make(model, x), x, seed=0)
    assert found.verdicts == [Verdict.GOOD] * 4
    assert found.reasons == [""] * 4
    # each condition in itself, with its own Monte Carlo error; the log weights are constant
    assert (found.mean_error / found.mean_error_noise).abs().max() < Z_MAX
    assert found.gap.abs().max() < 1e-6 + Z_MAX * found.gap_error.max()
    assert found.elbo_error.max() < 1e-6
    assert (found.pareto_k == -math.inf).all()
    assert found.sd_ratio.log().abs().max() < Z_MAX * math.sqrt(1 / 4000 + 1 / 2000)


def test_numbers_of_a_guide_that_is_off(model):
    x = model.data(5)
    guide = shifted(model, 0.3, 1.4)
    found = compare(guide, exact_reference(model, x), x, num_particles=4000, seed=1)
    posterior = model.posterior(x)
    exact = kl_divergence(guide.make(x), posterior)
    assert ((found.gap - exact) / found.gap_error).abs().max() < Z_MAX
    assert ((found.mean_error - 0.3 / posterior.variance.sqrt()) / found.mean_error_noise).abs().max() < Z_MAX
    assert (found.sd_ratio / 1.4).log().abs().max() < Z_MAX / math.sqrt(2 * 4000)
    assert torch.equal(found.worst_mean_error, found.mean_error.abs().amax(1))
    assert torch.allclose(found.worst_sd_ratio, found.sd_ratio.amax(1))


def test_good_looking_weights_far_from_the_posterior_are_bad(model):
    """k-hat below 0.5 ("good") with the guide 2.6 posterior standard deviations off and a gap above 3 nats."""

    def make(x):
        exact = model.posterior(x)
        direction = exact.scale_tril @ torch.tensor([2.6, 0.0], dtype=x.dtype)
        return dist.MultivariateNormal(exact.mean + direction, scale_tril=1.5 * exact.scale_tril)

    x = model.data(6)
    for reference in (exact_reference(model, x), draws_of(model, x)):
        found = compare(Given(model, make), reference, x, seed=0)
        assert (found.pareto_k < 0.5).all(), "the case in question: k-hat is content"
        assert (found.worst_mean_error > 2).all()
        assert (found.gap > 3).all()
        assert found.verdicts == [Verdict.BAD] * 6
        assert all(reason.startswith("gap, mean") for reason in found.reasons)


def test_one_of_two_modes_is_bad_though_its_weights_are_constant():
    """p(z | x) has two halves by symmetry; the guide is one of them, exactly. Gap log 2, k-hat has nothing to say."""

    def two_modes(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.abs(), 0.1).to_event(1), obs=x)

    def one_mode(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 1.01, math.sqrt(0.01 / 1.01)).to_event(1))

    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    found = compare(one_mode, grid_reference(two_modes, x), x, model=two_modes, seed=0)
    assert (found.pareto_k < 0.7).all()
    torch.testing.assert_close(found.gap, torch.full((2,), math.log(2.0), dtype=torch.float64), rtol=0, atol=1e-6)
    assert found.verdicts == [Verdict.BAD] * 2
    assert "sd" in found.reasons[0]


def test_a_mean_field_guide_is_too_narrow_by_the_known_factor():
    """The best mean field has variance 1 / L_ii, the posterior (L^-1)_ii."""
    model = LinearGaussian(data_dim=3, latent_dim=3, scale=0.6, seed=4)
    x = model.data(3)
    precision = model.precision().detach()
    guide = MeanField(model, 3)
    with torch.no_grad():
        guide.loc.copy_(model.posterior(x).mean)
        guide.log_scale.copy_(-0.5 * precision.diagonal().log())
    found = compare(guide, exact_reference(model, x), x, seed=0)
    expected = (precision.diagonal() * torch.linalg.inv(precision).diagonal()).rsqrt()
    assert (found.sd_ratio / expected).log().abs().max() < Z_MAX / math.sqrt(2 * 4000)


def test_log_p_from_draws_does_not_depend_on_the_guide():
    """A narrow guide far away sees next to nothing of p(x, z): the proposal made of the draws does."""
    model = LinearGaussian(latent_dim=3, scale=0.5)
    x = model.data(8)
    far = shifted(model, shift=3.0, widen=0.3)
    found = compare(far, draws_of(model, x), x, model=NoLogProb(model), seed=0)
    assert ((found.log_p - model.log_prob(x)) / found.log_p_error).abs().max() < Z_MAX
    assert found.log_p_error.max() < 0.1
    assert found.verdicts == [Verdict.BAD] * 8


def test_limits_are_the_callers(model):
    x = model.data(2)
    guide, reference = shifted(model, 0.0, 1.1), exact_reference(model, x)
    assert compare(guide, reference, x, seed=0).verdicts == [Verdict.GOOD] * 2
    strict = Limits(gap=1e-3, mean_error=0.25, sd_ratio=1.25, pareto_k=0.7)
    assert compare(guide, reference, x, good=strict, seed=0).verdicts == [Verdict.FAIR] * 2
    assert compare(guide, reference, x, good=strict, fair=strict, seed=0).verdicts == [Verdict.BAD] * 2
    assert all(g <= f for g, f in zip(GOOD, FAIR, strict=True))


def test_table_and_rows(model):
    x = model.data(3)
    found = compare(shifted(model), exact_reference(model, x), x, seed=0)
    lines = str(found).splitlines()
    assert "exact posterior" in lines[0]
    assert len(lines) == 2 + 3
    for title in ("gap +- se", "k-hat", "verdict"):
        start = lines[1].index(title)
        assert all(line[start - 1] == " " and line[start] != " " for line in lines[2:]), "columns are aligned"
    rows = json.loads(json.dumps(found.rows()))
    assert rows[2]["datum"] == 2
    assert rows[0]["verdict"] in {v.value for v in Verdict}
    assert rows[0]["gap"] == pytest.approx(found.gap[0].item())


def test_compare_says_what_is_missing(model):
    x = model.data(3)
    reference = exact_reference(model, x)
    with pytest.raises(ValueError, match="give model="):
        compare(lambda x: None, reference, x)
    with pytest.raises(ValueError, match="holds 3 data, x has 2"):
        compare(Given(model), reference, x[:2])
    other = to_inference_data({"w": torch.randn(4, 50, 3, 2)})
    with pytest.raises(ValueError, match=r"\['w'\]"):
        compare(Given(model), other, x, num_particles=30)


def test_draws_of_other_sites_or_shapes(model):
    x = model.data(3)
    for draws, message in (
        ({"z": torch.randn(4, 50, 3, 1)}, r"has 1 coordinates \['z\[0\]'\], the guide samples 2"),
        ({"z": torch.randn(4, 50, 3)}, r"has 1 coordinates \['z'\]"),
        ({"z": torch.randn(4, 50, 3, 1, 2)}, r"draws of {'z': \(1, 2\)}, the model has the latent sites {'z': \(2,\)}"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(Given(model), to_inference_data(draws), x, num_particles=30)
    with pytest.raises(ValueError, match="num_particles: expected 30 or more"):
        compare(Given(model), exact_reference(model, x), x, num_particles=1)


def positive(x):
    with pyro.plate("data", len(x)):
        s = pyro.sample("s", dist.Gamma(x.new_tensor(2.0), 1.0))
        t = pyro.sample("t", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(s.unsqueeze(-1) + t, 1.0).to_event(1), obs=x)


def prior_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("s", dist.Gamma(x.new_tensor(2.0), 1.0))
        pyro.sample("t", dist.Normal(x.new_zeros(2), 1.0).to_event(1))


def test_constrained_and_several_sites():
    """Importance sampling from the prior, and from the draws, against quadrature over s; t is summed out by hand."""
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    found = hmc_reference(positive, x, num_samples=300, warmup=100, seed=0, max_rhat=1.1, min_ess=100)
    compared = compare(prior_guide, found, x, model=positive, seed=0)
    s = torch.linspace(1e-6, 20, 20001, dtype=torch.float64)
    likelihood = dist.Normal(s.unsqueeze(-1), math.sqrt(2.0)).log_prob(x).sum(-1)
    exact = torch.trapezoid((dist.Gamma(2.0, 1.0).log_prob(s) + likelihood).exp(), s).log()
    assert abs(compared.log_p.item() - exact) < Z_MAX * compared.log_p_error.item()
    assert compared.coordinates == ["s", "t[0]", "t[1]"]
    draws = {"s": torch.rand(4, 50, 1).double(), "t": torch.randn(4, 50, 1, 2).double()}
    draws["s"][2, 3] = 0.0
    with pytest.raises(ValueError, match="site 's': the reference has draws on the border of the support"):
        compare(prior_guide, to_inference_data(draws), x, model=positive, num_particles=30)
    with pytest.raises(ValueError, match=r"draws of {'t': \(2,\)}, the model has the latent sites {'s': \(\), 't'"):
        compare(prior_guide, to_inference_data({"t": draws["t"]}), x, model=positive, num_particles=30)


def test_scalar_latents_and_a_single_row():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=x.dtype) / 3
        joint = dist.MultivariateNormal(torch.stack([x / 3, 2 * x / 3], -1), covariance)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(joint.mean[:, 0], math.sqrt(2 / 3)))
            pyro.sample("b", dist.Normal(2 * x / 3 + (a - x / 3) / 2, math.sqrt(0.5)))

    x = torch.tensor([1.5], dtype=torch.float64)
    reference = grid_reference(model, x)
    found = compare(guide, reference, x, model=model, seed=0)
    assert found.coordinates == ["a", "b"]
    assert found.verdicts == [Verdict.GOOD]
    assert found.log_p.item() == pytest.approx(dist.Normal(0.0, math.sqrt(3.0)).log_prob(x).item(), abs=1e-6)
    assert plot_overlay(guide, reference, x, model=model, num_draws=500).axes[0].get_ylabel() == "b"


def test_log_weights_that_are_not_finite_are_bad(model):
    """A guide that draws where the model has no density: its ELBO is -inf."""

    def bounded(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.factor("bound", torch.where(z.sum(-1) > 3.0, -torch.inf, 0.0))
            pyro.sample("x", dist.Normal(z @ model.weight.T, 0.5).to_event(1), obs=x)

    x = model.data(2)
    guide = Given(model, lambda x: dist.Normal(torch.ones(len(x), 2).double(), 2.0).to_event(1))
    found = compare(guide, grid_reference(bounded, x), x, model=bounded, num_particles=500, seed=0)
    assert (found.elbo == -math.inf).all()
    assert found.verdicts == [Verdict.BAD] * 2


@pytest.mark.parametrize("data", [torch.float32, torch.float64])
def test_coordinates_have_the_dtype_of_the_latents(data):
    """A model in float32 under data of either kind: densities, draws and pictures."""
    net = torch.nn.Linear(2, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).to(data)
    draws = hmc_reference(model, x, num_samples=50, warmup=30, seed=0, max_rhat=9, min_ess=0)
    for reference in (grid_reference(model, x), draws):
        assert compare(guide, reference, x, model=model, num_particles=100, seed=0).log_p.isfinite().all()
    plot_overlay(guide, [grid_reference(model, x), draws], x, model=model, num_draws=200)


# --- pictures --------------------------------------------------------------------------------------------------------


def contours(figure, colour):
    """Vertices of the contour lines of a colour in each panel, innermost first: panel -> list of `(n, 2)`."""
    found = []
    for ax in figure.axes:
        sets = [c for c in ax.collections if to_hex(c.get_edgecolor()[0]) == colour]
        paths = [torch.as_tensor(p.vertices) for c in sets for p in c.get_paths() if len(p.vertices)]
        found.append(sorted(paths, key=lambda v: (v.amax(0) - v.amin(0)).prod().item()))
    return found


def radii(vertices, posterior, row):
    """Mahalanobis radius of each vertex."""
    standard = torch.linalg.solve_triangular(posterior.scale_tril[row], (vertices - posterior.mean[row]).T, upper=False)
    return standard.norm(dim=0).detach()


def test_overlay_draws_the_regions_it_names(model):
    """In two dimensions the regions of 50 % and 95 % of a Gaussian have radii sqrt(-2 log(1 - mass))."""
    x = model.data(5)
    figure = plot_overlay(
        Given(model), [exact_reference(model, x), draws_of(model, x)], x, data=[4, 1, 0], columns=2, num_draws=40000
    )
    assert len(figure.axes) == 3
    posterior = model.posterior(x)
    expected = [math.sqrt(-2 * math.log(1 - mass)) for mass in (0.5, 0.95)]
    for colour, tolerance in ((EXACT, 0.02), (GUIDE, 0.1)):  # a bin; smoothing and the noise of 40,000 draws
        for row, paths in zip([4, 1, 0], contours(figure, colour), strict=True):
            assert len(paths) == 2
            for path, radius in zip(paths, expected, strict=True):
                assert (radii(path, posterior, row) - radius).abs().max() < tolerance * radius
    dots = [line for line in figure.axes[0].lines if line.get_color() == DRAWS]
    assert len(dots[0].get_xdata()) == 300
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["guide", "exact posterior", "NUTS draws"]
    assert [ax.get_title() for ax in figure.axes] == ["datum 4", "datum 1", "datum 0"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["z[1]", "", "z[1]"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "z[0]", "z[0]"]


def test_overlay_of_chosen_coordinates_and_per_datum_guides(tmp_path):
    model = LinearGaussian(data_dim=6, latent_dim=3, scale=0.5)
    x = model.data(4)
    guide = MeanField(model, 4)
    figure = plot_overlay(
        guide, exact_reference(model, x), x, data=[3, 2], coordinates=(2, 0), image_shape=(2, 3), num_draws=4000
    )
    assert figure.axes[0].get_xlabel() == "z[2]"
    assert figure.axes[0].get_ylabel() == "z[0]"
    assert len(figure.axes[0].child_axes) == 1, "the image"
    outer = contours(figure, GUIDE)[0][-1]
    centre = (outer.amax(0) + outer.amin(0)) / 2
    scale = guide.log_scale.exp()[3, 0].item()
    assert (centre - guide.loc[3, [2, 0]]).abs().max() < 0.2 * scale
    figure.savefig(tmp_path / "overlay.png", dpi=50)
    with pytest.raises(ValueError, match="every reference"):
        plot_overlay(guide, exact_reference(model, x), x[:2])
    one = LinearGaussian(latent_dim=1)
    with pytest.raises(ValueError, match="two coordinates"):
        plot_overlay(Given(one), exact_reference(one, one.data(2)), one.data(2))


def test_overlay_refuses_what_it_cannot_show(model):
    x, guide = model.data(3), Given(model)
    exact = exact_reference(model, x)
    for arguments, message in (
        ({"data": [3]}, r"data: expected some of the rows 0..2, got \[3\]"),
        ({"data": []}, r"data: expected some of the rows 0..2, got \[\]"),
        ({"coordinates": (0, 2)}, r"coordinates: expected two of 0..1, got \[0, 2\]"),
        ({"titles": ["a"]}, "titles: expected 3, one for each panel, got 1"),
    ):
        with pytest.raises(ValueError, match=f"plot_overlay: {message}"):
            plot_overlay(guide, exact, x, **arguments)
    with pytest.raises(ValueError, match="function does not know its model; give model="):
        plot_overlay(lambda x: None, exact, x)
    with pytest.raises(ValueError, match="there must be one"):
        plot_overlay(guide, [], x)
    other = to_inference_data({"w": torch.randn(4, 50, 3, 2)})
    with pytest.raises(ValueError, match=r"the draws reference has no coordinate 'z\[0\]' but \['w\[0\]', 'w\[1\]'\]"):
        plot_overlay(guide, [exact, other], x, num_draws=200)
    bare = dataclasses.replace(exact, draws=None, log_density=None)
    with pytest.raises(ValueError, match="exact reference has neither draws nor a density"):
        plot_overlay(guide, bare, x, num_draws=200)


def test_overlay_takes_the_sites_of_draws_in_any_order():
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    s, t = torch.rand(4, 100, 1) + 5, torch.randn(4, 100, 1, 2)
    both = [to_inference_data({"s": s, "t": t}), to_inference_data({"t": t, "s": s})]
    figure = plot_overlay(prior_guide, both, x, model=positive, num_draws=200, coordinates=(0, 2))
    first, second = (line.get_xydata() for line in figure.axes[0].lines)
    assert (first == second).all()
    assert first[:, 0].min() >= 5


def test_few_draws_in_many_dimensions():
    """A Student t of a diagonal scale, as so few draws say nothing of the rest: log p stays right, its error grows."""
    model = LinearGaussian(data_dim=3, latent_dim=3, scale=2.0)
    x = model.data(4)
    found = compare(Given(model), draws_of(model, x, num=24), x, model=NoLogProb(model), seed=0)
    assert ((found.log_p - model.log_prob(x)).abs() < 1e-6 + Z_MAX * found.log_p_error).all()


def test_other_figures_can_be_written(tmp_path):
    noisy = [-100 * math.exp(-i / 50) - 80 + math.sin(i) for i in range(400)]
    images = torch.rand(23, 12, generator=torch.Generator().manual_seed(0))
    figures = {
        "history": plot_elbo_history({"train": (range(400), noisy), "validation": ([0, 200, 399], [-170, -82, -81])}),
        "images": plot_images(images, (3, 4), title="samples"),
        "reconstructions": plot_reconstructions({"data": images[:5], "mean": images[5:10]}, (3, 4)),
        "kl": plot_kl({"z_1": torch.tensor([1.0, 2.0]), "z_2": 0.25}),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=50)
    bottom, top = figures["history"].axes[0].get_ylim()
    assert bottom > -180, "the first points do not squeeze the rest"
    assert top > max(noisy)
    bars = figures["kl"].axes[0].patches
    assert [bar.get_width() for bar in bars] == [1.5, 0.25]
    assert len(figures["reconstructions"].axes) == 2


def test_figures_leave_pyplot_alone():
    import sys

    before = {name for name in sys.modules if name == "matplotlib.pyplot"}
    plot_kl({"z": 1.0})
    assert {name for name in sys.modules if name == "matplotlib.pyplot"} == before


def test_as_reference_is_idempotent(model):
    reference = exact_reference(model, model.data(2))
    assert as_reference(reference) is reference
