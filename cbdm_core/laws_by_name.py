"""Laws by name: `power:0.5` becomes an object. Every law, ours or a third party's, comes by one entry-point group."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import ConditionPrior
from cbdm_core.registry import Registry

__all__ = ["PRIORS", "make_law"]

# The core knows no strategy: cbdm_priors declares its laws in the group, like any other distribution.
PRIORS = Registry("law", "cbdm.priors", {})


def make_law(text: str, counts: Tensor | Sequence[int]) -> ConditionPrior:
    """The law that `text` names, made from the class counts.

    Args:
        text: `name` or `name:a,b,…` with numbers, for example `training`, `power:0.5`, `fixed:0.2,0.8`.
        counts: (K,) training images of each class.

    Raises:
        CbdmError: an unknown name, an argument that is no number, or too many or too few of them.
    """
    name, colon, rest = text.partition(":")
    law = PRIORS[name]
    try:
        numbers = [float(part) for part in rest.split(",")] if colon else []
    except ValueError:
        raise CbdmError(f"law {text!r}: {rest!r} is no list of numbers; write for example power:0.5") from None
    try:
        inspect.signature(law).bind(counts, *numbers)
    except TypeError as error:
        raise CbdmError(f"law {text!r} has the wrong number of arguments ({error}): signature {_shown(law)}") from None
    return law(torch.as_tensor(counts), *numbers)


def _shown(law: type) -> str:
    return ", ".join(str(p) for p in list(inspect.signature(law).parameters.values())[1:]) or "none"
