"""`cbdm train --data PATH`: the source that reads a path, and a network and a length that suit what lies there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cbdm_cli import render
from cbdm_cli.config import Config, validated
from cbdm_cli.overlay import load_config, merged, overlaid
from cbdm_cli.run_data import ReadData
from cbdm_core.conditions import MultiLabel
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.pictures import ENDINGS
from cbdm_core.data.table import names_a_file
from cbdm_core.errors import CbdmError, some_of
from cbdm_core.reading import clean_text

__all__ = ["CUSTOM", "condition_words", "named_path", "own_table", "source_of", "suited"]

CUSTOM = "custom"  # names runs on data of one's own, for which no preset was named
_ENDINGS = {".npz": ("npz", "path"), ".parquet": ("parquet", "root"), ".tar": ("webdataset", "root")}
_PARTS = (".parquet", ".tar")  # of which several files are one data set
_CIFAR = {"data_batch_1.bin": "cifar10", "data_batch_1": "cifar10", "train.bin": "cifar100", "train": "cifar100"}
_KINDS = (*_PARTS, ".csv", ".npz")
_COARSEST = 4  # pixels of a side at the last level
_LEVELS = 4
_ATTENTION = 8  # pixels of a side up to which a level has attention
_EPOCHS = 300
_STEPS = (2_000, 200_000)
_TAIL = ("profile", "imbalance", "n_max", "counts", "held_out")


def named_path(text: str) -> Path:
    """The path that an option names.

    Args:
        text: as it is given.

    Raises:
        CbdmError: it is empty, which as a path would be the current folder.
    """
    if not text.strip():
        raise CbdmError("the path of the data is empty: give a file or a folder, . for the current one")
    return Path(text)


def source_of(path: Path) -> dict[str, Any]:
    """{"source": name, "options": {…}} of the source that reads a file or folder.

    An npz, parquet or tar file; a CSV, for the images in its folder; a folder of npy files, parquet files or tars, of
    CIFAR's files, or one with a single CSV or npz in it; else class folders.

    Raises:
        CbdmError: nothing is there, a file of another kind, or a folder with several that it could be, class folders
            among them.
    """
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise CbdmError(
            f"{path} is not there: give a folder of class folders or of npy files, an npz, parquet, tar or CSV file"
        )
    ending = path.suffix.lower()
    if ending == ".csv":
        return {"source": "folder", "options": {"path": str(path.parent), "labels": path.name}}
    if ending == ".npy":
        raise CbdmError(f"{path} is one of several files: give its folder, with images.npy and labels.npy")
    if ending not in _ENDINGS:
        what = f"ends in {ending!r}" if ending else "has no ending"
        raise CbdmError(f"{path} {what}: files that end in .npz, .parquet, .tar or .csv can be read")
    name, option = _ENDINGS[ending]
    return {"source": name, "options": {option: str(path)}}


def _of_folder(path: Path) -> dict[str, Any]:
    if (path / "images.npy").exists() or any(path.glob("images-*.npy")):
        return {"source": "npy", "options": {"path": str(path)}}
    if (cifar := next((source for file, source in _CIFAR.items() if (path / file).is_file()), None)) is not None:
        return {"source": cifar, "options": {"root": str(path)}}
    there = {kind: files for kind in _KINDS if (files := sorted(path.glob(f"*{kind}")))}
    if not there:
        return {"source": "folder", "options": {"path": str(path)}}
    kind, files = next(iter(there.items()))
    several = [one[0] for one in there.values()] if len(there) > 1 else [] if kind in _PARTS else files[:3]
    if len(several) > 1:
        raise CbdmError(
            f"{path} holds {', '.join(clean_text(file.name) for file in several)}: give the one that is meant, or move "
            "the others away"
        )
    _check_class_folders(path, files[0])
    if kind not in _PARTS:
        return source_of(files[0])
    name, option = _ENDINGS[kind]
    return {"source": name, "options": {option: str(path)}}


def _check_class_folders(path: Path, file: Path) -> None:
    """Refuse a file beside class folders, unless it is a CSV that says what the images in them are."""
    image = next((f for f in path.glob("*/*") if f.suffix.lower() in ENDINGS and f.parent.name[0] != "."), None)
    if image is None or (file.suffix == ".csv" and names_a_file(file)):
        return
    name, folder = clean_text(file.name), clean_text(image.parent.name)
    no_table = file.suffix == ".csv"
    meant = "mend its names" if no_table else f"give {path / name} itself or move the folders away"
    raise CbdmError(
        f"{path} holds {name}{', which names no file that is there' if no_table else ''}, and images in class folders "
        f"such as {folder}: move {name} away to read the folders, or {meant} to read {name}"
    )


def own_table(
    path: Path,
    preset: str | None,
    file: Path | None,
    settings: Sequence[str],
    steps: int | None = None,
    tell: Callable[[str], None] = render.note,
) -> tuple[dict[str, Any], ReadData | None]:
    """The plain values of a training on the data in `path`: those of a preset, or without one what suits the data.

    In the second case the data have to be read, and are given besides.

    A file goes before what suits, but not before `path`; `a.b=v` settings go before both, except for another source.

    Args:
        path: `--data`.
        preset: named besides.
        file: a configuration named besides.
        settings: `a.b=v` named besides.
        steps: of the training, where they are named besides.
        tell: says what was chosen.

    Raises:
        CbdmError: as `source_of`, the source, or `load_config`; settings that name other data, or a tail that nothing
            makes.
    """
    data = {**source_of(path), "profile": "none"}
    if preset is not None:
        return _laid_over(load_config(preset, file), path, data, settings), None
    base: dict[str, Any] = {"method": "ddpm", "evaluation": {"reference": "training"}}
    named = {"preset": CUSTOM, "question": ""}
    asked = _laid_over({**overlaid(base, file), **named}, path, data, settings)
    config = _without_method(asked)
    read = ReadData.of(config.data)
    full = read.full
    given = {name for name in ("steps", "batch_size") if name in asked.get("training", {})}
    batch = config.training.batch_size if "batch_size" in given else None
    steps = steps or (config.training.steps if "steps" in given else None)
    chosen = suited(tuple(full.shape), len(full), full.num_classes, batch, steps, images=full.is_images)
    table = _laid_over({**overlaid(merged(base, chosen), file), **named}, path, data, settings)
    tell(_description(full, _without_method(table), steps))
    return table, read


def _without_method(table: dict[str, Any]) -> Config:
    """The configuration but for the method, whose parts another option may name; it chooses nothing here."""
    return validated({name: value for name, value in table.items() if name != "method"})


def _laid_over(table: dict[str, Any], path: Path, data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Plain values with the data of `path` in the place of theirs, and settings over both.

    How a file or preset reads data of its own, and makes their tail, says nothing of these; a file that names no data
    speaks of these.
    """
    source, option = data["source"], next(iter(data["options"]))
    kept = dict(table.get("data", {}))
    if "source" in kept:
        kept = {name: value for name, value in kept.items() if name not in _TAIL}
        if kept.get("options", {}).get(option, str(path)) != data["options"][option]:
            del kept["options"]
    else:
        data = {**data, **{name: kept[name] for name in _TAIL if name in kept}}
    laid = overlaid(merged({**table, "data": kept}, {"data": data}), None, settings)
    # A root may be narrowed to some of its files, by a pattern.
    narrowed = option == "root" or laid["data"].get("options", {}).get(option) == data["options"][option]
    if laid["data"]["source"] != source or not narrowed:
        raise CbdmError(
            f"--data {path} is read by the source {source!r}, and --set names other data (data.source or "
            f"data.options.{option}): leave one of them out"
        )
    idle = [name for name in ("imbalance", "n_max") if name in laid["data"]]
    if idle and laid["data"]["profile"] in ("none", "held-out"):
        raise CbdmError(
            f"data.{idle[0]} = {laid['data'][idle[0]]} makes no tail of --data {path}, which is taken as it is: "
            "--set data.profile=exp makes one, data.counts=[…] takes so many of each class"
        )
    if "held_out" in laid["data"] and laid["data"]["profile"] != "held-out":
        raise CbdmError(
            f"data.held_out = {laid['data']['held_out']} holds nothing of --data {path} out: add --set "
            "data.profile=held-out, or leave it out"
        )
    return laid


