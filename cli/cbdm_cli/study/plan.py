"""What a comparison consists of: variants × seeds, and the readings (ω, interval) of each. Imports no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cbdm_cli.config import validated
from cbdm_cli.method import PLAIN, Part, format_parts, only_its_parts, parse_parts, with_law
from cbdm_cli.naming import file_words, path_name
from cbdm_cli.overlay import merged, overlaid, preset_table
from cbdm_cli.run_folder import COMPARISON_FILE, write_text
from cbdm_core.errors import CbdmError
from cbdm_core.reading import CONFIG_BYTES, regular_file

__all__ = [
    "MOST_SEEDS",
    "OMEGAS",
    "READINGS",
    "Plan",
    "Reading",
    "Variant",
    "extended",
    "load_plan",
    "missing_readings",
    "readings_of",
    "run_folder",
    "save_plan",
    "variants_of",
]

READINGS = "readings"
MOST_SEEDS = 10_000
OMEGAS = ("0", "0.25", "0.5", "0.75", "1", "1.5")
# Guidance at intermediate noise only (Kynkäänniemi et al. 2024); the ends in t.
INTERVAL = (0.1, 0.7)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Frozen):
    """A method with its strengths: what is trained once for each seed.

    Args:
        name: how tables call it.
        parts: the method.
        tau: τ, or None for the preset's.
    """

    name: str
    parts: str
    tau: float | None = None

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable():  # it goes to terminals and to the command lines of jobs
            raise ValueError(f"the name {name!r} has characters that are not printed; restore the file")
        return name

    @property
    def folder(self) -> str:
        """A folder name that no other variant of the plan has."""
        return path_name(re.sub(r"[^A-Za-z0-9.+-]+", "-", self.name).strip("-.") or "method", "variant")

    def table(self) -> dict[str, Any]:
        """What is laid over the preset."""
        method: dict[str, Any] = {"parts": self.parts}
        return {"method": method if self.tau is None else {**method, "tau": self.tau}}


class Reading(_Frozen):
    """One way to sample a trained model.

    Args:
        kind: "" for constant ω, "aτt + b", "ω_eff(t)" (with its τ but where all are 1), or "interval": rows of
            the table are (variant, kind).
        omega: as `--omega` takes it.
        interval: of guidance in t.
    """

    kind: str
    omega: str
    interval: tuple[float, float] = (0.0, 1.0)

    @property
    def file(self) -> str:
        """The name of its result."""
        omega, (low, high) = file_words(self.omega), self.interval
        within = "" if (low, high) == (0, 1) else f"-in-{low:g}-{high:g}"
        return path_name(f"omega-{omega}{within}.json", "reading")


class Plan(_Frozen):
    """A comparison.

    Args:
        preset: the preset of every run.
        settings: `a.b=v` laid over it.
        steps: training steps, None for the preset's.
        seeds: how many; they are 0, 1, … and paired across variants.
        omegas: constant ω to judge at.
        variants: the first is the baseline.
        base: what the settings are laid over in place of the preset, where the data are the user's own.
    """

    preset: str
    settings: tuple[str, ...] = ()
    steps: Annotated[int | None, Field(ge=1)] = None
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 5
    omegas: tuple[str, ...] = OMEGAS
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    base: dict[str, Any] | None = None

    def table(self) -> dict[str, Any]:
        """The plain values of every run but for its method and seed."""
        return overlaid(preset_table(self.preset) if self.base is None else self.base, None, self.settings)

    @field_validator("omegas")
    @classmethod
    def _numbers(cls, omegas: tuple[str, ...]) -> tuple[str, ...]:
        for omega in omegas:
            kind, _, numbers = omega.rpartition(":")
            if kind not in ("", "linear", "implied") or not all(map(_finite, numbers.split(","))):
                raise ValueError(f"ω {omega!r} is none; restore the file")
        return omegas

    @model_validator(mode="after")
    def _named(self) -> Self:
        """Refuse a name that no configuration has checked; it goes to terminals."""
        if self.base is not None and self.base.get("preset") != self.preset:
            raise ValueError(f"its base does not have the preset {self.preset!r}; restore the file")
        return self


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def readings_of(plan: Plan, variant: Variant) -> list[Reading]:
    """Every ω; for the plain model also what guidance alone can do: ω_eff(t) of each τ, and ω within an interval."""
    readings = [Reading(kind=_kind(omega), omega=omega) for omega in sorted(plan.omegas, key=lambda o: ":" in o)]
    if variant.parts == PLAIN:
        numbers = [omega for omega in plan.omegas if ":" not in omega and float(omega) != 0]
        taus = _taus(plan)
        for tau in taus:
            kind = "ω_eff(t)" if taus == (1,) else f"ω_eff(t), τ={tau:g}"
            of = "" if tau == 1 else f",{tau:g}"  # 1 is what `implied:ω` stands for
            readings += [Reading(kind=kind, omega=f"implied:{omega}{of}") for omega in numbers]
        readings += [Reading(kind="interval", omega=omega, interval=INTERVAL) for omega in numbers]
    return readings


def _taus(plan: Plan) -> tuple[float, ...]:
    """Every strength that the plan pulls with; the preset's where it pulls nowhere."""
    own = _own_tau(json.dumps(plan.table()))
    pulled = [v for v in plan.variants if any(part.name == "cbdm" for part in parse_parts(v.parts))]
    return tuple(dict.fromkeys(own if v.tau is None else v.tau for v in pulled)) or (own,)


