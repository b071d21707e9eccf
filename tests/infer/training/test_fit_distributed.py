"""Training in two processes: started by torchrun, or with Lightning Fabric. As a script this file is the worker."""

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from guides import Amortized
from zoo import VAE
from zoo.infer import ELBO, fit

pytestmark = pytest.mark.thorough  # two processes are started, and import torch and Lightning

quiet = functools.partial(fit, progress=False)
sgd = functools.partial(torch.optim.SGD, lr=0.1)
adam = functools.partial(torch.optim.Adam, lr=0.01)


class Regression(nn.Module):
    """Linear-Gaussian -log p(y | x), summed: no noise, so that processes can be compared."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1, dtype=torch.float64)

    def forward(self, x, y):
        return 0.5 * (self.line(x).squeeze(-1) - y).square().sum()


class Noise(nn.Module):
    """Notes its draws."""

    def __init__(self):
        super().__init__()
        self.scale, self.draws = nn.Parameter(torch.ones(())), []

    def forward(self, x):
        self.draws.append(torch.randn(4))
        return self.scale * x.sum()


def regression_data():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(49, 3, generator=generator, dtype=torch.float64)
    return x, x.sum(-1) + torch.randn(49, generator=generator, dtype=torch.float64)


def pair():
    torch.manual_seed(1)
    model = VAE(4, 2, (8,))
    return ELBO()(model, Amortized(model, hidden=(8,)))


def binary_data():
    return torch.rand(50, 4, generator=torch.Generator().manual_seed(2)).round()


def cases(fabric=None):
    """Trainings without noise, whose results are those of one process: batches of 16, the last of a single row."""
    options = {"batch_size": 16, "fabric": fabric}
    results = {}
    for name, length in (("one step", {"steps": 1}), ("two epochs", {"epochs": 2})):
        loss = Regression()
        held_out = tuple(t[:7] for t in regression_data())
        result = quiet(loss, regression_data(), optimizer=sgd, validation=held_out, clip=2.0, **length, **options)
        last = result.history[-1]
        results[name] = {**loss.state_dict(), "train": last["train"], "validation": last["validation"]}
    return results


class Listening:
    """A callback that notes what it sees, and asks for the end where its process is told to."""

    def __init__(self, end=None):
        self.end, self.steps, self.writes = end, 0, None

    def started(self, now):
        self.writes = now.writes

    def stepped(self, now):
        self.steps += 1
        return self.steps == self.end

    def epoch_ended(self, now): ...


def shown(folder):
    """Averages, and callbacks of which the second process's alone asks for the end, within an epoch of 25 steps."""
    averaged, rank = Regression(), torch.distributed.get_rank()
    quiet(averaged, regression_data(), optimizer=sgd, steps=5, batch_size=16, average=0.9)
    listening = Listening(end=3 if rank == 1 else None)
    ended = quiet(pair(), binary_data(), epochs=9, batch_size=2, callbacks=[listening], out=folder / "ended")
    return {"averaged": averaged.state_dict(), "ended": ended.step, "heard": (listening.steps, listening.writes)}


def worker(folder):
    torch.set_num_threads(1)
    results = cases()
    rank = torch.distributed.get_rank()
    noise = Noise()
    quiet(noise, binary_data(), steps=1, batch_size=16)
    results["noise"] = noise.draws[-1]
    straight, parts = pair(), pair()
    quiet(straight, binary_data(), epochs=3, batch_size=16, optimizer=adam, out=folder / "straight")
    quiet(pair(), binary_data(), epochs=1, batch_size=16, optimizer=adam, out=folder / "parts")
    quiet(parts, binary_data(), epochs=3, batch_size=16, optimizer=adam, out=folder / "parts", resume=True)
    results |= shown(folder)
    results["straight"], results["resumed"] = straight.state_dict(), parts.state_dict()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
        fabric.launch()
        results["fabric"] = cases(fabric)
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.barrier()  # gloo's threads must end before the interpreter does, or it may abort
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder, root = tmp_path_factory.mktemp("ranks"), Path(__file__).parents[3]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, __file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("source", ["torchrun", "fabric"])
@pytest.mark.parametrize("name", ["one step", "two epochs"])
def test_two_processes_step_like_one(source, name, ranks):
    _, results = ranks
    alone = cases()[name]
    start = Regression().state_dict()
    for result in results:
        together = (result if source == "torchrun" else result["fabric"])[name]
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, rtol=1e-12, atol=1e-12)  # after one step: the gradients
            assert key not in start or not torch.equal(together[key], start[key])
    assert all(torch.equal(results[0][name][key], results[1][name][key]) for key in start)


def test_averages_of_two_processes_are_those_of_one(ranks):
    _, results = ranks
    alone = Regression()
    quiet(alone, regression_data(), optimizer=sgd, steps=5, batch_size=16, average=0.9)
    for result in results:
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(result["averaged"][key], value, rtol=1e-12, atol=1e-12)


def test_a_callback_of_one_process_ends_all(ranks):
    _, results = ranks
    assert [result["ended"] for result in results] == [20, 20]  # all ask each other every twentieth step
    assert [result["heard"] for result in results] == [(20, True), (20, False)]


def test_each_process_has_noise_of_its_own(ranks):
    _, (first, second) = ranks
    assert not torch.equal(first["noise"], second["noise"])


def test_two_processes_stay_together_and_resume_bit_equal(ranks):
    folder, (first, second) = ranks
    for name, value in first["straight"].items():
        assert torch.equal(value, second["straight"][name])
        assert torch.equal(value, first["resumed"][name])
        assert torch.equal(value, second["resumed"][name])
    for part in ("straight", "parts"):
        assert len((folder / part / "metrics.jsonl").read_text().splitlines()) == 3  # one process writes


def test_resuming_with_another_number_of_processes_is_refused(ranks):
    folder, _ = ranks
    with pytest.raises(ValueError, match="processes: 2, 1"):
        quiet(pair(), binary_data(), epochs=4, batch_size=16, optimizer=adam, out=folder / "parts", resume=True)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
