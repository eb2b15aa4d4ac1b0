"""Priors over conditions, and what to do about the one you were given."""

from cbdm_core.laws_by_name import PRIORS, make_law
from cbdm_core.registry import Registry
from cbdm_priors.balancing import ClassBalancing
from cbdm_priors.laws import Balanced, CountLaw, Fixed, Null, Power, Training, Uniform
from cbdm_priors.optimum import BalancedOptimum
from cbdm_priors.reweighting import ClassReweighting

__all__ = [
    "ADJUSTMENTS",
    "PRIORS",
    "Balanced",
    "BalancedOptimum",
    "ClassBalancing",
    "ClassReweighting",
    "CountLaw",
    "Fixed",
    "Null",
    "Power",
    "Training",
    "Uniform",
    "make_law",
]

ADJUSTMENTS = Registry("adjustment", "cbdm.adjustments", {})
