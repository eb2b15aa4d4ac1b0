"""From a name and options to an object of a registry."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.registry import Registry

__all__ = ["build"]


def build(registry: Registry, name: str, options: Mapping[str, Any], *arguments: Any) -> Any:
    """`registry[name](*arguments, **options)`, after the options' names are held against the signature.

    Raises:
        CbdmError: an unknown name or option (the closest match is named), or a value of the wrong kind.
    """
    cls = registry[name]
    allowed = list(inspect.signature(cls).parameters)[len(arguments) :]
    for option in options:
        if option not in allowed:
            raise unknown_name(f"option of {registry.kind} {name!r}", option, allowed)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    try:
        return cls(*arguments, **values)
    except CbdmError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise CbdmError(f"{registry.kind} {name!r} cannot be made from {dict(options)}: {error}") from error
