"""The commands and their options. Imports no torch: the help page and completion must be quick."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cbdm_cli import completion
from cbdm_cli.options import (
    Device,
    From,
    GuidancePrior,
    Labels,
    Laws,
    Method,
    Methods,
    MoreMethods,
    Omega,
    OwnData,
    Prior,
    PriorDrawn,
    SamplerName,
    SamplerSteps,
)
from cbdm_cli.refusal import DEBUG

app = typer.Typer(
    name="cbdm",
    help="Train diffusion models on class-imbalanced data, with the prior as a part you choose.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"cbdm {version('cbdm')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[  # printed by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where a fault of the program is.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def train(
    preset: Annotated[str | None, typer.Argument(autocompletion=completion.presets, help="Default: digits-lt.")] = None,
    method: Method = None,
    prior: Prior = None,
    tau: Annotated[float | None, typer.Option(help="Strength τ of CBDM.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Share γ of CBDM that moves the other prediction.")] = None,
    data: OwnData = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; with --resume, a longer run.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step, over all processes.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate after warm-up.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of split, initial weights and every draw.")] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: the next runs/PRESET-NNN.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file laid over the preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=v, laid over the file; may be repeated.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder, bit-identically.")] = None,
    from_: From = None,
    log: Annotated[str | None, typer.Option(help="Also log to tensorboard, wandb or trackio (an extra each).")] = None,
    threads: Annotated[int | None, typer.Option(help="On the CPU. Default: as quick as a trial finds.")] = None,
    no_evaluate: Annotated[
        bool, typer.Option("--no-evaluate", help="Only train; --resume RUN samples and judges later.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and take; write nothing.")] = False,
) -> None:
    """Train, then sample with balanced labels and evaluate against the balanced set."""
    from cbdm_cli.commands.train import begin_or_resume
    from cbdm_cli.own_data import named_path

    named = {"method": method, "prior": prior, "tau": tau, "gamma": gamma, "steps": steps, "seed": seed}
    short = {"precision": precision, "batch_size": batch_size, "learning_rate": lr}
    settings = [*(set_ or []), *(f"training.{name}={value!r}" for name, value in short.items() if value is not None)]
    more = {"log": log, "threads": threads, "evaluate": not no_evaluate}
    more["data"] = None if data is None else named_path(data)
    begin_or_resume(preset, config, settings, named, device, out=out, resumed=resume, origin=from_, dry=dry_run, **more)


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    labels: Labels = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="Told in place of labels: 0.5,-1 or names of attributes; repeat it."),
    ] = None,
    n: Annotated[
        int | None,  # torchrun takes --n for a beginning of its own options
        typer.Option("--n", "--number", help="How many. Default: 16 a class, or the labels given."),
    ] = None,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="Without conditions, under --prior; 100 steps of ddim with η = 1.")
    ] = False,
    prior: PriorDrawn = None,
    omega: Omega = None,
    guidance_prior: GuidancePrior = None,
    temperature: Annotated[float | None, typer.Option(help="Of tracked weights; above 1 less peaked.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k largest tracked weights.")] = None,
    track_every: Annotated[int | None, typer.Option(help="Update tracked weights at every k-th step.")] = None,
    sampler: SamplerName = None,
    steps: SamplerSteps = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the samples. Default: the run's.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="grid (one PNG), npz, or as they come: folder (a PNG each) or shards (npz).")
    ] = "grid",
    out: Annotated[
        Path | None,
        typer.Option(help="Where to; a folder with a part of the same samples is gone on with. Default: in the run."),
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Samples of a shard; one shard is in memory at a time.")] = 10_000,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. Default: the run's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Time one step and tell how long it would take.")] = False,
    device: Device = "auto",
) -> None:
    """Draw samples from a run."""
    from cbdm_cli.commands.sample import sample_run
    from cbdm_cli.sample_request import sample_request

    tracked = {"temperature": temperature, "top_k": top_k, "every": track_every}
    guided = {"omega": omega, "guidance_prior": guidance_prior}
    request = sample_request(labels, condition or (), n, prior, guided, tracked, unconditional=unconditional)
    options = {**guided, **tracked, "sampler": sampler, "steps": steps, "seed": seed, "precision": precision}
    sample_run(run, request, options, format_, out, device, shard_size=shard_size, dry_run=dry_run)


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(help="A run folder, of a training that goes on or is done.")],
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
) -> None:
    """Show how a training stands: its losses by class group, its rate, the time left and the last grid."""
    from cbdm_cli.commands.watch import watch_run

    watch_run(run, every, once)


@app.command()
def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATHS...", help="Run folders; or, with --data, samples: npz files or class folders."),
    ],
    omega: Annotated[list[str] | None, typer.Option(help="Guidance; repeat it, or list numbers: 0,0.5,1.")] = None,
    guidance_prior: GuidancePrior = None,
    sampler: SamplerName = None,
    steps: SamplerSteps = None,
    n: Annotated[int | None, typer.Option("--n", help="Samples per class. Default: the run's.")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="classifier, pixels, inception:PATH, torchscript:PATH or module:attr. Default: the run's."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Held against: balanced, held-out or training. Default: the run's.")
    ] = None,
    intervals: Annotated[
        int | None, typer.Option(help="Bootstrap resamples for 95 % intervals of FID, precision, recall; 200 do.")
    ] = None,
    prd_runs: Annotated[int | None, typer.Option(help="Runs of PRD's clustering, for F8 and F1/8; 10 do.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.presets, help="Of samples: the preset, or the run with whose split, to judge by."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of samples: the split's seed. Default: the preset's.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Of samples: data.b=v or evaluation.b=v, laid over the preset.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw balanced samples from runs and judge them, at one ω or several; or judge samples of any program."""
    from cbdm_cli.commands.evaluate import OfSamples
    from cbdm_cli.commands.evaluate import evaluate as evaluate_all

    sampling = {"guidance_prior": guidance_prior, "sampler": sampler, "steps": steps, "per_class": n}
    judging = {"intervals": intervals, "prd_runs": prd_runs, "features": features, "reference": reference}
    evaluate_all(paths, omega or [], sampling, judging, OfSamples(data, seed, set_ or []), device)


