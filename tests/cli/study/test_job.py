"""A job of a comparison shows what goes wrong as the command line does: each in a line, which the log keeps."""

import sys
import warnings

import pytest

from cbdm_cli.study import job
from cbdm_cli.study.plan import Plan, save_plan, variants_of
from cbdm_core.errors import CbdmWarning


@pytest.mark.parametrize("raised", [False, True], ids=["told", "raised"])
def test_a_warning_of_ours_is_one_line(monkeypatch, capsys, tmp_path, raised):
    """Also where Python's own filters make it an error, which ends the job as a mistake does."""
    ran = []

    def warn(folder, plan, variant, seed, device):
        text = "photos.npz: not\nused: angles"
        if raised:
            raise CbdmWarning(text)
        sys.stderr.write(warnings.formatwarning(text, CbdmWarning, "npz.py", 7))
        ran.append((folder, variant.name, seed, device))

    plan = Plan(preset="digits-lt", seeds=1, omegas=("0",), variants=variants_of(["ddpm"], [], []))
    save_plan(tmp_path, plan)
    monkeypatch.setattr(job, "run_job", warn)
    monkeypatch.setattr(sys, "argv", ["job", str(tmp_path), "ddpm", "0", "cpu"])
    before = warnings.formatwarning
    if raised:
        with pytest.raises(SystemExit, match=r"^2$"):
            job.main()
    else:
        job.main()
    assert capsys.readouterr().err == "cbdm: photos.npz: not used: angles\n"
    assert ran == ([] if raised else [(tmp_path, "ddpm", 0, "cpu")])
    assert warnings.formatwarning is before
