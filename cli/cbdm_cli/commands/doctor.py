"""`cbdm doctor`: what a bug report should tell of the machine, and a self-check."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from cbdm_cli import render
from cbdm_cli.refusal import refuse
from cbdm_cli.run_folder import environment
from cbdm_cli.self_check import self_check
from cbdm_core.distributed import pick_device
from cbdm_core.memory import available_bytes, gigabytes
from cbdm_core.metrics.features.cache import default_folder

__all__ = ["doctor"]

_SOURCES = ("cbdm_core", "cbdm_priors", "cbdm_cli")


def doctor(device: str) -> None:
    """Print the facts and the outcome of the self-check.

    Raises:
        CbdmError: no such device.
        SystemExit: with code 2, a check failed.
    """
    where = pick_device(device)
    render.plain_table(_facts(where), "cbdm doctor", ("", ""))
    began = time.monotonic()
    checks = self_check(where)
    seconds = time.monotonic() - began
    render.plain_table([(check.name, check.words) for check in checks], f"self-check, {seconds:.1f} s", ("", ""))
    wrong = [check.name for check in checks if not check.good]
    if wrong:
        refuse(f"the self-check failed: {', '.join(wrong)}; report it with all that is printed above")
    render.note("all is as it should be")


def _facts(where: torch.device) -> list[tuple[str, str]]:
    known = environment(sys.argv, str(where))
    rows = [("python", f"{known['python']}, {sys.executable}"), ("platform", known["platform"])]
    rows += [(name, str(version)) for name, version in known["packages"].items()]
    rows += [
        ("installed twice", _twice()),
        ("device", _device_words(where)),
        ("threads", _threads()),
        ("bfloat16", _bfloat16(where)),
        ("torch.compile", _compiler(where)),
        ("memory", _memory(where)),
    ]
    places = {
        "this folder": Path(),
        "temporary files": Path(tempfile.gettempdir()),
        "cache": default_folder().expanduser(),
    }
    return rows + [(f"disk, {name}", _disk(path)) for name, path in places.items()]


def _twice() -> str:
    """A package that another installation would shadow is a common cause of strange faults."""
    found: dict[str, set[str]] = {}
    for distribution in distributions():
        name = str(distribution.metadata["Name"] or "").lower()
        found.setdefault(name, set()).add(str(distribution.locate_file("")))
    again = [name for name in ("cbdm", "torch", "numpy") if len(found.get(name, ())) > 1]
    places = {str(Path(spec.origin).parent) for name in _SOURCES if (spec := _spec(name)) and spec.origin}
    return f"{', '.join(again) or 'nothing'}; the code runs from {', '.join(sorted(places))}"


def _spec(name: str) -> Any:
    return importlib.util.find_spec(name)


def _device_words(where: torch.device) -> str:
    if where.type != "cuda":
        return f"{where}, {os.cpu_count()} processors"
    name, (major, minor) = torch.cuda.get_device_name(where), torch.cuda.get_device_capability(where)
    return f"{where}, {name}, capability {major}.{minor}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} there"


def _threads() -> str:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    given = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return f"{torch.get_num_threads()} ({given or 'none set'})"


def _bfloat16(where: torch.device) -> str:
    try:
        with torch.autocast(where.type, torch.bfloat16):
            good = torch.isfinite(torch.ones(4, 4, device=where) @ torch.ones(4, 4, device=where)).all()
    except RuntimeError as error:
        return f"no: {(str(error).splitlines() or [''])[0][:80]}"
    if where.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "emulated, slowly"
    return "yes" if bool(good) else "no: it gives values that are not finite"


def _compiler(where: torch.device) -> str:
    """What torch.compile needs beside torch; nothing is compiled here."""
    if where.type == "cuda":
        return "triton is there" if importlib.util.find_spec("triton") else "no triton"
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    return f"{found} is there" if found else "no C++ compiler"


def _memory(where: torch.device) -> str:
    free = {name: available_bytes(name) for name in dict.fromkeys(("cpu", str(where)))}
    return ", ".join(f"{gigabytes(count)} free on {name}" for name, count in free.items() if count is not None)


def _disk(path: Path) -> str:
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    writable = "" if os.access(there, os.W_OK) else ", NOT writable"
    return f"{path.absolute()}, {gigabytes(shutil.disk_usage(there).free)} free{writable}"
