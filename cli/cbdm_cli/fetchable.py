"""The data sets whose files `cbdm fetch` knows where to find."""

from __future__ import annotations

from cbdm_core.data import cifar, fashion, mnist
from cbdm_core.data.fetching import Published

__all__ = ["FETCHED"]

FETCHED: dict[str, Published] = {**cifar.FETCHED, **fashion.FETCHED, **mnist.FETCHED}
