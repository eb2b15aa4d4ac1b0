"""What the shell offers: presets, laws, parts and labels, where each can stand."""

import os
import subprocess
import sys

import pytest

from cbdm_cli import completion
from cbdm_cli.method import BATCH_PARTS, PLAIN, takes_law
from cbdm_core.adjustment import ADJUSTMENTS
from cbdm_core.priors import PRIORS
from tests.cli.tiny import PROBE


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cbdm train dig", ["digits-lt"]),
        ("cbdm train --prior ba", ["balanced", "bank"]),
        ("cbdm train --method c", ["capacity", "cbdm", "ccua", "coral"]),
        ("cbdm train --method tr", ["transfer", "transplant"]),
        ("cbdm sample r --guidance-prior un", ["uniform"]),
        ("cbdm sample r --prior un", ["uniform"]),
        ("cbdm sample r --labels c", ["cyclic"]),
        ("cbdm sample r --labels po", ["power"]),
        ("cbdm priors --law nu", ["null"]),
        ("cbdm evaluate r --guidance-prior un", ["uniform"]),
        ("cbdm compare --priors nu", ["null"]),
        ("cbdm compare --priors null,tr", ["null,training"]),
        ("cbdm compare --methods cb", ["cbdm"]),
        ("cbdm compare --methods ddpm,cbdm:un", ["ddpm,cbdm:uniform"]),
        ("cbdm compare --methods cbdm,t2h+resample:po", ["cbdm,t2h+resample:power"]),
        ("cbdm compare runs/c --add t2", ["t2h"]),
        ("cbdm import net.pt --method cbdm:tr", ["cbdm:training"]),
        ("cbdm train --method cbdm:", ["cbdm:null", "cbdm:uniform"]),
        ("cbdm train --method cbdm:null+re", ["cbdm:null+resample", "cbdm:null+reweight"]),
        ("cbdm train --method t2h+resample:u", ["t2h+resample:uniform"]),
    ],
)
def test_completion_knows_presets_laws_and_parts_and_imports_no_torch(tmp_path, typed, completed):
    last = str(len(typed.split()) - 1)
    env = {**os.environ, "_CBDM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": last}
    probe = PROBE.replace("main(sys.argv[1:])", "sys.argv[0] = 'cbdm'; main()")
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=tmp_path, env=env)
    *offered, heavy = done.stdout.split("\n")[:-1]
    assert ({*completed} <= {*offered}) and heavy == "HEAVY []", done.stdout + done.stderr
    assert all(name.startswith(typed.split()[-1]) for name in offered)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["train", "--method", "cbdm", ":", "u"], ["uniform"]),
        (["compare", "--methods", "ddpm,cbdm", ":", "null+shrink", ":", "nu"], ["null"]),
        (["train", "--method", "cbdm", ":", "null+resam"], ["null+resample"]),
        (["train", "--method", "t2h", ":"], []),
        (["priors", "--law", "power", ":", "0.5", "--law", "nu"], ["null"]),
    ],
)
def test_bash_which_parts_words_at_colons_is_told_what_follows_the_last(words, offered):
    env = {"_CBDM_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(["cbdm", *words]), "COMP_CWORD": str(len(words))}
    code = "import sys; from cbdm_cli.__main__ import main; sys.argv[0] = 'cbdm'; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    assert done.stdout.split() == offered, done.stdout + done.stderr


def test_completion_offers_a_law_where_it_can_stand():
    parts = [*ADJUSTMENTS, *BATCH_PARTS]
    assert {*completion.LAWLESS} == {PLAIN, *(part for part in parts if not takes_law(part))}
    drawn = {name for name, law in PRIORS.items() if law.made_from == "counts"} - {"null"}
    assert {*completion.labels()} == {"cyclic", *drawn}
