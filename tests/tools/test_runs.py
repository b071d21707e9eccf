"""The runner: rows are trained within their budget, go on after a kill, and are never run twice or mixed."""

import doctest
import fcntl
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
sys.path[:0] = [str(ROOT / "tools"), str(HERE)]

import runs  # noqa: E402
from rows import ROWS  # noqa: E402
from rows import row as row_module  # noqa: E402
from rows.place import Place, Refused  # noqa: E402
from rows.row import Script  # noqa: E402
from rows.train import plan, train  # noqa: E402
from tiny_rows import ROW  # noqa: E402

TIMES = {"cpu_minutes", "evaluation_cpu_minutes", "wall_minutes", "date"}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "pyro-latent-zoo" / "runs"


def here(folder, **changes):
    """A row of two epochs, and its place below a folder."""
    row = replace(ROW, **{"name": "row", "epochs": 2, "every": 1} | changes)
    return row, Place(row, folder / "results")


def without_times(record):
    record = {name: value for name, value in record.items() if name not in TIMES}
    for name in ("looks", "curve"):
        record[name] = [{n: v for n, v in point.items() if n not in TIMES} for point in record[name]]
    return record


def test_a_row_leaves_its_record_and_its_folder(tmp_path, cache):
    row, place = here(tmp_path)
    assert (place.state, place.done) == ("not begun", False)
    with place.taken():
        assert train(row, place) == 0
    record = json.loads((tmp_path / "results" / "row.json").read_text())
    assert record["figures"].keys() == {"log_p", "draw"}
    expected = {"name": "row", "system": "VAE", "data": "coins", "seed": 3, "ended": "plan", "epochs": 2, "steps": 8}
    assert expected.items() <= record.items()
    assert record["planned_steps"] == 8
    assert record["lr"] == pytest.approx(1e-4, rel=1e-12), "the cosine is over the planned steps"
    assert [point["epoch"] for point in record["curve"]] == [point["epoch"] for point in record["looks"]] == [1, 2]
    assert {"train", "validation", "kl", "lr", "cpu_minutes"} <= record["curve"][0].keys()
    assert 0 < record["cpu_minutes"] + record["evaluation_cpu_minutes"] < 1
    assert record["versions"].keys() >= {"torch", "pyro"}
    assert record["command"] == "python tools/runs.py --run --only row"
    for file, said in ((HERE / "tiny_rows.py", "tests/tools/tiny_rows.py"), (Path("/rows.py"), "/rows.py")):
        assert Place(row, tmp_path, file).command == f"python tools/runs.py --run --rows {said} --only row"
    assert "1 thread" in record["hardware"]
    assert {path.name for path in (cache / "row").iterdir()} >= {"model.safetensors", "config.json", "last.pt"}
    assert place.state == "done"
    assert runs.status(place).startswith("row: done, epoch 2, validation 4.")


def test_the_budget_ends_a_row_within_an_epoch(tmp_path, cache):
    row, place = here(tmp_path, minutes=1e-9, steps=7, epochs=None)
    with place.taken():
        train(row, place)
    record = place.read()
    assert (record["ended"], record["steps"], record["planned_steps"]) == ("budget", 1, 7)
    assert record["figures"]["log_p"] < 0


def test_patience_ends_a_row(tmp_path, cache):
    row, place = here(tmp_path, epochs=9, settings={"patience": 1, "groups": {"*": {"lr": 0.0}}}, schedule=None)
    with place.taken():
        train(row, place)
    assert (place.read()["ended"], place.read()["epochs"], place.read()["best_epoch"]) == ("patience", 2, 1)


def test_the_budget_is_of_training_alone(tmp_path, cache):
    def slow(model, guide, splits):
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return {}

    row, place = here(tmp_path, look=slow, minutes=0.3 / 60)
    with place.taken():
        train(row, place)
    record = place.read()
    assert record["ended"] == "plan", "two looks of 0.3 s each, and milliseconds of training"
    assert 60 * record["evaluation_cpu_minutes"] > 0.5


def start(folder, name="tiny-vae"):
    command = [sys.executable, ROOT / "tools" / "runs.py", "--rows", HERE / "tiny_rows.py", "--results", folder / "r"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, "--run", "--only", name], env=environment, stdout=subprocess.PIPE, text=True,
                            start_new_session=True)  # fmt: skip


