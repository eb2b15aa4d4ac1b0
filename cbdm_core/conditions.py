"""The spaces that conditions live in, and hiding a condition in training, so that a network also learns the null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError, check_positive, unknown_name

__all__ = [
    "Classes",
    "Condition",
    "ConditionSpace",
    "MultiLabel",
    "Tokens",
    "Vectors",
    "as_space",
    "class_count",
    "space_from_dict",
    "space_to_dict",
]


@dataclass(frozen=True, eq=False)
class Condition:
    """What the network is told about each row, and whether it is told; its tensors are not written to.

    Args:
        value: (B, …) long labels, float vectors, multi-hot rows or tokens. Kept even where it is not shown.
        present: (B,) bool; False shows the network the null condition.
        augment: (B, A) float description of the augmentation applied to the image, or None.
    """

    value: Tensor
    present: Tensor
    augment: Tensor | None = None

    @classmethod
    def of(cls, value: Tensor | Sequence[int], augment: Tensor | None = None) -> Condition:
        """Every row's condition is shown."""
        value = torch.as_tensor(value)
        return cls(value, torch.ones(len(value), dtype=torch.bool, device=value.device), augment)

    def null(self) -> Condition:
        """The same rows with no condition shown."""
        return Condition(self.value, torch.zeros_like(self.present), self.augment)

    def beside_null(self) -> Condition:
        """2B rows: these, and after them the same with no condition shown."""
        # A solver asks at every step. What is made in inference mode cannot serve a gradient, and serves only there.
        return self._with_null if torch.is_inference_mode_enabled() else self._doubled()

    @cached_property
    def _with_null(self) -> Condition:
        return self._doubled()

    def _doubled(self) -> Condition:
        augment = None if self.augment is None else torch.cat([self.augment, self.augment])
        present = torch.cat([self.present, torch.zeros_like(self.present)])
        return Condition(torch.cat([self.value, self.value]), present, augment)

    def with_value(self, value: Tensor) -> Condition:
        """The same rows under another condition, shown wherever this one is."""
        return replace(self, value=value)

    def differs_from(self, other: Condition) -> Tensor:
        """(B,) bool: rows of which the network would be told something else."""
        differs = (self.value != other.value).unsqueeze(-1).flatten(1).any(1)  # a process may have no rows
        return differs | (self.present != other.present)

    def to(self, device: torch.device | str) -> Condition:
        augment = None if self.augment is None else self.augment.to(device)
        return Condition(self.value.to(device), self.present.to(device), augment)

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        augment = None if self.augment is None else self.augment[rows]
        return Condition(self.value[rows], self.present[rows], augment)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """The rows of several conditions one after another.

        Raises:
            CbdmError: some have an augmentation vector and some have none.
        """
        augments = [p.augment for p in parts if p.augment is not None]
        if augments and len(augments) != len(parts):
            raise CbdmError("conditions with and without an augmentation vector cannot be joined: give all or none one")
        return Condition(
            torch.cat([p.value for p in parts]),
            torch.cat([p.present for p in parts]),
            torch.cat(augments) if augments else None,
        )


@dataclass(frozen=True)
class Classes:
    """One of K classes: values are (B,) integer labels 0 … K − 1.

    Args:
        size: K ≥ 1.

    Raises:
        CbdmError: K that is no whole number of 1 or more.
    """

    size: int

    def __post_init__(self) -> None:
        check_positive(num_classes=self.size)

    def shown(self, c: Condition) -> Tensor:
        """(B,) long labels, 0 on null rows.

        Raises:
            CbdmError: labels that are not (B,) integers, or a shown one outside [0, K) (on the CPU; elsewhere looking
                would make every step wait for the device, whose own bounds check answers).
        """
        label = c.value
        if label.ndim != 1 or not _is_whole(label):
            raise CbdmError(f"labels must be (B,) integers, got {tuple(label.shape)} of {label.dtype}")
        shown = _or_zero(label, c).long()
        wrong = _first(shown, (shown < 0) | (shown >= self.size))
        if wrong is not None:
            raise CbdmError(
                f"label {wrong} is outside [0, {self.size}): number the classes from 0, "
                "or build the network with more classes"
            )
        return shown


@dataclass(frozen=True)
class Vectors:
    """A vector of real numbers: values are (B, D) floats.

    Args:
        size: D ≥ 1.

    Raises:
        CbdmError: D that is no whole number of 1 or more.
    """

    size: int

    def __post_init__(self) -> None:
        check_positive(size=self.size)

    def shown(self, c: Condition) -> Tensor:
        """(B, D), zeros on null rows.

        Raises:
            CbdmError: another shape or no floats, or a shown value that is not finite (on the CPU).
        """
        vector = c.value
        if vector.shape != (len(c), self.size) or not vector.is_floating_point():
            raise CbdmError(
                f"condition vectors must be (B, {self.size}) floats, got {tuple(vector.shape)} of {vector.dtype}"
            )
        shown = _or_zero(vector, c)
        wrong = _first(shown, ~torch.isfinite(shown))
        if wrong is not None:
            raise CbdmError(f"a condition vector holds {wrong}: give finite numbers, or hide the row (present = False)")
        return shown


