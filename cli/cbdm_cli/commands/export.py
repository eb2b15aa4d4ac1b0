"""`cbdm export`: the averaged network of a run for other programs, with a card."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from cbdm_cli import render
from cbdm_cli.card import model_card
from cbdm_cli.config import Config, validated
from cbdm_cli.observing import AVERAGES
from cbdm_cli.run_folder import new_folder, write_tensors, write_text
from cbdm_cli.scoring import best_checkpoint
from cbdm_core.checkpoint import read_tensors, verified
from cbdm_core.ema import post_hoc
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.reading import regular_file
from cbdm_core.run import LAW_DATA, Run, load_run
from cbdm_core.writing import plain_write_errors

__all__ = ["FORMATS", "export_run", "load_average"]


def load_average(run: Run, average: str | None) -> Run:
    """The run with another average of its weights: a stored `decay:d` or `power:w`, or any width made afterwards.

    Raises:
        CbdmError: an average that the run has not stored and that cannot be made.
    """
    if average is None:
        return run
    file = run.checkpoint / "averages.safetensors"
    stored = read_tensors(file) if file.exists() else {}
    weights = {key.partition("/")[2]: value for key, value in stored.items() if key.startswith(f"{average}/")}
    kind, _, number = average.partition(":")
    if not weights and kind == "power":
        try:
            width = float(number)
        except ValueError:
            raise CbdmError(f"--average {average}: write power:w with a width w, for example power:0.08") from None
        weights = post_hoc(run.path / AVERAGES, width)
    if not weights:
        names = sorted({key.partition("/")[0] for key in stored})
        raise CbdmError(
            f"--average {average}: the run has stored {', '.join(names) or 'no further average'}; train with "
            "training.averages to have more"
        )
    state = run.network.state_dict()
    unknown = sorted(set(weights) - set(state))
    if unknown:
        raise CbdmError(f"--average {average}: it has weights that the network lacks, the first {unknown[0]!r}")
    run.network.load_state_dict({**state, **weights})
    return run


def _safetensors(run: Run, config: Config, folder: Path) -> str:
    write_tensors(folder / "model.safetensors", dict(run.network.state_dict()))
    write_text(folder / "config.toml", config.to_toml())
    return (
        "from safetensors.torch import load_file\nfrom cbdm import load_run  # or any network of this shape\n"
        'weights = load_file("model.safetensors")'
    )


def _diffusers(run: Run, config: Config, folder: Path) -> str:
    try:
        from cbdm_core.pipeline import as_pipeline
    except ImportError as error:
        raise CbdmError(f"--to diffusers needs diffusers ({error}): pip install 'cbdm[diffusers]'") from error
    as_pipeline(run).save_pretrained(folder)
    return (
        "from cbdm_core.pipeline import CbdmPipeline\n"
        f'pipeline = CbdmPipeline.from_pretrained("{folder.name}")\n'
        "samples = pipeline([0, 1, 2], num_inference_steps=50, omega=0.5, seed=0).images"
    )


def _run(run: Run, config: Config, folder: Path) -> str:
    """A run folder to sample from and to evaluate; without the optimiser it cannot be trained further."""
    source = run.checkpoint
    target = folder / "checkpoints" / source.name
    target.mkdir(parents=True)
    for name in ("config.toml", "environment.json", LAW_DATA):
        if (run.path / name).exists():
            shutil.copyfile(regular_file(run.path / name), folder / name)
    shutil.copyfile(source / "model.safetensors", target / "model.safetensors")  # what laws have learned is in it
    write_tensors(target / "ema.safetensors", dict(run.network.state_dict()))
    state = json.loads((source / "state.json").read_text(encoding="utf-8"))
    state["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in sorted(target.iterdir())
    }
    write_text(target / "state.json", json.dumps(state, indent=1))
    return f'from cbdm import load_run\nrun = load_run("{folder.name}")'


FORMATS: dict[str, Callable[[Run, Config, Path], str]] = {
    "diffusers": _diffusers,
    "run": _run,
    "safetensors": _safetensors,
}


def export_run(path: Path, to: str, out: Path, average: str | None, *, best: bool = False) -> None:
    """Write the averaged network of a run into a new folder, with its card.

    Args:
        path: the run.
        to: one of `FORMATS`.
        out: the folder to make.
        average: another average of the weights.
        best: take the checkpoint with the best score, not the newest, whose averages alone are stored.

    Raises:
        CbdmError: an unknown format, no best checkpoint, both choices, an average that is not there, or a folder that
            is not empty or cannot be written; for a run, a checkpoint that is damaged.
    """
    if to not in FORMATS:
        raise unknown_name("format", to, FORMATS)
    if best and average is not None:
        raise CbdmError(f"--best and --average {average} each choose the weights: leave one out")
    run = load_average(load_run(path, checkpoint=best_checkpoint(path) if best else None), average)
    config = validated(run.config)
    if to == "run":  # which copies it, and tells its hash anew
        verified(run.checkpoint, ("model.safetensors",))
    folder = new_folder(out, "")
    with plain_write_errors(folder, "folder"):
        how = FORMATS[to](run, config, folder)
    write_text(folder / "README.md", model_card(run, config, how))
    chosen = f", average {average}" if average else ""
    render.note(f"exported {run.step:,} steps{chosen} as {to}: {folder}")
