"""`cbdm watch`: rate, time left and losses from the files of a run, and a picture in characters."""

import json
import os
import re
import socket
import sys
from collections import deque

import pytest
from PIL import Image

from cbdm_cli.commands.watch import Tail, standing
from cbdm_cli.durations import duration
from cbdm_cli.live import half_blocks
from cbdm_cli.locking import LOCK
from cbdm_core.errors import CbdmError
from tests.cli.terminal import Terminal


def record(step, loss=1.0, **groups):
    return json.dumps({"step": step, "loss": loss, "terms": {"denoising": loss}, "groups": groups}) + "\n"


@pytest.fixture
def folder(tmp_path):
    """A run of 1,000 steps that began at second 1,000."""
    text = "[network]\n[schedule]\n[facts]\n[training]\nsteps = 1000\n"
    (tmp_path / "config.toml").write_text(text)
    os.utime(tmp_path / "config.toml", (1000, 1000))
    (tmp_path / LOCK).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    return tmp_path


def write(folder, text, at):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text)
    os.utime(folder / "metrics.jsonl", (at, at))


def test_rate_and_time_left_come_from_what_was_seen(folder):
    tail, seen = Tail(folder / "metrics.jsonl"), deque()
    write(folder, record(100), 1050)
    first = standing(folder, tail, seen, 1050.0)
    assert first.step == 100 and first.rate == pytest.approx(2.0)  # since the folder was made
    write(folder, record(140), 1060)
    second = standing(folder, tail, seen, 1060.0)
    assert second.rate == pytest.approx(4.0)  # since the first look
    assert second.lines()[0] == "step 140 of 1,000 (14%) · 4 steps a second · about 3.6 min left"


def test_losses_are_means_over_the_last_records_by_group(folder):
    tail = Tail(folder / "metrics.jsonl")
    write(folder, record(1, 3.0, head=2.0) + record(2, 1.0, head=1.0, tail=5.0), 1010)
    now = standing(folder, tail, deque(), 1010.0)
    assert now.losses == {"loss": 2.0, "denoising": 2.0, "head": 1.5, "tail": 5.0}


def test_a_line_being_written_waits_and_a_shorter_file_starts_anew(folder):
    tail = Tail(folder / "metrics.jsonl")
    write(folder, record(1) + '{"step": 2, "lo', 1010)
    assert [r["step"] for r in tail.read()] == [1]
    write(folder, 'ss": 1.0}\n', 1011)
    assert [r["step"] for r in tail.read()] == [1, 2]
    (folder / "metrics.jsonl").write_text(record(7))
    assert [r["step"] for r in tail.read()] == [7]


@pytest.mark.parametrize(
    "line",
    [
        *["", "garbage", "[1]", "7", '{"loss": 1.0}', '{"step": 1, "loss": null}', '{"step": "1", "loss": 1.0}'],
        *["[" * 9999, f'{{"step": {10**400}, "loss": 1.0}}', f'{{"step": 1, "loss": {10**400}}}'],
        *['{"step": -1, "loss": 1.0}', '{"step": 1, "loss": NaN}'],
    ],
)
def test_a_line_that_is_no_record_is_passed_over(folder, line):
    write(folder, record(1) + line + "\n" + record(3, 5.0), 1010)
    now = standing(folder, Tail(folder / "metrics.jsonl"), deque(), 1010.0)
    assert now.step == 3 and now.losses["loss"] == 3.0


def test_losses_whose_sum_no_float_holds_have_a_mean(folder):
    write(folder, record(1, 1e308) + record(2, 1.5e308), 1010)
    now = standing(folder, Tail(folder / "metrics.jsonl"), deque(), 1010.0)
    assert now.losses["loss"] == pytest.approx(1.25e308)


def test_a_number_of_steps_that_nothing_counts_to_is_none(folder):
    (folder / "config.toml").write_text(f"[network]\n[schedule]\n[facts]\n[training]\nsteps = {10**400}\n")
    write(folder, record(7), 1010)
    assert standing(folder, Tail(folder / "metrics.jsonl"), deque(), 1010.0).steps == 7


