"""Folders of pairs, loaded by another process that has neither the script nor the data; and the pairs that ship."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from pairs import PAIRS
from safetensors.torch import load_file, save_file

import zoo
from zoo.infer import terms

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = sorted(p for p in (ROOT / "zoo" / "weights").glob("*") if p.is_dir())
ABOUT = {"data", "convention", "command", "figure", "value", "error", "seed", "versions", "date", "stored"}

# Scores every pair of a folder on its data, in evaluation mode by the same draws; prints nothing, so that a warning is
# seen.
LOADER = """
import sys
from pathlib import Path
import pyro, torch
from safetensors.torch import load_file, save_file
import guides, zoo
from zoo.infer import terms

for folder in sorted(Path(sys.argv[1]).iterdir()):
    given = load_file(folder / "data.safetensors")
    model, guide = zoo.load_pair(folder, trust=sys.argv[2:])
    pyro.clear_param_store()
    torch.manual_seed(7)
    model.eval(), guide.eval()
    with torch.no_grad():
        run = terms(model, guide, given.pop("x"), num_particles=3, **given)
    save_file({"log_weights": run.log_weights}, folder / "scores.safetensors")
"""


def scored(model, guide, x, **keywords):
    pyro.clear_param_store()
    torch.manual_seed(7)
    # the mode in which every pair has terms
    model.eval(), guide.eval()
    with torch.no_grad():
        return terms(model, guide, x, num_particles=3, **keywords).log_weights


def state(model, guide):
    """The parameters and buffers of a pair by name."""
    return [(f"{part}.{name}", value) for part, owner in (("model", model), ("guide", guide))
            for name, value in owner.state_dict().items()]  # fmt: skip


def load_elsewhere(folder, *trust, path=ROOT):
    """Runs the loader in a process of its own, warnings being errors; returns its errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, path)))}
    command = [sys.executable, "-W", "error", "-c", LOADER, str(folder), *trust]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def default_dtype():
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.thorough
@pytest.mark.usefixtures("default_dtype")
def test_every_pair_is_the_same_and_scores_the_same_in_another_process(tmp_path):
    expected, states = {}, {}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        for name, pair in PAIRS.items():
            model, guide, x = pair.build()
            folder = tmp_path / f"{name}-{dtype}"
            zoo.save_pair(folder, model, guide)
            save_file({"x": x, **pair.keywords}, folder / "data.safetensors")
            expected[folder] = scored(model, guide, x, **pair.keywords)
            states[folder] = {name: value.clone() for name, value in state(model, guide)}
    assert load_elsewhere(tmp_path) == ""
    for folder, log_weights in expected.items():
        loaded = dict(state(*zoo.load_pair(folder)))
        assert loaded.keys() == states[folder].keys(), folder.name
        assert all(torch.equal(value, loaded[name]) for name, value in states[folder].items()), folder.name
        # not to the last bit: matrix products depend on where in memory the data begin
        found = load_file(folder / "scores.safetensors")["log_weights"]
        torch.testing.assert_close(found, log_weights, msg=lambda said, folder=folder: f"{folder.name}: {said}")


OWN = '''
"""A modeller's own package: a model, a guide, a family and a network."""

import pyro, torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import nn
from guides import Family, Guide
from zoo.parts.recorded import Recorded

class Net(Recorded, nn.Module):
    def __init__(self, size, out, *, scale=1.0):
        super().__init__()
        self.layer, self.scale = nn.Linear(size, out), scale

    def forward(self, h):
        return self.scale * self.layer(h)

class Model(Recorded, PyroModule):
    latent_dim = 2

    def __init__(self, data_dim, net):
        super().__init__("model")
        self.data_dim, self.net = data_dim, net

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

class Laplace(Family):
    def __init__(self, features, context):
        super().__init__(features, context, 2 * features)

    def density(self, parameters, prior):
        loc, log_scale = parameters.chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)

class Encoder(Guide):
    def __init__(self, model, family):
        super().__init__(model)
        self.family = family(2, model.data_dim)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.family(None, x))
'''


# Saves a pair of the script's own classes, and one of a package's, then loads both with and without trust.
SCRIPT = """
import sys
import zoo

def loaded(folder, **options):
    try:
        return type(zoo.load_pair(folder, **options)[1]).__name__
    except ValueError as error:
        return error

model = Model(3, Net(2, 3))
zoo.save_pair(sys.argv[1] + "/script", model, Encoder(model, Laplace))
for name, package in ("script", "__main__"), ("own", "mine"):
    print(loaded(f"{sys.argv[1]}/{name}"))
    print(package in sys.modules)
    print(loaded(f"{sys.argv[1]}/{name}", trust=(package,)))
"""


@pytest.mark.thorough
def test_classes_of_a_user_load_where_they_are_trusted(tmp_path, monkeypatch):
    """Those of a package, and those of a script, which has no other name than __main__."""
    package, folder = tmp_path / "mine", tmp_path / "pairs" / "own"
    package.mkdir()
    (package / "__init__.py").write_text(OWN)
    (tmp_path / "script.py").write_text(OWN + SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    model = mine.Model(3, mine.Net(2, 3, scale=0.5))
    guide, x = mine.Encoder(model, mine.Laplace), torch.randn(4, 3)
    zoo.save_pair(folder, model, guide)
    save_file({"x": x}, folder / "data.safetensors")
    assert load_elsewhere(tmp_path / "pairs", "mine", path=tmp_path) == ""
    assert torch.equal(load_file(folder / "scores.safetensors")["log_weights"], scored(model, guide, x))

    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pairs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    hints = ['load with trust=("__main__",)', 'load with trust=("mine",)']
    assert [line.endswith(hint) for line, hint in zip(said[::3], hints, strict=True)] == [True, True]
    # refused before it was imported
    assert said[1::3] == ["True", "False"]
    assert said[2::3] == ["Encoder", "Encoder"]


# --- the pairs that ship ---------------------------------------------------------------------------------------------


def test_something_ships():
    assert WEIGHTS
    assert sum(p.stat().st_size for folder in WEIGHTS for p in folder.iterdir()) < 40e6


@pytest.mark.parametrize("folder", WEIGHTS, ids=lambda folder: folder.name)
def test_a_pair_that_ships_is_whole_and_says_what_it_is(folder):
    config = json.loads((folder / "config.json").read_text())
    needed = {"config.json", "model.safetensors", "README.md", "score.json", "SHA256SUMS"}
    assert {p.name for p in folder.iterdir()} - {"arguments.safetensors"} == needed
    assert config["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert config["about"].keys() >= ABOUT
    error, rows = config["about"]["error"], zoo.pretrained()[folder.name].score["arguments"]["x"]["shape"][0]
    # a single series is no sample of many
    assert error > 0 if rows > 1 else error is None
    model, guide = zoo.pretrained(folder.name)
    assert all(t.isfinite().all() for half in (model, guide) for t in half.state_dict().values())
