"""What a comparison consists of: variants and readings, the command line that asks for them, the file of both."""

import json

import pytest

from cbdm_cli.study.job import config_of
from cbdm_cli.study.launching import Launch
from cbdm_cli.study.plan import Plan, Reading, Variant, extended, load_plan, readings_of, save_plan, variants_of
from cbdm_core.errors import CbdmError

PLAIN = Variant(name="ddpm", parts="ddpm")


def test_methods_times_laws_times_strengths():
    """Open laws are filled, closed ones stay; τ goes to those with cbdm; what takes neither stands once."""
    methods = ["ddpm", "cbdm", "cbdm:training", "shrink", "t2h", "cbdm+resample:uniform"]
    variants = variants_of(methods, ["null", "balanced:0.999"], [0.1, 1])
    assert [(v.name, v.parts, v.tau) for v in variants] == [
        ("ddpm", "ddpm", None),
        ("cbdm:null τ=0.1", "cbdm:null", 0.1),
        ("cbdm:null τ=1", "cbdm:null", 1),
        ("cbdm:balanced:0.999 τ=0.1", "cbdm:balanced:0.999", 0.1),
        ("cbdm:balanced:0.999 τ=1", "cbdm:balanced:0.999", 1),
        ("cbdm:training τ=0.1", "cbdm:training", 0.1),
        ("cbdm:training τ=1", "cbdm:training", 1),
        ("shrink:null", "shrink:null", None),
        ("shrink:balanced:0.999", "shrink:balanced:0.999", None),
        ("t2h", "t2h", None),
        ("cbdm:null+resample:uniform τ=0.1", "cbdm:null+resample:uniform", 0.1),
        ("cbdm:null+resample:uniform τ=1", "cbdm:null+resample:uniform", 1),
        ("cbdm:balanced:0.999+resample:uniform τ=0.1", "cbdm:balanced:0.999+resample:uniform", 0.1),
        ("cbdm:balanced:0.999+resample:uniform τ=1", "cbdm:balanced:0.999+resample:uniform", 1),
    ]
    folders = [variant.folder for variant in variants]
    assert len(set(folders)) == len(folders)
    assert not set("".join(folders)) & set(":/ ,τ="), "names that any shell and file system take as they are"
    plan = Plan(preset="digits-lt", variants=variants)
    configs = [config_of(plan, variant, 3) for variant in variants]
    assert [config.method_text for config in configs] == [variant.parts for variant in variants]
    assert [config.method[0].options["tau"] for config in configs[1:3]] == [0.1, 1]
    assert {config.seed for config in configs} == {3}


def test_laws_with_commas_on_the_command_line(asked):
    plan, _, _ = asked("--methods", "ddpm, cbdm", "--priors", "balanced:0.999,fixed:0.5,0.5,learned:0.1,0.1,null")
    laws = ["balanced:0.999", "fixed:0.5,0.5", "learned:0.1,0.1", "null"]
    assert [v.parts for v in plan.variants] == ["ddpm", *(f"cbdm:{law}" for law in laws)]
    plan, _, _ = asked("--methods", "cbdm:fixed:0.5,0.5,ddpm,cbdm:power:0.5")
    assert [v.parts for v in plan.variants] == ["cbdm:fixed:0.5,0.5", "ddpm", "cbdm:power:0.5"]


def test_the_command_line_becomes_the_plan(asked):
    plan, out, how = asked()
    assert [v.parts for v in plan.variants] == ["ddpm", "cbdm"] and plan.seeds == 5 and plan.steps is None
    assert plan.omegas == ("0", "0.25", "0.5", "0.75", "1", "1.5") and plan.preset == "digits-lt" and out is None
    assert how == Launch(jobs=2, threads=1, device="auto", launcher="local")
    options = ["--omega", "0,1", "--omega", "linear:1,0", "--seeds", 3, "--steps", 7, "--jobs", 4, "--threads", 2]
    plan, out, how = asked("mixture-lt", *options, "--set", "seed=9", "--device", "cpu", "--out", "o")
    assert plan.omegas == ("0", "1", "linear:1,0") and (plan.seeds, plan.steps) == (3, 7) and out.name == "o"
    assert plan.settings == ("seed=9",) and how == Launch(jobs=4, threads=2, device="cpu")
    assert config_of(plan, plan.variants[0], 1).seed == 1, "paired seeds are the comparison's own"
    assert asked("--omega", "1", "--one-omega")[0].omegas == ("1",)
    assert asked("--omega", "1,0,1")[0].omegas == ("1", "0")


