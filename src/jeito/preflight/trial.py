"""A model's template, tried on conversations in a process of its own, with bounds on its time and memory.

A template is a stranger's program: its sandbox keeps it from files, not from endless loops.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from jeito.decode.template import Template
from jeito.errors import ModelError
from jeito.preflight.knowledge import PROBE_TOOL
from jeito.types import Message, Value

SECONDS = 5.0
MEMORY = 1 << 30
_CHILD = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from jeito.preflight.trial import try_in_this_process
try_in_this_process()
"""
_SYSTEM, _ASK, _SAID, _AGAIN = "jeito-instruction", "jeito-question", "jeito-reply", "jeito-follow-up"
_INSTRUCTION, _QUESTION = Message(role="system", content=_SYSTEM), Message(role="user", content=_ASK)
_TURNS = [_QUESTION, Message(role="assistant", content=_SAID), Message(role="user", content=_AGAIN)]
CONVERSATIONS: dict[str, tuple[list[Message], list[dict[str, Any]]]] = {
    "a question": ([_QUESTION], []),
    "an instruction and a question": ([_INSTRUCTION, _QUESTION], []),
    "three turns": (_TURNS, []),
    "a question with a tool": ([_QUESTION], [PROBE_TOOL]),
    "an instruction, three turns and a tool": ([_INSTRUCTION, *_TURNS], [PROBE_TOOL]),
}


class Trial(Value):
    """What a template did. `broken`: it was never rendered, and why; `failed`: conversations that it refuses."""

    broken: str | None = None
    failed: dict[str, str] = Field(default_factory=dict)
    system: bool = False
    tools: bool = False
    turns: bool = False
    opens: bool = False


def tried(source: str, special: Mapping[str, str], *, seconds: float = SECONDS) -> Trial:
    """The template's trial, within bounds: one that takes too long or too much comes back as broken."""
    asked = json.dumps({"source": source, "special": dict(special), "seconds": seconds})
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
    try:
        # The start of Python is not the template's time.
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=seconds + 20, check=False)
    except subprocess.TimeoutExpired:
        return Trial(broken=f"it takes more than {seconds:g} seconds")
    try:
        return Trial.model_validate_json(done.stdout)
    except ValueError:
        return Trial(broken=_why_it_ended(done.stderr.decode(errors="replace"), seconds))


def _why_it_ended(said: str, seconds: float) -> str:
    if said.startswith("Timeout ("):  # faulthandler's word
        return f"it takes more than {seconds:g} seconds"
    last = said.strip().rsplit("\n", 1)[-1][:200]
    return f"it brings its process down: {last or 'without a word'}"


def try_in_this_process() -> None:
    """The child's part: the request on standard input, the trial on standard output."""
    asked = json.loads(sys.stdin.buffer.read())
    _bound(asked["seconds"])
    try:
        found = _try(Template(asked["source"], asked["special"]))
    except MemoryError:
        found = Trial(broken=f"it takes more than {MEMORY >> 20} MiB")
    sys.stdout.write(found.model_dump_json())


def _bound(seconds: float) -> None:
    """Ends this process when the template has had its time, wherever it is; its memory is bounded where systems can."""
    import faulthandler

    # A thread of C: an endless loop, or one huge number, does not keep it from its work.
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _try(template: Template) -> Trial:
    texts: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, (messages, tools) in CONVERSATIONS.items():
        try:
            texts[name] = template.render(messages, tools)
        except ModelError as error:
            failed[name] = str(error)[:300]
    alone, instructed, longer, equipped, _ = (texts.get(name, "") for name in CONVERSATIONS)
    if not texts:
        return Trial(broken=failed["a question"], failed=failed)
    try:
        shut = template.render([_QUESTION], opens=False)
    except ModelError:
        shut = alone
    return Trial(
        failed=failed,
        system=_SYSTEM in instructed and _ASK in instructed,
        tools=PROBE_TOOL["function"]["name"] in equipped,
        turns=-1 < longer.find(_ASK) < longer.find(_SAID) < longer.find(_AGAIN),
        opens=shut != alone,
    )
