"""The table of the comparison as it is printed, and its pictures."""

from typing import Any

from report import Report
from torch import Tensor

from zoo.infer import plot_reconstructions

HEAD = "parameters  minutes   -log P bits/dim  ms/draw  s/1000  Frechet  precision recall  probe  nearest"


def line(found: dict[str, Any]) -> str:
    """The figures of a system under `HEAD`; of one that has no likelihood or no representation, "none"."""
    nats, seconds, quality = found["nats"], found["seconds"], found["quality"]
    value, bits = (f"{-nats['log_p']:9.2f}", f"{found['bits_per_dim']:8.3f}") if nats else ("     none", "    none")
    probe = "  none" if found["probe"] is None else f"{found['probe']:6.3f}"
    return (f"{found['parameters']:10,} {found['training_minutes']:8.2f}{value}{bits} {1000 * seconds['one']:8.1f} "
            f"{1000 * seconds['all'] / seconds['num']:7.2f} {quality['frechet']:8.2f} {quality['precision']:10.2f} "
            f"{quality['recall']:6.2f} {probe} {found['nearest']:8.2f}  {nats['how'] if nats else ''}")  # fmt: skip


def pages(report: Report, shown: dict[str, dict[str, Tensor]], shape: tuple[int, int]) -> None:
    """The pictures: draws of all systems side by side, lines between two images, and the nearest training images."""
    real = {"test images": next(iter(shown.values()))["real"]}
    between = {name: images["between"] for name, images in shown.items() if "between" in images}
    near = {f"{name}{part}": images[key] for name, images in shown.items()
            for key, part in (("draws", ""), ("nearest", ", nearest"))}  # fmt: skip
    draws = real | {name: images["draws"] for name, images in shown.items()}
    report.figure("comparison", plot_reconstructions(draws, shape), "Draws.")
    report.figure("nearest", plot_reconstructions(near, shape), "Draws, and the training image nearest to each.")
    if between:
        report.figure("between", plot_reconstructions(between, shape), "Between two images; of a GAN, between draws.")


def reference(found: dict[str, Any]) -> str:
    """The same measures of test images: what a perfect system would have."""
    floor, near = found["floor"], found["nearest_of_test"]
    return (f"{'test images':26} {'':53} {floor['frechet']:8.2f} {floor['precision']:10.2f} {floor['recall']:6.2f} "
            f"{found['probe_of_pixels']:6.3f} {near:8.2f}  probe of the pixels")  # fmt: skip
