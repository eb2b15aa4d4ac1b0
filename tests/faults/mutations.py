"""Structure-aware mutations: of plain values at their paths, of arrays, of tensors, of bytes."""

import copy
import json

import numpy as np
import torch
from hypothesis import strategies as st


class Opaque:
    """A large value whose text is short: strategies are written out when they are made."""

    def __init__(self, value):
        self.value = value

    def __repr__(self) -> str:
        return f"{type(self.value).__name__}(…)"


HOSTILE = (
    *(0, -1, 1, 7, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**12, 10**30, 0.0, -0.5, 0.5, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), True, False, "", " ", ".", "..", "../../x", "/tmp/x", "/dev/zero", "a/b", "x" * 300),
    *("\x1b[31mred", "a\nb", "\u202e", "\0", "uniform", "power:1e9", "fixed:1,2", "linear:1,2", "implied:nan"),
    *("cbdm:null", "cbdm+cbdm", "os:system", "module:os.system"),
    *([], [[]], [1, 2, 3], ["a", "a"], [-1], [2**63], {}, {"a": {"b": 1}}),
)  # fmt: skip


def hostile():
    """A value that no reader expects."""
    leaf = st.one_of(
        st.sampled_from(HOSTILE).map(copy.deepcopy),
        st.integers(-3, 300),
        st.floats(width=32),
        st.text(max_size=8),
        st.booleans(),
    )
    return st.one_of(leaf, st.lists(leaf, max_size=4), st.dictionaries(st.text(max_size=5), leaf, max_size=3))


def places(tree):
    """Every (container, key) in nested tables and lists."""
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += [(tree, key), *places(value)]
    return found


@st.composite
def mutated(draw, tree, values=None):
    """The tree with one to three changes: a value replaced, removed, wrapped, moved, or added."""
    tree = copy.deepcopy(tree.value if isinstance(tree, Opaque) else tree)
    values = hostile() if values is None else values
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            return tree
        holder, key = draw(st.sampled_from(found))
        change = draw(st.sampled_from(("replace", "remove", "wrap", "move", "add")))
        if change == "replace":
            holder[key] = draw(values)
        elif change == "remove":
            del holder[key]
        elif change == "wrap":
            holder[key] = [holder[key]] if draw(st.booleans()) else {"a": holder[key]}
        elif change == "move":
            other, place = draw(st.sampled_from(found))
            if place in (other if isinstance(other, dict) else range(len(other))):
                holder[key] = copy.deepcopy(other[place])
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(values)
        else:
            holder.append(draw(values))
    return tree


@st.composite
def damaged(draw, content):
    """The bytes with a few of them changed, cut, doubled, or others put in."""
    content = bytearray(content.value if isinstance(content, Opaque) else content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        change = draw(st.sampled_from(("flip", "cut", "zero", "insert", "double")))
        if change == "flip" and content:
            content[place] ^= draw(st.integers(1, 255))
        elif change == "cut":
            content = content[:place]
        elif change == "zero":
            content[place : place + 8] = bytes(8)
        elif change == "insert":
            content[place:place] = draw(st.binary(max_size=12))
        else:
            content[place:place] = content[place : place + 64]
    return bytes(content)


def as_json(tree):
    """JSON as the strictest and as the laxest writer have it: NaN and deep nesting too."""
    return st.one_of(
        mutated(tree).map(lambda value: json.dumps(value).encode()),
        damaged(json.dumps(tree).encode()),
        st.integers(1, 6000).map(lambda depth: b"[" * depth),
        st.sampled_from((b"", b"null", b"0", b'"x"', b"[]", b"{}", b"\xff\xfe", b"{" * 5000, b'{"a":' * 5000)),
    )


@st.composite
def array(draw, value):
    """An array of another type, shape or content."""
    change = draw(st.sampled_from(("dtype", "shape", "fill", "cut", "huge", "text", "object", "strides")))
    if change == "dtype":
        kind = draw(st.sampled_from(("u1", "i1", "i8", "u8", "f2", "f4", "f8", "?", "c8", "U3", "S2")))
        return np.zeros(value.shape, kind) if value.dtype.kind == "U" else value.astype(kind)
    if change == "shape":
        return value.reshape(draw(st.sampled_from((-1, (1, -1), (-1, 1), (1, *value.shape), (*value.shape, 1)))))
    if change == "fill":
        filler = draw(st.sampled_from((0, 255, -1, 2**63, 2**64 - 1, np.nan, np.inf, 1e300)))
        return np.full(value.shape, filler)
    if change == "cut":
        return value[: draw(st.integers(0, len(value)))] if value.ndim else value
    if change == "huge":
        return np.broadcast_to(np.uint8(0), (draw(st.integers(0, 3)), 70_000))
    if change == "text":
        return np.array(draw(st.lists(st.text(max_size=5), max_size=5)))
    if change == "object":
        return np.array([{"a": 1}, None], dtype=object)
    return value[::-1]


@st.composite
def tensor(draw, value):
    """A tensor of another shape, type, layout or content; views that claim more than they hold among them."""
    if value.is_meta or value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
        return value
    change = draw(st.sampled_from(("shape", "dtype", "repeat", "sparse", "fill", "empty", "scalar", "meta", "complex")))
    if change == "shape":
        return torch.zeros(draw(st.lists(st.integers(0, 5), max_size=4)))
    if change == "dtype":
        return value.to(draw(st.sampled_from((torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool))))
    if change == "repeat" and value.ndim:
        return torch.zeros(1).expand(draw(st.sampled_from((tuple(value.shape), (10**12,), (10**6, 10**6)))))
    if change == "sparse":
        return value.to_sparse() if value.ndim else value
    if change == "fill":
        filler = draw(st.sampled_from((float("nan"), float("inf"), -1.0, 1e30)))
        return torch.full_like(value, filler) if value.is_floating_point() else value
    if change == "empty":
        return torch.empty(0)
    if change == "meta":
        return value.to("meta")
    return value.to(torch.complex64) if change == "complex" else torch.tensor(3)