def test_a_plan_is_read_as_it_was_written(tmp_path):
    variants = variants_of(["ddpm", "cbdm"], ["null", "fixed:0.5,0.5"], [0.1, 1 / 3])
    plan = Plan(preset="digits-lt", settings=("a.b='ω'",), steps=3, seeds=2, omegas=("0", "1"), variants=variants)
    save_plan(tmp_path, plan)
    assert load_plan(tmp_path) == plan
    more = extended(plan, variants_of(["t2h"], [], []), 4)
    assert (more.seeds, [v.name for v in more.variants]) == (4, [*(v.name for v in variants), "t2h"])
    assert more.model_copy(update={"seeds": 2, "variants": variants}) == plan
    with pytest.raises(CbdmError, match="'ddpm' twice"):
        extended(plan, variants_of(["ddpm"], [], []))
    with pytest.raises(CbdmError, match="has 2 already"):
        extended(plan, (), 1)


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ([], "variants: Tuple should have at least 1 item"),
        ([{"name": "\x1b[2J", "parts": "ddpm"}], r"the name '\\x1b\[2J' has characters that are not printed"),
        ([{"name": "\ud800", "parts": "ddpm"}], "characters that are not printed"),
    ],
)
def test_a_strangers_plan_without_methods_or_with_names_that_steer_a_terminal_is_refused(tmp_path, variants, words):
    (tmp_path / "compare.json").write_text(json.dumps({"preset": "digits-lt", "variants": variants}))
    with pytest.raises(CbdmError, match=words):
        load_plan(tmp_path)


@pytest.mark.parametrize("base", [{}, {"preset": "custom"}, {"preset": 3}])
def test_a_strangers_plan_whose_name_is_not_that_of_its_base_is_refused(tmp_path, base):
    """The configuration checks the name in the base alone, and the other goes to the terminal."""
    plan = {"preset": "\x1b[2J", "variants": [{"name": "ddpm", "parts": "ddpm"}], "base": base}
    (tmp_path / "compare.json").write_text(json.dumps(plan))
    with pytest.raises(CbdmError, match=r"its base does not have the preset '\\x1b\[2J'; restore the file") as caught:
        load_plan(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("taus", "settings", "told"),
    [
        ([None], (), [("ω_eff(t)", "implied:0.5")]),  # the preset's τ is 1
        ([None], ("method.tau=0.3",), [("ω_eff(t), τ=0.3", "implied:0.5,0.3")]),
        ([], ("method.tau=0.3",), [("ω_eff(t), τ=0.3", "implied:0.5,0.3")]),
        ([2.0, 2.0], (), [("ω_eff(t), τ=2", "implied:0.5,2")]),
        ([0.1, 1.0], (), [("ω_eff(t), τ=0.1", "implied:0.5,0.1"), ("ω_eff(t), τ=1", "implied:0.5")]),
        ([None, 0.1], (), [("ω_eff(t), τ=1", "implied:0.5"), ("ω_eff(t), τ=0.1", "implied:0.5,0.1")]),
    ],
)
def test_the_implied_guidance_is_that_of_the_strengths_compared(taus, settings, told):
    """ω_eff(t) = (1 + ω)/(1 + τt) − 1 with the τ that the pulled models trained with, a row for each."""
    pulled = [Variant(name=f"pulled {i}", parts="cbdm:null", tau=tau) for i, tau in enumerate(taus)]
    plan = Plan(preset="digits-lt", settings=settings, omegas=("0", "0.5"), variants=(PLAIN, *pulled))
    found = [(r.kind, r.omega) for r in readings_of(plan, PLAIN) if r.kind.startswith("ω_eff")]
    assert found == told


def test_readings_of_a_plan_have_files_of_their_own():
    omegas = ("0", "-0.5", "0.5", "05", "linear:1,0", "linear:1,0,2", "implied:0.5,2")
    plan = Plan(preset="digits-lt", omegas=omegas, variants=(PLAIN,))
    files = [reading.file for reading in readings_of(plan, PLAIN)]
    assert len(set(files)) == len(files)
    assert Reading(kind="", omega="0.5").file != Reading(kind="interval", omega="0.5", interval=(0.1, 0.7)).file
