"""Every example runs as a user runs it, with few steps, under several guides, families and objectives."""

import inspect
import json
import math
import re
import runpy
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from tiers import needs_files

import guides
import zoo
from zoo.data import load
from zoo.parts.conditionals import MADE

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES.parent / "tools")]

import anomaly  # noqa: E402
import music  # noqa: E402
import scores  # noqa: E402
import strange  # noqa: E402
import table  # noqa: E402
from rows.music import ROWS  # noqa: E402
from words import LIKELIHOODS, MODELS, SEQUENCE_FAMILIES, SEQUENCE_GUIDES  # noqa: E402

FEW = "--epochs 2 --seed 1"
LINES = {row.name: row.line for row in ROWS}
SMALL = (
    "--epochs 2 --seed 1 --latent-dim 3 --hidden 5 --recurrent 4 --guide-hidden 5 --guide-recurrent 4 "
    "--batch-size 5 --num-particles 3 --warm-up 1"
)
RUNS = {
    "vae": f"vae.py {FEW} --num-test 40 --num-checked 2 --draws 20",
    "vae-3d-doubly": f"vae.py {FEW} --latent-dim 3 --family iaf --objective iwelbo-doubly --num-particles 3 "
    "--num-test 40 --num-checked 2 --draws 20",
    "vae-per-datum": f"vae.py {FEW} --guide per-datum --family full-rank --objective renyi --num-particles 2 "
    "--num-test 20 --num-checked 2 --draws 20",
    "vae-auto": f"vae.py {FEW} --guide auto-normal --num-test 12 --num-checked 2 --draws 20",
    "posterior_check": f"posterior_check.py {FEW} --num-checked 2 --draws 20",
    "flow_posteriors": f"flow_posteriors.py {FEW} --families diagonal planar --num-test 4 --num-shown 2",
    "calibration": "calibration.py --families diagonal --steps 2 --num-train 300 --num-data 20 --num-draws 9",
    "gradients": "gradients.py --replicates 20 --max-particles 2",
    "amortization_gap": f"amortization_gap.py {FEW} --families diagonal spline --widths 5 --num-test 5 --steps 3",
    "hierarchy": f"hierarchy.py {FEW} --num-checked 2 --draws 20",
    "codes": f"codes.py {FEW} --groups 2 --categories 3 --num-test 20 --num-particles 20",
    "labels": f"labels.py {FEW} --num-labels 10 --num-checked 2 --draws 40",
    "few_labels": "few_labels.py --numbers 10 20 --draws 2 --steps 2",
    "gan": "gan.py --minutes 0.001",
    "comparison": "comparison.py --minutes 0.001 --num 40 --num-test 30 --systems vae maf pixelcnn gan",
    "anomaly-vae": "anomaly.py --model vae --epochs 1 --num-images 10 --num-particles 2",
    "anomaly": "anomaly.py --epochs 1 --num-images 10 --num-particles 2",
    "disentangling": "disentangling.py --epochs 1 --num-train 640",
    "positive": "positive.py --steps 3 --counts 1 2",
    "eight_schools": "eight_schools.py --steps 2 --samples 10 --warmup 5",
    "own_model": f"own_model.py {FEW} --num-checked 2",
    "own_model-per-datum": f"own_model.py {FEW} --guide per-datum --num-checked 2",
    "music": f"music.py --name short {SMALL} --rows 10 --family residual --l2 0.01 --dropout 0.1",
    "music-srnn": f"music.py --name short {SMALL} --rows 10 --model srnn --guide filter --family iaf --first-given",
    "kvae": "kvae.py --steps 3 --width 8 --num 4",
    "walk": "walk.py --images digits --steps 2 --width 4 --tau 20 --ahead 20 --num 3 --few 6",
    "sequence_posterior": "sequence_posterior.py --frames 6 --steps 3 --draws 10 --warmup 10 --chains 4 --num-test 20",
    "mixture_em": "mixture_em.py",
    "ppca": "ppca.py",
    "pretrained": "pretrained.py --names digits-vae nile-states",
    "ball": "ball.py --throws 100 --frames 20",
    "nile": "nile.py --draws 10 --warmup 10",
    "co2": "co2.py",
    "airline": "airline.py",
    "structural": "structural.py",
    "gaps": "gaps.py --rates 0.3 --epochs 1 --name short",
    "conditions": "conditions.py --epochs 1 --hidden 5 --latent-dim 2 --num-test 10 --quadrants 1 --num-particles 2",
    "hidden_markov": "hidden_markov.py --restarts 1 --exercises 2 3",
}
# what the quick tests run is enough to see that scripts, words and pictures go together
QUICK = ("vae-per-datum", "anomaly", "music", "ppca", "ball")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example as the main program, in a folder of its own, and returns its output.

    In this process: one of its own spends three seconds on the imports of torch and Pyro. Warnings are errors all the
    same.
    """

    def main(command: str) -> str:
        script, *arguments = command.split()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield main
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    pyplot.close("all")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.thorough] * (n not in QUICK)) for n in RUNS])
def test_example_runs_and_leaves_its_pictures(name, run, tmp_path):
    printed = run(RUNS[name])
    assert list(tmp_path.glob("runs/*/*.png")), printed


@pytest.mark.thorough
@pytest.mark.parametrize("script", sorted({command.split()[0] for command in RUNS.values()} | {"gps.py", "mnist.py"}))
def test_every_example_starts_in_a_process_of_its_own(script, tmp_path):
    """There no other test has imported anything; warnings are errors at the imports too."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--out" in done.stdout or "--name" in done.stdout


