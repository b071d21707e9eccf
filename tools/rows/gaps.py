"""The row of missing entries: errors of imputation over several rates, by the script of the example."""

from rows.row import Script

ROWS = [
    Script(name="gaps", script="examples/gaps.py", line="--rates 0.1 0.2 0.3 0.4 0.5 0.6 0.7 --epochs 600"),
]
