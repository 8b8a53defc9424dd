"""The header of a GGUF: what the file says of itself and which tensors it holds, in bounded time and memory.

Takes its bytes from whoever can give them by offset: a file, or a server that answers ranges. No weights are read.
Knows nothing of llama.cpp, nor of what the keys mean.
"""

import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

from jeito.errors import ModelError

Read = Callable[[int, int], bytes]
"""(offset, count) → bytes; fewer only where the file ends."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# A header's largest part is its tokenizer: 262,144 tokens and as many merges take under 20 MB. Thousands of tensors
# are the largest mixtures'; ggml itself takes no more than 4 dimensions. Beyond these a file only wants our time.
LONGEST_HEADER = 100_000_000
MOST_KEYS, MOST_TENSORS, MOST_DIMENSIONS, MOST_STRINGS = 4096, 65_536, 4, 4_000_000
LONGEST_NAME, LONGEST_TEXT = 65_535, 1 << 20
# Longer lists are the tokenizer's; a list by layer is shorter than this.
LONGEST_LIST = 1024
FIRST_CHUNK, LARGEST_CHUNK = 1 << 20, 1 << 24
ALIGNMENT = 32

# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: number → struct's letter.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# ggml's types: number → name, values of a block, bytes of a block (gguf/constants.py of llama.cpp).
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


class Omitted(NamedTuple):
    """A value too long to keep: `length` is of its items, or of a text's bytes."""

    kind: str
    length: int


Scalar = str | int | float | bool
Value = Scalar | list[Scalar] | Omitted


class GgufTensor(NamedTuple):
    """One tensor. `shape`: rows first, as torch has it; `offset`: from the file's start."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def parameters(self) -> int:
        return prod(self.shape)


class Header(NamedTuple):
    """What a GGUF says of itself; `data_start` is where its tensors begin."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    data_start: int