@app.command()
def compare(
    target: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completion.presets,
            help="A preset; or the folder of a comparison, to go on with it. Default: digits-lt.",
        ),
    ] = None,
    data: OwnData = None,
    methods: Methods = None,
    priors: Laws = None,
    tau: Annotated[str | None, typer.Option(help="Strengths τ parted by commas, for each method with cbdm.")] = None,
    add: MoreMethods = None,
    seeds: Annotated[
        int | None, typer.Option(help="Paired seeds 0, 1, …; 3 at least for a verdict. Default: 5.")
    ] = None,
    omega: Annotated[
        list[str] | None, typer.Option(help="Guidance to judge at: 0,0.5,1. Default: 0,0.25,0.5,0.75,1,1.5.")
    ] = None,
    one_omega: Annotated[bool, typer.Option("--one-omega", help="Allow a comparison at one ω.")] = False,
    steps: Annotated[int | None, typer.Option(help="Training steps. Default: the preset's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=v, laid over the preset of every run.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes at a time.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    device: Device = "auto",
    launcher: Annotated[
        str, typer.Option(help="local: run them here; commands: print a line a job; slurm: write FOLDER/jobs.sbatch.")
    ] = "local",
    out: Annotated[Path | None, typer.Option(help="The folder. Default: the next runs/compare-PRESET-NNN.")] = None,
) -> None:
    """Train methods with paired seeds, judge each at every ω, and tell what the differences amount to."""
    from cbdm_cli.commands.compare import compare as run_comparison
    from cbdm_cli.study.compare_options import CompareOptions
    from cbdm_cli.study.launching import Launch

    options = CompareOptions(methods, priors, tau, add, seeds, omega or (), steps, set_ or (), one_omega, data)
    run_comparison(target, options, out, Launch(jobs, threads, device, launcher))


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(help="The folder of a comparison, or run folders.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file to make.")] = Path("report.html"),
    samples: Annotated[
        bool, typer.Option(help="Draw a few samples of rare classes and show their nearest training images.")
    ] = True,
    device: Device = "auto",
) -> None:
    """Write one HTML page, which needs no network, of a comparison or of runs."""
    from cbdm_cli.study.report import write_report

    write_report(paths, out, samples=samples, device=device)


