"""Tables of results and speed: each shows the recorded numbers under their convention."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import cells
import speed_tables
import table

RUN = {
    "name": "x",
    "data": "mnist",
    "objective": "iwelbo-doubly(50)",
    "family": "diagonal",
    "log_p": -84.13,
    "log_p_error": 0.25,
    "elbo": -86.5,
    "active_units": 24,
    "num_test": 1000,
    "epochs": 40,
    "training_seconds": 7260,
    "hardware": "2 abaci",
    "command": "python examples/mnist.py --name x",
    "note": "fewer epochs",
}
TIMING = {
    "command": "python -m benchmarks.vae_step",
    "hardware": "an abacus",
    "versions": {"torch": "2.10"},
    "sizes": {
        "toy": {
            "data": 2,
            "hidden": 32,
            "latent": 2,
            "batch": 128,
            "particles": 50,
            "rows": {
                "zoo, compiled": {
                    "cpu_ms": 0.25,
                    "cpu / by hand": {"median": 0.5},
                    "cpu / by hand, compiled": {"median": 1.5},
                    "peak_bytes": 2_000_000,
                }
            },
        }
    },
}


def test_tables_show_what_the_results_say(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(RUN))
    (tmp_path / "speed.json").write_text(json.dumps(TIMING))
    shown = table.results_table(tmp_path)
    own = ["-84.13 ± 0.25", "-86.50", "| 24 |", "40 (3,280)", "2 h 1 min", "2 abaci", "fewer epochs", RUN["command"]]
    for part in [*own, "-84.78 (25 units), reported, unverified", "1,000 of the test images"]:
        assert part in shown, part
    (tmp_path / "x.json").write_text(json.dumps(RUN | {"data": "binarized_mnist"}))
    assert "reported" not in table.results_table(tmp_path), "another data set has another number"
    shown = speed_tables.speed_table(tmp_path)
    for part in ("2-32-2, batch 128, IWELBO(50)", "0.25 ms, 1.50 ×, 2.0 MB", "an abacus", "torch 2.10"):
        assert part in shown, part
    with pytest.raises(ValueError, match=r"docs/pairs.md: the markers <!-- pairs:begin"):
        table.render("docs/pairs.md", "no markers here")


def test_steps_of_sequences_and_their_lengths_are_tabled(tmp_path):
    timed = {"cpu_ms": 1384.0, "ratio": 1.01, "quartiles": [1.0, 1.1], "peak_bytes": 42_000_000}
    record = {"command": "c", "hardware": "an abacus", "versions": {}}
    record |= {"sequence_steps": {}, "lengths": {}, "titles": {}}
    rows = {"dmm": {"zoo": timed, "Pyro's own dmm.py": timed}, "srnn": {"zoo": timed}}
    steps = {"sequence_steps": rows, "titles": {"dmm": "DMM, T 9", "srnn": "SRNN, T 8"}}
    (tmp_path / "a.json").write_text(json.dumps(record | steps))
    (tmp_path / "b.json").write_text(json.dumps(record | {"lengths": {"2000": {"zoo": timed}}}))
    shown = speed_tables.sequence_speed_table(tmp_path)
    for part in (
        "| one training step | DMM, T 9 | SRNN, T 8 |",
        "| zoo | 1,384 ms, 42 MB, 1.01 × | 1,384 ms, 42 MB, 1.01 × |",
        "| Pyro's own dmm.py | 1,384 ms, 42 MB, 1.01 × |  |",
        "| 2,000 | 1,384 ms, 42 MB |",
    ):
        assert part in shown, part
    assert "No timing" in speed_tables.sequence_speed_table(tmp_path / "none")


@pytest.mark.parametrize("key", ["hierarchy_steps", "label_steps", "kvae_steps", "walk_steps", "pixelcnn_steps"])
def test_steps_beside_those_by_hand_are_tabled(key, tmp_path):
    timed = {"cpu_ms": 23.4, "ratio": 1.06, "quartiles": [1.0, 1.1], "peak_bytes": 8_000_000}
    sizes = {"ladder": {"by hand": timed, "zoo": timed}, "BIVA": {"zoo": timed}}
    record = {"command": "c", "hardware": "an abacus", "versions": {}, key: sizes}
    (tmp_path / "a.json").write_text(json.dumps(record))
    make = {"hierarchy_steps": speed_tables.hierarchy_speed_table, "label_steps": speed_tables.label_speed_table,
            "kvae_steps": speed_tables.kvae_speed_table, "walk_steps": speed_tables.walk_speed_table,
            "pixelcnn_steps": speed_tables.pixelcnn_speed_table}  # fmt: skip
    shown = make.pop(key)(tmp_path)
    for part in ("| one training step | ladder | BIVA |", "| by hand | 23 ms, 8 MB, 1.06 × |  |", "an abacus"):
        assert part in shown, part
    assert all("No timing" in other(tmp_path) for other in make.values())


def test_one_table_sums_the_steps_up_and_leaves_out_what_has_none_of_the_zoo(tmp_path):
    timed = {"by hand": {"cpu_ms": 20.0, "ratio": 1.0}, "zoo": {"cpu_ms": 22.0, "ratio": 1.1}}
    sizes = {"ladder": timed | {"zoo, compiled": {"cpu_ms": 18.0, "ratio": 0.9}}, "BIVA": timed, "draw": {}}
    (tmp_path / "a.json").write_text(json.dumps({"hierarchy_steps": sizes}))
    # the record of another benchmark, in which no step of the zoo is uncompiled
    (tmp_path / "b.json").write_text(json.dumps(TIMING))
    assert speed_tables.overview_table(tmp_path).splitlines()[2:] == [
        "| Hierarchical and BIVA | ladder | 20 ms | 1.10 × | 0.90 × |",
        "| Hierarchical and BIVA | BIVA | 20 ms | 1.10 × | – |",
    ]


SONGS = {
    "name": "y",
    "data": "jsb",
    "model": "dmm",
    "guide": "smoother",
    "family": "diagonal",
    "likelihood": "bernoulli",
    "evaluated": "jsb test (polyphonic_music.npz)",
    "convention": "first frame scored, each sequence from its own start",
    **{name: value for average, cost in zip("abc", (6.4, 6.9, 6.8), strict=True)
       for name, value in {average: cost, f"{average}_error": 0.05}.items()},
    "bound_per_sequence": -424.4,
    "log_p_per_sequence": -392.1,
    "num_sequences": 77,
    "num_frames": 4725,
    "num_particles": 100,
    "epochs": 300,
    "best_epoch": 250,
    "training_seconds": 7260,
    "hardware": "2 abaci",
    "command": "python examples/music.py --name y",
    "note": "",
    "seed": 0,
    "versions": {"torch": "2.10"},
}  # fmt: skip


def test_sequences_are_tabled_under_their_convention(tmp_path):
    assert "No run" in table.sequences_table(tmp_path)
    (tmp_path / "y.json").write_text(json.dumps(SONGS))
    other = {"name": "z", "data": "jsb_srnn", "evaluated": "jsb_srnn test (x.npz)", "convention": "first frame given"}
    (tmp_path / "z.json").write_text(json.dumps(SONGS | other))
    shown = table.sequences_table(tmp_path)
    heads = ["**jsb test (polyphonic_music.npz)**: 77 sequences, 4,725 frames; first frame scored, each sequence",
             "**jsb_srnn test (x.npz)**: 77 sequences, 4,725 frames; first frame given"]  # fmt: skip
    cells = ["6.400 ± 0.050 | 6.900 ± 0.050 | 6.800 ± 0.050", "| 100 |", "300 (best 250)", "2 h 1 min"]
    for part in [*heads, *cells, "| a 6.388, b 6.926, c 6.856 |"]:
        assert part in shown, part
    assert shown.count("6.388") == 1, "other data have another number"
    assert "reported" not in shown, "that of DMM's paper was read again"
    assert "carried" not in shown
    assert "resampled" not in shown
    recalled = {"name": "s", "data": "jsb_srnn", "model": "srnn", "family": "residual"}
    carried = {"carried": {"c": 6.7, "c_error": 0.04}, "resampled": {"a": 6.2, "a_error": 0.06}}
    (tmp_path / "s.json").write_text(json.dumps(SONGS | other | recalled | carried))
    shown = table.sequences_table(tmp_path)
    assert "| 6.800 ± 0.050 | 6.700 ± 0.040 | 100 | c 4.74, reported, unverified |" in shown
    assert "| 6.800 ± 0.050 | – | 100 |" in shown
    assert "| a | a, resampled | b |" in shown
    assert "| 6.400 ± 0.050 | 6.200 ± 0.060 | 6.900 ± 0.050 |" in shown
    assert "| 6.400 ± 0.050 | – | 6.900 ± 0.050 |" in shown
    assert shown.count("c, state carried") == 1
    assert table.results_table(tmp_path).startswith("No run"), "images have a table of their own"
    assert table.speech_table(tmp_path).startswith("No run"), "speech too"


def test_speech_is_tabled_over_seeds_and_its_order_told(tmp_path):
    """Welch's interval by hand: differences of means of 3 and 3, standard errors of both, their degrees of freedom."""
    spoken = SONGS | {"data": "spoken_digits", "evaluated": "spoken_digits test", "likelihood": "normal"}
    bounds = {
        ("srnn", "smoother", "residual"): (10.0, 11.0, 12.0),
        ("srnn", "smoother", "diagonal"): (5.0, 6.0, 7.0),
        ("srnn", "filter", "diagonal"): (5.0, 9.0, 4.0),
        ("vrnn", "filter", "diagonal"): (20.0, 21.0, 22.0),
    }
    for (model, guide, family), values in bounds.items():
        for seed, value in enumerate(values):
            row = {"model": model, "guide": guide, "family": family, "bound_per_sequence": value, "seed": seed}
            (tmp_path / f"{model}-{guide}-{family}-{seed}.json").write_text(json.dumps(spoken | row))
    shown = table.speech_table(tmp_path)
    half = 4.302653 / 3**0.5  # Student's with 2 degrees of freedom, s.d. 1
    ends = 5 - 2.776445 * (2 / 3) ** 0.5, 5 + 2.776445 * (2 / 3) ** 0.5  # equal variances: 4 degrees of freedom
    wide = 3.515 * (1 / 3 + 7 / 3) ** 0.5  # variances 1 and 7: (8/3)^2 / ((1/3)^2 / 2 + (7/3)^2 / 2) = 2.56 of them
    for part in (
        f"| 11.0 ± {half:.1f} |",
        f"as in SRNN's table; difference 5.0 nats a sequence, 95 % from {ends[0]:.1f} to {ends[1]:.1f}",
        f"srnn + filter + diagonal: undecided; difference 0.0 nats a sequence, 95 % from {-wide:.1f} to {wide:.1f}",
        "srnn + smoother + residual above vrnn + filter + diagonal: the other way",
        "the best first: vrnn + filter + diagonal > srnn + smoother + residual > srnn + ",
        "| 3 |",
    ):
        assert part in shown, part
    assert shown.index("| vrnn |") < shown.index("| srnn |"), "the best first"
    assert table.sequences_table(tmp_path).startswith("No run"), "music has a table of its own"
    (tmp_path / "again.json").write_text(json.dumps(spoken | row))
    with pytest.raises(ValueError, match="are not seeds of one run"):
        table.speech_table(tmp_path)


