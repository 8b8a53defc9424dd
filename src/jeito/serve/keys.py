"""Who may call: keys, what each opens, how often it may ask. Knows nothing of HTTP but the status of a refusal."""

import hashlib
import hmac
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jeito.errors import InputError, nearest
from jeito.home import api_keys
from jeito.serve.refusal import Refusal

LINE = "KEY [behaviours=a,b] [rate=60/min], one a line"
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(slots=True, eq=False)
class Key:
    """One key, as its digest. `behaviours`: the only ones that it opens; `rate`: requests in `per` seconds."""

    number: int
    digest: bytes
    behaviours: frozenset[str] | None = None
    rate: int | None = None
    per: float = 60.0
    _left: float = 0.0
    _filled: float = field(default_factory=lambda: -math.inf)

    def count(self) -> None:
        """One request more; raises Refusal where that is too many. What was not used is saved up to one `rate`."""
        if self.rate is None:
            return
        now, pace = time.monotonic(), self.rate / self.per
        self._left, self._filled = min(self.rate, self._left + (now - self._filled) * pace), now
        if self._left < 1:
            raise Refusal(
                429, f"this key has had its {self.rate} requests in {self.per:g} seconds", hint="try again later",
                code="rate_limit", retry_after=math.ceil((1 - self._left) / pace),
            )  # fmt: skip
        self._left -= 1


class Keys:
    """All keys of a server; none means that whoever reaches it may call."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = list(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def of(self, authorization: str) -> Key | None:
        """The key that a header holds; none where none is asked for. Raises Refusal."""
        if not self._keys:
            return None
        given = _digest(authorization.removeprefix("Bearer ").strip())
        # All of them are compared, so that the time says nothing.
        found = [key for key in self._keys if hmac.compare_digest(given, key.digest)]
        if not found:
            raise Refusal(401, "this key opens nothing here", hint="Authorization: Bearer KEY", code="invalid_api_key")
        return found[0]

    def check(self, behaviours: Iterable[str]) -> None:
        """Raises InputError for a key that is to open what is not served."""
        known = set(behaviours)
        for key in self._keys:
            if missing := sorted((key.behaviours or frozenset()) - known):
                raise InputError(
                    f"key {key.number} is to open {missing[0]!r}, which is not served", hint=nearest(missing[0], known)
                )


def read_keys(file: Path | None) -> Keys:
    """The keys of a file and of JEITO_KEYS; raises InputError, which names a line and never what stands in it."""
    lines: list[tuple[str, str]] = [("JEITO_KEYS", key) for key in api_keys()]
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the keys in {str(file)!r} cannot be read: {error}", hint=LINE) from error
        found = [(f"{str(file)!r}, line {at}", line.strip()) for at, line in enumerate(text.splitlines(), start=1)]
        found = [(where, line) for where, line in found if line and not line.startswith("#")]
        if not found:
            raise InputError(f"{str(file)!r} holds no key", hint=LINE)
        lines = found + lines
    return keys_of(lines)


def keys_of(lines: Iterable[tuple[str, str]]) -> Keys:
    """Keys, each from where its line stands and the line; raises InputError."""
    keys = [_key(number, where, line) for number, (where, line) in enumerate(lines, start=1)]
    if len({key.digest for key in keys}) < len(keys):
        raise InputError("a key stands there twice", hint="each key once, with all that it opens")
    return Keys(keys)


def _key(number: int, where: str, line: str) -> Key:
    word, *options = line.split()
    if not (word.isascii() and word.isprintable()) or "=" in word.rstrip("="):
        raise InputError(f"{where}: a key is ASCII letters, digits and signs, and stands first", hint=LINE)
    key = Key(number, _digest(word))
    for option in options:
        name, _, value = option.partition("=")
        rate = re.fullmatch(r"([1-9][0-9]{0,6})/(s|min|h)", value)
        if name == "behaviours" and value:
            key.behaviours = frozenset(filter(None, value.split(",")))
        elif name == "rate" and rate:
            key.rate, key.per = int(rate[1]), UNITS[rate[2]]
        else:
            raise InputError(f"{where}: what stands after the key says nothing", hint=LINE)
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