@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.jsonl"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_pipe_in_the_place_of_records_is_refused_and_not_waited_for(folder, name, make):
    make(folder / name)
    with pytest.raises(CbdmError, match=f"{name} is "):
        standing(folder, Tail(folder / "metrics.jsonl"), deque(), 1010.0)


def test_names_from_the_files_cannot_steer_the_terminal(folder):
    write(folder, record(1, **{"\x1b[2J": 1.0}), 1010)
    (folder / "scores.jsonl").write_text(json.dumps({"step": 1, "scores": {"\x1b[2J": 1.0}}) + "\n")
    assert not any("\x1b" in line for line in standing(folder, Tail(folder / "metrics.jsonl"), deque(), 1010.0).lines())


def test_steps_without_a_record_are_those_of_the_checkpoints(folder):
    """A short training writes none; a checkpoint that is being removed has no state, and counts for nothing."""
    for step in (40, 80):
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000040" / "state.json").write_text("{}")
    (folder / "config.toml").write_text('[network]\n[schedule]\n[facts]\n[training]\nsteps = "x"\n')
    now = standing(folder, Tail(folder / "metrics.jsonl"), deque(), 1010.0)
    assert now.step == now.steps == 40


def test_silence_and_the_end_are_told(folder):
    tail = Tail(folder / "metrics.jsonl")
    write(folder, record(100), 1050)
    assert "no record for 66.7 min" in standing(folder, tail, deque(), 1050 + 4000).lines()[0]
    (folder / "evaluation.json").write_text("{}")
    going = standing(folder, tail, deque(), 1051)  # of a run that is extended; the evaluation is that of before
    assert not going.finished and "finished" not in going.lines()[0]
    write(folder, record(1000), 1060)
    assert "finished and evaluated" in standing(folder, tail, deque(), 1060 + 4000).lines()[0]
    (folder / "evaluation.json").unlink()
    for owner, finished in (({"host": "node7", "pid": 1}, False), ({"host": socket.gethostname(), "pid": 2**22}, True)):
        (folder / LOCK).write_text(json.dumps(owner))
        assert standing(folder, tail, deque(), 1061).finished == finished  # a dead process holds nothing
    (folder / LOCK).write_text("damaged")
    assert not standing(folder, tail, deque(), 1061).finished


def test_a_run_that_was_stopped_or_is_at_its_end_is_promised_no_time_left(folder):
    tail, seen = Tail(folder / "metrics.jsonl"), deque()
    write(folder, record(100), 1050)
    (folder / LOCK).unlink()
    head = standing(folder, tail, seen, 1051.0).lines()[0]
    assert head.startswith("step 100 of 1,000 (10%) · stopped") and "--resume" in head and "left" not in head
    (folder / LOCK).write_text(json.dumps({"host": "node7", "pid": 1}))
    assert "about 7.5 min left" in standing(folder, tail, seen, 1051.0).lines()[0]
    write(folder, record(1000), 1060)
    head = standing(folder, tail, seen, 1061.0).lines()[0]
    assert head == "step 1,000 of 1,000 (100%) · trained, its end is under way"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
@pytest.mark.parametrize("interrupted", [False, True], ids=["ends with the run", "Ctrl-C"])
def test_a_terminal_is_redrawn_until_the_run_or_the_reader_ends_it(folder, interrupted):
    """In a pseudo-terminal of 50 columns: what stays, the code it ends with, and the cursor that comes back."""
    write(folder, record(100, tail=0.25), 1050)
    terminal = Terminal(["watch", str(folder), "--every", "0.05"], columns=50)
    try:
        terminal.wait_for("step 100 of 1,000")
        write(folder, record(900, tail=0.25), 1060)
        terminal.wait_for("step 900 of 1,000")
        if interrupted:
            terminal.type(b"\x03")
        else:
            (folder / "evaluation.json").write_text("{}")
            write(folder, record(1000, tail=0.25), 1070)
        assert terminal.end() == (130 if interrupted else 0)
    finally:
        terminal.close()
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l") and "Traceback" not in terminal.seen
    lines = re.split(r"(?:\r|\n|\x1b\[[\d;?]*[A-Za-z])+", terminal.seen)
    assert max(map(len, lines)) <= 50
    stays = re.sub(r"\s+", " ", terminal.seen[terminal.seen.rindex("\x1b[2K") + 4 :])
    assert ("(100%) · finished and evaluated loss" in stays) != interrupted


