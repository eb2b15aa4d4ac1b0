"""Parts of file names: what may stand in one, how long it gets, and that two texts never share one."""

import os

from hypothesis import example, given
from hypothesis import strategies as st

from cbdm_cli.naming import file_tag, file_words
from cbdm_cli.study.plan import Reading

TEXTS = st.text(st.sampled_from("ab1:,-/.\\ é漢\n*"), min_size=1, max_size=40)


def test_readings_are_called_what_they_have_always_been():
    """A comparison that goes on finds its results by these names."""
    names = [
        Reading(kind="", omega="0.25").file,
        Reading(kind="", omega="implied:0.5").file,
        Reading(kind="", omega="linear:2,1").file,
        Reading(kind="interval", omega="0.5", interval=(0.1, 0.7)).file,
    ]
    assert names == ["omega-0.25.json", "omega-implied-0.5.json", "omega-linear-2-1.json", "omega-0.5-in-0.1-0.7.json"]


@given(one=TEXTS, other=TEXTS)
@example(":", "-")
@example("a:b", "a-b")
@example("a-b:c", "a:b-c")
@example("a-b:c", "a-b-c")
@example("a:b:c", "a-b-c")
@example("a/b-c", "a-b-c")
@example("a/b", file_tag("a/b"))
def test_two_texts_have_two_tags(one, other):
    assert (file_tag(one) == file_tag(other)) == (one == other)


@given(text=TEXTS, times=st.integers(1, 30))
def test_a_tag_fits_into_any_file_name(text, times):
    tag = file_tag(text * times)
    assert len(os.fsencode(tag)) <= 48 + 9
    assert not set(tag) & set(":,/\\*\n") and not set(file_words(text)) & set(":,/\\*\n")


def test_a_short_tag_is_read_as_the_text():
    told = {"pixels": "pixels", "feats:net.map": "feats-net.map", "digits-lt-001": "digits-lt-001"}
    assert {text: file_tag(text) for text in told} == told
    path = file_tag("torchscript:nets/a.pt")
    assert path.startswith("torchscript-nets-a.pt-") and path != file_tag("torchscript:nets-a.pt")
