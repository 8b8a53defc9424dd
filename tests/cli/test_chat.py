import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jeito.trace.log import Log
from jeito.types import Trace

Jeito = Callable[..., Any]
Until = Callable[[int, str], str]


def talk(jeito: Jeito, *lines: str, options: tuple[str, ...] = ()) -> Any:
    return jeito("chat", "-m", "toy", *options, input="\n".join(lines) + "\n")


def runs() -> list[Trace]:
    """In the order in which they were made."""
    return Log().recent(100)[::-1]


def test_questions_come_through_a_pipe_and_answers_go_out(shell: Jeito) -> None:
    done = shell("chat", "-m", "toy", input="one\ntwo\n")
    assert (done.code, done.out) == (0, "one\ntwo\n")
    assert done.err == "plain on toy; /help\n"


def test_each_question_carries_the_conversation_before_it(jeito: Jeito) -> None:
    talk(jeito, "one", "two")
    assert runs()[1].prompt == "<user>one\n<assistant>one\n<user>two\n<assistant>"


def test_quitting_ends_before_what_follows(jeito: Jeito) -> None:
    done = talk(jeito, "one", "/quit", "two")
    assert (done.code, done.out) == (0, "one\n")


def test_a_behaviour_is_switched_in_mid_conversation_and_back_and_what_is_shared_is_not_computed_again(
    jeito: Jeito,
) -> None:
    lines = ["one", "/behaviour technical", "two", "/receipt", "/behaviour creative", "three", "/receipt"]
    done = talk(jeito, *lines, options=("-b", "creative"))
    first, second, third = runs()
    assert [one.behaviour for one in (first, second, third)] == ["creative", "technical", "creative"]
    assert first.request.system == third.request.system != second.request.system
    # The third prompt goes on from all that the first run left: its prompt and its answer.
    assert (third.prompt or "").startswith((first.prompt or "") + "one")
    assert third.usage.cached == first.usage.prompt + len("one")
    # Another instruction shares only what stands before it.
    assert second.usage.cached < len("<system>") + 20
    counts = re.findall(r"^(\d+) of (\d+) tokens of the prompt were not computed again$", done.err, re.M)
    assert counts == [(str(one.usage.cached), str(one.usage.prompt)) for one in (second, third)]


def test_a_switch_to_what_there_is_not_leaves_the_behaviour_as_it_was(jeito: Jeito) -> None:
    done = talk(jeito, "/behaviour tecnical", "hi", options=("-b", "creative"))
    assert done.out == "hi\n"
    assert "error: no behaviour is called 'tecnical'\n  try: did you mean technical?\n" in done.err
    assert [one.behaviour for one in runs()] == ["creative"]


def test_a_value_is_set_on_top_and_all_are_taken_back(jeito: Jeito) -> None:
    done = talk(jeito, "/set max_new_tokens=2", "hello", "/set top_k=3", "again", "/set", "there")
    assert done.out == "he\nag\nthere\n"
    assert [one.request.sampling.top_k for one in runs()] == [0, 3, 0]


def test_a_value_that_cannot_be_set_is_refused_and_changes_nothing(jeito: Jeito) -> None:
    done = talk(jeito, "/set max_new_token=2", "/set temperature=warm", "/set nonsense", "hello")
    assert done.out == "hello\n"
    assert done.err.count("error: ") == done.err.count("  try: ") == 3


def test_undo_forgets_the_last_question_and_its_reply(jeito: Jeito) -> None:
    done = talk(jeito, "one", "two", "/undo", "three", "/undo", "/undo", "/undo")
    assert runs()[2].prompt == "<user>one\n<assistant>one\n<user>three\n<assistant>"
    assert done.err.count("error: nothing to undo") == 1


def test_an_unknown_command_names_the_known_ones(jeito: Jeito) -> None:
    done = talk(jeito, "/behavior creative", "/xyz", "/receipt", "hi")
    assert done.out == "hi\n"
    assert "did you mean behaviour?" in done.err
    assert "there are: behaviour, help, receipt, set, undo" in done.err
    assert "error: no reply has a receipt yet" in done.err


def test_help_lists_every_command(jeito: Jeito) -> None:
    err = talk(jeito, "/help").err
    assert all(f"\n/{name}" in err for name in ("behaviour", "set", "receipt", "undo", "help", "quit"))


def test_a_question_that_fails_is_said_and_is_no_part_of_the_conversation(jeito: Jeito) -> None:
    done = talk(jeito, "", "far too long " * 9, "hi", options=("--context", "60"))
    assert (done.code, done.out) == (0, "hi\n")
    assert "error: the prompt is empty" in done.err
    assert "and the context 60" in done.err
    assert runs()[-1].prompt == "<user>hi\n<assistant>"


def test_each_turn_of_a_seeded_conversation_has_a_seed_of_its_own(jeito: Jeito) -> None:
    talk(jeito, "one", "two", options=("--seed", "5"))
    talk(jeito, "one", "two", options=("--seed", "5"))
    seeds = [one.seed for one in runs()]
    assert seeds[0] == seeds[2] == 5
    assert seeds[1] == seeds[3] != 5


class Terminal:
    """Both ends of a conversation: `type` what a person types, wait for what must come."""

    def __init__(self, descriptor: int, until: Until) -> None:
        self.descriptor = descriptor
        self._until = until

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def until(self, text: str) -> str:
        return self._until(self.descriptor, text)


# The process must own the terminal, so that Ctrl-C reaches it as a signal.
OWNS_IT = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def terminal(begin: Callable[..., Any], until: Until, warm_home: Path) -> Iterator[tuple[Terminal, Any]]:
    ours, theirs = pty.openpty()
    wrapped = (sys.executable, "-c", OWNS_IT, str(Path(sys.executable).with_name("jeito")))
    words = ("chat", "-b", "creative+min_new_tokens=500+max_new_tokens=500", "--seed", "7")
    process = begin(*words, command=wrapped, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                    env={"TERM": "dumb"})  # fmt: skip
    os.close(theirs)
    yield Terminal(ours, until), process
    os.close(ours)


def test_an_interrupt_stops_the_reply_and_not_the_conversation(terminal: tuple[Terminal, Any]) -> None:
    screen, process = terminal
    screen.until("> ")
    screen.type("Tell me a story.\n")
    screen.until("Tell me a story.\r\n")
    screen.until("e")  # a first piece of the reply
    screen.type("\x03")
    screen.until("[cancelled]\r\n> ")
    # At the prompt it does not end the program either.
    screen.type("\x03")
    screen.until("/quit ends\r\n> ")
    for line in ("/set min_new_tokens=0", "/set max_new_tokens=4", "/behaviour creative"):
        screen.type(f"{line}\n")
        screen.until("> ")
    screen.type("And then?\n")
    screen.until("[length]\r\n> ")
    screen.type("/receipt\n")
    shown = screen.until("computed again\r\n> ")
    screen.type("\x04")
    assert process.wait(timeout=60) == 0

    stopped, followed = runs()
    assert (stopped.finish, followed.finish) == ("cancelled", "length")
    assert 0 < stopped.usage.generated == len(stopped.tokens) < 500
    # What had been said when the interrupt came is part of the conversation, and was not computed again.
    assert stopped.answer in (followed.prompt or "")
    assert followed.usage.cached >= stopped.usage.prompt > 20
    assert f"{followed.usage.cached} of {followed.usage.prompt} tokens" in shown
