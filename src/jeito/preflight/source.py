"""Parts of a model's files, wherever they are: the one way that preflight reads. Knows nothing of what they mean."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jeito.engines.weights import Tensor
from jeito.errors import ModelError

# More of a small file is a mistake or an attack: the longest tokenizer_config.json of a well-known model has 1 MB.
LONGEST_SMALL = 4_000_000
LONGEST_INDEX = 16_000_000
# Headers of the largest models are under 10 MB.
LONGEST_HEADER = 16_000_000
# Values of one tensor: no disk holds more.
_MOST = 1 << 50
# Holds the header of nearly every file, in one read.
FIRST_READ = 65_536


class Unreadable(ModelError):
    """One file cannot be read; the others may be."""


class Source(Protocol):
    """Files by name with their sizes in bytes, and any part of them."""

    @property
    def files(self) -> Mapping[str, int | None]: ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """Up to `length` bytes of a file from `start`; raises Unreadable."""


class FolderSource:
    """A folder; `only` narrows it to some of its files. Links are followed: the hub's cache is made of them."""

    def __init__(self, path: Path, only: tuple[str, ...] | None = None) -> None:
        self.path = path
        found = (file for file in path.iterdir() if file.is_file()) if only is None else (path / name for name in only)
        self.files: dict[str, int | None] = {
            file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(found)
        }

    def read(self, name: str, start: int, length: int) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise Unreadable(f"{name!r} cannot be read: {error}") from error


class SafetensorsHeader(NamedTuple):
    """What a safetensors file says it holds, and how many bytes that makes of it."""

    tensors: tuple[Tensor, ...]
    size: int


def read_text(source: Source, name: str, longest: int = LONGEST_SMALL) -> str:
    """A whole small file; raises Unreadable for what is too long or no text."""
    return read_whole(source, name, longest).decode(errors="replace")


def read_whole(source: Source, name: str, longest: int) -> bytes:
    """A whole file, unless it is longer than it may be."""
    size = source.files.get(name)
    if size is not None and size > longest:
        raise Unreadable(f"{name!r} has {size:,} bytes, which no such file needs")
    raw = source.read(name, 0, longest + 1 if size is None else size)
    if len(raw) > longest:
        raise Unreadable(f"{name!r} has more than {longest:,} bytes, which no such file needs")
    return raw


def read_object(source: Source, name: str, longest: int = LONGEST_SMALL) -> dict[str, Any]:
    """A JSON object; raises Unreadable."""
    return parse_object(read_whole(source, name, longest), name)


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    """Bytes as a JSON object; raises Unreadable."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{name!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"{name!r} holds no JSON object")
    return value


def read_safetensors(source: Source, name: str) -> SafetensorsHeader:
    """The header of a safetensors file, in one read where it is short; raises Unreadable."""
    start = source.read(name, 0, FIRST_READ)
    if start.startswith(b"version https://git-lfs"):
        raise Unreadable(f"{name!r} is a git-lfs pointer, not the file")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8:
        raise Unreadable(f"{name!r} is no safetensors file: it has {len(start)} bytes")
    if length > LONGEST_HEADER:
        raise Unreadable(f"{name!r} says that its header has {length:,} bytes: no model needs {LONGEST_HEADER:,}")
    raw = start[8 : 8 + length]
    if len(raw) < length and len(start) == FIRST_READ:
        raw += source.read(name, FIRST_READ, length - len(raw))
    if len(raw) < length:
        raise Unreadable(f"{name!r} is cut short within its header")
    return _header(parse_object(raw, name), name, 8 + length)


def _header(entries: dict[str, Any], name: str, begin: int) -> SafetensorsHeader:
    entries.pop("__metadata__", None)
    try:
        tensors = tuple(
            Tensor(tensor, str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))
            for tensor, entry in entries.items()
        )
        if any(side < 0 for one in tensors for side in one.shape) or any(one.parameters > _MOST for one in tensors):
            raise ValueError("a tensor of impossible shape")
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise Unreadable(f"{name!r} has an unreadable header: {error!r}") from error
    return SafetensorsHeader(tensors, begin + end)