@cache
def _own_tau(values: str) -> float:
    """The τ that cbdm has under a plan's plain values, whether or not their method has it."""
    table = merged(json.loads(values), {"method": {"parts": "cbdm"}})
    (part,) = validated({**table, "method": only_its_parts(table["method"])}).method
    return float(part.options.get("tau", 1.0))


def _kind(omega: str) -> str:
    """What a schedule of ω is called; constants have no name."""
    return {"linear": "aτt + b", "implied": "ω_eff(t)"}.get(omega.partition(":")[0], "")


def variants_of(methods: Sequence[str], priors: Sequence[str], taus: Sequence[float]) -> tuple[Variant, ...]:
    """Methods × priors × τ: a prior goes to methods with one part whose law is open, τ to those with cbdm.

    Raises:
        CbdmError: an unknown part, a prior or τ that no method takes, or a method twice.
    """
    from cbdm_cli.laws import law_takers

    found, used_prior, used_tau = [], False, False
    for method in methods:
        parts = parse_parts(method)
        takers = law_takers(parts)
        open_ = [p for p in parts if p.name in takers and p.law is None]
        choices: list[tuple[Part, ...]] = [parts]
        if priors and len(open_) == 1:
            choices, used_prior = [with_law(parts, prior, [open_[0].name]) for prior in priors], True
        takes_tau = any(part.name == "cbdm" for part in parts)
        used_tau = used_tau or (takes_tau and bool(taus))
        for choice in choices:
            text = format_parts(choice)
            if taus and takes_tau:
                found += [Variant(name=f"{text} τ={tau:g}", parts=text, tau=tau) for tau in taus]
            else:
                found.append(Variant(name=text, parts=text))
    if priors and not used_prior:
        raise CbdmError(f"--priors {','.join(priors)}: no method leaves its law open; try --methods ddpm,cbdm")
    if taus and not used_tau:
        raise CbdmError("--tau is read by cbdm, and no method has that part; try --methods ddpm,cbdm")
    return _distinct(found)


def _distinct(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    seen: dict[str, Variant] = {}
    for variant in variants:
        if variant.folder in seen:
            raise CbdmError(f"the comparison has {variant.name!r} twice: name each method once")
        seen[variant.folder] = variant
    return tuple(seen.values())


def extended(plan: Plan, more: Sequence[Variant], seeds: int | None = None) -> Plan:
    """The plan with more variants, more seeds, or both.

    Raises:
        CbdmError: fewer seeds than before, more than can be trained, or a variant that is there.
    """
    if seeds is not None and seeds > MOST_SEEDS:
        raise CbdmError(f"--seeds {seeds}: at most {MOST_SEEDS:,} are trained")
    if seeds is not None and seeds < plan.seeds:
        raise CbdmError(f"--seeds {seeds}: the comparison has {plan.seeds} already; ask for as many or more")
    return plan.model_copy(update={"variants": _distinct([*plan.variants, *more]), "seeds": seeds or plan.seeds})


def load_plan(folder: Path) -> Plan:
    """The plan of a comparison's folder.

    Raises:
        CbdmError: no plan there, or a damaged one.
    """
    file = folder / COMPARISON_FILE
    try:
        if not file.exists():
            raise FileNotFoundError(file)
        return Plan.model_validate(json.loads(regular_file(file, CONFIG_BYTES).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CbdmError(
            f"{folder} is no comparison: it has no {COMPARISON_FILE}; name a folder that cbdm compare made"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise CbdmError(f"{file} is no plan of a comparison: {where}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CbdmError(f"{file} cannot be read: {str(error).splitlines()[0]}; restore it") from error


def save_plan(folder: Path, plan: Plan) -> None:
    """Write the plan into the folder."""
    write_text(folder / COMPARISON_FILE, json.dumps(plan.model_dump(), indent=1) + "\n")


def run_folder(folder: Path, variant: Variant, seed: int) -> Path:
    """Where the run of a variant and a seed stands."""
    return folder / "runs" / variant.folder / f"seed-{seed}"


def missing_readings(path: Path, plan: Plan, variant: Variant) -> list[Reading]:
    """Readings of the plan that the run in `path` does not have yet; others that lie there count for nothing."""
    return [reading for reading in readings_of(plan, variant) if not (path / READINGS / reading.file).exists()]
