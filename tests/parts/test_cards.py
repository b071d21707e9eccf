"""The README of a folder says what the pair is, and `push_to_hub` uploads three files: to a fake in this process."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import guides
import zoo
from zoo.infer import ELBO, fit
from zoo.parts.conditionals import Bernoulli
from zoo.parts.recorded.card import CARD, MARK, card

ABOUT = {
    "name": "bits", "data": "eight bits", "figure": "log p, nats", "value": -3.25, "error": 0.125, "license": "mit",
    "convention": "100 samples | one seed", "command": "python bits.py", "seed": 0, "split": [80, 20],
}  # fmt: skip


def pair(**settings):
    model = zoo.VAE(8, 2, hidden=(5,), **settings)
    return model, guides.Amortized(model, hidden=(5,))


class Hub:
    """What huggingface_hub does, on paper."""

    def __init__(self):
        self.made, self.sent = [], []

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.made.append((repo_id, private, exist_ok))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        files = {path.name for path in Path(folder_path).iterdir() if path.name in allow_patterns}
        self.sent.append((repo_id, files, commit_message))


@pytest.fixture
def hub(monkeypatch):
    fake = Hub()
    module = SimpleNamespace(create_repo=fake.create_repo, upload_folder=fake.upload_folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return fake


def test_the_card_says_what_the_pair_is(tmp_path):
    model, guide = pair()
    zoo.save_pair(tmp_path, model, guide, about=ABOUT)
    text = (tmp_path / CARD).read_text()
    assert text.startswith("---\nlibrary_name: pyro-latent-zoo\n")
    assert '\nlicense: "mit"\n---\n' in text
    assert "\n# bits\n" in text
    count = sum(p.numel() for half in (model, guide) for p in half.parameters())
    for row in (
        "| model | `zoo.VAE`: p(x, z) = p(z) p(x \\| z):", "| guide | `guides.Amortized`: q(z \\| x) =",
        "| data | eight bits |\n| figure | log p, nats |\n| value | -3.25 ± 0.12 |\n"
        "| convention | 100 samples \\| one seed |\n| command | `python bits.py` |\n| seed | 0 |\n| split | [80, 20] |",
        f"| numbers stored | {count:,} |", f"torch {torch.__version__}",
    ):  # fmt: skip
        assert row in text
    head = text.split("---")[1]
    assert "tags: [pyro, pytorch, latent-variable-model]" in head
    # the facts are those of the pair that was saved last
    zoo.save_pair(tmp_path, model)
    text = (tmp_path / CARD).read_text()
    assert "\n# VAE\n" in text
    assert "guide |" not in text
    assert "bits" not in text


def test_a_readme_that_somebody_wrote_is_left_alone(tmp_path):
    (tmp_path / CARD).write_text("mine")
    zoo.save_pair(tmp_path, *pair())
    assert (tmp_path / CARD).read_text() == "mine"


def test_the_pair_that_ships_has_its_card():
    folder = Path(zoo.__file__).parent / "weights" / "mnist-short"
    text, config = (folder / CARD).read_text(), json.loads((folder / "config.json").read_text())
    assert MARK in text
    rows = {line.split(" | ")[0]: line for line in card(config).splitlines() if line.startswith("| ")}
    kept = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    halves = {"| model", "| guide"}
    assert rows.keys() == kept.keys()
    assert {name: row for name, row in rows.items() if name not in halves} == {
        name: row for name, row in kept.items() if name not in halves
    }


def test_three_files_of_a_folder_are_uploaded(tmp_path, hub):
    zoo.save_pair(tmp_path, *pair(), about=ABOUT)
    (tmp_path / "notes.txt").write_text("not for others")
    assert zoo.push_to_hub(tmp_path, "me/bits", private=True, message="first") == "https://hub.example/me/bits"
    assert hub.made == [("me/bits", True, True)]
    assert hub.sent == [("me/bits", {"config.json", "model.safetensors", "README.md"}, "first")]


def test_a_training_gets_a_card_when_it_is_uploaded(tmp_path, hub):
    fit(ELBO()(*pair()), torch.ones(20, 8), steps=1, batch_size=10, out=tmp_path, progress=False)
    zoo.push_to_hub(tmp_path, "me/bits")
    assert hub.sent[0][1] == {"config.json", "model.safetensors", "README.md"}
    assert "| model | `zoo.VAE` |" in (tmp_path / CARD).read_text()
    assert zoo.load_pair(tmp_path)[1] is not None


@pytest.mark.parametrize("repo", ["bits", "me/", "a/b/c", "me/bits two", None])
def test_a_name_that_is_no_repository_is_refused(repo, tmp_path, hub):
    zoo.save_pair(tmp_path, *pair())
    with pytest.raises(ValueError, match="repo: expected 'owner/name', got"):
        zoo.push_to_hub(tmp_path, repo)
    assert hub.made == []


def test_folders_that_nobody_could_load_are_refused_before_a_repository_is_made(tmp_path, hub, capsys):
    with pytest.raises(FileNotFoundError, match=r"config.json: there is no such file"):
        zoo.push_to_hub(tmp_path, "me/bits")
    zoo.save_pair(tmp_path / "damaged", *pair())
    tensors = tmp_path / "damaged" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="expected sha256"):
        zoo.push_to_hub(tmp_path / "damaged", "me/bits")
    unbuilt = pair(likelihood=lambda width, data_dim: Bernoulli(width, data_dim))
    fit(ELBO()(*unbuilt), torch.ones(20, 8), steps=1, batch_size=10, out=tmp_path / "lambda", progress=False)
    assert "lambda" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"push_to_hub: .* the pair cannot be built again from it"):
        zoo.push_to_hub(tmp_path / "lambda", "me/bits")
    assert hub.made == []


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch):
    zoo.save_pair(tmp_path, *pair())
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"push_to_hub needs the extra: pip install 'pyro-latent-zoo\[hub\]'"):
        zoo.push_to_hub(tmp_path, "me/bits")
