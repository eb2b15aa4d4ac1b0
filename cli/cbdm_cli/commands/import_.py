"""`cbdm import`: a published-style checkpoint becomes a run folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch

from cbdm_cli import render
from cbdm_cli.config import Config, Data, Facts, Network, Sampling, Schedule, Training
from cbdm_cli.initial_weights import read_state_dict
from cbdm_cli.laws import law_text, parted
from cbdm_cli.method import Part, completed, parse_parts
from cbdm_cli.run_data import IMPORTED
from cbdm_cli.run_folder import claimed_folder, environment, write_json, write_text
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.checkpoint import save_checkpoint
from cbdm_core.distributed import World
from cbdm_core.errors import CbdmError
from cbdm_core.networks.published import load_published
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.priors import PRIORS, make_law
from cbdm_core.process import Process
from cbdm_core.run import build_schedule
from cbdm_core.training import TrainSettings, TrainState

__all__ = ["import_checkpoint", "published_parts"]

_LARGEST = 8192  # pixels of a side
_MOST = 10**12  # images of a class; sums of them are whole numbers in float64
_UNKNOWN = (
    "the images of each class are unknown: laws made from counts (training, power, balanced, the adjusted null of "
    "--guidance-prior) take every class as equally frequent; --counts n_1,n_2,… at import tells them"
)


def published_parts(text: str) -> tuple[Part, ...]:
    """The parts of a method as the published programs have them: penalties weighted by i/T, t − 1/T here.

    Raises:
        CbdmError: a part that is unknown or whose law is open.
    """
    parts = completed(parse_parts(text))
    for part in parts:
        law_text(part)  # a law that is open is refused
    weight = {"time_weight": "published"}
    return tuple(
        Part.model_validate({**part.model_dump(), **weight}) if "time_weight" in part.options else part
        for part in parts
    )


def _counts(text: str, classes: int) -> tuple[int, ...]:
    """The images of each class that `--counts` names.

    Raises:
        CbdmError: a piece that is no whole number of images, or more or fewer of them than classes.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    for piece in pieces:
        if not re.fullmatch("[0-9]{1,13}", piece) or not 1 <= int(piece) <= _MOST:
            raise CbdmError(
                f"--counts: {piece[:40]!r} is no number of images; write {classes} whole numbers from 1 to {_MOST:,}, "
                "parted by commas and without separators of thousands, for example 5000,2997"
            )
    if len(pieces) != classes:
        raise CbdmError(
            f"--counts has {len(pieces)} numbers, and the checkpoint has {classes} classes: write one for each class"
        )
    return tuple(map(int, pieces))


def _configuration(
    name: str,
    network: UNet,
    parts: tuple[Part, ...],
    counts: tuple[int, ...],
    beta_1: float,
    beta_T: float,
    step: int,
) -> Config:
    """What a run of the checkpoint's network would have been made from; it draws with DPM++(2M)."""
    options: dict[str, Any] = dict(network.options)
    betas = {"steps": options["time_steps"], "beta_1": beta_1, "beta_T": beta_T}
    return Config(
        preset="imported",
        question=f"imported from {name}",
        data=Data(source=IMPORTED, profile="none"),
        schedule=Schedule(name="linear", options=betas),
        network=Network(name="unet", options=options),
        method=parts,
        training=Training(steps=max(step, 1)),
        sampling=Sampling(sampler="dpm++2m", steps=25, omega="0"),
        facts=Facts(
            shape=network.shape,
            class_names=tuple(str(y) for y in range(len(counts))),
            counts=counts,
            data_hash="",
            split_hash="",
            laws={part.name: text for part in parts if (text := law_text(part)) is not None},
        ),
    )


def import_checkpoint(
    path: Path,
    out: Path,
    weights: str,
    image_size: int,
    beta_1: float,
    beta_T: float,
    method: str = "ddpm",
    counts: str | None = None,
) -> None:
    """Read, hold against the architecture, and write the run folder.

    Args:
        path: of the checkpoint.
        out: the run folder to make.
        weights: the entry to read, where there are several.
        image_size: height and width.
        beta_1: the first β of the linear schedule.
        beta_T: the last.
        method: what it was trained with.
        counts: images of each class of its training set, parted by commas; None where they are unknown.

    Raises:
        CbdmError: the checkpoint cannot be read or is of another architecture, `out` is not empty, a method or
            law that does not exist, or counts that are not one for each class.
    """
    if not 1 <= image_size <= _LARGEST:
        raise CbdmError(f"--image-size {image_size}: a side has 1 to {_LARGEST} pixels")
    parts = published_parts(method)
    state_dict, step = read_state_dict(path, weights)
    network = load_published(state_dict, spatial=(image_size, image_size)).float()
    classes = network.num_classes or 0  # published networks have classes
    # A checkpoint does not say how many images each class had; one each makes every law from counts uniform.
    known = (1,) * classes if counts is None else _counts(counts, classes)
    for part in parts:
        if (text := law_text(part)) is None:
            continue
        law, _ = parted(part.name, text)  # the levels of a batch law stand behind it
        if PRIORS[law.partition(":")[0]].made_from == "counts":
            make_law(law, known)  # a law that does not exist is refused
    config = _configuration(path.name, network, parts, known, beta_1, beta_T, step)
    schedule = build_schedule(config.schedule.model_dump())
    objective = Objective(Process(schedule), network, DenoisingLoss())
    state = TrainState.start(objective, TrainSettings(), World(0, 1, torch.device("cpu")))
    state.step = step
    with claimed_folder(out, "imported", "cbdm import") as folder:
        write_json(folder / "environment.json", environment(sys.argv, "cpu"))
        save_checkpoint(folder / "checkpoints", state)
        write_text(folder / "config.toml", config.to_toml())  # the last, for it makes the folder a run
    render.note(f"imported {sum(p.numel() for p in network.parameters()):,} parameters, {classes} classes: {folder}")
    if counts is None and classes > 1:  # of one class there is nothing to know
        render.note(_UNKNOWN)
