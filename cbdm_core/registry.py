"""Names for classes: "module:Class" strings, imported on first use and extensible by entry points."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["Registry"]


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Registry(Mapping[str, Any]):
    """A lazy map from a name to a class; the name is at once the config value, the CLI choice and the test id.

    Args:
        kind: what the names stand for, as error messages call it.
        group: the entry-point group whose entries are merged in; a name may not be declared twice.
        builtin: name → "module:Class".
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self.builtin = dict(builtin)

    def _targets(self) -> dict[str, str]:
        targets = dict(self.builtin)
        for entry in _declared(self.group, _places()):
            if targets.setdefault(entry.name, entry.value) != entry.value:
                raise CbdmError(
                    f"the {self.kind} {entry.name!r} is declared twice, as {targets[entry.name]!r} and as "
                    f"{entry.value!r}: rename one, or uninstall its distribution"
                )
        return targets

    def __getitem__(self, name: str) -> Any:
        targets = self._targets()
        if name not in targets:
            raise unknown_name(self.kind, name, targets)
        module, _, attribute = targets[name].partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise CbdmError(f"{self.kind} {name!r} is registered as {targets[name]!r}, which fails: {error}") from error

    def build(self, name: str, options: Mapping[str, Any], *arguments: Any) -> Any:
        """`self[name](*arguments, **options)`, after the options' names are held against the signature.

        Raises:
            CbdmError: an unknown name or option (the closest match is named), or a value of the wrong kind.
        """
        cls = self[name]
        allowed = list(inspect.signature(cls).parameters)[len(arguments) :]
        for option in options:
            if option not in allowed:
                raise unknown_name(f"option of {self.kind} {name!r}", option, allowed)
        needed = [
            name
            for name, parameter in list(inspect.signature(cls).parameters.items())[len(arguments) :]
            if parameter.default is parameter.empty and parameter.kind in _NAMED and name not in options
        ]
        if needed:
            raise CbdmError(f"{self.kind} {name!r} needs {' and '.join(needed)}: give it among the options")
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
        try:
            return cls(*arguments, **values)
        except CbdmError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise CbdmError(f"{self.kind} {name!r} cannot be made from {dict(options)}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets()))

    def __len__(self) -> int:
        return len(self._targets())

    def __contains__(self, name: object) -> bool:
        return name in self._targets()


def _places() -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Where distributions are looked for, each as which folder it is and when it last changed."""
    return tuple((place, _version(place)) for place in sys.path)


def _version(place: str) -> tuple[int, ...]:
    try:
        status = Path(place).stat()
    except (OSError, ValueError):  # not there, not ours to see, or the name of an import hook
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=64)
def _declared(group: str, places: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[EntryPoint, ...]:
    """A group's entries; every installed distribution is read for them, once as long as the places stay as they are.

    An installation changes them; an edit inside a folder of metadata that is there already does not, and is not seen.
    """
    return tuple(entry_points(group=group))