def suited(
    shape: tuple[int, ...],
    n: int,
    num_classes: int,
    batch: int | None = None,
    steps: int | None = None,
    *,
    images: bool = True,
) -> dict[str, Any]:
    """Network, training, sampling and evaluation for n examples of a shape.

    Steps show each example 300 times, within 2,000 and 200,000. A U-Net halves its axes while the shortest keeps 4
    places, three times at most; its width grows with the side, and is half of that below 1,000 examples.

    Args:
        shape: (D,) of vectors, or (C, *spatial).
        n: examples, ≥ 1.
        num_classes: K ≥ 1.
        batch: examples a step, where they are given.
        steps: of the training, where they are given; warm-up and averaging go by them.
        images: whether they are 8-bit images, which cut off what an error of ε̂ near t = 1, divided by α, throws far
            out. Floats keep it, so that their networks predict v, under the cosine schedule.
    """
    batch = batch or min(64 if n < 10_000 else 128, n)
    steps = steps or min(max(100 * math.ceil(_EPOCHS * n / batch / 100), _STEPS[0]), _STEPS[1])
    network = _perceptron(n) if len(shape) == 1 else _unet(shape[1:], n)
    training = {
        "steps": steps,
        "batch_size": batch,
        "learning_rate": 1e-3 if network["options"]["width"] <= 32 or len(shape) == 1 else 2e-4,
        "warmup": min(500, steps // 20),
        "ema_decay": 0.999 if steps < 20_000 else 0.9999,
    }
    judged = {"per_class": min(200, max(20, 4000 // num_classes))}
    return {
        "schedule": {"name": "linear" if images else "cosine"},
        "network": {**network, "predicts": "eps" if images else "v"},
        "training": training,
        "evaluation": judged,
    }


def _perceptron(n: int) -> dict[str, Any]:
    return {"name": "mlp", "options": {"width": 128 if n < 10_000 else 256, "depth": 3}}


def _unet(sides: tuple[int, ...], n: int) -> dict[str, Any]:
    levels = 1
    while levels < _LEVELS and all(side % 2**levels == 0 and side // 2**levels >= _COARSEST for side in sides):
        levels += 1
    side = max(sides) if sides[1:] else min(max(sides), 32)  # a long signal is not a large image
    width = next(width for most, width in ((8, 32), (16, 64), (64, 96), (math.inf, 128)) if side <= most)
    width = width // 2 if n < 1_000 else width
    options = {
        "width": width,
        "multipliers": [1, 2, 2, 2][:levels],
        "attention": [level for level in range(levels) if max(sides) // 2**level <= _ATTENTION],
        "blocks": 1 if side <= 16 else 2,
        "dropout": 0.1,
        "groups": 8,
    }
    return {"name": "unet", "options": options}


def condition_words(data: Dataset) -> str:
    """What a network is told of each example of data with conditions, in words, such as "2 numbers (slant, size)"."""
    kind = "attributes" if isinstance(data.space, MultiLabel) else "numbers"
    named = "" if data.condition_names is None else f" ({some_of(data.condition_names)})"
    return f"{data.condition_values().shape[1]} {kind}{named}"


def _description(full: Dataset, config: Config, steps: int | None) -> str:
    """What lies there, and what the training will be."""
    counts, training, network = full.counts(), config.training, config.network
    what = "×".join(map(str, full.shape))
    made = {**network.options, "predicts": network.predicts}
    options = ", ".join(f"{name} {value}" for name, value in made.items())
    conditions = "" if full.condition is None else f", told {condition_words(full)} each, no label"
    return (
        f"{CUSTOM}: {len(full):,} examples of {what} in {full.num_classes} classes of {int(counts.min()):,} … "
        f"{int(counts.max()):,}{conditions}\n"
        f"chosen for them, unless you said: {network.name} of {options}; {steps or training.steps:,} steps of "
        f"{training.batch_size}, warm-up {training.warmup}, averages of {training.ema_decay}, "
        f"held against the {config.evaluation.reference} set"
    )
