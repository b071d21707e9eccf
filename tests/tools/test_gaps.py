"""The table of imputation errors."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from gap_tables import NONE, gaps_table
from table import PAGES

RECORD = {
    "name": "gaps", "system": "VAE, IWELBO(20), flags", "epochs": 600, "seed": 0, "hardware": "cpu",
    "command": "python examples/gaps.py --rates 0.1", "versions": {"torch": "2.10"},
    "rmse": {
        "10% at random": {"mean": 1.0, "iterative imputer": 0.31, "VAE (MIWAE)": 0.29},
        "not at random": {"mean": 1.5, "iterative imputer": 1.21, "VAE (MIWAE)": 1.3, "VAE and mask (not-MIWAE)": 0.94},
    },
}  # fmt: skip


def test_errors_stand_by_case_and_method_with_the_smallest_in_bold(tmp_path):
    assert gaps_table(tmp_path) == NONE
    (tmp_path / "gaps.json").write_text(json.dumps(RECORD))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in gaps_table(tmp_path).splitlines()]
    assert lines[0] == ["entries missing", "mean", "iterative imputer", "VAE (MIWAE)", "VAE and mask (not-MIWAE)"]
    assert lines[2] == ["10% at random", "1.000", "0.310", "**0.290**", "–"]
    assert lines[3] == ["not at random", "1.500", "1.210", "1.300", "**0.940**"]
    assert gaps_table(tmp_path).splitlines()[-1] == "`python examples/gaps.py --rates 0.1`; cpu; torch 2.10."


def test_the_page_of_results_has_the_table():
    assert PAGES["docs/results.md"]["gaps"] is gaps_table
