"""The text of a method and its parts: `cbdm:null+resample:uniform` ⇄ parts with their laws and options.

Imports no torch, unless a part's class is asked for its options. While tables are laid over one another a method is
{"parts": text, "options": {part: {…}}}, with `tau` and its like beside them where it is open which part reads them;
`method_parts` makes of it the list of parts that a configuration holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cbdm_core.errors import CbdmError, closest, unknown_name

__all__ = [
    "BATCH_LAWS",
    "BATCH_PARTS",
    "PLAIN",
    "PURE",
    "RESAMPLE",
    "TRANSPLANT",
    "Part",
    "completed",
    "completed_entries",
    "format_parts",
    "method_over",
    "method_parts",
    "only_its_parts",
    "parse_parts",
    "part_class",
    "part_options",
    "parted_levels",
    "takes_law",
    "with_law",
    "with_option",
]

PLAIN = "ddpm"  # no part at all
RESAMPLE = "resample"  # rows drawn by a law
PURE = "pure"  # batches of one class, drawn by a law
TRANSPLANT = "transplant"  # rows of rare classes mixed with residuals of common ones
BATCH_LAWS = (RESAMPLE, PURE)
BATCH_PARTS = (*BATCH_LAWS, TRANSPLANT)  # act on the batches, the others on the loss
# What may be given to the method as a whole, and goes to the parts that read it.
_OPEN = ("tau", "gamma", "time_weight", "cap", "affinity")


class Part(BaseModel):
    """One part of a method: its name, the text of its law, a table for the law affinity, and the part's own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    part: Annotated[str, Field(min_length=1)]
    law: str | None = None
    affinity: str | None = None

    @property
    def name(self) -> str:
        """The name in the registry of adjustments, or one of `BATCH_PARTS`."""
        return self.part

    @property
    def options(self) -> dict[str, Any]:
        """What its class is made with beside what it needs."""
        return dict(self.model_extra or {})

    def __str__(self) -> str:
        return self.part if self.law is None else f"{self.part}:{self.law}"


def parse_parts(text: str) -> tuple[Part, ...]:
    """`a:law+b` → its parts, the outermost first; `ddpm` has none.

    Raises:
        CbdmError: an empty part, a part twice, or `ddpm` beside another part or with a law.
    """
    pieces = [piece.strip() for piece in text.split("+")]
    if pieces == [PLAIN]:
        return ()
    parts = []
    for piece in pieces:
        name, colon, law = piece.partition(":")
        if not name or (colon and not law):
            raise CbdmError(f"method {text!r} has an empty part: write for example cbdm:null+resample:uniform")
        parts.append(Part(part=name, law=law or None))
    names = [part.name for part in parts]
    if PLAIN in names:
        raise CbdmError(f"method {text!r}: {PLAIN} means no part at all, so it takes no law and stands alone")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CbdmError(f"method {text!r} names {twice[0]!r} twice: a part may stand in a method only once")
    return tuple(parts)


def format_parts(parts: Iterable[Part]) -> str:
    """The text that `parse_parts` reads."""
    return "+".join(str(part) for part in parts) or PLAIN


def part_class(name: str) -> type:
    """The class of a part of the loss.

    Raises:
        CbdmError: no such part.
    """
    from cbdm_core.adjustment import ADJUSTMENTS

    if name not in ADJUSTMENTS:
        raise unknown_name("method part", name, [*ADJUSTMENTS, *BATCH_PARTS, PLAIN])
    return ADJUSTMENTS[name]


def part_options(name: str) -> dict[str, Any]:
    """The options of a part and their defaults: what its class takes beside the inner adjustment and what it needs."""
    if name in BATCH_LAWS:
        return {}
    if name == TRANSPLANT:
        from cbdm_core.data.transplant import Transplant

        return {p.name: p.default for p in list(inspect.signature(Transplant).parameters.values())[1:]}
    cls = part_class(name)
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.name not in cls.needs}


