"""The options that several commands have, or that take more than a line to say. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cbdm_cli import completion

__all__ = [
    "Device",
    "From",
    "GuidancePrior",
    "Labels",
    "Laws",
    "Method",
    "Methods",
    "MoreMethods",
    "Omega",
    "OwnData",
    "Prior",
    "PriorDrawn",
    "SamplerName",
    "SamplerSteps",
]

Device = Annotated[str, typer.Option(help="auto (cuda, mps, cpu), or one of them; cuda:N for the N-th GPU.")]
Omega = Annotated[
    str | None,
    typer.Option(help="Guidance: a number, linear:a,b[,tau] for a·τt + b, or implied:omega,tau. Default: the run's."),
]
GuidancePrior = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.laws,
        help="Guide away from the null of this label law instead of the training law's: uniform, …",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.methods,
        help="ddpm, or parts joined by +, each with its law: cbdm:null, shrink:null, reweight:uniform, t2h, h2t, "
        "transfer, coral, ccua, diffrop:uniform, capacity, resample:uniform, pure, transplant. "
        "Options: --set method.PART.NAME=VALUE.",
    ),
]
Prior = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.laws,
        help="The law of the one part that takes one: training, uniform, power:0.5, balanced:0.999, null, …",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.methods_listed,
        help="Methods parted by commas, the baseline first. Default: ddpm,cbdm.",
    ),
]
Laws = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.laws_listed,
        help="Laws parted by commas, for each method that leaves its law open.",
    ),
]
MoreMethods = Annotated[
    str | None,
    typer.Option(autocompletion=completion.methods_listed, help="With a folder: more methods, parted by commas."),
]
Labels = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.labels,
        help="cyclic (the default), a law such as uniform, or classes: 3,3,7 or cat,dog.",
    ),
]
PriorDrawn = Annotated[
    str | None,
    typer.Option(
        autocompletion=completion.laws, help="The law of --unconditional: uniform (the default), training, power:0.5, …"
    ),
]
OwnData = Annotated[
    str | None,  # a Path would make the current folder of an empty text
    typer.Option(
        metavar="PATH",
        help="Your own: class folders, an npz, parquet, tar or CSV file; without a preset, scaled to it.",
    ),
]
From = Annotated[
    Path | None,
    typer.Option("--from", help="Start from the weights of this run folder or checkpoint file (fine-tuning)."),
]
SamplerName = Annotated[str | None, typer.Option("--sampler", help="Sampler by name. Default: the run's.")]
SamplerSteps = Annotated[int | None, typer.Option("--steps", help="Sampler steps. Default: the run's.")]
