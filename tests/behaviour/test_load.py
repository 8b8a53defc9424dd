import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import Node, Place, _merge, load, names, schema
from jeito.errors import BehaviourError, JeitoError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project folder with an empty home beside it."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("JEITO_HOME", str(tmp_path / "home"))
    return tmp_path / "project"


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def refusal(reference: str, *sets: str) -> BehaviourError:
    with pytest.raises(BehaviourError) as caught:
        load(reference, sets)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


# --- what is bad in a file: its text, the line and column, words of the sentence, words of the hint

BAD = {
    "an unknown knob": ("sampling:\n  temprature: 1\n", 2, 3, "sampling has no key 'temprature'", "temperature?"),
    "an unknown key": ("system: x\nsytem: y\n", 2, 1, "no key 'sytem'", "did you mean system?"),
    "a key near to nothing": ("zzzz: 1\n", 1, 1, "no key 'zzzz'", "there are: adapter, checks"),
    "a knob at the top": ("name: a\ntop_p: 0.5\n", 2, 1, "no key 'top_p'", "sampling.top_p"),
    "an unknown key deep inside": ("checks: []\ntools:\n  - {use: a, tmeout: 3}\n", 3, 14, "tools.0 has", "timeout?"),
    "an unknown key in dry": ("sampling: {dry: {multiplier: 1, bas: 2}}\n", 1, 33, "sampling.dry has", "base?"),
    "text for a number": ("sampling:\n  temperature: '0.2'\n", 2, 16, "a number, not '0.2'", "without quotes"),
    "a word for a number": ("sampling: {temperature: hot}\n", 1, 25, "a number, not 'hot'", "such as 0.7"),
    "a truth value for a number": ("sampling: {temperature: true}\n", 1, 25, "a number, not true", "such as 0.7"),
    "decimals for a whole number": ("sampling: {max_new_tokens: 5.0}\n", 1, 28, "a whole number, not 5.0", "such as 7"),
    "a number for text": ("system: 12\n", 1, 9, "system must be text, not 12", "quotes"),
    "null for text": ("name: a\nsystem:\n", 2, 8, "system must be text, not null", "quotes"),
    "yes for true": ("reasoning: {show: yes}\n", 1, 19, "true or false, not 'yes'", "true and false"),
    "text for a list": ("sampling: {stop: END}\n", 1, 18, "a list, not 'END'", "[one, two]"),
    "a list for a map": ("sampling: [1]\n", 1, 11, "a map, not [1]", "{key: value}"),
    "a negative temperature": (
        "sampling:\n  temperature: -1\n",
        2,
        16,
        "at least 0, not -1",
        "at least 0; without it: 1.0",
    ),
    "top_p of nothing": ("sampling: {top_p: 0}\n", 1, 19, "over 0, not 0", "over 0 and at most 1"),
    "top_p over one": ("sampling: {top_p: 1.5}\n", 1, 19, "at most 1, not 1.5", "over 0 and at most 1"),
    "no new tokens": ("sampling: {max_new_tokens: 0}\n", 1, 28, "at least 1, not 0", "without it: 512"),
    "a negative seed": ("sampling: {seed: -1}\n", 1, 18, "at least 0, not -1", "under 18446744073709551616"),
    "a seed beyond 64 bits": (f"sampling: {{seed: {2**64}}}\n", 1, 18, f"under {2**64}", "at least 0"),
    "an infinite number": ("sampling: {temperature: 1e999}\n", 1, 25, "too long a number", "quotes"),
    "not a number": ("sampling: {temperature: .nan}\n", 1, 25, "a number, not '.nan'", "such as 0.7"),
    "an endless number": (f"sampling: {{seed: {'9' * 9000}}}\n", 1, 18, "too long a number", "quotes"),
    "endless zeros": (f"sampling: {{seed: {'0' * 5000}}}\n", 1, 18, "too long a number", "quotes"),
    "a token that is no number": ("sampling: {logit_bias: {x: 1}}\n", 1, 28, "a whole number, not 'x'", "such as 7"),
    "dry without its multiplier": (
        "sampling:\n  dry: {base: 2}\n",
        2,
        8,
        "dry.multiplier is missing",
        "add multiplier",
    ),
    "an unknown placement": ("placement: sytem\n", 1, 12, "cannot be 'sytem'", "did you mean system?"),
    "an unknown permission": ("tools:\n- use: a\n  permission: alow\n", 3, 15, "cannot be 'alow'", "allow?"),
    "an unknown overflow": ("guard: {overflow: drop}\n", 1, 19, "cannot be 'drop'", "drop_oldest"),
    "a language that is no tag": ("language: pt_BR\n", 1, 11, "cannot be 'pt_BR'", "pt-BR"),
    "two contracts": ("output:\n  regex: a\n  lark: b\n", 1, 1, "only one of regex, lark", "regex: null"),
    "no choice": ("output: {choice: []}\n", 1, 18, "output.choice is empty", "leave the key out"),
    "a choice of tools with no tools": ("tool_choice: required\n", 1, 14, "there are no tools", "add tools"),
    "a claim of two checks": ("checks:\n  - {a: 1, b: 2, at_least: 0.9}\n", 2, 5, "not 2: a, b", "at_least"),
    "a claim of no check": ("checks:\n  - {at_least: 0.9}\n", 2, 5, "names none", "{words: {max: 120}, at_least: 0.9}"),
    "a claim without at_least": (
        "checks:\n  - {words: {max: 1}}\n",
        2,
        5,
        "the claim words has no threshold",
        "add at_least: 0.9",
    ),
    "a claim of more than all": (
        "checks:\n  - {a: 1, at_least: 2}\n",
        2,
        22,
        "at most 1, not 2",
        "over 0 and at most 1",
    ),
    "a check with an odd name": ("checks: [{'a b': 1, at_least: 1}]\n", 1, 10, "cannot be 'a b'", "words"),
    "a claim that is a word": ("checks: [words]\n", 1, 10, "checks.0 must be a map, not 'words'", "{key: value}"),
    "an empty file": ("", 1, 1, "this file is empty", "system or sampling"),
    "a file of comments": ("# nothing\n", 1, 1, "this file is empty", "system or sampling"),
    "a list at the top": ("- a\n- b\n", 1, 1, "a map of keys, not ['a', 'b']", "key: value"),
    "a word at the top": ("\nhello\n", 2, 1, "a map of keys, not 'hello'", "key: value"),
    "a key twice": ("system: a\nname: b\nsystem: c\n", 3, 1, "'system' is written twice", "bad.yaml:1:1"),
    "a tab": ("sampling:\n\ttemperature: 1\n", 2, 1, "not YAML", "spaces, not tabs"),
    "an open bracket": ("sampling: {top_k: 1\nname: x\n", 2, 5, "not YAML", "quotes"),
    "a colon too many": ("system: a: b\n", 1, 10, "not YAML", "quotes"),
    "a control character": ("name: a\nsystem: a\x01\n", 2, 10, "a character that YAML does not allow", "delete"),
    "half a character": ('system: "\\ud800"\n', 1, 9, "half a character (\\ud800)", "delete"),
    "an anchor": ("name: a\nsystem: &x hi\ndescription: *x\n", 2, 9, "no anchors", "extends"),
    "an alias bomb": ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", 1, 4, "no anchors", "extends"),
    "a merge key": ("<<: {name: a}\n", 1, 1, "no key '<<'", "there are"),
    "a tag": ("system: !!python/object:os.system x\n", 1, 9, "no YAML tags", "quotes"),
    "two documents": ("system: a\n---\nsystem: b\n", 2, 1, "a second document", "one behaviour a file"),
    "a map for a key": ("? {a: b}\n: c\n", 1, 3, "a key is a word", "key: value"),
    "endless nesting": ("output: " + "{json_schema: " * 60, 1, 709, "nested over 50 levels", "flatten"),
    "two parents": ("name: a\nextends: [a, b]\n", 2, 10, "one name or path, not ['a', 'b']", "extends:"),
    "an unknown parent": ("extends: plian\n", 1, 10, "no behaviour is called 'plian'", "did you mean plain"),
    "a parent file that is not there": ("extends: ./no.yaml\n", 1, 10, "no file 'no.yaml'", "jeito behaviours"),
    "a parent with a slash": ("extends: a/b\n", 1, 10, "'a/b' names no behaviour", ".yaml"),
    "itself as a parent": ("extends: bad.yaml\n", 1, 10, "circle: bad.yaml → bad.yaml", "remove one extends"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_file_is_refused_at_its_place_with_a_hint(here, case):
    text, line, column, sentence, hint = BAD[case]
    write("bad.yaml", text)
    error = refusal("bad.yaml")
    assert re.match(rf"bad\.yaml:{line}:{column}: ", str(error)), str(error)
    assert sentence in str(error)
    assert hint in error.hint


def test_the_first_thing_wrong_is_the_one_that_is_said(here):
    write("bad.yaml", "sampling:\n  top_p: 2\n  temperature: hot\nzzz: 1\n")
    assert str(refusal("bad.yaml")).startswith("bad.yaml:2:10: ")


def test_an_error_in_a_parent_is_placed_in_the_parent(here):
    write("base.yaml", "name: base\nsampling:\n  top_k: -1\n")
    write("child.yaml", "extends: base.yaml\n")
    assert str(refusal("child.yaml")).startswith("base.yaml:3:10: ")


def test_the_file_that_was_named_is_complained_of_before_its_parents(here):
    write("base.yaml", "sampling: {top_k: -1}\n")
    write("child.yaml", "name: child\nextends: base.yaml\nsampling: {top_p: 2}\n")
    assert str(refusal("child.yaml")).startswith("child.yaml:3:19: ")


def test_a_circle_shows_its_chain(here):
    write("a.yaml", "extends: sub/b.yaml\n")
    write("sub/b.yaml", "extends: ../a.yaml\n")
    error = refusal("a.yaml")
    assert str(error).startswith("sub/b.yaml:1:10: ")
    assert "a.yaml → sub/b.yaml → sub/../a.yaml" in str(error)


def test_a_parent_beside_the_file_is_named_by_its_path(here):
    write("sub/base.yaml", "system: hi\n")
    write("sub/child.yaml", "extends: base\n")
    assert "base.yaml" in refusal("sub/child.yaml").hint


def test_a_file_that_is_not_utf8_is_refused_where_it_stops_being_so(here):
    Path("latin.yaml").write_bytes("name: a\nsystem: você".encode("latin-1"))
    error = refusal("latin.yaml")
    assert str(error) == "latin.yaml:2:12: this is not UTF-8 text"
    assert "UTF-8" in error.hint


def test_a_folder_is_refused(here):
    Path("folder.yaml").mkdir()
    assert str(refusal("folder.yaml")).startswith("folder.yaml:1:1: this is a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_without_waiting_for_it(here):
    os.mkfifo("pipe.yaml")
    assert "not a file" in str(refusal("pipe.yaml"))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that even root cannot read")
def test_a_file_that_cannot_be_read_is_refused(here):
    Path("mem.yaml").symlink_to("/proc/self/mem")
    assert "mem.yaml:1:1: cannot be read" in str(refusal("mem.yaml"))


def test_a_huge_file_is_refused_before_it_is_parsed(here):
    Path("huge.yaml").write_text("#" * 1_000_001)
    assert str(refusal("huge.yaml")).startswith("huge.yaml:1:1: over 1000000 bytes")


def test_a_byte_order_mark_is_no_part_of_the_first_key(here):
    Path("bom.yaml").write_text("system: hi\n", encoding="utf-8-sig")
    assert load("bom.yaml").behaviour.system == "hi"


@pytest.mark.parametrize(
    ("reference", "sentence", "hint"),
    [
        ("creativ", "no behaviour is called 'creativ'", "creative"),
        ("", "'' names no behaviour", ".yaml"),
        ("no.yaml", "no file 'no.yaml'", "jeito behaviours"),
        ("a/b", "'a/b' names no behaviour", ".yaml"),
        ("plain+temperature", "names no behaviour", "+key=value"),
        ("x" * 300, "no behaviour is called", "plain"),
        ("x" * 300 + ".yaml", "no file", "jeito behaviours"),
        ("\0.yaml", "no file", "jeito behaviours"),
        ("\udcff.yaml", "no file", "jeito behaviours"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(here, reference, sentence, hint):
    error = refusal(reference)
    assert sentence in str(error)
    assert hint in error.hint


# --- YAML 1.2


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "Y", "n", "NO"])
def test_words_that_were_truth_values_stay_text(here, word):
    write("a.yaml", f"system: {word}\noutput: {{choice: [{word}]}}\n")
    behaviour = load("a.yaml").behaviour
    assert (behaviour.system, behaviour.output.choice) == (word, (word,))


def test_norwegian_is_a_language(here):
    write("a.yaml", "language: no\n")
    assert load("a.yaml").behaviour.language == "no"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-3", 0.001), ("1", 1.0), (".5", 0.5), ("2.", 2.0), ("010", 10.0), ("+1.5E+0", 1.5), ("0", 0.0)],
)
def test_numbers_are_read_as_people_write_them(here, written, meant):
    write("a.yaml", f"sampling: {{temperature: {written}}}\n")
    assert load("a.yaml").behaviour.sampling.temperature == meant


@pytest.mark.parametrize("text", ["12:30", "2024-01-01", "1_000", "0x1F", "1.2.3", "-", "1e", "."])
def test_what_only_looks_like_a_number_stays_text(here, text):
    write("a.yaml", f"system: {text}\n" if text != "-" else "system: '-'\n")
    assert load("a.yaml").behaviour.system == text


# --- names, order, extends


def test_names_are_looked_up_in_the_library_then_the_project_then_home(here):
    for name in ("plain", "mine", "shared"):
        write(str(here.parent / "home" / "behaviours" / f"{name}.yaml"), "system: home\n")
    for name in ("plain", "mine"):
        write(f"behaviours/{name}.yaml", "system: project\n")
    assert [load(name).behaviour.system for name in ("plain", "mine", "shared")] == ["", "project", "home"]


def test_both_endings_of_yaml_are_paths(here):
    write("a.yml", "system: yml\n")
    write("c++/a.yaml", "system: plus\n")
    assert load("a.yml").behaviour.system == "yml"
    assert load("c++/a.yaml+temperature=0.5").behaviour.system == "plus"


def test_maps_merge_key_by_key_while_lists_and_scalars_replace(here):
    write("a.yaml", "system: a\nsampling: {top_k: 1, top_p: 0.5, stop: [x, y]}\nguard: {repair: 1}\n")
    write("b.yaml", "extends: a.yaml\nsystem: b\nsampling:\n  top_k: 2\n  stop: [z]\n")
    behaviour = load("b.yaml").behaviour
    assert (behaviour.system, behaviour.guard.repair) == ("b", 1)
    assert behaviour.sampling.model_dump(include=behaviour.sampling.model_fields_set) == {
        "top_k": 2,
        "top_p": 0.5,
        "stop": ("z",),
    }


def test_null_switches_off_what_a_parent_set(here):
    write("a.yaml", "output: {regex: a}\nsampling: {dry: {multiplier: 1}}\n")
    write("b.yaml", "extends: a.yaml\noutput: {regex: null, lark: b}\nsampling: {dry: null}\n")
    behaviour = load("b.yaml").behaviour
    assert behaviour.output.kinds() == ["lark"]
    assert behaviour.sampling.dry is None


def test_a_parent_path_is_relative_to_the_file_that_names_it(here):
    write("one/a.yaml", "extends: ../two/b.yaml\n")
    write("two/b.yaml", "extends: ./c.yaml\n")
    write("two/c.yaml", "system: deep\n")
    loaded = load("one/a.yaml")
    assert loaded.behaviour.system == "deep"
    assert [Path(file).name for file in loaded.chain] == ["a.yaml", "b.yaml", "c.yaml"]


def test_a_behaviour_without_a_name_is_called_like_its_file_not_like_its_parent(here):
    write("my own.yaml", "extends: technical\n")
    assert load("my own.yaml").behaviour.name == "my_own"


def test_each_place_is_that_of_the_file_that_really_set_it(here):
    write("a.yaml", "system: |\n  hi\nsampling:\n  top_k: 1\n  top_p:\n    0.5\n  stop:\n  - x\n")
    write("b.yaml", "extends: a.yaml\nsampling: {top_k: 2}\n")
    places = load("b.yaml").places
    assert places["system"] == Place("a.yaml", 1, 9)
    assert places["sampling.top_k"] == Place("b.yaml", 2, 19)
    assert places["sampling.top_p"] == Place("a.yaml", 6, 5)
    assert places["sampling.stop"] == Place("a.yaml", 7, 3)
    assert places["sampling.stop.0"] == Place("a.yaml", 8, 5)
    assert "name" not in places


def test_files_that_a_behaviour_names_are_found_from_where_it_lies(here):
    write("sub/a.yaml", "adapter: [{path: ./x}]\nsteering: [{vector: v.gguf}]\ntools: [t.py:f, {use: o.yaml}, plain]\n")
    write("b.yaml", "extends: sub/a.yaml\nsteering: [{vector: w.gguf, scale: 2}]\n")
    behaviour = load("b.yaml+adapter=[{path: y}]").behaviour
    assert load("sub/a.yaml").behaviour.adapter[0].path == os.path.join("sub", "x")
    assert behaviour.adapter[0].path == "y"
    assert behaviour.steering[0].vector == "w.gguf"
    assert [tool.use for tool in behaviour.tools] == [
        os.path.join("sub", "t.py:f"),
        os.path.join("sub", "o.yaml"),
        "plain",
    ]


# --- flags


def test_a_key_without_a_dot_is_a_knob_or_a_field(here):
    loaded = load("technical+repetition_penalty=1.0+placement=user_end", ["top_k=5"])
    assert loaded.behaviour.sampling.repetition_penalty == 1.0
    assert loaded.behaviour.placement == "user_end"
    assert loaded.flags == {"sampling.repetition_penalty", "placement", "sampling.top_k"}
    assert not loaded.flags & loaded.places.keys()
    assert "sampling.temperature" in loaded.places


def test_a_dotted_key_goes_inside(here):
    behaviour = load("plain", ["dry.multiplier=0.8", "guard.overflow=drop_oldest", "sampling.top_k=3"]).behaviour
    assert (behaviour.sampling.dry.multiplier, behaviour.sampling.dry.base) == (0.8, 1.75)
    assert (behaviour.guard.overflow, behaviour.sampling.top_k) == ("drop_oldest", 3)


def test_a_flag_inside_a_map_leaves_the_map_its_place(here):
    write("a.yaml", "name: a\nsampling:\n  top_k: 1\n")
    loaded = load("a.yaml+top_p=0.5")
    assert loaded.places["sampling"] == Place("a.yaml", 2, 1)
    assert loaded.flags == {"sampling.top_p"}


def test_a_flag_goes_into_a_list_by_a_place_in_it(here):
    write("a.yaml", "steering: [{vector: v.gguf, scale: 2}, {vector: w.gguf}]\n")
    loaded = load("a.yaml+steering.1.scale=-0.5+steering.0.scale=3")
    assert [(one.vector, one.scale) for one in loaded.behaviour.steering] == [("v.gguf", 3.0), ("w.gguf", -0.5)]
    assert {"steering.0.scale", "steering.1.scale"} <= loaded.flags
    assert loaded.places["steering.0.vector"].line == 1
    for flag, said in (("steering.2.scale=1", "'2' is no place in a list of 2"), ("steering.x=1", "'x' is no place")):
        with pytest.raises(BehaviourError, match=said):
            load(f"a.yaml+{flag}")
    with pytest.raises(BehaviourError, match="must be a list"):
        load("plain+steering.0.scale=1")


def test_later_flags_win(here):
    assert load("plain+top_k=1+top_k=2", ["top_k=3", "top_k=4"]).behaviour.sampling.top_k == 4


def test_flow_values_are_yaml_and_the_rest_is_taken_whole(here):
    behaviour = load(
        "plain", ['stop=[a, "b c"]', "output={choice: [no, yes]}", "system=Note: use # and: |", "language=no"]
    )
    assert behaviour.behaviour.sampling.stop == ("a", "b c")
    assert behaviour.behaviour.output.choice == ("no", "yes")
    assert (behaviour.behaviour.system, behaviour.behaviour.language) == ("Note: use # and: |", "no")
    assert load("plain", ['system="0.5"']).behaviour.system == "0.5"
    assert load("plain", ['system=""']).behaviour.system == ""


@pytest.mark.parametrize(
    ("flag", "sentence", "hint"),
    [
        ("temperature=hot", "sampling.temperature must be a number, not 'hot'", "such as 0.7"),
        ("temprature=1", "there is no key 'temprature'", "temperature"),
        ("guard.overflw=error", "guard has no key 'overflw'", "overflow"),
        ("dry.base=2", "sampling.dry.multiplier is missing", "multiplier"),
        ("temperature", "this sets nothing", "key=value"),
        ("stop=[a", "not YAML", "quotes"),
        ('system="a" b', "not YAML", "quotes"),
        ("system=\udcff", "half a character", "delete"),
        ("checks.0.at_least=1", "checks must be a list", "[one, two]"),
        ("extends=plain", "there is no key 'extends'", "there are"),
        ("system=", "system must be text, not null", "quotes"),
        ("output={regex: a, lark: b}", "only one of regex, lark", "null"),
    ],
)
def test_each_bad_flag_is_refused_by_its_own_text(here, flag, sentence, hint):
    error = refusal("technical", flag)
    assert str(error).startswith(f"--set {flag}: ")
    assert sentence in str(error)
    assert hint in error.hint


def test_a_bad_change_in_a_reference_is_shown_as_it_was_typed(here):
    assert str(refusal("technical+top_p=2")) == "+top_p=2: sampling.top_p must be at most 1, not 2"


# --- listing and schema


def test_a_broken_file_is_listed_with_its_error(here):
    write("behaviours/good.yaml", "description: A good one\n")
    write("behaviours/broken.yaml", "zzz: 1\n")
    write(str(here.parent / "home" / "behaviours" / "good.yaml"), "system: hidden\n")
    listed = [listing for listing in names() if listing.where != "library"]
    assert [(each.name, each.where, each.description) for each in listed] == [
        ("broken", "project", ""),
        ("good", "project", "A good one"),
        ("good", "home", ""),
    ]
    assert "broken.yaml:1:1" in listed[0].error
    assert listed[1].error is None
    assert "comes first" in listed[2].error


def test_the_schema_knows_every_key_of_a_file_and_no_other():
    made = schema()
    assert made["properties"].keys() == {*Behaviour.model_fields, "extends"}
    assert made["additionalProperties"] is False
    open_ones = {name for name, each in made["$defs"].items() if each.get("additionalProperties") is not False}
    assert open_ones == {"Claim", "Tool", "JsonValue"}
    assert [kind.get("type") for kind in made["$defs"]["Tool"]["anyOf"]] == ["string", "object"]
    assert made["$defs"]["Claim"]["required"] == ["at_least"]


# --- properties


def said_of(reference: str, sets=()) -> str:
    """What is wrong with it; anything but our own errors goes through."""
    try:
        load(reference, sets)
    except JeitoError as error:
        return str(error)
    return "nothing"


flags = st.tuples(st.sampled_from(["stop", "system", "top_k"]), st.text()).map("=".join)
keys = st.sampled_from("abc")
trees = st.recursive(
    st.one_of(st.integers(), st.text(), st.none(), st.lists(st.integers())),
    lambda inside: st.dictionaries(keys, inside, max_size=3),
    max_leaves=12,
)


def grown(value) -> Node:
    if isinstance(value, dict):
        return Node({key: grown(each) for key, each in value.items()}, Place("x", 1, 1))
    return Node([grown(each) for each in value] if isinstance(value, list) else value, Place("x", 1, 1))


@settings(deadline=None)
@given(trees, trees)
def test_the_child_wins_and_what_it_does_not_say_is_the_parents(parent, child):
    def expected(below, above):
        if not (isinstance(below, dict) and isinstance(above, dict)):
            return above
        both = {key: expected(below[key], above[key]) for key in below.keys() & above.keys()}
        return below | above | both

    assert _merge(grown(parent), grown(child)).plain() == expected(parent, child)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.binary(max_size=60))
@example(b"\xef\xbb\xbf")
@example(b"%YAML 9.9\n---\na: 1\n")
@example(b"!<x")
@example(b"a: |99\n")
def test_no_bytes_in_a_file_raise_anything_but_our_own_errors(here, data):
    Path("any.yaml").write_bytes(data)
    assert said_of("any.yaml").startswith(("any.yaml:", "nothing"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.text(alphabet="ab1:{}[],&*!|>'\"%@`-? \n\t#.~<=e", max_size=40))
def test_no_yaml_in_a_file_raises_anything_but_our_own_errors(here, text):
    write("any.yaml", "sampling:\n  dry: " + text)
    assert said_of("any.yaml").startswith(("any.yaml:", "nothing"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    st.text(), st.lists(st.text() | st.tuples(st.sampled_from(["stop", "system", "top_k"]), st.text()).map("=".join))
)
def test_no_reference_and_no_flag_raises_anything_but_our_own_errors(here, reference, sets):
    for name in (reference, f"plain+{reference}", f"plain+system={reference}", reference + ".yaml"):
        said_of(name, sets)