@app.command()
def classify(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    fill: Annotated[
        int | None, typer.Option(help="Images each class is filled up to. Default: the commonest class's count.")
    ] = None,
    omega: Omega = None,
    seeds: Annotated[int, typer.Option(help="Paired seeds 0, 1, …; 2 at least for an interval.")] = 3,
    device: Device = "auto",
) -> None:
    """Tell whether a run's samples, filling its rare classes, help a classifier of the same data."""
    from cbdm_cli.commands.classify import classify_run

    classify_run(run, {"omega": omega}, fill, seeds, device)


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    levels: Annotated[int, typer.Option(help="Noise levels, evenly spaced in t.")] = 10,
    n: Annotated[int, typer.Option("--n", help="Noised images of each class, set and noise level.")] = 64,
    folds: Annotated[
        int, typer.Option(help="Where no image is held out: fit the Gaussian by so many folds of the training set.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the images chosen and of the noise.")] = 0,
    device: Device = "auto",
) -> None:
    """Tell at which noise levels a run has underfitted its rare classes, and at which it has memorised them."""
    from cbdm_cli.commands.diagnose import diagnose_run

    diagnose_run(run, levels, n, folds, seed, device)


@app.command()
def presets(
    name: Annotated[
        str | None, typer.Argument(autocompletion=completion.presets, help="Print this preset's TOML.")
    ] = None,
) -> None:
    """List the presets, or print one."""
    from cbdm_cli.commands.presets import list_presets

    list_presets(name)


@app.command(context_settings={"allow_extra_args": True})
def data(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Argument(help="A source, or a path to your own; all sources if left out.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write it there as npy files, which training leaves on disk.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="data.a=v, such as data.options.size=32.")] = None,
) -> None:
    """List the sources of data, show what one of them, or a path, holds, or write that as files to be mapped."""
    from cbdm_cli.commands.data import check_words, convert_data, list_sources, show_data

    check_words([target or "", *context.args])
    if to is not None:
        convert_data(target, set_ or [], to)
    elif target is None:
        list_sources()
    else:
        show_data(target, set_ or [])


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="A published data set: cifar10, cifar100, fashion or mnist.")],
    to: Annotated[str | None, typer.Option(metavar="FOLDER", help="Default: its place under $CBDM_DATA.")] = None,
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Where else the same files are.")] = None,
) -> None:
    """Download the files of a published data set and check them."""
    from cbdm_cli.commands.fetch import fetch_source

    fetch_source(source, to, mirror)


@app.command()
def priors(
    preset: Annotated[str, typer.Argument(autocompletion=completion.presets, help="Whose class counts.")] = "digits-lt",
    law: Annotated[
        list[str] | None,
        typer.Option(autocompletion=completion.laws, help="Only these laws, for example power:0.25; repeat it."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=v, laid over the preset.")] = None,
) -> None:
    """Show what each law makes of a preset's class counts."""
    from cbdm_cli.commands.priors import list_priors

    list_priors(preset, law or [], set_ or [])


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    to: Annotated[str, typer.Option(help="diffusers (a pipeline), safetensors, or run (a folder to evaluate).")],
    average: Annotated[
        str | None,
        typer.Option(help="Weights averaged otherwise: a stored decay:d or power:w, or power of any width."),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The checkpoint that training.keep_best kept.")] = False,
) -> None:
    """Write a run's averaged network for other programs, with a model card."""
    from cbdm_cli.commands.export import export_run

    export_run(run, to, out, average, best=best)


@app.command(name="import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="A published-style checkpoint (net_model, ema_model), or a state dict.")
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    weights: Annotated[str, typer.Option(help="ema_model or net_model.")] = "ema_model",
    image_size: Annotated[int, typer.Option(help="Height and width; a U-Net's weights do not tell.")] = 32,
    beta_1: Annotated[float, typer.Option(help="First β of the linear schedule.")] = 1e-4,
    beta_T: Annotated[float, typer.Option("--beta-T", help="Last β of the linear schedule.")] = 0.02,
    method: Annotated[
        str,
        typer.Option(
            autocompletion=completion.methods,
            help="What it was trained with: cbdm:training, t2h, …; with the published time weight.",
        ),
    ] = "ddpm",
    counts: Annotated[
        str | None, typer.Option(help="Images of each class that it was trained on, such as 5000,2997,…; for laws.")
    ] = None,
) -> None:
    """Make a run folder of a published-style checkpoint, so that sample and load_run take it."""
    from cbdm_cli.commands.import_ import import_checkpoint

    import_checkpoint(checkpoint, out, weights, image_size, beta_1, beta_T, method, counts)


@app.command()
def doctor(device: Device = "auto") -> None:
    """Tell what a bug report needs of this machine, and check draws, sampler, training and checkpoints in seconds."""
    from cbdm_cli.commands.doctor import doctor as examine

    examine(device)
