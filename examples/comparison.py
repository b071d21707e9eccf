"""Latent variable models, flows, autoregressive models and a GAN, by the same measures on the same images.

Every system has the same CPU time. -log P is that of the levels of the pixels, in nats per image: exact, an
importance-weighted bound, or a bound through dequantisation. Draws are judged in the features of a small classifier,
and representations by a linear probe. The rankings differ, so no number stands for the others.

    python examples/comparison.py
    python examples/comparison.py --data mnist --minutes 45 --systems vae --name comparison-long-vae --resume
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import measures
import torch
import tyro
from budget import Budget
from recipes import SIZES, SYSTEMS
from record import record
from report import Report
from shown import HEAD, line, pages, reference

from zoo.data import Split, load
from zoo.infer import bits_per_dim
from zoo.parts.aside import denormals_flushed

#: images in a row of the pictures, and training images that a probe learns from
SHOWN, LEARNED = 12, 5000


def images_of(data: str, num_test: int | None) -> tuple[Split, Split, Split]:
    """Training, validation and test images; of MNIST in 16 grey levels."""
    found, levels = load(data), SIZES[data].num_levels
    splits = found.train, found.valid[:1000], found.test.shuffled(123)[:num_test]
    wide = found.num_levels // levels
    return tuple(replace(s, levels=s.levels // wide, num_levels=levels) for s in splits)


def measure(system: Any, train: Split, test: Split, network: Any, num: int, seed: int) -> tuple[dict, dict]:
    """All measures of a trained system, and the images to show."""
    levels, several = train.num_levels - 1, min(num, len(test))
    real, some = train.shuffled(1)[:several].images, train.shuffled(2)[:LEARNED]
    nats = system.nats(test, seed)
    drawn, seconds = measures.timed(system.draw, num)
    drawn = drawn / levels
    (near, rows), (usual, _) = (measures.nearest(x[:several], train.images) for x in (drawn, test.images))
    codes = [system.represent(part.levels.float()) for part in (some, test)]
    probe = None if codes[0] is None else measures.probe((codes[0], some.labels), (codes[1], test.labels))
    between = system.between(test.levels[:2].float(), SHOWN)
    figures = {
        "parameters": system.parameters, "nats": nats, "seconds": seconds, "num_test": len(test),
        "bits_per_dim": nats and bits_per_dim(nats["log_p"], test.levels.shape[1]), "probe": probe,
        "size_of_code": None if codes[0] is None else codes[0].shape[1],
        "probe_of_pixels": measures.probe((some.images, some.labels), (test.images, test.labels)),
        "quality": measures.quality(drawn[:several], real, network), "num_judged": several,
        "floor": measures.quality(test.images[:several], real, network),
        "nearest": near.median().item(), "nearest_of_test": usual.median().item(),
    }  # fmt: skip
    shown = {"draws": drawn[:SHOWN], "nearest": train.images[rows[:SHOWN]], "real": test.images[:SHOWN]}
    return figures, shown if between is None else shown | {"between": between / levels}


def main(
    *, data: Literal["digits", "mnist"] = "digits", systems: tuple[Literal[*SYSTEMS], ...] = tuple(SYSTEMS),
    minutes: float = 0.15, num: int = 1000, num_test: int | None = 1000, seed: int = 0, name: str | None = None,
    resume: bool = False, out: Path = Path("runs/comparison"),
) -> None:  # fmt: skip
    """Trains each system for some CPU minutes, and prints the table.

    Args:
        name: of the row results/NAME.json, for one system alone; None writes none.
        resume: go on where a training was stopped, in runs/NAME.
    """
    if name is not None and len(systems) > 1:
        raise SystemExit(f"--name {name}: a row holds one system, got {', '.join(systems)}")
    torch.set_num_threads(1)
    began, folder = time.time(), out if name is None else Path("runs") / name
    train, valid, test = images_of(data, num_test)
    network, report, shown = measures.classifier(train), Report(folder, "Systems compared", data), {}
    print(f"{'':26} {HEAD}")
    for word in systems:
        torch.manual_seed(seed)
        budget, (label, make) = Budget(minutes), SYSTEMS[word]
        system = make(SIZES[data], budget)
        # numbers below 1e-38, which long trainings come to hold, take a processor many times as long
        with denormals_flushed():
            system.train(train, valid, budget, folder / word if resume else None, seed)
        torch.manual_seed(seed)
        figures, shown[label] = measure(system, train, test, network, num, seed)
        figures |= {"training_minutes": budget.seconds / 60, "steps": budget.steps}
        print(f"{label:26} {line(figures)}", flush=True)
        if name is not None:
            # the record last, since it says that the row is done
            torch.save(shown[label], folder / "shown.pt")
            values = {"comparison": word, "system": label, "data": data, "minutes": minutes, **figures}
            record(name, values, seed=seed, device="cpu", threads=1, note="", began=began)
    print(reference(figures))
    pages(report, shown, SIZES[data].shape)
    print(f"wrote {report.write()}")


if __name__ == "__main__":
    tyro.cli(main)