def parted_levels(text: str) -> tuple[str, str | None]:
    """`uniform@0.2` → ("uniform", "0.2"): a law of the batches and the noise levels at which it stands, None for all.

    Raises:
        CbdmError: nothing before or after the @.
    """
    law, at, levels = text.partition("@")
    if at and not (law and levels):
        raise CbdmError(f"law {text!r}: write LAW@T0, LAW@START-FULL or LAW@auto, such as uniform@0.2")
    return law, levels if at else None


def takes_law(name: str) -> bool:
    """Whether a part has a law."""
    return name in BATCH_LAWS or (name != TRANSPLANT and "target" in part_class(name).needs)


def with_law(parts: Sequence[Part], law: str, takers: Sequence[str]) -> tuple[Part, ...]:
    """The parts with `law` given to the one part that takes a law.

    Args:
        parts: the method's parts.
        law: the text of `--prior`.
        takers: names of those parts that take a law.

    Raises:
        CbdmError: none of the parts takes a law, or more than one does.
    """
    if not takers:
        raise CbdmError(
            f"--prior {law}: method {format_parts(parts)!r} has no part that takes a law; try --method cbdm"
        )
    if len(takers) > 1:
        shown = "+".join(f"{p.name}:{law if p.name == takers[0] else p.law or 'LAW'}" for p in parts)
        raise CbdmError(
            f"--prior {law}: the parts {', '.join(takers)} each take a law; say which one, for example --method {shown}"
        )
    return tuple(part.model_copy(update={"law": law}) if part.name == takers[0] else part for part in parts)


def with_option(parts: Sequence[Part], option: str, value: Any) -> tuple[Part, ...]:
    """The parts with `--option value` given to the one part that reads it.

    Raises:
        CbdmError: none of the parts reads it, or more than one does.
    """
    readers = [part.name for part in parts if option in part_options(part.name)]
    if not readers:
        raise CbdmError(f"--{option} {value}: no part of method {format_parts(parts)!r} reads it; try --method cbdm")
    if len(readers) > 1:
        raise CbdmError(
            f"--{option} {value}: the parts {', '.join(readers)} each read it; say which one, for example "
            f"--set method.{readers[0]}.{option}={value}"
        )
    return tuple(
        Part.model_validate({**part.model_dump(), option: value}) if part.name == readers[0] else part for part in parts
    )


