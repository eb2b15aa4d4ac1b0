"""What is laid over what before it is a configuration, as plain values. Imports no torch.

Order of precedence: defaults < preset < `--config` < `--set a.b=v` < named options.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cbdm_cli.method import Part, format_parts, method_over
from cbdm_cli.preset_files import EXTENDS, preset_texts
from cbdm_core.errors import CbdmError
from cbdm_core.reading import CONFIG_BYTES, regular_file

__all__ = ["flat", "load_config", "merged", "overlaid", "preset_table", "setting"]


def preset_table(name: str) -> dict[str, Any]:
    """A preset as plain values, laid over those that it extends; `extends` itself is none of them.

    Raises:
        CbdmError: as `preset_texts`.
    """
    table: dict[str, Any] = {}
    for text in preset_texts(name).values():
        table = merged(table, tomllib.loads(text))
    table.pop(EXTENDS, None)
    return {"preset": name, **table}


def load_config(preset: str, file: Path | None = None, settings: Iterable[str] = ()) -> dict[str, Any]:
    """The plain values of a preset, overlaid with a file and with `a.b=v` settings."""
    return overlaid(preset_table(preset), file, settings)


def overlaid(table: Mapping[str, Any], file: Path | None = None, settings: Iterable[str] = ()) -> dict[str, Any]:
    """Plain values with a file laid over them, then `a.b=v` settings."""
    table = dict(table)
    if file is not None:
        table = merged(table, _read(file))
    asked: dict[str, Any] = {}
    for text in settings:  # together first, so that their order does not matter
        asked = merged(asked, setting(text))
    return merged(table, asked)


def _read(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(regular_file(file, CONFIG_BYTES).read_text(encoding="utf-8"))
        table.pop("facts", None)  # in a saved one, of the data that it was trained on
        return table
    except CbdmError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise CbdmError(f"--config {file} cannot be read: {error}") from error
    except RecursionError:
        raise CbdmError(f"--config {file} is nested too deeply to be a configuration") from None
    except ValueError as error:  # a number of more digits than Python reads is no TOMLDecodeError
        raise CbdmError(f"--config {file} is no TOML: {error}") from error


def setting(text: str) -> dict[str, Any]:
    """`a.b=v` → {"a": {"b": v}}; v is TOML, and a bare word is a string.

    Raises:
        CbdmError: no `=`, or an empty key.
    """
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise CbdmError(f"--set {text!r} must read a.b=v, for example --set training.batch_size=32")
    if keys[0] == "facts":
        raise CbdmError(f"--set {key}: facts are what the program found in the data; leave them out")
    try:
        parsed: Any = tomllib.loads(f"v = {value}")["v"]
    except ValueError:
        parsed = value.strip()
    except RecursionError:
        raise CbdmError(f"--set {key}: its value is nested too deeply to be one of a configuration") from None
    for name in reversed(keys[1:]):
        parsed = {name: parsed}
    return {keys[0]: parsed}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables in one, `over` winning key by key; naming another source, network … drops the old options.

    Raises:
        CbdmError: a value in the place of a table.
    """
    out = dict(base)
    for key, value in over.items():
        if key == "method":
            out[key] = method_over(out.get(key), value)
            continue
        if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            old = dict(out[key])
            named = [k for k in ("name", "source", "sampler") if k in value and k in old]
            if any(value[k] != old[k] for k in named):
                old.pop("options", None)
            out[key] = merged(old, value)
        elif isinstance(out.get(key), Mapping) and out[key]:
            some = next(iter(out[key]))
            raise CbdmError(f"{key} = {value!r}: {key} is a table; set what stands in it, such as {key}.{some}=…")
        else:
            out[key] = value
    return out


def flat(table: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names; the parts of a method go by theirs, `method.cbdm.tau`."""
    if prefix == "method" and isinstance(table, list | tuple):
        rest = {part["part"]: {k: v for k, v in part.items() if k not in ("part", "law")} for part in table}
        parts = format_parts([Part(part=part["part"], law=part.get("law")) for part in table])
        return {"method": parts, **flat(rest, prefix)}
    if not isinstance(table, Mapping):
        return {prefix: table}
    return {k: v for key, value in table.items() for k, v in flat(value, f"{prefix}.{key}".lstrip(".")).items()}
