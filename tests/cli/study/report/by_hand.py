"""Comparisons and runs written by hand: scores are formulas, so that the truth is known."""

import json
from pathlib import Path

import tomli_w
from PIL import Image

from cbdm_cli.config import validated
from cbdm_cli.method import completed_entries
from cbdm_cli.overlay import load_config
from cbdm_cli.study.plan import Plan, Variant, readings_of, save_plan

COUNTS = (100, 20, 3)
NAMES = ("common", "<b>&$x$", "rare")
QUESTION = "<script>alert('q')</script> Is it so?"


def fid(variant, seed, omega):
    """A bowl in ω whose bottom differs by variant, with the same shift by seed for all."""
    return 10 + 2 * variant + 0.5 * seed + (omega - 0.5 * variant) ** 2


def scores(value, share):
    return {
        "fid": value,
        "precision": share,
        "recall": 1 - share,
        "label_accuracy": 0.5,
        "memorised": share - 0.42,
        "n_samples": 30,
        "n_reference": 300,
    }


def result(variant, seed, omega, name):
    value, share = fid(variant, seed, omega), 0.4 + 0.05 * variant + 0.01 * seed
    return {
        "preset": "digits-lt",
        "method": name,
        "seed": seed,
        "training_step": 4,
        "sampler": "dpm++2m",
        "sampler_steps": 5,
        "omega": f"{omega:g}",
        "guidance_interval": [0.0, 1.0],
        "guidance_prior": None,
        "weights": "ema",
        "labels": "cyclic, exactly balanced",
        "reference": "the balanced full set",
        "overall": scores(value, share),
        "groups": {"head": scores(value, share), "tail": scores(value + 5, share)},
        "classes": [
            {"name": n, "training_count": c, "scores": scores(value + 10 * y, share)}
            for y, (n, c) in enumerate(zip(NAMES, COUNTS))
        ],
        "features": "classifier/abc, 8-bit images",
        "note": "not comparable with papers",
        "held_out_accuracy": 0.75,
        "k": 5,
    }


def write_run(path: Path, parts="ddpm", tau=None, seed=0, question=QUESTION, law=False):
    """A run folder without checkpoint or evaluation."""
    method = {"parts": parts} if tau is None else {"parts": parts, "tau": tau}
    facts = {
        "shape": [1, 8, 8],
        "class_names": list(NAMES),
        "counts": list(COUNTS),
        "data_hash": "d" * 8,
        "split_hash": "s" * 8,
        "laws": {},
    }
    table = load_config("digits-lt", None, [])
    config = {**validated(table).model_dump(exclude_none=True), "question": question, "seed": seed, "facts": facts}
    config["method"] = completed_entries(method)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (path / "environment.json").write_text(
        json.dumps({"command": ["x"], "device": "cpu", "packages": {"cbdm": "0.1.0"}})
    )
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, 5):
            laws = {"cbdm": [0.5 - 0.05 * step, 0.3, 0.2 + 0.05 * step]} if law else {}
            terms = {"denoising": 1 / step, "balancing": 0.01}
            groups = {"head": 1 / step, "tail": 2 / step}
            record = {"step": step, "loss": 1 / step + 0.01, "terms": terms, "groups": groups, "laws": laws}
            file.write(json.dumps(record) + "\n")
    return path


def write_picture(path: Path, seed=0):
    Image.new("RGB", (80, 40), (10 * seed, 20, 30)).save(path / "samples.png")


def write_comparison(folder: Path, seeds=3, omegas=(0.0, 0.5, 1.0), variants=None, law=True):
    """A comparison with every reading."""
    variants = variants or (
        Variant(name="ddpm", parts="ddpm"),
        Variant(name="cbdm τ=0.1", parts="cbdm", tau=0.1),
        Variant(name="cbdm τ=1", parts="cbdm", tau=1.0),
    )
    texts = tuple(f"{omega:g}" for omega in omegas)
    plan = Plan(preset="digits-lt", seeds=seeds, omegas=texts, variants=tuple(variants))
    folder.mkdir(parents=True)
    save_plan(folder, plan)
    for i, variant in enumerate(variants):
        for seed in range(seeds):
            path = write_run(
                folder / "runs" / variant.folder / f"seed-{seed}", variant.parts, variant.tau, seed, law=i > 0 and law
            )
            write_picture(path, i)
            (path / "readings").mkdir()
            for reading in readings_of(plan, variant):
                omega = float(reading.omega.rpartition(":")[2].partition(",")[0])
                # Other ways to guide the plain model are a little worse than ω itself.
                found = result(i, seed, omega, variant.parts)
                found["overall"]["fid"] += {"": 0, "ω_eff(t)": 0.25, "interval": 0.125}[reading.kind.partition(",")[0]]
                found["overall"]["fid"] += 0.03 * reading.kind.endswith("τ=1")
                found["omega"] = reading.omega
                (path / "readings" / reading.file).write_text(json.dumps(found))
    return plan