def completed(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts with every option written out, so that a saved configuration says all that was done.

    Raises:
        CbdmError: no such part.
    """
    return tuple(Part.model_validate({**_defaults(part.name), **part.model_dump()}) for part in parts)


def completed_entries(method: Any) -> list[dict[str, Any]]:
    """`method_parts` with every option written out, as plain values.

    Raises:
        CbdmError: as `method_parts` and `completed`.
    """
    parts = completed(Part.model_validate(entry) for entry in method_parts(method))
    return [part.model_dump(exclude_none=True) for part in parts]


def _defaults(name: str) -> dict[str, Any]:
    plain = (bool, int, float, str, tuple, list)
    values = {option: value for option, value in part_options(name).items() if isinstance(value, plain)}
    return {option: list(value) if isinstance(value, tuple) else value for option, value in values.items()}


def method_over(base: Any, over: Any) -> dict[str, Any]:
    """A method laid over another: a list replaces it, a text names other parts, a table changes options.

    Options of parts that the text does not name go with them.

    Args:
        base: a list of parts, a text, or a table; None for none.
        over: the same. A table goes by part, {"cbdm": {"tau": 1.0}}, or as files of version 0.1 have it, {"tau": 1.0}
            and {"options": {"cbdm": {…}}}.

    Raises:
        CbdmError: none of these.
    """
    below, above = _table(base), _table(over)
    if isinstance(over, list | tuple):
        return above
    opened = {name for name in _OPEN if name in above}
    there = {part.name for part in parse_parts(above["parts"])} if "parts" in above else below["options"].keys()
    options = {
        part: {name: value for name, value in values.items() if name not in opened}
        for part, values in below["options"].items()
        if part in there
    }
    for part, values in above["options"].items():
        options[part] = {**options.get(part, {}), **values}
    return {**below, **above, "options": options}


def only_its_parts(method: Any) -> dict[str, Any]:
    """The method of plain values without options for parts that it does not have."""
    table = method_over(None, method)
    there = {part.name for part in parse_parts(table["parts"])}
    return {**table, "options": {part: values for part, values in table["options"].items() if part in there}}


def _table(method: Any) -> dict[str, Any]:
    """{"parts": text, "options": {part: {…}}, …} of any way to say a method."""
    if method is None:
        return {"options": {}}
    if isinstance(method, str):
        return {"parts": method, "options": {}}
    if isinstance(method, list | tuple):
        return _of_list(method)
    if not isinstance(method, Mapping):
        raise CbdmError(f"method = {method!r}: write a text such as 'cbdm:null', or parts, [[method]] part = 'cbdm'")
    whole = {name: method[name] for name in ("parts", *_OPEN) if name in method}
    if not isinstance(whole.get("parts", ""), str):
        raise CbdmError(f"method.parts = {whole['parts']!r}: write a text such as 'cbdm:null'")
    by_part = _options("options", method.get("options", {}))
    options = {part: _options(f"options.{part}", values) for part, values in by_part.items()}
    for part in [name for name in method if name not in whole and name != "options"]:
        options[part] = {**options.get(part, {}), **_options(part, method[part])}
    return {**whole, "options": options}


def _options(name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, Mapping):
        return dict(values)
    near = None if name == "options" else closest(name, ("parts", *_OPEN))
    hint = f"did you mean 'method.{near}'? " if near else ""
    raise CbdmError(f"method.{name} = {values!r}: {hint}options of a part are written method.PART.NAME=VALUE")


def _of_list(entries: Sequence[Any]) -> dict[str, Any]:
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("part"), str):
            raise CbdmError(f"method: {entry!r} is no part; write for example [[method]] part = 'cbdm', law = 'null'")
    texts = [entry["part"] if entry.get("law") is None else f"{entry['part']}:{entry['law']}" for entry in entries]
    options = {
        entry["part"]: {key: value for key, value in entry.items() if key not in ("part", "law") and value is not None}
        for entry in entries
    }
    return {"parts": "+".join(texts) or PLAIN, "options": options}


def method_parts(method: Any) -> list[dict[str, Any]]:
    """The list of parts, {"part": name, "law": text, option: value, …}, the outermost first.

    What is given to the method as a whole goes to the parts that read it, unless these have it already.

    Raises:
        CbdmError: a text that is no method, or options for a part that is not there.
    """
    table = _table(method)
    parts = parse_parts(str(table.get("parts", "cbdm:null")))
    stray = sorted({part for part, values in table["options"].items() if values} - {part.name for part in parts})
    if stray:
        raise CbdmError(f"method.{stray[0]}: {format_parts(parts)!r} has no such part to give options to")
    whole = {name: table[name] for name in _OPEN if table.get(name) is not None}
    listed = [
        {**part.model_dump(exclude_none=True), **_read(part, whole), **table["options"].get(part.name, {})}
        for part in parts
    ]
    if "affinity" in whole and not any("affinity" in part for part in listed):
        raise CbdmError(
            f"method.affinity = {whole['affinity']!r}: no part of {format_parts(parts)!r} has the law affinity"
        )
    return listed


def _read(part: Part, whole: Mapping[str, Any]) -> dict[str, Any]:
    """What a part reads of what is given to the method as a whole."""
    if not whole:
        return {}
    names = {*part_options(part.name)} | ({"affinity"} if (part.law or "").partition(":")[0] == "affinity" else set())
    return {name: value for name, value in whole.items() if name in names}
