"""The recipes for published sets, on files laid out as theirs: what the CSV says is what the source then reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cbdm_core.data.folders import folder
from docs.evidence import ROOT

CELEBA = """6
5_o_Clock_Shadow Bald Black_Hair Blond_Hair Brown_Hair Gray_Hair Young
000001.jpg -1 -1  1 -1 -1 -1  1
000002.jpg  1 -1 -1 -1  1 -1  1
000003.jpg -1 -1  1 -1  1 -1  1
000004.jpg -1 -1 -1 -1 -1 -1 -1
000005.jpg -1  1 -1 -1 -1 -1 -1
000006.jpg -1 -1  1 -1 -1 -1 -1
"""
IMAGENET = "train/n01/a.JPEG 0\ntrain/n02/b.JPEG 1\ntrain/n01/c.JPEG 0\n"
BIRDS = "1 001.Black_footed_Albatross/a.jpg\n2 001.Black_footed_Albatross/b.jpg\n3 002.Laysan_Albatross/c.jpg\n"
SPLIT = "1 1\n2 0\n3 1\n"


@pytest.fixture(scope="module")
def recipes() -> dict[str, Any]:
    page = (ROOT / "docs" / "guides" / "own-data.md").read_text(encoding="utf-8")
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "def celeba_hair" in code)
    known: dict[str, Any] = {}
    exec(block, known)  # the page's own
    return known


@pytest.mark.parametrize(
    ("recipe", "lists", "images", "files", "classes"),
    [
        (
            "celeba_hair",
            {"list_attr_celeba.txt": CELEBA},
            "img_align_celeba",
            ["000001.jpg", "000002.jpg", "000005.jpg", "000006.jpg"],
            ["Black_Hair", "Brown_Hair", "Bald", "Black_Hair"],
        ),
        (
            "imagenet_lt",
            {"ImageNet_LT_train.txt": IMAGENET},
            ".",
            ["train/n01/a.JPEG", "train/n02/b.JPEG", "train/n01/c.JPEG"],
            ["0", "1", "0"],
        ),
        (
            "cub",
            {"images.txt": BIRDS, "train_test_split.txt": SPLIT},
            "images",
            ["001.Black_footed_Albatross/a.jpg", "002.Laysan_Albatross/c.jpg"],
            ["001.Black_footed_Albatross", "002.Laysan_Albatross"],
        ),
    ],
)
def test_a_recipe_makes_the_csv_that_the_source_reads(recipes, tmp_path, recipe, lists, images, files, classes):
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    for shade, name in enumerate(files, start=1):
        file: Path = tmp_path / images / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9 + shade, 12), (10 * shade,) * 3).save(file, format="PNG")
    recipes["write_csv"](tmp_path / "them.csv", recipes[recipe](tmp_path))
    data = folder(path=str(tmp_path / images), labels=str(tmp_path / "them.csv"), size=8)
    assert isinstance(data.x, torch.Tensor)
    assert data.x[:, 0, 4, 4].tolist() == [10 * shade for shade in range(1, len(files) + 1)]
    assert [data.class_names[y] for y in data.y.tolist()] == classes and bool(data.counts().all())
