"""A CSV beside images: what its columns mean by the stated rule, and one line for what is wrong."""

import numpy as np
import pytest
from PIL import Image

from cbdm_core.data.folders import folder
from cbdm_core.data.table import names_a_file
from cbdm_core.errors import CbdmError

NAMES = ("b.png", "deep/a.png", "c.png")


@pytest.fixture
def read(tmp_path):
    (tmp_path / "deep").mkdir()
    for shade, name in enumerate(NAMES):
        Image.fromarray(np.full((2, 2), shade, np.uint8)).save(tmp_path / name)

    def read(table):
        (tmp_path / "t.csv").write_text(table, encoding="utf-8")
        return folder(path=tmp_path, labels="t.csv")

    return read


def table(head, *values, files=NAMES):
    return "\n".join([head, *(f"{file},{value}" for file, value in zip(files, values))])


@pytest.mark.parametrize(
    ("text", "y", "names", "condition"),
    [
        (table("x,kind", "owl", "cat", "owl"), [1, 0, 1], ("cat", "owl"), None),
        ("\ufeff" + table("file,class", '"a, b"', "a", "a"), [1, 0, 0], ("a", "a, b"), None),
        (table("x,kind", 2, 0, 2), [2, 0, 2], ("0", "1", "2"), None),
        (table("x,kind", 1, 0, 1), [1, 0, 1], ("0", "1"), None),
        ("i,Label,FILE_NAME\n" + "\n".join(f"{i},k{i},{n}" for i, n in enumerate(NAMES)), [0, 1, 2], None, [0, 1, 2]),
        (table("x,angle", 0.5, 1, 2), None, None, [0.5, 1, 2]),
        (table("x,u,v", "0,1.5", "-1e3,0", "7,7"), None, None, [0, 1.5, -1000, 0, 7, 7]),
        (table("x,u,v", "0,1", "1,1", "0,0"), None, None, [0, 1, 1, 1, 0, 0]),
        (table("x,class,u,v", "k,0,1", "l,1,1", "k,0,0"), [0, 1, 0], ("k", "l"), [0, 1, 1, 1, 0, 0]),
    ],
)
def test_the_columns_mean_what_the_rule_says(read, text, y, names, condition):
    data = read(text)
    assert data.x[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert y is None or data.y.tolist() == y
    assert names is None or data.class_names == names
    assert (None if data.condition is None else data.condition.flatten().tolist()) == condition


def test_attributes_and_vectors_are_conditions_of_their_kind(read):
    assert read(table("x,u,v", "0,1", "1,1", "0,0")).condition.dtype.is_floating_point is False
    assert read(table("x,u,v", "0,1", "1,1", "0,2")).condition.dtype.is_floating_point is True


@pytest.mark.parametrize("text", [table("x,u,v", "0,1", "1,1", "0,2"), table("x,u,class,v", "0,k,1", "1,l,1", "0,k,0")])
def test_columns_name_the_numbers_of_the_condition(read, text):
    assert read(text).condition_names == ("u", "v")
    assert read(table("x,kind", 0, 1, 2)).condition_names is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            table("x,kind", 0, 1, 2, files=("b.png", "gone.png", "c.png")),
            r"row 3 of t\.csv names the file gone\.png, which is not in .*: bring it, or remove the row",
        ),
        (table("x,kind", 0, 1, files=("b.png", "c.png/d.png")), r"d\.png cannot be read: Not a directory"),
        (table("x,kind", 0, 1, files=("b.png", "n" * 300)), "nnn cannot be read: File name too long"),
        (
            table("x,kind", 0, 1, files=("b.png", "../b.png")),
            r"names the file '../b\.png': names are relative and stay",
        ),
        (table("x,kind", 0, files=("/etc/passwd",)), r"names the file '/etc/passwd'"),
        (table("x,kind", 0, files=("c:\\b.png",)), "names the file 'c:"),
        (table("x,kind", 0, files=("",)), "names the file ''"),
        (table("x,kind", 0, 1, files=("b.png", "b.png")), r"names b\.png twice"),
        (table("x,kind", 0, "1,2"), "row 3 of .* has 3 values, the first has 2"),
        (table("x,kind", "a", ""), "column kind of .* is empty in row 3"),
        (table("x,kind", 0, 10**30), "label 1000000.* makes too many classes"),
        (table("x,u,v", "1,2", "3,red"), r"column v of .* has 'red' in row 3: .* call a column of names class"),
        (table("x,u,v", "1,2", "3,nan"), "column v of .* has 'nan' in row 3"),
        (table("x,u,v", "1,2", "3,1e60"), "column v of .* has '1e60' in row 3"),
        (table("x,kind", 0, 1, files=("b.png", "./b.png")), r"names b\.png twice"),
        (table("x,kind", 0, 1, files=("deep/a.png", "deep//./a.png")), r"names deep/a\.png twice"),
        (",file,label\n0,b.png,owl\n1,c.png,cat\n", r"column 1 of .*t\.csv has no name, .* by to_csv\(index=False\)"),
        (table("file,label, ", "owl,0.5"), "column 3 of .* has no name"),
        (table("Unnamed: 0,file,label", "b.png,owl", files=(0,)), "column 1 of .* is called 'Unnamed: 0', as an index"),
        (
            table("b.png,owl", "cat", files=NAMES[1:]),
            r"first row of .*t\.csv names the file b\.png, .* file_name,class",
        ),
        (table("./b.png,0.5,0.5", "1,2", files=NAMES[1:]), r"first row of .*t\.csv names the file \./b\.png"),
        (table("x,class,label", "1,2"), "has the columns class and label"),
        (table("x,u,u", "1,2"), "two columns of one name"),
        ("x,kind\n", "needs a row of column names"),
        ("x\nb.png\n", "needs a row of column names"),
        ('x,kind\nb.png,"a', "cannot be read as CSV"),
    ],
)
def test_refused_in_one_line(read, text, said):
    with pytest.raises(CbdmError, match=said) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,kind\n\nb.png,0\n\n\nc.png,1,2\n", "^row 6 of "),
        ("\nx,kind\nb.png,a\n\nc.png,\n", "is empty in row 5:"),
        ("x,u,v\nb.png,1,2\n\nc.png,3,red\n", "'red' in row 4:"),
        ("x,kind\n\n\nb.png,0\ngone.png,1\n", "^row 5 of "),
        ('x,kind\n"b.png","an owl\nof snow"\n\nc.png,\n', "is empty in row 4:"),
    ],
)
def test_a_row_is_that_of_a_spreadsheet(read, text, said):
    """Empty rows count, and a cell of two lines is one."""
    with pytest.raises(CbdmError, match=said):
        read(text)


