"""From the options of `cbdm compare` to a plan, or to what extends one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cbdm_cli import render
from cbdm_cli.omegas import omegas_of
from cbdm_cli.study.plan import MOST_SEEDS, OMEGAS, Plan, Variant, variants_of
from cbdm_core.errors import CbdmError

__all__ = ["CompareOptions"]

_PRESET, _METHODS = "digits-lt", ("ddpm", "cbdm")
_SEEDS = 5


@dataclass(frozen=True)
class CompareOptions:
    """The options of `cbdm compare` that make a plan, None or empty where not given.

    Args:
        methods: texts parted by commas, the baseline first.
        priors: laws parted by commas, for each method that leaves its law open.
        tau: strengths parted by commas, for each method with cbdm.
        add: more methods for a comparison that is there.
        seeds: how many.
        omegas: values of `--omega`.
        steps: of training.
        settings: `a.b=v`.
        one_omega: whether one ω is meant.
        data: a path of the user's own.
    """

    methods: str | None = None
    priors: str | None = None
    tau: str | None = None
    add: str | None = None
    seeds: int | None = None
    omegas: Sequence[str] = ()
    steps: int | None = None
    settings: Sequence[str] = ()
    one_omega: bool = False
    data: str | None = None

    def plan(self, preset: str | None) -> Plan:
        """A new plan.

        Args:
            preset: of every run; None is digits-lt, or what suits data of the user's.

        Raises:
            CbdmError: one ω without `one_omega`: methods differ in their best ω, so that at one ω any verdict can be
                had; numbers out of range; `add`, which is for a comparison that is there; data that cannot be read.
        """
        if self.add is not None:
            named = "no folder is named" if preset is None else f"{preset} is none"
            raise CbdmError(f"--add {self.add} goes with the folder of a comparison, and {named}")
        if self.steps is not None and self.steps < 1:
            raise CbdmError(f"--steps {self.steps}: it must be 1 or more")
        omegas = tuple(dict.fromkeys(omegas_of(self.omegas or OMEGAS)))
        if len(omegas) == 1 and not self.one_omega:
            raise CbdmError(
                f"--omega {omegas[0]}: methods differ in their best ω, so a comparison at one ω misleads; give "
                "several, or add --one-omega if you mean it"
            )
        variants = variants_of(_laws(self.methods) or _METHODS, _laws(self.priors), self._taus())
        base = self._base(preset)
        return Plan(
            preset=base["preset"] if base else _PRESET if preset is None else preset,
            settings=tuple(self.settings),
            steps=self.steps,
            seeds=self._seeds(),
            omegas=omegas,
            variants=variants,
            base=base,
        )

    def _base(self, preset: str | None) -> dict[str, Any] | None:
        """What is laid under the settings for data of the user's: of a preset, or without one what suits the data.

        Their place is kept whole, for jobs may be run in another folder.
        """
        if self.data is None:
            return None
        from cbdm_cli.own_data import named_path, own_table

        place = named_path(self.data).absolute()
        # Standard output may be lines for a shell.
        table, _ = own_table(place, preset, None, self.settings, self.steps, render.aside)
        return table

    def more(self, target: str, **fixed: Any) -> tuple[Variant, ...]:
        """The methods by which a comparison that is there shall be extended.

        Args:
            target: its folder.
            fixed: further options that it has already, None where not given.

        Raises:
            CbdmError: an option that the comparison has already.
        """
        fixed = {"data": self.data, "methods": self.methods, "omega": self.omegas or None, "steps": self.steps, **fixed}
        if self.add is None:
            fixed |= {"priors": self.priors, "tau": self.tau}
        given = [name for name, value in fixed.items() if value is not None]
        if given:
            raise CbdmError(f"--{given[0]}: the comparison {target} has its own; only --add and --seeds may extend it")
        return variants_of(_laws(self.add), _laws(self.priors), self._taus()) if self.add else ()

    def _seeds(self) -> int:
        if self.seeds is None:
            return _SEEDS
        if self.seeds < 1:
            raise CbdmError(f"--seeds {self.seeds}: it must be 1 or more")
        if self.seeds > MOST_SEEDS:
            raise CbdmError(f"--seeds {self.seeds}: at most {MOST_SEEDS:,} are trained")
        return self.seeds

    def _taus(self) -> list[float]:
        try:
            return [float(piece) for piece in _parted(self.tau)]
        except ValueError:
            raise CbdmError(
                f"--tau {self.tau}: strengths are numbers parted by commas, for example --tau 0.1,1"
            ) from None


def _parted(text: str | None) -> list[str]:
    return [piece.strip() for piece in text.split(",") if piece.strip()] if text else []


def _laws(text: str | None) -> list[str]:
    """Texts parted by commas, which also part a law's own numbers."""
    joined: list[str] = []
    for piece in _parted(text):
        number = piece.replace(".", "", 1).lstrip("-").isdigit()
        joined = [*joined[:-1], f"{joined[-1]},{piece}"] if number and joined else [*joined, piece]
    return joined
