"""The systems of the comparison: nats of levels on one scale, representations that go back and forth, and the run."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import comparison
import continuous
import measures
import recipes
from budget import Budget
from gan import GAN
from systems import Latent

import guides
from zoo import VAE, Density
from zoo.data import Split
from zoo.infer import ELBO, log_likelihood
from zoo.parts.conditionals import FlowPrior, Logit

TINY = recipes.Sizes(
    (2, 3), 4, (3, 2), 8, (2, 8), (2, 8), {"channels": 4, "layers": 2, "kernel": 3}, (8, 8), 10, 5
)  # fmt: skip


def split(num, seed=0, levels=4, size=6):
    random = torch.Generator().manual_seed(seed)
    return Split(torch.randint(levels, (num, size), dtype=torch.uint8, generator=random), torch.arange(num) % 2, levels)


def built(word, seed=0):
    torch.manual_seed(seed)
    return recipes.SYSTEMS[word][1](TINY, Budget(1.0))


@pytest.mark.parametrize("word", recipes.SYSTEMS)
def test_every_system_answers_the_same_questions(word):
    """Draws are levels; a line begins and ends at its ends' own images; none is said where there is none."""
    system, x = built(word), split(12)
    drawn = system.draw(50)
    assert drawn.shape == (50, 6)
    assert ((drawn == drawn.round()) & (drawn >= 0) & (drawn <= 3)).all()
    assert system.parameters > 0
    nats, code, line = system.nats(x, 0), system.represent(x.levels.float()), system.between(x.levels[:2].float(), 5)
    assert (nats is None) == (word == "gan")
    assert (code is None) == (word in ("pixelcnn", "gan"))
    assert (line is None) == (word == "pixelcnn")
    if nats:
        # untrained, near the uniform 6 log 4 = 8.3 nats; a flow starts near a logistic on its logits
        assert -25 < nats["log_p"] < -6, nats
        assert nats["looser"] <= nats["log_p"] + 1e-5
    if code is not None:
        size = {"vae": 3, "hierarchical": 5, "coupling": 6, "maf": 6, "pixelvae": 3}[word]
        assert code.shape == (12, size)
    if line is not None:
        assert line.shape == (5, 6)
        assert ((line >= 0) & (line <= 3)).all()


@pytest.mark.parametrize("word", ["coupling", "maf"])
def test_a_flow_goes_back_and_forth(word):
    system, x = built(word), split(12)
    for parameter in system.model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    noise = system.represent(x.levels.float())
    torch.testing.assert_close(system.moved(noise, back=False), (x.levels + 0.5) / 4, rtol=1e-4, atol=1e-4)
    ends = system.between(x.levels[:2].float(), 3)
    assert torch.equal(ends[[0, 2]], x.levels[:2].float())
    # the density of the noise is the base's, so the change of variables is that of the density
    y = ((x.levels + 0.5) / 4).requires_grad_()
    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(lambda row: _back(system, row), y[0].detach())
    base = torch.distributions.Normal(0.0, 1.0).log_prob(noise[0]).sum()
    torch.testing.assert_close(system.model.log_prob(y[:1].detach())[0].detach(), base + jacobian.slogdet()[1],
                               rtol=1e-3, atol=1e-3)  # fmt: skip


def _back(system, x):
    p, transforms = system.model.likelihood(), []
    while hasattr(p, "transforms"):
        transforms, p = [*p.transforms, *transforms], p.base_dist
    for transform in reversed(transforms):
        x = transform.inv(x)
    return x


@pytest.mark.thorough
def test_more_dequantisations_tighten_a_flows_bound_towards_the_mass_of_a_bin():
    """Of one pixel pair with a known density: log of its integral over the bin, by a grid."""
    torch.manual_seed(0)
    model = Density(2, Logit(FlowPrior(2, num_flows=2, hidden=(8,))))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = split(6, levels=2, size=2)
    ticks = (torch.arange(60) + 0.5) / 60
    grid = torch.cartesian_prod(ticks, ticks)
    with torch.no_grad():
        inside = torch.stack([model.log_prob((row + grid) / 2) for row in x.levels])
    exact = (inside.logsumexp(1) - math.log(len(grid)) - 2 * math.log(2)).mean().item()
    found = {}
    for num in (1, 200):
        system = continuous.Flow(ELBO(), model, guides.Empty(model), levels=2, num_particles=num)
        found[num] = system.nats(x, 0)
    assert found[200]["looser"] <= found[200]["log_p"] <= exact + 0.05
    assert found[200]["log_p"] == pytest.approx(exact, abs=0.05)
    assert found[1]["log_p"] == pytest.approx(found[1]["looser"])
    assert found[200]["how"] == "bound, 200 dequantisations"


def test_a_latent_systems_nats_are_those_of_importance_sampling():
    torch.manual_seed(0)
    model = VAE(6, 2, (5,))
    system = Latent(ELBO(), model, guides.Amortized(model, hidden=(5,)), num_particles=7)
    x = split(9, levels=2)
    expected = log_likelihood(model, system.guide, x.levels.float(), num_particles=7, seed=3)
    found = system.nats(x, 3)
    assert (found["log_p"], found["how"]) == (expected.mean, "L_7")
    assert found["looser"] == pytest.approx(expected.elbo.mean().item())
    torch.testing.assert_close(system.represent(x.levels.float()), system.guide.posterior(x.levels.float()).mean)


def test_a_gan_has_levels_of_equal_width():
    gan = continuous.Adversary(GAN(1, 1, (2,)), levels=4)
    gan.gan.average = torch.nn.Identity()
    z = torch.tensor([[0.0], [0.24], [0.26], [0.99], [1.0]])
    assert gan.images(z).flatten().tolist() == [0, 0, 1, 3, 3]
    assert torch.equal(gan.images(z), measures.cut(z, 4))
    assert measures.cut(torch.tensor([-0.1, 1.1]), 4).tolist() == [0, 3]


@pytest.mark.thorough
def test_an_interrupted_system_goes_on_in_its_folder(tmp_path):
    """The clock is in the checkpoint: a training whose budget is spent takes no further step."""
    for word in ("vae", "gan"):
        budgets = []
        for _ in range(2):
            torch.manual_seed(0)
            budget = Budget(0.002)
            system = recipes.SYSTEMS[word][1](TINY, budget)
            system.train(split(120), split(10, 1), budget, tmp_path / word, 0)
            budgets.append(budget)
        assert budgets[0].share == budgets[1].share == 1.0
        assert budgets[0].steps == budgets[1].steps > 0


@pytest.mark.thorough
def test_the_run_of_one_system_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    (tmp_path / "runs" / "short").mkdir(parents=True)
    comparison.main(systems=("coupling",), minutes=0.002, num=40, num_test=30, name="short", resume=True)
    torch.set_num_threads(threads)
    row = json.loads((tmp_path / "results" / "short.json").read_text())
    assert (row["comparison"], row["data"], row["num_judged"], row["size_of_code"]) == ("coupling", "digits", 30, 64)
    assert row["nats"]["how"] == "bound, 20 dequantisations"
    assert row["bits_per_dim"] == pytest.approx(-row["nats"]["log_p"] / (64 * math.log(2)))
    shown = torch.load(tmp_path / "runs" / "short" / "shown.pt")
    assert shown.keys() == {"draws", "nearest", "real", "between"}
    assert "coupling flow" in capsys.readouterr().out


def test_a_row_holds_one_system():
    with pytest.raises(SystemExit, match=r"--name short: a row holds one system, got vae, gan"):
        comparison.main(systems=("vae", "gan"), name="short")