HIERARCHY = {
    "name": "mnist-5-ladder",
    "system": "Hierarchical + Ladder (LVAE)",
    "data": "mnist, dynamic bits",
    "figures": {"L_1": -90.123, "L_1000": -85.5, "error": 0.21, "monte_carlo_error": 0.01, "num_test": 10_000,
                "kl": {"z_2": 3.0, "z_1": 20.25}},
    "ended": "plan", "epochs": 240, "best_epoch": 231, "steps": 110_000, "planned_steps": 110_000,
    "cpu_minutes": 59.6, "command": "python tools/runs.py --run --only mnist-5-ladder", "seed": 0,
    "versions": {"torch": "2.10"}, "hardware": "2 abaci", "note": "",
    # nine tenths of a fast rise, and in the last a nat a minute but for one of three points
    "curve": [{"cpu_minutes": t, "validation": 100.0 - t} for t in (1.0, 5.0, 8.0)]
    + [{"cpu_minutes": 9.0 + t, "validation": 80.0 - t - (0.3 if t == 0.5 else 0.0)} for t in (0.0, 0.5, 1.0)],
}  # fmt: skip


def test_hierarchies_are_tabled_with_how_far_they_came(tmp_path):
    assert table.hierarchies_table(tmp_path).startswith("No row is recorded yet")
    rows = {
        "a": {},
        "better": {"name": "better", "figures": HIERARCHY["figures"] | {"L_1000": -84.0}, "ended": "budget",
                   "curve": HIERARCHY["curve"][:1], "steps": 55_000, "note": "a remark"},
        "static": {"data": "binarized_mnist", "name": "static-maps-biva"},
        "colour": {"data": "cifar", "name": "c",
                   "figures": HIERARCHY["figures"] | {"L_1": -13000.0, "bits_per_dim": 6.1}},
        "in training": {"figures": None, "ended": None, "name": "unfinished"},
        "another": {"figures": {"log_p": 1.0}, "name": "of another table"},
    }  # fmt: skip
    for name, changes in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(HIERARCHY | changes))
    shown = table.hierarchies_table(tmp_path)
    # least squares by hand: points (0, 0), (0.5, 0.8), (1, 1), slope 1, residuals 0.1 of the line 0.1 + t
    error = (0.06 / 1 / 0.5) ** 0.5
    for part in (
        "**mnist, dynamic bits**: 10,000 test images.",
        "| mnist-5-ladder | Hierarchical + Ladder (LVAE) | -90.12 | -85.50 ± 0.21 (L_1000) | z_1 20.25, z_2 3.00 |",
        "| -81.74 (L_5000, fine-tuned with 10 samples), reported, as quoted elsewhere | 240 (best 231) | 60 |",
        f"| +1.000 ± {error:.3f} | `python tools/runs.py --run --only mnist-5-ladder` |",
        "| 240 (best 231), 50% of the plan | 60 | – |",
        "- better: a remark",
        "**binarized_mnist**",
        "-78.59 (L_1000)",
        "| -13,000.00 (6.10 bits per dimension) |",
        "2 abaci; torch 2.10; seed 0.",
    ):
        assert part in shown, part
    assert shown.index("| better |") < shown.index("| mnist-5-ladder |"), "the best first"
    assert "unfinished" not in shown
    assert "another" not in shown


