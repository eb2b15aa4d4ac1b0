"""A result as it is written and told: its facts, its title, its caption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cbdm_cli.config import Config

__all__ = ["evaluation_facts", "report_caption", "report_title"]


def evaluation_facts(
    config: Config, step: int, report: Any, measured: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A result with everything needed to read it.

    Args:
        config: as it was sampled and judged.
        step: of training.
        report: with `to_dict`.
        measured: what the configuration does not tell: the network evaluations, and what was held against what.
    """
    return {
        "preset": config.preset,
        "method": config.method_text,
        "seed": config.seed,
        "training_step": step,
        "sampler": config.sampling.sampler,
        "sampler_steps": config.sampling.steps,
        "omega": config.sampling.omega,
        "omega_convention": "eps_c + ω (eps_c − eps_null); 0 is plain conditional",
        "guidance_interval": list(config.sampling.interval),
        "guidance_prior": config.sampling.guidance_prior,
        "tracking": None if config.sampling.guidance_prior is None else config.sampling.tracking.model_dump(),
        "weights": "ema",
        "ema_decay": config.training.ema_decay,
        "labels": "cyclic, exactly balanced",
        "reference": "the balanced full set",
        **(measured or {}),
        **report.to_dict(),
    }


def report_title(config: Config) -> str:
    """The title names what changes a figure most: the method, ω and the sampler."""
    sampling = config.sampling
    null = "" if sampling.guidance_prior is None else f" from the null of {sampling.guidance_prior}"
    return (
        f"{config.preset} · {config.method_text} · seed {config.seed} · ω = {sampling.omega}{null} · "
        f"{sampling.sampler}, {sampling.steps} steps"
    )


def report_caption(report: Any, against: str) -> str:
    """Which features were used, how good the classifier behind them is, and what the samples were held against."""
    accuracy = report.held_out_accuracy
    known = "" if accuracy is None else f", {accuracy:.1%} right on the stratified 20 % it never saw"
    return f"features: {report.features}{known}; {report.note}; reference: {against}"