def test_a_clock_that_goes_backwards_gives_no_rate_rather_than_a_wrong_one(folder):
    tail, seen = Tail(folder / "metrics.jsonl"), deque()
    write(folder, record(100), 1050)
    standing(folder, tail, seen, 1050.0)
    write(folder, record(140), 950)
    assert standing(folder, tail, seen, 950.0).lines()[0] == "step 140 of 1,000 (14%)"


def test_the_last_scores_are_shown(folder):
    tail, seen = Tail(folder / "metrics.jsonl"), deque()
    write(folder, record(100), 1050)
    scores = ({"fid": 3.14159, "tail recall": 0.9}, {"fid": 2.71828, "tail recall": 0.81})
    lines = [json.dumps({"step": 50 * i, "scores": values}) for i, values in enumerate(scores, start=1)]
    (folder / "scores.jsonl").write_text("\n".join(lines) + '\n{"step": 150, "sco')
    assert standing(folder, tail, seen, 1050.0).lines()[-1] == "at step 100: FID 2.72, tail recall 0.810"


def test_the_command_shows_a_run_and_its_last_grid(folder, run, refused):
    write(folder, record(100, tail=0.25), 1050)
    (folder / "grids").mkdir()
    for step in (50, 100):
        (folder / "grids" / f"step-{step:08d}.png").write_bytes(b"")
    code, out, _ = run("watch", folder, "--once")
    assert code == 0 and "tail       0.2500" in out and "step-00000100.png" in out
    assert "no run folder" in refused("watch", folder / "grids")
    (folder / "grids" / "compare.json").touch()
    assert "grids is a comparison, not a run: name one of its runs, " in refused("watch", folder / "grids")
    assert "--every 0" in refused("watch", folder, "--every", 0)


def test_a_picture_is_drawn_in_its_colours(tmp_path):
    image = Image.new("RGB", (2, 2))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)])
    image.save(tmp_path / "p.png")
    text = half_blocks(tmp_path / "p.png", 80)
    assert text.plain == "▀▀\n"
    assert [str(span.style) for span in text.spans] == ["rgb(255,0,0) on rgb(0,0,255)", "rgb(0,255,0) on rgb(9,9,9)"]


def test_a_picture_of_any_height_takes_so_many_lines(tmp_path):
    Image.new("RGB", (1, 100_000)).save(tmp_path / "p.png")
    assert len(half_blocks(tmp_path / "p.png", 80).plain.splitlines()) == 400
    Image.new("RGB", (2, 7)).save(tmp_path / "p.png")
    assert len(half_blocks(tmp_path / "p.png", 80).plain.splitlines()) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.mkdir(),
        os.mkfifo,
        lambda p: p.symlink_to("nowhere"),
        lambda p: p.write_bytes(b"no picture"),
        lambda p: (Image.effect_noise((90, 90), 9).save(p), os.truncate(p, 300)),
        lambda p: Image.new("L", (9, 9)).save(p, format="BMP"),
    ],
    ids=["a folder", "a pipe", "a link to nothing", "no picture", "cut off", "another format"],
)
def test_a_picture_that_cannot_be_read_is_named_in_its_place(tmp_path, make):
    make(tmp_path / "p.png")
    assert half_blocks(tmp_path / "p.png", 80).plain == f"{tmp_path}/p.png cannot be read as a picture"


def test_durations():
    assert [duration(s) for s in (0.2, 42, 210, 25920, 181440)] == ["under 1 s", "42 s", "3.5 min", "7.2 h", "2.1 days"]
