"""The table of VAEs of images, from the records of `examples/mnist.py`."""

from pathlib import Path
from typing import Any

from cells import RESULTS, duration, markdown, records

# The papers' numbers of IWAE's one-layer architecture on dynamic MNIST: L_5000 and active units (Burda et al. 2016;
# VR-max: Li and Turner 2016). From memory: the tables could not be read again when this was written.
REPORTED = {
    ("mnist", "diagonal", "elbo"): "-86.76 (19 units)",
    ("mnist", "diagonal", "elbo(5)"): "-86.47 (20 units)",
    ("mnist", "diagonal", "elbo(50)"): "-86.35 (20 units)",
    ("mnist", "diagonal", "iwelbo(5)"): "-85.54 (22 units)",
    ("mnist", "diagonal", "iwelbo(50)"): "-84.78 (25 units)",
    ("mnist", "diagonal", "vr-max(5)"): "-85.42",
    ("mnist", "diagonal", "vr-max(50)"): "-84.81",
}
REPORTED_EPOCHS = "3,280"
TEST_IMAGES = 10_000


def reported(row: dict[str, Any]) -> str:
    """The paper's number for the same data, family, bound and number of samples."""
    # Estimators of the gradient change the training, not the bound that is maximised.
    objective = row["objective"]
    for estimator in ("-analytic", "-sticking", "-doubly"):
        objective = objective.replace(estimator, "")
    number = REPORTED.get((row["data"], row["family"], objective))
    return f"{number}, reported, unverified" if number else "–"


def results_table(folder: Path = RESULTS) -> str:
    """A row for each run that `examples/mnist.py` recorded."""
    rows = [row for row in records(folder) if "active_units" in row]
    if not rows:
        return "No run is recorded yet; `python examples/mnist.py --name vae` records one."
    cells, notes = [], []
    for row in sorted(rows, key=lambda row: (row["data"] != "mnist", row["data"], -row["log_p"])):
        number = reported(row)
        # Epochs of the paper only beside a number of the paper.
        paper_epochs = "" if number == "–" else f" ({REPORTED_EPOCHS})"
        cells.append([
            row["name"],
            row["data"],
            "VAE, 50 latents, 200-200 tanh",
            row["objective"],
            row["family"],
            f"{row['log_p']:.2f} ± {row['log_p_error']:.2f}",
            f"{row['elbo']:.2f}",
            str(row["active_units"]),
            number,
            f"{row['epochs']:,}{paper_epochs}",
            duration(row["training_seconds"]),
            row["hardware"],
            f"`{row['command']}`",
        ])  # fmt: skip
        part = "" if row["num_test"] == TEST_IMAGES else f"{row['num_test']:,} of the test images. "
        if part or row["note"]:
            notes.append(f"- {row['name']}: {part}{row['note']}".rstrip())
    head = "run, data, model, objective, family, test log p (L_5000), ELBO, active units, paper, epochs (paper's)"
    shown = markdown([*head.split(", "), "training", "hardware", "command"], cells)
    return "\n".join([shown, "", *notes]) if notes else shown