def test_areas_of_strange_images_are_tabled(tmp_path):
    assert table.anomaly_table(tmp_path).startswith("No row is recorded yet")
    auroc = {"omniglot": {"log p": 0.51234, "L": 0.5, "L>1": 1.0, "L - L>1": 0.25},
             "mnist, turned": {"log p": 0.6, "L": 0.6, "L>1": 0.9, "L - L>1": 0.35}}  # fmt: skip
    run = {"anomaly": "mnist", "pair": "Hierarchical + TopDown", "trained": "mnist-5-top-down", "num_particles": 50,
           "num_images": {"mnist": 500, "omniglot": 100}, "auroc": auroc, "command": "python examples/anomaly.py",
           "hardware": "an abacus", "versions": {"torch": "2.10"}, "note": "few images"}  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(run))
    shown = table.anomaly_table(tmp_path)
    for part in (
        "**Trained on mnist** (mnist-5-top-down: Hierarchical + TopDown). Images: 500 mnist, 100 omniglot; 50 draws ",
        "each; standard error of an area at most 0.050.",
        "| strange images | log p | L | L^{>1} | L - L^{>1} |",
        "| omniglot | 0.512 | 0.500 | 1.000 | 0.250 |",
        "| mean | 0.556 | 0.550 | 0.950 | 0.300 |",
        "log p has 0.556. Of the bounds of upper levels the best, L^{>1} has 0.950 (above log p for: omniglot; mnist, "
        "turned). Of the differences the best, L - L^{>1} has 0.300 (above log p for: none of them).",
        "few images",
        "`python examples/anomaly.py`; an abacus; torch 2.10.",
    ):
        assert part in shown, part
    assert "precision" not in shown, "which older records lack"
    (tmp_path / "x.json").write_text(json.dumps(run | {"average_precision": {"omniglot": {"log p": 0.125}}}))
    again = table.anomaly_table(tmp_path)
    assert "Average precision" in again
    assert "| omniglot | 0.125 |" in again
    assert table.hierarchies_table(tmp_path).startswith("No row"), "another table"