def read_header(read: Read, size: int, name: str = "the file") -> Header:
    """The header of a GGUF of `size` bytes; raises ModelError for what is none, is broken, or is cut short."""
    source = _Source(read, size, name)
    version, tensors, keys = _beginning(source)
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        key = source.text(LONGEST_NAME)
        if key in metadata:
            raise source.broken(f"it says {key!r} twice")
        metadata[key] = _value(source)
    described = [_tensor(source) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise source.broken(f"its tensors lie at multiples of {alignment!r}")
    data_start = -(-source.at // alignment) * alignment
    placed = tuple(tensor._replace(offset=data_start + tensor.offset) for tensor in described)
    _check_places(source, placed, data_start, alignment)
    return Header(version, metadata, placed, data_start)


def read_file_header(path: Path) -> Header:
    """The header of a GGUF on this machine."""
    try:
        with path.open("rb") as file:

            def read(offset: int, count: int) -> bytes:
                file.seek(offset)
                return file.read(count)

            return read_header(read, path.stat().st_size, str(path))
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


class _Source:
    """Bytes one after the other, fetched in chunks that grow; what is passed is let go."""

    def __init__(self, read: Read, size: int, name: str) -> None:
        self.read, self.size, self.name = read, size, name
        self.at = 0
        self.strings = 0
        self._window, self._start, self._chunk = b"", 0, FIRST_CHUNK

    def broken(self, why: str) -> ModelError:
        return ModelError(f"{self.name!r} is no sound GGUF: {why}", hint="download it again from the model's source")

    def window(self, count: int) -> tuple[bytes, int]:
        """Bytes that hold at least the next `count`, and where in them those begin; nothing is passed."""
        end = self.at + count
        if end > self.size:
            raise self.broken(f"its header needs {end:,} bytes and the file has {self.size:,}")
        if end > LONGEST_HEADER:
            raise self.broken(f"its header is longer than {LONGEST_HEADER:,} bytes")
        if end > self._start + len(self._window):
            wanted = min(max(count, self._chunk), self.size - self.at)
            self._window, self._start = self.read(self.at, wanted), self.at
            self._chunk = min(2 * self._chunk, LARGEST_CHUNK)
            if len(self._window) < count:
                raise self.broken(f"it ends at byte {self.at + len(self._window):,} of {self.size:,}")
        return self._window, self.at - self._start

    def number(self, letter: str) -> int | float | bool:
        form = "<" + letter
        count = struct.calcsize(form)
        window, at = self.window(count)
        self.at += count
        found: int | float | bool = struct.unpack_from(form, window, at)[0]
        return found

    def count(self, letter: str = "Q") -> int:
        return int(self.number(letter))

    def text(self, longest: int) -> str:
        length = self.count()
        if length > longest:
            raise self.broken(f"a text of {length:,} bytes stands where at most {longest:,} are expected")
        window, at = self.window(length)
        self.at += length
        return window[at : at + length].decode(errors="replace")

    def skip(self, count: int) -> None:
        """Pass bytes without reading them."""
        end = self.at + count
        if end > min(self.size, LONGEST_HEADER):
            raise self.broken(f"its header needs {end:,} bytes and the file has {self.size:,}")
        self.at = end

    def skip_texts(self, count: int) -> None:
        """Pass texts; in one loop over a window, for there are half a million of them in a large tokenizer."""
        left = count
        length_of = struct.Struct("<Q").unpack_from
        while left:
            window, at = self.window(8)
            start, last = at, len(window) - 8
            while left and at <= last:
                length = length_of(window, at)[0]
                if at + 8 + length > len(window):
                    break
                at += 8 + length
                left -= 1
            self.at += at - start
            if left:
                self.skip(self.count())
                left -= 1


def _beginning(source: _Source) -> tuple[int, int, int]:
    """Version, number of tensors, number of keys."""
    if source.size < 24 or source.read(0, 4) != MAGIC:
        raise source.broken("it does not begin with 'GGUF'")
    source.at = 4
    version = source.count("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        why = "is made for big-endian machines" if swapped in VERSIONS else f"is of version {version}"
        raise source.broken(f"it {why}; versions {' and '.join(map(str, VERSIONS))} are known")
    tensors, keys = source.count(), source.count()
    if tensors > MOST_TENSORS or keys > MOST_KEYS:
        raise source.broken(f"it says that it has {tensors:,} tensors and {keys:,} keys")
    return version, tensors, keys


def _value(source: _Source) -> Value:
    kind = source.count("I")
    if kind == _STRING:
        return _text(source)
    if kind == _ARRAY:
        return _list(source)
    if kind not in _NUMBERS:
        raise source.broken(f"a value is of the unknown type {kind}")
    return source.number(_NUMBERS[kind])


def _text(source: _Source) -> str | Omitted:
    window, at = source.window(8)
    length = int.from_bytes(window[at : at + 8], "little")
    if length <= LONGEST_TEXT:
        return source.text(LONGEST_TEXT)
    source.skip(8)
    source.skip(length)
    return Omitted("text", length)


def _list(source: _Source) -> list[Scalar] | Omitted:
    kind, length = source.count("I"), source.count()
    if kind == _STRING:
        source.strings += length
        if source.strings > MOST_STRINGS:
            raise source.broken(f"its lists hold {source.strings:,} texts")
        if length <= LONGEST_LIST:
            return [source.text(LONGEST_TEXT) for _ in range(length)]
        source.skip_texts(length)
        return Omitted("texts", length)
    if kind not in _NUMBERS:
        nested = "lists within lists" if kind == _ARRAY else f"a list of the unknown type {kind}"
        raise source.broken(f"it has {nested}")
    if length <= LONGEST_LIST:
        return [source.number(_NUMBERS[kind]) for _ in range(length)]
    source.skip(length * struct.calcsize("<" + _NUMBERS[kind]))
    return Omitted("numbers", length)


def _tensor(source: _Source) -> GgufTensor:
    """As described; its offset is still from where the tensors begin."""
    name = source.text(LONGEST_NAME)
    dimensions = source.count("I")
    if dimensions > MOST_DIMENSIONS:
        raise source.broken(f"{name!r} has {dimensions:,} dimensions")
    lengths = [source.count() for _ in range(dimensions)]
    number, offset = source.count("I"), source.count()
    if number not in TYPES:
        raise source.broken(f"{name!r} is of the unknown type {number}; a newer jeito may know it")
    kind, block, size = TYPES[number]
    if (lengths[0] if lengths else 1) % block or 0 in lengths:
        raise source.broken(f"{name!r} of {kind} has the shape {lengths}")
    return GgufTensor(name, kind, tuple(reversed(lengths)), offset, prod(lengths) // block * size)


def _check_places(source: _Source, tensors: tuple[GgufTensor, ...], data_start: int, alignment: int) -> None:
    """Do the tensors lie where they can, each name once, and does the file hold them all?"""
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise source.broken("two of its tensors have one name")
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if (tensor.offset - data_start) % alignment or tensor.offset < end:
            raise source.broken(f"{tensor.name!r} lies over another, or at no multiple of {alignment}")
        end = tensor.offset + tensor.bytes
    if tensors and end > source.size:
        raise source.broken(f"it is cut short: its tensors end at byte {end:,}, the file at {source.size:,}")
