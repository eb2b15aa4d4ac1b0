"""What a diagnosis amounts to: where in the noise each group of classes is lost, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cbdm_core.metrics.diagnosis import Contrast, Diagnosis
from cbdm_core.metrics.report import rank_groups

__all__ = ["heat_maps", "span", "verdict"]

Cells = list[tuple[str, float | None, bool]]
Rows = list[tuple[tuple[str, str], Cells]]

_MATTERS = 1.1  # a ratio of errors below it is not worth a sentence
_RARITY = 1.25  # where the tail's ratio is not so many times the head's, the network is at fault and not the counts


def heat_maps(found: Diagnosis, names: Sequence[str]) -> Iterator[tuple[str, list[str], Rows]]:
    """(title, columns, rows) of each map: names and counts at the left, then a (text, shade, sure) for each time.

    Shades are of the logarithm of a ratio, 1 at 8; the effective number's is the share it lacks of the class.
    """
    columns = ["class ", "train n ", *[f"{t:.2f} " for t in found.times.tolist()]]
    of = f"training images, by {found.folds} folds" if found.folds else "held-out images"
    ratios = {f"underfitted: error over the pooled Gaussian's, on {of} · columns are noise levels t": found.underfitted}
    if not found.folds:
        ratios["memorised: error on held-out over training images"] = found.memorised
    for title, contrast in ratios.items():
        shades = contrast.ratio.log2() / 3
        yield title, columns, _rows(found, names, contrast.ratio, shades, contrast.beyond_chance())
    number = torch.where(found.effective_number > 0, found.effective_number, torch.nan)
    hidden = number / found.counts[:, None].clamp(min=1) - 1
    title = "effective number of training images that a noised one may come from; blue: it tells which"
    yield title, columns, _rows(found, names, number, hidden, torch.zeros_like(number, dtype=torch.bool))


def _rows(found: Diagnosis, names: Sequence[str], values: Tensor, shades: Tensor, sure: Tensor) -> Rows:
    order = found.counts.argsort(descending=True, stable=True).tolist()
    return [
        (
            (str(names[y]), str(int(found.counts[y]))),
            [
                ("–", None, False) if value != value else (_short(value), shade, bold)
                for value, shade, bold in zip(values[y].tolist(), shades[y].tolist(), sure[y].tolist(), strict=True)
            ],
        )
        for y in order
    ]


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def verdict(found: Diagnosis) -> list[str]:
    """A sentence on what the tail has underfitted and one on what it has memorised, each beside the head."""
    least = "at least " if found.folds else ""
    lines = [
        _sentence(found, found.underfitted, "underfitted", f"{least}{{}} times the pooled Gaussian's error"),
    ]
    if found.folds:
        lines.append("what is memorised is not known: no image is held out, and the network has seen all of them")
    else:
        lines.append(_sentence(found, found.memorised, "memorised", "held-out error up to {} times that in training"))
    return lines


def _sentence(found: Diagnosis, contrast: Contrast, word: str, how: str) -> str:
    groups = rank_groups(found.counts)
    tail = contrast.over(groups["tail"])
    where = tail.beyond_chance() & (tail.ratio > _MATTERS)
    if not where.any():
        return f"the tail is {word} nowhere beyond chance (errors {_MATTERS:g} times as large and 2 standard errors)"
    worst = int(torch.where(where, tail.ratio, 0).argmax())
    what = how.format(_times(float(tail.ratio[worst])))
    head = contrast.over(groups["head"]).ratio[worst] if "head" in groups else torch.tensor(torch.nan)
    beside = "" if head.isnan() else f"; the head there {_times(float(head))}"
    beside += ", so that it is no matter of rarity" if head * _RARITY > tail.ratio[worst] else ""
    return (
        f"the tail is {word} at t = {span(found.times, where)}: {what} at t = {float(found.times[worst]):.2f}{beside}"
    )


def _times(ratio: float) -> str:
    """A ratio with as many digits as it deserves."""
    return f"{ratio:.2f}" if ratio < 3 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def span(levels: Tensor, where: Tensor) -> str:
    """The noise levels that are meant, runs of neighbours joined: 0.05–0.25, 0.65."""
    runs: list[list[float]] = []
    before = False
    for level, meant in zip(levels.tolist(), where.tolist(), strict=True):
        if meant and before:
            runs[-1].append(level)
        elif meant:
            runs.append([level])
        before = meant
    return ", ".join(_ends([f"{run[0]:.2f}", f"{run[-1]:.2f}"]) for run in runs)


def _ends(pair: Sequence[str]) -> str:
    return pair[0] if pair[0] == pair[1] else "–".join(pair)