def test_a_page_shows_the_pictures_that_are_stored(tmp_path):
    assert table.hierarchy_pictures(tmp_path).startswith("No picture is stored yet")
    (tmp_path / "hierarchy_levels.png").touch()
    shown = table.hierarchy_pictures(tmp_path)
    assert shown.startswith("![Draws of each level given test images, by class](pictures/hierarchy_levels.png)\n\n*D")
    assert shown.count("](") == 1


def test_codes_are_tabled_by_their_size_and_not_among_hierarchies(tmp_path):
    assert table.codes_table(tmp_path).startswith("No row is recorded yet")
    row = HIERARCHY | {"data": "binarized_mnist", "codes": "20 × 10"}
    for name, size in (("codes-20x10-jang", "20 × 10"), ("codes-200x2-rloo", "200 × 2")):
        (tmp_path / f"{name}.json").write_text(json.dumps(row | {"name": name, "codes": size}))
    (tmp_path / "t.json").write_text(json.dumps(row | {"name": "in training", "figures": None, "ended": None}))
    shown = table.codes_table(tmp_path)
    for part in (
        "**20 × 10** (variables × values), binarized_mnist: 10,000 test images.",
        "**200 × 2** (variables × values)",
        "| codes-20x10-jang |",
        "-101.5 (bound), reported, unverified",
    ):
        assert part in shown, part
    assert "in training" not in shown
    assert table.hierarchies_table(tmp_path).startswith("No row is recorded yet")


def test_the_end_of_a_curve_has_a_slope_unless_it_has_too_few_points_or_is_constant():
    assert cells.end_slope([(1.0, 3.0), (2.0, 2.0)]) == "–"
    assert cells.end_slope([(1.0, 9.0), (8.0, 3.0), (9.0, 2.0), (10.0, 1.0)]) == "-1.000 ± 0.000"
    assert cells.end_slope([(1.0, 9.0), (8.0, 3.0), (9.0, 3.0), (10.0, 3.0)]) == "0 (constant)"
