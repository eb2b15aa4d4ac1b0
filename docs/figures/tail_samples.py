"""Samples of the rarest digits under each method, from the same noise; those nearer to training images are marked.

`python -m docs.figures.tail_samples RUN …` draws them from trained runs into tail_samples.json, which the figure shows.
Each run: `cbdm train digits-lt --method METHOD --steps 1000 --seed 0 --device cpu --out RUN`.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset, to_uint8
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.sources import digits
from cbdm_core.generation import generate
from cbdm_core.guidance import ClassifierFreeGuidance
from cbdm_core.metrics.memorisation import memorisation
from cbdm_core.run import load_run
from cbdm_core.samplers import DPMSolverPP2M
from docs.figures.drawing import HERE, ORANGE, Figure

DATA = HERE / "tail_samples.json"
LABELS, SHOWN, DRAWN, OMEGA, STEPS, SEED = (7, 8, 9), 5, 100, 1.0, 20, 0


def split() -> tuple[Dataset, Dataset]:
    """(training set, held-out images) of seed 0: the long tail of digits-lt, and the rest of the full set."""
    full = digits()
    training, _, _ = make_long_tail(full, imbalance=0.02, seed=SEED)
    ours = {row.tobytes() for row in training.x.numpy()}
    rest = torch.tensor([row.tobytes() not in ours for row in full.x.numpy()])
    return training, full[rest.nonzero()[:, 0]]


def nearer(samples: Tensor, label: int, training: Dataset, held_out: Dataset) -> Tensor:
    """(N,) bool, samples nearer in pixels to a training image of their class than to every held-out one."""
    x, ours, theirs = (rows.flatten(1).double() for rows in (samples, training.x, held_out.x))
    return memorisation(x, ours[training.y == label], theirs[held_out.y == label]).nearer > 0.5


def collect(runs: list[str]) -> None:
    """Draw from the runs, and lay down what is shown and how many of all are nearer to training images."""
    training, held_out = split()
    labels = torch.tensor(LABELS).repeat_interleave(DRAWN)
    rows = []
    for path in runs:
        run = load_run(path)
        network = ClassifierFreeGuidance(run.network, OMEGA)
        x = torch.cat(list(generate(network, DPMSolverPP2M(run.schedule), labels, run.shape, steps=STEPS, seed=SEED)))
        pixels = to_uint8(x)
        marks = [nearer(pixels[labels == y], y, training, held_out) for y in LABELS]
        shown = torch.cat([pixels[labels == y][:SHOWN] for y in LABELS])
        rows.append(
            {
                "method": _method(run.config),
                "steps": run.step,
                "pixels": base64.b64encode(shown.numpy().tobytes()).decode(),
                "nearer": [int(m.sum()) for m in marks],
            }
        )
    DATA.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _method(config: dict[str, Any]) -> str:
    parts = [f"{part['part']}:{part['law']}" if part.get("law") else part["part"] for part in config["method"]]
    return "+".join(parts) or "ddpm"


def images(row: dict[str, Any]) -> Tensor:
    """(15, 1, 8, 8) the shown samples, uint8."""
    pixels = np.frombuffer(base64.b64decode(row["pixels"]), dtype=np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels.copy())


def numbers() -> dict[str, Any]:
    """The marks are found anew from the pixels and the split."""
    training, held_out = split()
    rows = []
    for row in json.loads(DATA.read_text(encoding="utf-8")):
        shown = images(row).split(SHOWN)
        marks = [nearer(x, y, training, held_out).tolist() for x, y in zip(shown, LABELS, strict=True)]
        rows.append({**row, "marked": [mark for of_class in marks for mark in of_class]})
    expected = [DRAWN * _share(y, training, held_out) for y in LABELS]
    return {"rows": rows, "expected": [round(e, 2) for e in expected]}


def _share(label: int, training: Dataset, held_out: Dataset) -> float:
    ours, theirs = (int((data.y == label).sum()) for data in (training, held_out))
    return ours / (ours + theirs)


def alt(numbers: dict[str, Any]) -> str:
    total = DRAWN * len(LABELS)
    said = ", ".join(f"{row['method']} {sum(row['nearer'])}" for row in numbers["rows"])
    return (
        f"Samples of the digits 7, 8 and 9, of which there are 8, 5 and 3 training images; five each in a row for each "
        f"method, from the same noise. Of {total} samples of each method so many are nearer to a training image "
        "than to "
        f"every held-out one: {said}; {sum(numbers['expected']):.0f} would be by chance."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    from matplotlib.patches import Rectangle

    panel, rows = axes[0], numbers["rows"]
    for place, row in enumerate(rows):
        top = 9.5 * place
        for column, image in enumerate(images(row)[:, 0]):
            left = 9 * column + 2 * (column // SHOWN)
            panel.imshow(
                image, cmap="gray", vmin=0, vmax=255, extent=(left, left + 8, top + 8, top), interpolation="none"
            )
            if row["marked"][column]:
                panel.add_patch(Rectangle((left, top), 8, 8, fill=False, ec=ORANGE, lw=2.5))
        panel.text(-1.5, top + 4, row["method"], ha="right", va="center", fontsize=9)
        panel.text(140, top + 4, f"{sum(row['nearer'])}", ha="left", va="center", fontsize=9)
    for place, label in enumerate(LABELS):
        panel.text(47 * place + 22, -1.5, f"digit {label}: {(8, 5, 3)[place]} images", ha="center", fontsize=9)
    panel.text(140, -1.5, "copies*", ha="left", fontsize=9)
    panel.set(xlim=(-30, 153), ylim=(9.5 * len(rows), -5), xticks=(), yticks=(), aspect="equal")
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)


FIGURE = Figure(
    "tail_samples",
    "Samples of the rarest digits after 1,000 steps on digits-lt, ω = 1, the same noise in each column. Framed, and "
    "counted "
    "at the right of 300 (*): nearer in pixels to a training image than to every held-out image of the class.",
    numbers,
    alt,
    draw,
    height=3.1,
    legend=False,
)

if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(f"name the trained runs, for example {Path('runs/ddpm')} {Path('runs/cbdm-null')}")
    collect(sys.argv[1:])
