"""The wheel: the pairs that ship are inside, and can be loaded from where it is installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "zoo" / "weights"


@pytest.mark.thorough
def test_a_wheel_has_the_pairs_that_ship_and_scores_one(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    expected = {p.relative_to(ROOT): p.read_bytes() for p in WEIGHTS.rglob("*") if p.is_file()}
    found = {p: (tmp_path / "installed" / p) for p in expected}
    assert not [str(p) for p, content in expected.items() if not found[p].exists() or found[p].read_bytes() != content]
    # from a folder that is not the repository, by the installed files alone
    command = [sys.executable, "-c", "import sys, zoo; print(zoo.__file__); from zoo.__main__ import main; "
               "sys.exit(main(['nile-states']))"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert "1 same" in done.stdout
