"""Every example runs as a user runs it, with few steps, under several guides, families and objectives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
FEW = "--epochs 2 --seed 1"
RUNS = {
    "vae": f"vae.py {FEW} --num-test 40 --num-checked 2 --draws 20",
    "vae-3d-doubly": f"vae.py {FEW} --latent-dim 3 --family iaf --objective iwelbo-doubly --num-particles 3 "
    "--num-test 40 --num-checked 2 --draws 20",
    "vae-per-datum": f"vae.py {FEW} --guide per-datum --family full-rank --objective renyi --num-particles 2 "
    "--num-test 20 --num-checked 2 --draws 20",
    "vae-auto": f"vae.py {FEW} --guide auto-normal --num-test 12 --num-checked 2 --draws 20",
    "posterior_check": f"posterior_check.py {FEW} --num-checked 2 --draws 20",
    "flow_posteriors": f"flow_posteriors.py {FEW} --families diagonal planar --num-test 4 --num-shown 2",
    "gradients": "gradients.py --replicates 20 --max-particles 2",
    "amortization_gap": f"amortization_gap.py {FEW} --families diagonal spline --widths 5 --num-test 5 --steps 3",
    "own_model": f"own_model.py {FEW} --num-checked 2",
    "own_model-per-datum": f"own_model.py {FEW} --guide per-datum --num-checked 2",
    "mixture_em": "mixture_em.py",
    "ppca": "ppca.py",
}


def run(command: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess:
    script, *arguments = command.split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
    )


@pytest.mark.parametrize("name", RUNS)
def test_example_runs_and_leaves_its_pictures(name, tmp_path):
    done = run(RUNS[name], tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("runs/*/*.png")), done.stdout


@pytest.mark.skipif("ZOO_DATA" not in os.environ, reason="the MNIST files are looked for in $ZOO_DATA")
def test_the_long_run_leaves_its_row(tmp_path):
    few = "--epochs 1 --train-rows 200 --num-test 3 --warm-up 1"
    run(f"mnist.py --name short {few} --objective iwelbo --num-particles 2", tmp_path)
    row = (tmp_path / "results" / "short.json").read_text()
    assert '"log_p"' in row
    assert "mnist.py --name short" in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--family diagnoal", "unknown family 'diagnoal': did you mean 'diagonal'?"),
        ("--objective iwealbo", "unknown objective 'iwealbo': did you mean 'iwelbo'?"),
        ("--guide amortised", "unknown guide 'amortised': did you mean 'amortized'?"),
        ("--data digit", "Did you mean 'digits'?"),
    ],
)
def test_a_wrong_word_names_the_nearest(arguments, message, tmp_path):
    done = run(f"vae.py {arguments}", tmp_path, check=False)
    assert done.returncode != 0
    assert message in done.stderr
