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
    # The first to be complete ends the text; of those that are complete with the same character, the longest.
    found = min(((text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text), default=None)
    if found is None:
        assert (shown, stream.stopped) == (text, None)
    else:
        end, size = found
        assert (shown, stream.stopped) == (text[: end + size], text[end + size : end])


@given(st.binary(), st.lists(st.integers(0, 1000)))
def test_any_bytes_give_the_same_text_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    stream = TextStream()
    shown = "".join(stream.push(piece) for piece in pieces(data, cuts)) + stream.finish()
    whole = data.decode(errors="replace")
    assert whole in (shown, f"{shown}\N{REPLACEMENT CHARACTER}")
    assert shown == TextStream().push(data)


def test_of_two_stop_strings_the_one_that_comes_first_ends_the_text() -> None:
    stream = TextStream(["later", "soon"])
    assert stream.push(b"as soon as later") == "as "
    assert stream.stopped == "soon"


def test_a_stop_string_inside_another_ends_the_text_in_one_token_as_in_many() -> None:
    whole, cut = TextStream(["abcd", "bc"]), TextStream(["abcd", "bc"])
    assert whole.push(b"abcd") == "".join(cut.push(bytes([letter])) for letter in b"abcd") == "a"
    assert whole.stopped == cut.stopped == "bc"


def test_a_stop_string_of_several_bytes_a_letter_is_found_across_a_cut_letter() -> None:
    stream = TextStream(["ção"])
    data = "canção".encode()
    assert "".join(stream.push(data[at : at + 1]) for at in range(len(data))) == "can"
    assert stream.stopped == "ção"


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
