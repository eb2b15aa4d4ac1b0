"""`cbdm train --from`: a run that starts from the weights of another, or of a file."""

import shutil

import torch
from safetensors.torch import load_file, save_file

from cbdm_core.networks.encoders import sinusoid
from cbdm_core.networks.published import _TABLE, published_names, published_unet
from cbdm_core.run_config import read_config
from tests.cli.tiny import TINY, UNJUDGED, fingerprint


def weights(run, file="ema.safetensors", step="*"):
    return load_file(sorted((run / "checkpoints").glob(f"step-{step}"))[-1] / file)


def test_a_run_starts_from_anothers_weights_and_resumes(run, refused, tmp_path):
    """Fine-tuning with augmentation, which the first run was not told of."""
    assert run("train", "--method", "ddpm", "--steps", 3, *UNJUDGED, "--out", "first")[0] == 0
    more = ("--set", "data.augment=0.5", "--set", "training.keep=9", "--from", "first")
    for out, steps in (("whole", 4), ("parts", 2)):
        code, text, err = run("train", "--method", "cbdm:uniform", "--steps", steps, *UNJUDGED, *more, "--out", out)
        assert code == 0 and "averaged weights of first, trained for 3 steps" in text + err
    origin = read_config(tmp_path / "whole")["facts"]["origin"]
    assert (origin["path"], origin["step"]) == ("first", 3)
    assert origin["sha256"] == fingerprint(tmp_path / "first")["ema.safetensors"]
    theirs, told = weights(tmp_path / "first"), "augment.project.weight"
    for file, prefix in (("ema.safetensors", ""), ("model.safetensors", "network.")):
        mine = weights(tmp_path / "whole", file, "00000000")
        assert all(torch.equal(mine[prefix + name], value) for name, value in theirs.items())
        assert not mine[prefix + told].any()
    shutil.rmtree(tmp_path / "first")
    assert run("train", "--resume", "parts", "--steps", 4, "--no-evaluate")[0] == 0
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    for checkpoint in (tmp_path / "parts" / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    assert "has lost the weights" in refused("train", "--resume", "parts")
    assert "leave out --out, --dry-run, --from and --data" in refused("train", "--resume", "parts", "--from", "whole")


def test_a_run_starts_from_files(run, refused, tmp_path):
    """Of published names, and of ours."""
    small = {"width": 32, "multipliers": (1, 2), "attention": (), "blocks": 1, "time_steps": 1000}
    torch.manual_seed(1)
    network = published_unet((1, 8, 8), 10, **small)
    names = published_names(network)
    state = {names[name]: value for name, value in network.state_dict().items()}
    state = {name: v[..., None, None] if ".attn.proj" in name and v.ndim == 2 else v for name, v in state.items()}
    state[_TABLE] = sinusoid(torch.arange(1000), 32).float()
    torch.save({"ema_model": state, "net_model": state, "step": 7}, tmp_path / "theirs.pt")
    save_file(network.state_dict(), tmp_path / "ours.safetensors")
    options = "{width=32, multipliers=[1, 2], attention=[], blocks=1}"
    tiny = ("--set", "network.name=published", "--set", f"network.options={options}", "--steps", 1)
    for file, step in (("theirs.pt", 7), ("ours.safetensors", 0)):
        code, _, err = run("train", *tiny, "--from", file, "--out", step, "--no-evaluate")
        assert code == 0, err
        begun = weights(tmp_path / str(step), step="00000000")
        assert all(torch.equal(begun[name], value) for name, value in network.state_dict().items())
        assert read_config(tmp_path / str(step))["facts"]["origin"]["step"] == step
    assert "holds the weights of another network" in refused("train", *TINY, "--from", "ours.safetensors")
    assert "cannot be read" in refused("train", *TINY, "--from", "nowhere.safetensors")
