"""Data written to be mapped: the same set, to the hash, of which no more than a part is ever held."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from cbdm_core.data import labelling, writing_npy
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.encoded import ENCODED
from cbdm_core.data.labelling import Labelling
from cbdm_core.data.npy import npy
from cbdm_core.data.sources import DATASETS
from cbdm_core.data.writing_npy import write_npy
from cbdm_core.errors import CbdmError
from tests.core.data.test_npy import _capped

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (11, 6, 5, 3), dtype=np.uint8)
NAMES = ("owl", "cat", "owl", "Äpfel", "cat", "cat", "owl", "owl", "cat", "cat", "owl")


def png(pixels):
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


def folders(place):
    for i, (pixels, name) in enumerate(zip(PIXELS, NAMES, strict=True)):
        (place / name).mkdir(parents=True, exist_ok=True)
        (place / name / f"{i:02d}.png").write_bytes(png(pixels))
    return {"path": place}


def table(place, lines):
    place.mkdir()
    for i, pixels in enumerate(PIXELS):
        (place / f"{i}.png").write_bytes(png(pixels))
    (place / "t.csv").write_text("\n".join(lines) + "\n")
    return {"path": place, "labels": "t.csv"}


def attributes(place):
    return table(place, ["file,hat,smile", *(f"{i}.png,{i % 2},{int(i > 6)}" for i in range(11))])


def vectors(place):
    return table(place, ["file,class,x,y", *(f"{i}.png,{NAMES[i]},{i / 7},{-i}" for i in range(11))])


def packed(place, examples):
    with tarfile.open(place / "a.tar", "w") as archive:
        for i, (image, ending, label) in enumerate(examples):
            for name, content in ((f"{i:05d}.png", image), (f"{i:05d}.{ending}", label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return {"root": place}


def tars(place, rows=range(11)):
    place.mkdir()
    return packed(place, ((png(PIXELS[i % 11]), "cls", str(i % 3)) for i in rows))


def tables(place):
    arrow, written = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    place.mkdir()
    images = [{"bytes": png(pixels), "path": None} for pixels in PIXELS]
    written.write_table(arrow.table({"image": images, "label": list(NAMES)}), place / "a.parquet")
    return {"root": place}


def lists(place):
    place.mkdir()
    return packed(
        place, ((png(pixels), "json", json.dumps(["owl", "cat"][: i % 3])) for i, pixels in enumerate(PIXELS))
    )


KINDS = {
    "class folders": ("folder", folders),
    "attributes": ("folder", attributes),
    "vectors": ("folder", vectors),
    "framed": ("folder", lambda place: {**folders(place), "size": 4, "channels": 1}),
    "webdataset": ("webdataset", tars),
    "lists": ("webdataset", lists),
    "parquet": ("parquet", tables),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [1, 200, 1 << 20], ids="a part of {} bytes".format)
def test_it_is_the_set_that_the_source_reads(tmp_path, monkeypatch, kind, part):
    """Examples, labels, names and conditions, whatever the size of the files."""
    monkeypatch.setattr(writing_npy, "_PART", part)
    source, made = KINDS[kind]
    options, folder = made(tmp_path / "from"), tmp_path / "to"
    folder.mkdir()
    encoded = ENCODED.build(source, options)
    assert write_npy(folder, encoded.rows(), encoded.labelling) == 11
    whole, mapped = DATASETS.build(source, options), npy(path=folder)
    assert mapped.content_hash() == whole.content_hash() and mapped.class_names == whole.class_names
    assert mapped.condition_names == whole.condition_names
    assert torch.equal(mapped.x[:], whole.x) and torch.equal(mapped.y, whole.y)
    told = [data.condition for data in (mapped, whole)]
    assert told == [None, None] or (torch.equal(*told) and told[0].dtype == told[1].dtype)
    per_file = max(1, part // whole.x[0].numel())
    assert [len(np.load(file)) for file in sorted(folder.glob("images-*"))][:1] == [min(11, per_file)]


def test_a_size_of_which_the_memory_holds_no_image_is_refused_before_one_is_decoded(tmp_path):
    encoded = ENCODED.build("folder", {**folders(tmp_path / "from"), "size": 10_000_000})
    with pytest.raises(CbdmError, match=r"reading 1 image of size=10,000,000 needs at least .* of memory"):
        next(encoded.rows())


def test_every_source_of_images_is_a_source_of_the_same_options():
    import inspect

    assert set(ENCODED) <= set(DATASETS)
    for name in ENCODED:
        assert inspect.signature(ENCODED[name]).parameters == inspect.signature(DATASETS[name]).parameters


def test_conditions_need_no_labels(tmp_path):
    """As in an npz, regions of common and rare ones stand for classes then."""
    np.save(tmp_path / "images.npy", PIXELS)
    np.save(tmp_path / "conditions.npy", RNG.normal(size=(11, 2)))
    np.savez(tmp_path / "all.npz", images=PIXELS, conditions=np.load(tmp_path / "conditions.npy"))
    there, here = npy(path=tmp_path), DATASETS.build("npz", {"path": tmp_path / "all.npz"})
    assert there.content_hash() == here.content_hash() and torch.equal(there.condition, here.condition)


def test_regions_are_not_looked_for_where_there_are_labels(tmp_path, monkeypatch):
    """They take a search among all vectors."""
    arrays = {"images": PIXELS, "labels": np.arange(11) % 2, "conditions": RNG.normal(size=(11, 2))}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "all.npz", **arrays)
    monkeypatch.setattr(labelling, "by_density", None)  # calling it fails
    there, here = npy(path=tmp_path), DATASETS.build("npz", {"path": tmp_path / "all.npz"})
    assert there.content_hash() == here.content_hash() and torch.equal(there.condition, here.condition)
    assert there.y.tolist() == arrays["labels"].tolist()


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([np.zeros((5, 2)), np.zeros((5, 2))], r"images files of \[5, 6\] rows and conditions files of \[5, 5\]"),
        ([np.zeros((5, 2)), np.zeros((6, 3))], r"conditions files of the shapes \[\(2,\), \(3,\)\] a row"),
        ([np.full((5, 2), np.nan), np.zeros((6, 2))], "5 of 11 conditions hold NaN"),
    ],
)
def test_conditions_that_do_not_fit_are_told(tmp_path, conditions, words):
    for number, (images, values) in enumerate(zip((PIXELS[:5], PIXELS[5:]), conditions, strict=True)):
        np.save(tmp_path / f"images-{number}.npy", images)
        np.save(tmp_path / f"conditions-{number}.npy", values)
    with pytest.raises(CbdmError, match=words):
        npy(path=tmp_path)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_grey_among_colours_is_refused_unless_channels_say(tmp_path, channels):
    """What a set has some of is known when the first part is written already."""
    options = folders(tmp_path)
    (tmp_path / "owl" / "00.png").write_bytes(png(PIXELS[0, :, :, 0]))
    encoded = ENCODED.build("folder", {**options, "channels": channels})
    if channels:
        assert {row.shape for row in encoded.rows()} == {(channels, 6, 5)}
    else:
        with pytest.raises(CbdmError, match=r"owl/00.png is grey and .*cat/01.png is not: give channels=3"):
            list(encoded.rows())


@pytest.mark.parametrize("name", ["a\nb", "", "a\u2028b", "caf\udce9"])
def test_a_class_name_that_is_no_line_is_written_as_a_data_set_has_it(tmp_path, name):
    """The last is what a file's name becomes that is not in UTF-8."""
    told = Labelling(torch.tensor([1, 0]), (name, "owl"))
    write_npy(tmp_path, PIXELS[:2].transpose(0, 3, 1, 2), lambda: told)
    there, here = Dataset(torch.from_numpy(PIXELS[:2].transpose(0, 3, 1, 2)), *told), npy(path=tmp_path)
    assert here.class_names == there.class_names and here.content_hash() == there.content_hash()


@pytest.mark.slow
def test_more_than_the_memory_is_written(tmp_path):
    """1.2 GB of images in a tar, by a process that may allocate 1 GiB and so cannot hold them."""
    big = np.zeros((512, 512, 3), np.uint8)
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as packed:
        for i in range(1500):
            big[:8, :8] = i % 251
            for ending, content in (("png", png(big)), ("cls", str(i % 3).encode())):
                member = tarfile.TarInfo(f"{i:05d}.{ending}")
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    cbdm = [sys.executable, "-m", "cbdm_cli", "data", "a.tar"]
    within = subprocess.run([*cbdm, "--to", "d"], cwd=tmp_path, capture_output=True, text=True, preexec_fn=_capped)
    assert within.returncode == 0, within.stderr[-2000:]
    first, last = (np.load(file, mmap_mode="r") for file in sorted((tmp_path / "d").glob("images-*"))[::4])
    assert first[5, 0, 0, 0] == 5 and last[-1, 2, 7, 7] == 1499 % 251
    beyond = subprocess.run(cbdm, cwd=tmp_path, capture_output=True, text=True, preexec_fn=_capped)
    assert beyond.returncode != 0
