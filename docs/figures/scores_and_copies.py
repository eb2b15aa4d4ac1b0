"""What copies do to each score: samples of the truth, a growing share of them replaced by training images."""

from __future__ import annotations

from typing import Any

import torch

from cbdm_core.metrics.manifold import prdc
from cbdm_core.metrics.memorisation import memorisation
from docs.figures.drawing import COLOURS, Figure, rounded

DIMENSION, ROWS, FEW, SHARES = 8, 400, 40, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SCORES = ("precision", "recall", "coverage", "copies")


def numbers() -> dict[str, Any]:
    """All sets are of N(0, I) in 8 dimensions, 400 rows each, k = 5, seed 0; copies are of all rows or of 40."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, DIMENSION, dtype=torch.float64, generator=generator)

    training, held_out, fresh = normal(ROWS), normal(ROWS), normal(ROWS)
    found: dict[str, Any] = {}
    for name, source in (("of all images", training), ("of forty", training[:FEW].repeat(ROWS // FEW, 1))):
        rows: dict[str, list[float]] = {score: [] for score in SCORES}
        for share in SHARES:
            n = int(share * ROWS)
            fake = torch.cat([source[:n] + 1e-3 * normal(n), fresh[n:]])
            manifold = prdc(training, fake)
            copied = memorisation(fake, training, held_out).copied
            for score, value in zip(
                SCORES, (manifold.precision, manifold.recall, manifold.coverage, copied), strict=True
            ):
                rows[score].append(float(value))
        found[name] = {score: rounded(values, 4) for score, values in rows.items()}
    return found


def alt(numbers: dict[str, Any]) -> str:
    def said(name: str) -> str:
        return ", ".join(f"{score} {of[0]:.2f} to {of[-1]:.2f}" for score, of in numbers[name].items())

    return (
        "Four scores over the share of copies among the samples, against a reference that holds the copied images. "
        f"Copies of all images: {said('of all images')}. Copies of forty images, ten times each: {said('of forty')}."
    )


def draw(numbers: dict[str, Any], figure: Any, axes: list[Any]) -> None:
    marks = ("o", "s", "^", "D")
    for panel, (name, scores) in zip(axes, numbers.items(), strict=True):
        for colour, mark, (score, of) in zip(COLOURS, marks, scores.items(), strict=False):
            panel.plot(
                [100 * s for s in SHARES], of, color=colour, marker=mark, label=score if panel is axes[0] else None
            )
        panel.set(title=f"copies {name}", xlabel="copies, %", ylim=(-0.05, 1.05))
        panel.title.set_fontsize(10)


FIGURE = Figure(
    "scores_and_copies",
    "Samples of the truth, of which a growing share is replaced by training images that the reference "
    "holds. Precision and "
    "coverage reward copies; recall sees only that few images are copied often.",
    numbers,
    alt,
    draw,
    panels=2,
    height=3.3,
)