@needs_files
def test_the_long_run_leaves_its_row(run, tmp_path):
    few = "--epochs 1 --train-rows 200 --num-test 3 --warm-up 1"
    run(f"mnist.py --name short {few} --objective iwelbo --num-particles 2")
    row = (tmp_path / "results" / "short.json").read_text()
    assert '"log_p"' in row
    assert "mnist.py --name short" in row


def test_a_score_of_strange_images_is_a_small_bound_or_a_large_difference():
    familiar = {"L": torch.tensor([0.0, -1.0]), "L - L>1": torch.tensor([1.0, 2.0])}
    strange_ones = {"L": torch.tensor([-0.5, -3.0]), "L - L>1": torch.tensor([3.0, 4.0])}
    found = scores.judged({"familiar": familiar, "strange": strange_ones})
    assert found["auroc"] == {"strange": {"L": 0.75, "L - L>1": 1.0}}
    # of the strange images the first found stands first, the second third
    assert found["average_precision"] == {"strange": {"L": pytest.approx(5 / 6), "L - L>1": 1.0}}


def test_every_set_of_the_largest_table_has_a_curve():
    found = {f"set {n}": {name: torch.rand(9).double() for name in ("log p", "L", "log p + C")} for n in range(8)}
    figure = anomaly.histograms(found)
    assert len(figure.legends[0].get_texts()) == 8


def test_sets_without_images_are_refused_by_name():
    some, none = {"L": torch.zeros(2)}, {"L": torch.zeros(0)}
    with pytest.raises(ValueError, match="expected familiar and strange images, got none of letters"):
        scores.judged({"digits": some, "noise": some, "letters": none})
    with pytest.raises(ValueError, match="got none of digits"):
        scores.judged({"digits": none, "letters": some})


def test_complexity_is_the_length_of_a_lossless_code():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 48), generator=generator).float()
    coded = scores.codes(noise[0].reshape(4, 4, 3).byte().numpy())
    assert zlib.decompress(coded[0]) == noise[0].byte().numpy().tobytes()
    assert Image.open(BytesIO(coded[1])).tobytes() == noise[0].byte().numpy().tobytes()
    nats = scores.complexity(noise, (4, 4, 3))
    assert nats[0] == 8 * math.log(2) * min(map(len, coded))
    bits = torch.cat([torch.zeros(1, 784), torch.rand(1, 784, generator=generator).bernoulli(generator=generator)])
    plain, random = scores.complexity(bits, (28, 28))
    # no code of fair coins is shorter than they are, by more than a few bits
    assert random > 784 * math.log(2) * 0.99 > plain


