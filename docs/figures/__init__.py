"""The figures of the pages: a module each, whose numbers are computed, drawn, and laid down in the SVG beside it."""

from __future__ import annotations

import importlib

from docs.figures.drawing import Figure

__all__ = ["NAMES", "figure"]

NAMES = (
    "tail_posterior",
    "ring_scores",
    "marginal_divergence",
    "dropped_factor",
    "mixing_weights",
    "implied_guidance",
    "shrinkage_risk",
    "tail_samples",
    "densities",
    "laws",
    "variety_and_copies",
    "tail_maps",
    "schedules",
    "label_shift",
    "descent",
    "learned_law",
    "adjusted_shares",
    "condition_laws",
    "metric_bias",
    "statement_map",
    "noised_densities",
    "mask_variance",
    "undone_pull",
    "adjusted_null",
    "images_told_apart",
    "relatives_pull",
    "relatives_plane",
    "shrunk_condition",
    "scores_and_copies",
)


def figure(name: str) -> Figure:
    """The figure of a module of this package."""
    found: Figure = importlib.import_module(f"docs.figures.{name}").FIGURE
    return found
