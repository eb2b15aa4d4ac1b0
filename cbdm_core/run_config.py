"""The configuration that a run folder keeps, read without torch."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cbdm_core.errors import CbdmError
from cbdm_core.reading import CONFIG_BYTES, regular_file

__all__ = ["read_config"]


def read_config(path: Path) -> dict[str, Any]:
    """The `config.toml` of a run folder.

    Raises:
        CbdmError: no such folder, no such file in it, or a damaged one.
    """
    file = path / "config.toml"
    try:
        if not file.exists():
            raise FileNotFoundError(file)
        config = tomllib.loads(regular_file(file, CONFIG_BYTES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CbdmError(f"{path} is no run folder: it has no config.toml; name a folder that cbdm train made") from None
    except RecursionError:
        raise CbdmError(f"{file} is nested too deeply to be a configuration: restore it") from None
    except CbdmError:
        raise
    except (OSError, ValueError) as error:  # no TOML, or a number of more digits than Python reads
        raise CbdmError(f"{file} cannot be read: {error}") from error
    missing = [key for key in ("network", "schedule", "facts") if key not in config]
    if missing:
        raise CbdmError(f"{file} is no run's configuration: it lacks {', '.join(missing)}")
    return config