@dataclass(frozen=True)
class MultiLabel:
    """Any number of K labels at once: values are (B, K) multi-hot of 0 and 1, as bool, int or float.

    Args:
        size: K ≥ 1.

    Raises:
        CbdmError: K that is no whole number of 1 or more.
    """

    size: int

    def __post_init__(self) -> None:
        check_positive(size=self.size)

    def shown(self, c: Condition) -> Tensor:
        """(B, K) in the dtype given, zeros on null rows.

        Raises:
            CbdmError: another shape, or a shown value other than 0 and 1 (on the CPU).
        """
        labels = c.value
        if labels.shape != (len(c), self.size) or labels.is_complex():
            raise CbdmError(f"labels must be (B, {self.size}) of 0 and 1, got {tuple(labels.shape)} of {labels.dtype}")
        shown = _or_zero(labels, c)
        wrong = _first(shown, (shown != 0) & (shown != 1))
        if wrong is not None:
            raise CbdmError(f"multi-hot labels must be 0 or 1, got {wrong}: 1 where the label holds")
        return shown


@dataclass(frozen=True)
class Tokens:
    """A sequence: values are (B, L) integer tokens 0 … V − 1, and −1 where the sequence is padded.

    Args:
        vocabulary: V ≥ 1.
        length: L ≥ 1.

    Raises:
        CbdmError: V or L that is no whole number of 1 or more.
    """

    vocabulary: int
    length: int

    def __post_init__(self) -> None:
        check_positive(vocabulary=self.vocabulary, length=self.length)

    def shown(self, c: Condition) -> Tensor:
        """(B, L) long tokens, −1 at padding, zeros on null rows.

        Raises:
            CbdmError: another shape or no integers, or a shown token outside [−1, V) (on the CPU).
        """
        token = c.value
        if token.shape != (len(c), self.length) or not _is_whole(token):
            raise CbdmError(
                f"tokens must be (B, {self.length}) integers, got {tuple(token.shape)} of {token.dtype}: "
                "pad shorter sequences with -1"
            )
        shown = _or_zero(token, c).long()
        wrong = _first(shown, (shown < -1) | (shown >= self.vocabulary))
        if wrong is not None:
            raise CbdmError(
                f"token {wrong} is outside [0, {self.vocabulary}): number the tokens from 0, with -1 for padding"
            )
        return shown


ConditionSpace = Classes | Vectors | MultiLabel | Tokens

_KINDS: dict[str, type[Classes | Vectors | MultiLabel | Tokens]] = {
    "classes": Classes,
    "vectors": Vectors,
    "multilabel": MultiLabel,
    "tokens": Tokens,
}
_NAMES = {space: kind for kind, space in _KINDS.items()}


def as_space(condition: int | ConditionSpace) -> ConditionSpace:
    """The space itself; K means `Classes(K)`.

    Raises:
        CbdmError: neither a whole number of 1 or more nor a space.
    """
    if isinstance(condition, ConditionSpace):
        return condition
    if not isinstance(condition, int):
        raise CbdmError(
            f"a condition is a number of classes, Classes, Vectors, MultiLabel or Tokens, got {condition!r}: "
            "Vectors(2) makes it two real numbers"
        )
    return Classes(condition)


def class_count(space: ConditionSpace) -> int | None:
    """K of `Classes`, None of the other spaces."""
    return space.size if isinstance(space, Classes) else None


def space_to_dict(space: ConditionSpace) -> dict[str, Any]:
    """The space in words and numbers, such as {"kind": "vectors", "size": 2}."""
    return {"kind": _NAMES[type(space)], **asdict(space)}


def space_from_dict(described: dict[str, Any]) -> ConditionSpace:
    """The space of `space_to_dict`.

    Raises:
        CbdmError: an unknown kind, or entries that are missing or not of that kind.
    """
    given = dict(described)
    kind = str(given.pop("kind", None))
    if kind not in _KINDS:
        raise unknown_name("kind of condition", kind, _KINDS)
    names = [field.name for field in fields(_KINDS[kind])]
    for name in given:
        if name not in names:
            raise unknown_name(f"entry of {kind}", name, names)
    missing = [name for name in names if name not in given]
    if missing:
        raise CbdmError(f"conditions of the kind {kind!r} need {missing[0]}: add it")
    return _KINDS[kind](**given)


def _is_whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def _or_zero(value: Tensor, c: Condition) -> Tensor:
    """The value, and zeros on null rows; selected, so that not even a NaN of a null row passes."""
    present = c.present.reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(present, value, torch.zeros_like(value))


def _first(value: Tensor, wrong: Tensor) -> Any:
    """The first of the wrong values, or None; looked for on the CPU only, as elsewhere it waits for the device."""
    if value.device.type != "cpu" or torch.compiler.is_compiling() or not bool(wrong.any()):
        return None
    return value[wrong][0].item()