def test_names_are_read_without_dots(read):
    assert read(table("x,kind", 0, 1, 0, files=("./b.png", "deep/./a.png", ".//c.png"))).y.tolist() == [0, 1, 0]


def test_a_table_without_column_names_is_known_beside_images_elsewhere(read, tmp_path):
    """The files start from `path`, not from where the table lies."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text(table("b.png,owl", "cat", files=NAMES[1:]))
    with pytest.raises(CbdmError, match="must name the columns"):
        folder(path=tmp_path, labels="tables/t.csv")


@pytest.mark.parametrize(
    ("text", "there"),
    [
        (table("kind,file", *NAMES, files="abc"), True),
        (table("x,kind", 0, 1, files=("gone.png", "deep/a.png")), True),
        (table("x,kind", 0, 1, 2, files=("gone.png", "deep", "a" * 5000)), False),
        ("hello", False),
    ],
)
def test_a_table_names_a_file_or_none(tmp_path, read, text, there):
    (tmp_path / "t.csv").write_text(text)
    assert names_a_file(tmp_path / "t.csv") is there


def test_text_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("x,kind\nb.png,é".encode("latin1"))
    with pytest.raises(CbdmError, match="save it as UTF-8"):
        folder(path=tmp_path, labels=tmp_path / "t.csv")
