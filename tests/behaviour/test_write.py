"""Values put into a person's file."""

from pathlib import Path

import pytest

from jeito.behaviour.load import load
from jeito.behaviour.write import write_values
from jeito.errors import BehaviourError

SPAN = {"temperature": "0.1 to 0.9: shown", "guard.repetition.tokens": "8 to 9: shown", "placement": "a to b: shown"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "system: |\n  Hi: # not a comment\n\n# mine\nsampling:\n  top_p: 0.5\n  temperature: 0.9   # hot\n",
            "system: |\n  Hi: # not a comment\n\n# mine\nsampling:\n  top_p: 0.5\n"
            "  temperature: 0.5   # hot  # holds from 0.1 to 0.9: shown\n",
        ),
        (
            "sampling:\n  temperature: 0.9  # holds from 2 to 3: old\n  top_p: 0.5\n",
            "sampling:\n  temperature: 0.5  # holds from 0.1 to 0.9: shown\n  top_p: 0.5\n",
        ),
        (
            "sampling:\n    # warm\n    top_p: 0.5\n",
            "sampling:\n    temperature: 0.5  # holds from 0.1 to 0.9: shown\n    # warm\n    top_p: 0.5\n",
        ),
        ("sampling: {top_p: 0.5, temperature: 0.9}\n", "sampling: {top_p: 0.5, temperature: 0.5}\n"),
        ("sampling: {temperature: 0.9, top_p: 0.5}\n", "sampling: {temperature: 0.5, top_p: 0.5}\n"),
        ("sampling: {top_p: 0.5}\n", "sampling: {temperature: 0.5, top_p: 0.5}\n"),
        ("sampling: {}\n", "sampling: {temperature: 0.5}\n"),
        ("extends: creative\n", "extends: creative\nsampling:\n  temperature: 0.5  # holds from 0.1 to 0.9: shown\n"),
    ],
)
def test_only_what_was_asked_for_changes(before: str, after: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(before)
    write_values(file, {"temperature": 0.5}, SPAN, "plain")
    assert file.read_text() == after
    assert load(str(file)).behaviour.sampling.temperature == 0.5


def test_keys_beside_sampling_are_made_with_what_they_stand_in(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('placement: "user_end"\n')
    write_values(file, {"guard.repetition.tokens": 8, "placement": "user_start"}, SPAN, "plain")
    behaviour = load(str(file)).behaviour
    assert behaviour.placement == "user_start"
    assert behaviour.guard.repetition is not None
    assert behaviour.guard.repetition.tokens == 8


def test_a_file_that_is_not_there_extends_what_was_swept(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    write_values(file, {"temperature": 0.5}, SPAN, "creative")
    behaviour = load(str(file)).behaviour
    assert (behaviour.sampling.temperature, behaviour.sampling.top_p) == (0.5, 0.95)


def test_a_file_that_would_be_no_behaviour_stays_as_it_was(tmp_path: Path) -> None:
    file, new = tmp_path / "mine.yaml", tmp_path / "new.yaml"
    file.write_text("system: Be kind.\n")
    for each in (file, new):
        with pytest.raises(BehaviourError, match="temperature"):
            write_values(each, {"temperature": -1}, SPAN, "plain")
    assert file.read_text() == "system: Be kind.\n"
    assert not new.exists()
    with pytest.raises(BehaviourError, match="cannot be written"):
        write_values(tmp_path / "no" / "such.yaml", {"temperature": 1}, SPAN, "plain")