def test_any_pair_with_a_likelihood_has_scores():
    """Those of hierarchies aside: a VAE, and a density, which has no latents."""
    torch.manual_seed(0)
    vae, density = zoo.VAE(64, 2, hidden=(4,)), zoo.Density(64, MADE(0, 64, hidden=(64,)))
    for pair in ((vae, guides.Amortized(vae, hidden=(4,))), (density, guides.Empty(density))):
        found = scores.scores_of(*pair, torch.rand(3, 64).round(), (8, 8), 5, 0)
        assert [*found] == ["log p", "L", "log p + C"]
        assert all(values.shape == (3,) for values in found.values())


def test_scores_of_a_trained_pair_are_recorded_and_tabled(run, tmp_path):
    """A pair that ignores its two levels gives both bounds the same value, so that L - L^{>1} tells nothing."""
    torch.manual_seed(0)
    model = zoo.Hierarchical(64, (2, 2), ((4,), (4,)))
    guide = guides.TopDown(model, hidden=((4,), (4,)))
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.zero_()
    zoo.save_pair(tmp_path / "flat", model, guide)
    printed = run("anomaly.py --trained flat --name flat-row --num-images 6 --num-particles 1")
    row = json.loads((tmp_path / "results" / "flat-row.json").read_text())
    assert (row["anomaly"], row["trained"], row["num_images"]["digits, turned"]) == ("digits", "flat", 6)
    assert row["auroc"].keys() == {"digits, turned", "digits, upside down", "digits, inverted", "noise"}
    assert {**row["auroc"]["digits, turned"], "log p + C": 0.5} == dict.fromkeys(
        ("log p", "L", "L>1", "L - L>1", "log p + C"), 0.5
    )
    assert row["average_precision"]["noise"].keys() == row["auroc"]["noise"].keys()
    assert "0.500" in printed
    assert "**Trained on digits** (flat: Hierarchical + TopDown)" in table.anomaly_table(tmp_path / "results")
    assert (tmp_path / "runs" / "anomaly" / "flat-row.png").exists()


def test_the_place_in_a_code_needs_two_videos(run):
    with pytest.raises(SystemExit, match=r"--num: expected 2 or more test videos, .* got 1"):
        run("kvae.py --num 1")


def test_colours_need_a_trained_pair(run):
    with pytest.raises(SystemExit, match=r"cifar10: --trained FOLDER, of python tools/runs.py"):
        run("anomaly.py --data cifar10")


CHANGED = ("turned", "upside down", "inverted")


@needs_files
def test_strange_images_have_the_familiar_size_and_levels():
    mnist, letters, colours = (strange.images_of(data, 7) for data in ("mnist", "notmnist", "cifar10"))
    assert [*mnist] == ["mnist", *(f"mnist, {how}" for how in CHANGED), "noise", "notmnist", "omniglot"]
    assert [*letters] == ["notmnist", *(f"notmnist, {how}" for how in CHANGED), "noise", "mnist", "omniglot"]
    assert {tuple(x.shape) for x in mnist.values()} == {(7, 784)}
    assert {tuple(x.shape) for x in colours.values()} == {(7, 3072)}
    assert torch.cat([*mnist.values(), *letters.values()]).unique().tolist() == [0, 1]
    assert 0.45 < mnist["noise"].mean() < 0.55
    flipped = colours["cifar10, upside down"].unflatten(1, (32, 32, 3))
    assert torch.equal(flipped.flip(1).flatten(1), colours["cifar10"])
    for label, x in colours.items():
        assert torch.equal(x, x.round().clamp(0, 255)), label
    pictures = {label: x.unflatten(1, (32, 32, 3)) for label, x in colours.items()}
    assert torch.equal(pictures["cifar10, constant"][:, 0, 0], pictures["cifar10"].mean((1, 2)).round())
    assert pictures["cifar10, constant"].var((1, 2)).max() == 0
    change = {label: pictures[label].diff(dim=2).abs().mean().item() for label in ("cifar10", "cifar10, blurred")}
    assert change["cifar10, blurred"] < change["cifar10"] / 2
    tile = load("photos").train.levels[0].float().unflatten(-1, (64, 64, 3))
    quarters = strange.images_of("cifar10", 1000)["photos"]
    assert (quarters == tile[:32, 32:].flatten()).all(1).any(), "a quarter of a tile, as it is"
    assert pictures["faces"].var(-1).max() == 0