@pytest.mark.thorough
def test_a_killed_row_goes_on_to_the_same_figures(tmp_path):
    """The runner and its row are killed; another runner starts, and one in parallel leaves the row alone."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    metrics = killed / "cache" / "pyro-latent-zoo" / "runs" / "tiny-vae" / "metrics.jsonl"
    first = start(killed)
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 7:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    begun = json.loads((killed / "r" / "tiny-vae.json").read_text())
    assert begun["ended"] is None
    assert begun["figures"] is None
    assert [point["epoch"] for point in begun["looks"]][:1] == [5]
    second = start(killed)
    assert "done" in second.communicate()[0]
    assert "done" in start(straight).communicate()[0]
    records = [json.loads((folder / "r" / "tiny-vae.json").read_text()) for folder in (killed, straight)]
    assert without_times(records[0]) == without_times(records[1])
    assert records[0]["epochs"] == 60
    assert records[0]["cpu_minutes"] > begun["cpu_minutes"] > 0, "the time of both parts"
    models = [next(folder.glob("cache/*/*/*/model.safetensors")).read_bytes() for folder in (killed, straight)]
    assert models[0] == models[1]
    assert start(killed).communicate()[0] == "", "a row that is done is not run again"


def test_a_row_of_another_process_is_left_alone(tmp_path, cache):
    _, place = here(tmp_path)
    place.folder.mkdir(parents=True)
    with place.log.open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert runs.start(place, []) == 0
        assert place.state == "running"
    assert place.state == "stopped"
    assert not place.done


def test_a_row_that_was_begun_with_other_arguments_is_refused(tmp_path, cache, capsys):
    row, place = here(tmp_path)
    with place.taken():
        train(replace(row, epochs=1), place)
    place.record.unlink()
    for change in ({"epochs": 3}, {"seed": 4}, {"settings": {"clip": 1.0}}, {"batch_size": 25}):
        _, other = here(tmp_path, **change)
        assert runs.start(other, []) == 1
        assert "begun with other arguments" in capsys.readouterr().out
    _, renamed = here(tmp_path, system="another word", note="a remark", facts={})
    with renamed.taken() as log:
        assert log is not None
    with pytest.raises(Refused, match=r"line.txt\): move .* away"), here(tmp_path, every=9)[1].taken():
        pass


def test_a_row_that_its_budget_has_ended_goes_on_with_a_larger_one(tmp_path, cache):
    row, place = here(tmp_path, minutes=1e-9)
    with place.taken():
        train(row, place)
    assert (place.read()["ended"], place.read()["steps"], place.done) == ("budget", 1, True)
    larger, place = here(tmp_path, minutes=5)
    _, following = here(tmp_path, name="following", after="row", minutes=9)
    assert (place.done, following.waits) == (False, ""), "another row may start from what there is"
    with place.taken():
        train(larger, place)
    record = place.read()
    assert (record["ended"], record["steps"], record["budget_cpu_minutes"], place.done) == ("plan", 8, 5, True)
    straight, other = here(tmp_path, name="straight")
    with other.taken():
        train(straight, other)
    models = [torch.load(cache / name / "last.pt", weights_only=True)["loss"] for name in ("row", "straight")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize("name", ["evaluate", "look"])
def test_what_fails_or_is_killed_beside_the_training_does_not_train_again(name, tmp_path, cache):
    def fail(model, guide, splits):
        raise SystemExit("killed")

    row, place = here(tmp_path, epochs=1)
    with place.taken(), pytest.raises(SystemExit):
        train(replace(row, **{name: fail}), place)
    assert place.state == "stopped"
    assert place.read().get("figures") is None
    before = (place.folder / "model.safetensors").read_bytes()
    with place.taken():
        train(replace(row, build=lambda splits: unable(row.build(splits))), place)
    assert (place.read()["ended"], place.read()["steps"]) == ("plan", 4)
    assert (place.folder / "model.safetensors").read_bytes() == before


def unable(loss):
    """The pair, unable to take a step."""
    for p in loss.parameters():
        p.register_hook(lambda gradient: pytest.fail("a step"))
    return loss


def test_figures_may_be_tensors(tmp_path, cache):
    def figures(model, guide, splits):
        return {"ones": torch.ones(2), "mean": np.float32(0.5), "each": {"z_1": [np.float64(1), torch.ones(())]}}

    row, place = here(tmp_path, look=figures, evaluate=figures, epochs=1, schedule=None)
    with place.taken():
        train(row, place)
    expected = {"ones": [1.0, 1.0], "mean": 0.5, "each": {"z_1": [1.0, 1.0]}}
    assert place.read()["figures"] == expected
    assert expected.items() <= place.read()["looks"][0].items()
    # The looks are part of the checkpoint.
    with place.taken():
        assert train(row, place) == 0


def test_without_validation_the_latest_model_is_the_one_that_is_kept(tmp_path, cache):
    row, place = here(tmp_path, look=None, data=lambda: ROW.data()._replace(validation=None))
    with place.taken():
        train(row, place)
    assert place.read()["best_epoch"] == 2


def test_a_state_is_told_while_a_row_runs(tmp_path, cache):
    """A line that is half written, and another who looks at the same time."""
    _, place = here(tmp_path)
    assert place.last() == {}
    place.folder.mkdir(parents=True)
    (place.folder / "metrics.jsonl").write_text('{"epoch": 1, "validation": 4.5}\n{"epoch": 2, "val')
    assert runs.status(place) == "row: not begun, epoch 1, validation 4.500"
    # the record of a script has no budget
    place.record.parent.mkdir(exist_ok=True)
    place.record.write_text('{"cpu_minutes": 36.86}')
    assert runs.status(place).endswith("36.9 CPU minutes")
    place.record.unlink()
    with place.log.open("a") as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        assert place.state == "stopped"
        threading.Timer(0.05, lambda: fcntl.flock(log, fcntl.LOCK_UN)).start()
        with place.taken() as taken:
            assert taken is not None, "one who looks does not keep the row from being run"


def test_a_row_waits_for_the_one_that_it_starts_from(tmp_path, cache, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(runs, "start", lambda place, options: started.append(place.row.name) or finish(place))

    def finish(place):
        place.save({"name": place.row.name, "ended": None if place.row.name == "never" else "plan"})
        return 0

    order = {"second": "first", "third": "second", "first": None, "never": None, "last": "never"}
    places = [here(tmp_path, name=name, after=after)[1] for name, after in order.items()]
    assert runs.run(places, 2, []) == 1
    assert started[2:] == ["second", "third"]
    assert set(started[:2]) == {"first", "never"}
    assert "last: waits for never, which is not done" in capsys.readouterr().out


def test_a_record_is_committed_once_and_only_when_done(tmp_path, cache, monkeypatch):
    repository = tmp_path / "repository"
    monkeypatch.setattr(runs, "ROOT", repository)
    git = functools.partial(subprocess.run, cwd=repository, check=True, capture_output=True, text=True)
    repository.mkdir()
    git(["git", "init", "--quiet"])
    git(["git", "config", "user.name", "a"])
    git(["git", "config", "user.email", "a@b.c"])
    _, place = here(repository)
    record = {"name": "row", "ended": None, "cpu_minutes": 3.04, "budget_cpu_minutes": 5}
    for ended in (None, "budget", "budget"):
        place.save(record | {"ended": ended})
        (repository / "other.txt").write_text("another's work")
        runs.commit(place)
    log = git(["git", "log", "--format=%s", "--name-only"]).stdout.split("\n\n")
    assert log == ["Row row: trained and evaluated, ended by its budget after 3.0 CPU minutes", "results/row.json\n"]


def test_the_example_of_a_row_is_a_row(tmp_path, cache):
    found = doctest.DocTestFinder().find(row_module.Row, globs=vars(row_module))[0]
    assert doctest.DocTestRunner().run(found, clear_globs=False).failed == 0
    row = replace(found.globs["row"], epochs=None, steps=1)
    with (place := Place(row, tmp_path)).taken():
        train(row, place)
    assert -64 * math.log(2) * 1.2 < place.read()["figures"]["log_p"] < 0, "about that of fair coins"


def plateau(optimizer, steps):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


@pytest.mark.parametrize(
    ("changes", "planned"),
    [({"epochs": 30}, "120 steps, 30 epochs"), ({"schedule": plateau}, "240 steps, 60 epochs"),
     ({"epochs": None, "steps": 1}, "1 steps"), ({"epochs": None, "steps": 2}, "2 steps")],
)  # fmt: skip
def test_a_plan_says_how_many_epochs_fit(changes, planned, cache):
    said = plan(replace(ROW, **changes), seconds=0.05)
    assert re.match(r"tiny-vae: \d+\.\d ms a step; 5 minutes hold \d+ steps", said)
    assert said.endswith(f"planned are {planned}")
    assert not cache.exists(), "nothing is left of it"


def test_rows_of_scripts_keep_their_commands_and_their_records():
    rows = {row.name: row for row in ROWS}
    assert len(rows) == len(ROWS), "a name stands once"
    recorded = {path.stem for path in (ROOT / "results").glob("*.json")}
    scripts = [row for row in ROWS if isinstance(row, Script)]
    for row in scripts:
        place = Place(row, ROOT / "results")
        assert place.done == (row.name in recorded), row.name
        if place.done:
            # Words in another order are the same arguments.
            assert sorted(f"{row.shown()} --resume".split()) == sorted(place.read()["command"].split()), row.name
    assert len(scripts) > 50


def test_a_row_ends_where_its_sign_says_so(tmp_path, cache):
    """And an evaluation that was killed is made again without a further step."""

    def enough(point):
        return point["epoch"] >= 3

    row, place = here(tmp_path, epochs=50, enough=enough)
    with place.taken():
        assert train(row, place) == 0
        record = place.read()
        assert (record["ended"], record["epochs"], record["planned_steps"]) == ("enough", 3, 200)
        assert place.done
        place.record.unlink()
        assert train(row, place) == 0
    again = place.read()
    assert (again["ended"], again["steps"], again["figures"]) == ("enough", record["steps"], record["figures"])


def test_rows_that_were_begun_before_there_were_signs_go_on():
    assert "enough" not in ROW.arguments
    assert "enough" in replace(ROW, enough=math.isnan).arguments
