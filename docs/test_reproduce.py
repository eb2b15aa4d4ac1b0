"""What the page on the paper says of its training is what the presets set."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cbdm_cli.overlay import preset_table
from docs.evidence import ROOT

PAGE = ROOT / "docs" / "guides" / "reproduce.md"
DATA = ("cifar10lt", "cifar100lt")


def row() -> str:
    """The table's row on training, without separators of thousands."""
    (line,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if "`training.*`" in line)
    return re.sub(r"(?<=\d),(?=\d{3})", "", line)


def training(name: str) -> dict[str, Any]:
    return preset_table(name)["training"]


def test_steps_are_those_of_the_presets():
    """Those of all, and the exceptions by name."""
    (usual,) = {training(f"{data}-{method}")["steps"] for data in DATA for method in ("ddpm", "cbdm")}
    augmented = {name: training(name)["steps"] for name in (f"{data}-cbdm-ada" for data in DATA)}
    said = re.search(r"(\d+) steps, (.*) \|$", row())
    assert said is not None and int(said[1]) == usual
    assert {name: int(steps) for steps, name in re.findall(r"(\d+) in `([\w-]+)`", said[2])} == {
        name: steps for name, steps in augmented.items() if steps != usual
    }


@pytest.mark.parametrize("data", DATA)
def test_batches_rate_warm_up_and_averages_are_those_of_the_presets(data):
    plain, cbdm = training(f"{data}-ddpm"), training(f"{data}-cbdm")
    factor, power, warmup, decay, batch, plain_batch = re.findall(
        r"Adam at (\d)·10⁻([⁰¹²³⁴⁵⁶⁷⁸⁹]), (\d+) steps of warm-up, averages of ([\d.]+), batches of (\d+) .*"
        r"DDPM in batches of (\d+)",
        row(),
    )[0]
    rate = float(f"{factor}e-{'⁰¹²³⁴⁵⁶⁷⁸⁹'.index(power)}")
    for table, of in ((cbdm, batch), (plain, plain_batch)):
        said = {"learning_rate": rate, "warmup": int(warmup), "ema_decay": float(decay), "batch_size": int(of)}
        assert {name: table[name] for name in said} == said