@needs_files
@pytest.mark.thorough
def test_gps_runs_on_a_few_tracks(run, tmp_path):
    assert " of 3\n" in run("gps.py --num-tracks 3")
    assert (tmp_path / "runs" / "gps" / "gps.png").exists()


@needs_files
@pytest.mark.thorough
def test_gps_bands_hold_what_they_say(run):
    """85 to 95 % of the fixes dropped from all tracks lie in their bands of 90 %, however they are dropped."""
    rows = [line.split() for line in run("gps.py").splitlines() if line.endswith(" of 63")]
    assert len(rows) == 4
    for row in rows:
        assert int(row[-7]) > 1000, "fixes"
        assert 85 <= float(row[-5]) <= 95, row


def test_the_control_makes_the_ball_predictable(run):
    """With it the regions of 90 % hold 90 % of 1000 throws, within 4.5 standard errors; without it hardly any."""
    rows = run("ball.py").splitlines()
    shares = {name: [int(share) / 100 for share in re.findall(r"(\d+) %", line)] for line in rows
              for name in ("with the control", "without  ") if line.startswith(name)}  # fmt: skip
    assert all(abs(share - 0.9) < 4.5 * (0.9 * 0.1 / 1000) ** 0.5 + 0.005 for share in shares["with the control"])
    assert max(shares["without  "][1:]) < 0.1


@pytest.mark.thorough
@needs_files
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ("--data jsb_srnn --model srnn", "sequences.png"),
        ("--data spoken_digits --model vrnn --guide filter --likelihood mixture --first-weight 0.0", "forecast.wav"),
    ],
)
def test_music_and_speech_leave_their_rows_and_sounds(arguments, left, run, tmp_path):
    printed = run(f"music.py --name short {SMALL} {arguments} --rows 32")
    row = json.loads((tmp_path / "results" / "short.json").read_text())
    assert row["convention"] in printed
    assert {"a", "b", "c", "evaluated"} <= row.keys()
    assert row["resampled"]["a"] != row["a"]
    assert (tmp_path / "runs" / "short" / left).stat().st_size > 1000


@pytest.mark.slow
@needs_files
def test_srnn_reaches_its_papers_jsb(run, tmp_path):
    """c <= 4.74 nats a frame on SRNN's own file (Fraccaro et al. 2016), by the very run of README's table."""
    name = "jsb_srnn-srnn-smoother-residual"
    run(f"music.py --name {name} {LINES[name]}")
    row = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert row["num_frames"] == 9396, "the first frames are not scored"
    assert row["c"] <= 4.74


def test_every_run_of_the_tables_has_words_that_exist():
    """The commands name models, guides and families that are there, and options that music.py has."""
    options = {option.replace("_", "-") for option in inspect.signature(music.main).parameters}
    for name, line in LINES.items():
        words = dict(re.findall(r"--(data|model|guide|family|likelihood) (\S+)", line))
        assert {"data", "model", "guide"} <= words.keys(), name
        assert set(re.findall(r"--([a-z0-9-]+)", line)) <= options, name
        known = {"model": MODELS, "guide": SEQUENCE_GUIDES, "family": SEQUENCE_FAMILIES, "likelihood": LIKELIHOODS}
        assert all(word in known[kind] for kind, word in words.items() if kind != "data"), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l2": 0.1, "weight_decay": 0.1}, "l2 = 0.1 and weight_decay = 0.1: give one"),
        ({"dropout": 0.1, "guide_recurrent": 0}, "dropout = 0.1 is that of the guide's recurrence, and"),
    ],
)
def test_settings_that_would_not_be_used_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        music.main("short", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--family diagnoal", "unknown family 'diagnoal': did you mean 'diagonal'?"),
        ("--objective iwealbo", "unknown objective 'iwealbo': did you mean 'iwelbo'?"),
        ("--guide amortised", "unknown guide 'amortised': did you mean 'amortized'?"),
        ("--data digit", "Did you mean 'digits'?"),
    ],
)
def test_a_wrong_word_names_the_nearest(arguments, message, run):
    with pytest.raises((SystemExit, ValueError)) as ended:
        run(f"vae.py {arguments}")
    assert message in str(ended.value)
