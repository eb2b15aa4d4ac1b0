"""Laws by name: `power:0.5` becomes an object. Every law, ours or a third party's, comes by one entry-point group."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import ConditionPrior
from cbdm_core.registry import Registry

__all__ = ["PRIORS", "law_subject", "make_law"]

# The core knows no strategy: cbdm_priors declares its laws in the group, like any other distribution.
PRIORS = Registry("law", "cbdm.priors", {})


def make_law(
    text: str,
    counts: Tensor | Sequence[int],
    *,
    conditions: Tensor | None = None,
    similarity: Tensor | None = None,
) -> ConditionPrior:
    """The law that `text` names, made from what its first parameter asks for by name.

    Args:
        text: `name` or `name:a,b,…` with numbers, for example `training`, `power:0.5`, `fixed:0.2,0.8`.
        counts: (K,) training images of each class.
        conditions: (N, D) the training set's conditions, where they are no classes.
        similarity: (K, K) how alike the classes are.

    Raises:
        CbdmError: an unknown name, an argument that is no number, too many or too few of them, or a law made from
            something that is not there.
    """
    name, colon, rest = text.partition(":")
    law = PRIORS[name]
    try:
        numbers = [float(part) for part in rest.split(",")] if colon else []
    except ValueError:
        raise CbdmError(f"law {text!r}: {rest!r} is no list of numbers; write for example power:0.5") from None
    offers = {"counts": torch.as_tensor(counts), "conditions": conditions, "similarity": similarity}
    wanted = law_subject(name)
    subject = offers.get(wanted, offers["counts"])
    if subject is None:
        raise CbdmError(f"law {text!r} is made from the training set's {wanted}, which these data do not have")
    try:
        inspect.signature(law).bind(subject, *numbers)
    except TypeError as error:
        raise CbdmError(f"law {text!r} has the wrong number of arguments ({error}): signature {_shown(law)}") from None
    return law(subject, *numbers)


def law_subject(name: str) -> str:
    """What the law of that name is made from: the name of its first parameter, "counts", "conditions", "similarity"."""
    return next(iter(inspect.signature(PRIORS[name]).parameters), "counts")


def _shown(law: type) -> str:
    return ", ".join(str(p) for p in list(inspect.signature(law).parameters.values())[1:]) or "none"
