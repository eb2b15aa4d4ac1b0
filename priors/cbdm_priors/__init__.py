"""Priors over conditions, and what to do about the one you were given."""

from cbdm_core.laws_by_name import PRIORS, make_law
from cbdm_core.registry import Registry
from cbdm_priors.balancing import ClassBalancing
from cbdm_priors.banks import Bank, Combinations, Gaussian, KernelBank, NeighbourBank
from cbdm_priors.capacity import CapacityManipulation
from cbdm_priors.contrast import Alignment, Separation, SupervisedContrast
from cbdm_priors.laws import Affinity, Balanced, CountLaw, Fixed, Null, Power, Training, Uniform, feature_similarity
from cbdm_priors.learned import Learned
from cbdm_priors.optimum import BalancedOptimum
from cbdm_priors.penalty import Penalty
from cbdm_priors.posterior import AdjustedNull, MixtureScore
from cbdm_priors.reweighting import ClassReweighting
from cbdm_priors.shrinkage import Shrinkage
from cbdm_priors.tracking import TrackedWeights
from cbdm_priors.transfer import OrientedTransfer

__all__ = [
    "ADJUSTMENTS",
    "PRIORS",
    "AdjustedNull",
    "Affinity",
    "Alignment",
    "Balanced",
    "BalancedOptimum",
    "Bank",
    "CapacityManipulation",
    "ClassBalancing",
    "ClassReweighting",
    "Combinations",
    "CountLaw",
    "Fixed",
    "Gaussian",
    "KernelBank",
    "Learned",
    "MixtureScore",
    "NeighbourBank",
    "Null",
    "OrientedTransfer",
    "Penalty",
    "Power",
    "Separation",
    "Shrinkage",
    "SupervisedContrast",
    "TrackedWeights",
    "Training",
    "Uniform",
    "feature_similarity",
    "make_law",
]

ADJUSTMENTS = Registry("adjustment", "cbdm.adjustments", {})
