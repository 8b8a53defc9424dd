"""The tree of errors. Each says what is wrong in one sentence and, as a hint, what to type next."""

from collections.abc import Iterable
from difflib import get_close_matches

OK, WRONG_INPUT, FAILED, INTERRUPTED = 0, 64, 70, 130


class JeitoError(Exception):
    """Anything that jeito refuses or fails at. `code` is the exit code of the command that meets it."""

    code = FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(JeitoError):
    """What was typed or written cannot be used."""

    code = WRONG_INPUT


class BehaviourError(InputError):
    """A behaviour cannot be found, read or combined."""


class ModelError(InputError):
    """A model cannot be found, or its files are broken."""


class UnsupportedError(InputError):
    """The model at hand cannot honour what is asked of it."""


class ContextError(InputError):
    """A prompt does not fit the context."""


class EngineError(JeitoError):
    """An engine failed at its work."""


class MemoryFull(EngineError):
    """An engine has no room for these rows now; what it holds is unchanged."""


class Interrupted(EngineError):
    """An engine was told to give up its pass; what it holds is unchanged."""


class ToolError(JeitoError):
    """A tool could not do what it was asked: told to the model, not to the user."""


class LogError(JeitoError):
    """The log cannot be read or written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: the near ones first, else all that there are."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
