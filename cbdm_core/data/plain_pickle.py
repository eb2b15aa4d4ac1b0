"""Pickles of plain values and arrays of bytes, read without executing anything that they name."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text

__all__ = ["load_plain"]

_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(MemoryError, OverflowError, RecursionError, ImportError),
)


class _Stated:
    """What stands for an array or dtype of numpy while the pickle is read: what it was called with, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Encoded(bytes):
    """`codecs.encode(text, "latin1")`, by which Python 3 writes bytes where Python 2 must read them."""

    def __new__(cls, text: str, encoding: str = "latin1") -> _Encoded:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
        return super().__new__(cls, text, "latin1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("bytes with a state")


_STANDS_FOR: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Stated,
    ("numpy._core.multiarray", "_reconstruct"): _Stated,
    ("numpy", "ndarray"): _Stated,
    ("numpy", "dtype"): _Stated,
    ("_codecs", "encode"): _Encoded,
}


class _Reader(pickle.Unpickler):
    """Numbers, text, bytes, lists, tuples and dicts; of all names only those of numpy's arrays, as `_Stated`."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _STANDS_FOR[module_name, global_name]
        except KeyError:
            raise CbdmError(
                f"it names {clean_text(module_name)}.{clean_text(global_name)}, which could execute code, so it was "
                "not loaded"
            ) from None


def load_plain(content: bytes, name: str) -> dict[str, Any]:
    """The entries of a pickled dict by name: plain values, and uint8 arrays as numpy's.

    Nothing of the pickle is called: numpy's own constructors are not reached either, only what they are told is kept,
    and an array is made from its bytes once shape and kind are checked. Entries of other kinds are left out.

    Args:
        content: of the pickle, protocol 0 to 4.
        name: of the file, for messages.

    Raises:
        CbdmError: no pickle, a damaged one, one that names anything but arrays and bytes, or one that is no dict.
    """
    try:
        value = _Reader(io.BytesIO(content), encoding="bytes").load()
    except CbdmError as error:
        raise CbdmError(f"{name} is a pickle of more than arrays: {error}") from None
    except _DAMAGE as error:
        reason = clean_text((str(error).splitlines() or [type(error).__name__])[0])
        raise CbdmError(f"{name} is no pickle of arrays, or is damaged ({reason}): fetch it again") from error
    if not isinstance(value, dict):
        raise CbdmError(f"{name} holds a {type(value).__name__}, not a dict of arrays: fetch it again")
    plain = {_text(key): _array(entry, name) for key, entry in value.items() if isinstance(key, str | bytes)}
    return {key: entry for key, entry in plain.items() if isinstance(entry, np.ndarray | list | int | str | bytes)}


def _text(key: str | bytes) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _array(entry: Any, name: str) -> Any:
    """The uint8 array that numpy's state (version, shape, dtype, column order, bytes) describes; others unchanged."""
    if not isinstance(entry, _Stated):
        return entry
    state = entry.state
    if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], bytes)):
        raise CbdmError(f"{name} holds an array without bytes: fetch it again")
    _, shape, dtype, by_columns, raw = state
    kind = dtype.arguments[0] if isinstance(dtype, _Stated) and dtype.arguments else None
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if kind not in ("u1", b"u1") or not whole or int(np.prod(shape, dtype=object)) != len(raw):
        raise CbdmError(f"{name} holds an array that is no bytes of its stated shape: fetch it again")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns is True else "C")
