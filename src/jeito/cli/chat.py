"""`jeito chat`: a conversation; the behaviour can change in its middle."""

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jeito.cli import options, show
from jeito.errors import InputError, JeitoError, nearest

if TYPE_CHECKING:
    from jeito.behaviour.load import Loaded
    from jeito.engines.base import Loading, Model
    from jeito.run.run import Run
    from jeito.run.tools import Toolbox
    from jeito.trace.log import Log
    from jeito.types import Message

HELP = """/behaviour NAME   another behaviour from here on
/set KEY=VALUE    one value on top of it; /set alone takes them all back
/receipt          where every value of the last reply came from
/undo             forget the last question and its reply
/help             this
/quit             end (so does Ctrl-D); Ctrl-C stops a reply"""


@options.loads_model
def chat(
    behaviour: options.Behaviour = "plain",
    model: options.Model = "demo",
    sets: options.Set = [],  # noqa: B006 - Typer copies it
    tools: options.Tools = [],  # noqa: B006
    seed: options.Seed = None,
    allow_unsupported: options.AllowUnsupported = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    no_log: options.NoLog = False,
    *,
    loading: "Loading",
) -> None:
    """Talk with a model. /help lists what can be typed beside questions."""
    from jeito.behaviour.load import load
    from jeito.run.open import open_model
    from jeito.trace.log import Log

    changes = [*options.tools_set(tools), *sets]
    load(behaviour, changes)  # what is wrong with it is said before a model loads
    opened = open_model(model, engine=engine, precision=precision, loading=loading, notify=show.say)
    talk = Conversation(
        opened, behaviour, changes, seed=seed, allow_unsupported=allow_unsupported, log=None if no_log else Log()
    )
    try:
        talk.talk()
    finally:
        talk.close()


class Conversation:
    """What was said so far, under which behaviour."""

    def __init__(
        self, model: "Model", behaviour: str, sets: list[str], *, seed: int | None, allow_unsupported: bool,
        log: "Log | None",
    ) -> None:  # fmt: skip
        self._model, self._log = model, log
        self._behaviour, self._sets = behaviour, sets
        self._seed, self._allow = seed, allow_unsupported
        self._turns = 0
        self._history: list[Message] = []
        self._last: Run | None = None
        self._tools: tuple[object, Toolbox] | None = None
        """Opened for these words of a behaviour, and kept from question to question."""

    def close(self) -> None:
        """End the processes of tools."""
        if self._tools:
            self._tools[1].close()
        self._tools = None

    def _toolbox(self, loaded: "Loaded") -> "Toolbox | None":
        from jeito.run.tools import open_tools

        wanted = loaded.behaviour.tools
        if self._tools is None or self._tools[0] != wanted:
            self.close()
            self._tools = (wanted, open_tools(wanted)) if wanted else None
        return self._tools[1] if self._tools else None

    def talk(self) -> None:
        """Read lines until the end of input."""
        show.say(f"{self._behaviour} on {self._model.name}; /help")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                show.say("\n/quit ends")
                continue
            if line == "/quit":
                return
            try:
                self._command(line) if line.startswith("/") else self._ask(line)
            except JeitoError as error:
                show.say(f"error: {error}" + (f"\n  try: {error.hint}" if error.hint else ""))

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "behaviour": self._switch,
            "set": self._set,
            "receipt": self._receipt,
            "undo": self._undo,
            "help": lambda _: show.say(HELP),
        }
        if name not in commands:
            raise InputError(f"there is no command {line!r}", hint=nearest(name, commands))
        commands[name](rest.strip())

    def _switch(self, name: str) -> None:
        from jeito.behaviour.load import load

        load(name, self._sets)
        self._behaviour = name
        show.say(f"{name} from here on")

    def _set(self, change: str) -> None:
        from jeito.behaviour.load import load

        sets = [*self._sets, change] if change else []
        load(self._behaviour, sets)
        self._sets = sets

    def _receipt(self, _: str) -> None:
        if self._last is None:
            raise InputError("no reply has a receipt yet", hint="ask something first")
        usage = self._last.trace.usage
        show.receipt(self._last.trace.receipt, f"receipt of {self._last.trace.id}", errors=True)
        show.say(show.reused(usage))

    def _undo(self, _: str) -> None:
        if not self._history:
            raise InputError("nothing to undo", hint="/help")
        last = max(at for at, message in enumerate(self._history) if message.role == "user")
        del self._history[last:]

    def _ask(self, line: str) -> None:
        from jeito.behaviour.load import load
        from jeito.decode.noise import derive
        from jeito.run.run import run
        from jeito.types import Message

        loaded = load(self._behaviour, self._sets)
        seed = None if self._seed is None else derive(self._seed, self._turns)
        loaded = load(self._behaviour, self._sets)
        reply = run(
            loaded,
            self._model,
            line,
            seed=seed,
            history=self._history,
            allow_unsupported=self._allow,
            log=self._log,
            label=self._behaviour,
            tools=self._toolbox(loaded),
            confirm=show.confirm,
            notice=show.step,
        )
        stream_until_interrupt(reply, reasoning=loaded.behaviour.reasoning.show)
        print()
        show.ending(reply.trace, reply.losses)
        self._turns += 1
        self._last = reply
        self._history += [Message(role="user", content=line), *reply.conversation()]


def stream_until_interrupt(reply: "Run", *, reasoning: bool = False) -> None:
    """Print a reply as it comes. Ctrl-C ends it between two tokens: never inside a step that others share."""
    asked: list[int] = []

    def ask_to_stop(number: int, _frame: Any) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        for token in reply:
            show.token(token, reasoning=reasoning)
            if asked:
                break
    finally:
        signal.signal(signal.SIGINT, before)
        reply.close()
