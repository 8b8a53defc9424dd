import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jeito.decode.local import LocalModel
from jeito.engines.base import Loading
from jeito.engines.toy import ToyEngine
from jeito.errors import InputError, JeitoError, ModelError, UnsupportedError
from jeito.run.open import Reference, open_apart, open_model, parse, read_card, read_facts
from jeito.run.run import run

DIGITS = "0123456789" * 30


@pytest.mark.parametrize(
    ("text", "target", "within", "engine", "precision"),
    [
        ("demo", "demo", None, None, None),
        ("toy", "toy", None, None, None),
        ("models/a.gguf", "models/a.gguf", None, None, None),
        ("/models/folder", "/models/folder", None, None, None),
        ("org/name", "org/name", None, None, None),
        ("org/name:Q4_K_M", "org/name:Q4_K_M", None, None, None),
        ("org/name#main", "org/name", "main", None, None),
        ("org/name:Q4_0#v1.0@llamacpp", "org/name:Q4_0", "v1.0", "llamacpp", None),
        ("http://host:8000/v1", "http://host:8000/v1", None, None, None),
        ("https://host/v1#some/name", "https://host/v1", "some/name", None, None),
        ("demo@llamacpp", "demo", None, "llamacpp", None),
        ("demo@nf4", "demo", None, None, "nf4"),
        ("demo@transformers:nf4", "demo", None, "transformers", "nf4"),
        ("demo@nf4:transformers", "demo", None, "transformers", "nf4"),
        ("a@b/model.gguf", "a@b/model.gguf", None, None, None),
        ("a@b/model@1.gguf", "a@b/model@1.gguf", None, None, None),
        ("a@b/model@1.gguf@fp16", "a@b/model@1.gguf", None, None, "fp16"),
        ("me@host/folder@toy", "me@host/folder", None, "toy", None),
    ],
)
def test_a_reference_is_read(
    text: str, target: str, within: str | None, engine: str | None, precision: str | None
) -> None:
    assert parse(text) == Reference(text, target, within, engine, precision)


def test_a_path_that_is_there_is_a_path_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "model@nf4"
    assert parse(str(folder)).precision == "nf4"
    folder.mkdir()
    assert parse(str(folder)) == Reference(str(folder), str(folder))
    assert parse(f"{folder}@fp16") == Reference(f"{folder}@fp16", str(folder), None, None, "fp16")


@pytest.mark.parametrize(
    ("text", "word", "near"),
    [
        ("demo@llamacp", "llamacp", "llamacpp"),
        ("demo@lamacpp:nf4", "lamacpp", "llamacpp"),
        ("demo@transformer", "transformer", "transformers"),
        ("demo@nf", "nf", "nf4"),
        ("demo@fp:toy", "fp", "fp16"),
        ("demo@int8:transformrs", "transformrs", "transformers"),
    ],
)
def test_an_unknown_engine_or_precision_lists_near_names(text: str, word: str, near: str) -> None:
    with pytest.raises(InputError, match=f"'{word}'") as caught:
        parse(text)
    assert near in caught.value.hint


def test_an_engine_that_is_like_none_lists_all(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse("demo@zzz")
    assert all(name in caught.value.hint for name in ("llamacpp", "transformers", "toy", "bf16", "nf4"))


@pytest.mark.parametrize("text", ["demo@nf4:fp16", "demo@toy:llamacpp"])
def test_two_engines_or_two_precisions_are_one_too_many(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


@pytest.mark.parametrize("text", ["", "#main", "@llamacpp"])
def test_a_reference_that_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no model") as caught:
        parse(text)
    assert "demo" in caught.value.hint


@pytest.mark.parametrize("text", ["http://host:8000/v1", "https://host/v1#some/name"])
def test_a_server_has_no_files_to_read(text: str) -> None:
    for read in (read_card, read_facts):
        with pytest.raises(UnsupportedError, match="is a server") as caught:
            read(text)
        assert "jeito probe http" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("org/name", "jeito pull org/name"),
        ("org/name#main@nf4", "jeito pull org/name#main"),
        ("org/name:Q4_K_M", "jeito pull org/name:Q4_K_M"),
        ("org/name:Q4_K_M#v2@transformers", "jeito pull org/name:Q4_K_M#v2"),
    ],
)
def test_what_is_not_in_the_hubs_cache_is_said_with_the_command_that_gets_it(text: str, hint: str) -> None:
    for read in (open_model, read_card):
        with pytest.raises(ModelError, match="not in the hub's cache") as caught:
            read(text)
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "word"),
    [("a.gguf@nf4", "GGUF"), ("demo#main@nf4", "revision"), ("demo@llamacpp:nf4", "precision")],
)
def test_what_an_engine_does_not_run_is_refused_with_a_sentence(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        open_model(text)


@pytest.mark.parametrize(
    ("engine", "precision", "word"), [("llamacp", None, "llamacpp"), (None, "fp61", "fp16"), ("x", "y", "toy")]
)
def test_an_option_that_names_no_engine_or_precision_lists_near_names(
    engine: str | None, precision: str | None, word: str
) -> None:
    with pytest.raises(InputError) as caught:
        open_model("demo", engine=engine, precision=precision)
    assert word in caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (open_model, read_card):
        with pytest.raises(ModelError, match=r"missing\.gguf"):
            read(str(tmp_path / "missing.gguf"))


def test_a_file_that_is_no_gguf_says_how_it_starts(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="PK"):
        open_model(str(file))


def test_a_file_has_its_own_precision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not nf4"):
        open_model(f"{tmp_path}/a.gguf@llamacpp:nf4")


def test_a_file_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="#main"):
        open_model(f"{tmp_path}/a.gguf#main")


@pytest.mark.parametrize("text", ["~nobody-is-called-so/a.gguf", f"{DIGITS}@x", DIGITS])
def test_a_strange_name_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(JeitoError):
        open_model(text)


def test_precision_auto_is_what_is_meant_without_it() -> None:
    assert read_card("demo@auto") == read_card("demo", precision="auto") == read_card("demo")


def test_a_card_is_read_of_the_toy_and_of_the_demo() -> None:
    assert read_card("toy").engine == "toy"
    card = read_card("demo")
    assert (card.engine, card.precision) == ("llamacpp", "Q4_1")
    assert card.bytes > 10**7


def test_an_engine_can_be_named_beside_the_model() -> None:
    model = open_model("toy", engine="toy")
    assert model.name == "toy@toy"
    assert run("plain", model, "hi").text() == "hi"


def test_context_and_slots_are_the_callers() -> None:
    model = open_model("toy", loading=Loading(context=64, slots=3))
    assert (model.context, model.card.slots) == (64, 3)


def test_a_model_apart_computes_in_one_thread_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, computing = set[int](), set[int]()
    extend = ToyEngine.extend

    def noted(*given: Any, **named: Any) -> Any:
        computing.add(threading.get_ident())
        return extend(*given, **named)

    monkeypatch.setattr(ToyEngine, "extend", noted)
    model = open_apart("toy")
    both = threading.Barrier(2)

    def ask(text: str) -> None:
        asking.add(threading.get_ident())
        both.wait()
        assert run("plain", model, text, seed=1).text()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ask, ("one", "two")))
    assert isinstance(model, LocalModel)
    list(model.read(model.tokens("three"), 0))
    model.close()
    assert len(asking) == 2
    assert len(computing) == 1
    assert not computing & (asking | {threading.get_ident()})


def test_what_cannot_be_opened_apart_says_so_as_ever() -> None:
    with pytest.raises(InputError, match="toi"):
        open_apart("toy", engine="toi")
