"""Text that is safe to show: no split character, no stop string."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jeito.decode.text import TextStream


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_text_cut_anywhere_comes_out_whole_and_never_as_half_a_character(text: str, cuts: list[int]) -> None:
    stream = TextStream()
    shown = ""
    for piece in pieces(text.encode(), cuts):
        shown += stream.push(piece)
        assert text.startswith(shown)
    assert shown + stream.finish() == text


@given(
    st.text("abc"),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 99)),
)
def test_nothing_of_a_stop_string_is_shown_whatever_the_cuts(text: str, stops: list[str], cuts: list[int]) -> None:
    stream = TextStream(stops)
    shown = "".join(stream.push(piece) for piece in pieces(text.encode(), cuts)) + stream.finish()
    first = min((text.find(stop) for stop in stops if stop in text), default=None)
    if first is None:
        assert shown == text
        assert stream.stopped is None
    else:
        # A longer stop string may begin earlier and be still unfinished when a shorter one inside it is complete.
        assert stream.stopped in stops
        assert text.startswith(shown + (stream.stopped or ""))
        assert not any(stop in shown for stop in stops)


def test_a_stop_string_across_three_tokens_ends_the_text_before_it() -> None:
    stream = TextStream(["END"])
    assert [stream.push(piece) for piece in (b"so E", b"N", b"D and more")] == ["so ", "", ""]
    assert stream.stopped == "END"
    assert stream.push(b"nothing") == ""


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end() -> None:
    stream = TextStream(["</s>"])
    assert stream.push(b"a </") == "a "
    assert stream.finish() == "</"


def test_an_unfinished_character_is_dropped() -> None:
    stream = TextStream()
    assert stream.push("é".encode()[:1]) == ""
    assert stream.finish() == ""


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    assert TextStream().push(b"a\xffb") == "a\N{REPLACEMENT CHARACTER}b"
