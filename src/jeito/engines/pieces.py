"""From token ids to the bytes that they stand for, so that replies can be put together piece by piece.

Reads a tokenizer's tables only; knows nothing of models.
"""

import json
import re
from collections.abc import Sequence
from typing import Any


def _byte_of_sign() -> dict[str, int]:
    """GPT-2's table: each byte has a visible sign; those that are none are moved up to 256 and above."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def is_mark(name: str) -> bool:
    """Does a token that was added to a vocabulary look like a mark, such as <think>, and not like text?"""
    return len(name) > 2 and name[0] == "<" and name[-1] == ">"


class Pieces:
    """The text of each token as bytes that concatenate; control tokens give nothing.

    Byte-level BPE and sentencepiece vocabularies are read token by token. Of any other kind only a whole
    sequence can be decoded, by the tokenizer itself: then texts of parts need not add up.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._signs = _byte_of_sign()
        self.kind = "decode"
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            table = json.loads(backend.to_str())
            self.kind = _kind(table.get("decoder"))
            self._known = {
                token["id"]: b"" if token["special"] else token["content"].encode() for token in table["added_tokens"]
            }
        elif hasattr(tokenizer, "sp_model"):
            self.kind = "sentencepiece"
        self._known |= dict.fromkeys(tokenizer.all_special_ids, b"")

    def text(self, ids: Sequence[int]) -> bytes:
        if self.kind == "decode":
            text = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return bytes(text, "utf-8")
        return b"".join([self._piece(token) for token in ids])

    def marks(self) -> dict[int, str]:
        """Names of control tokens, and of added ones that look like marks."""
        added = {id: (str(token), token.special) for id, token in self._tokenizer.added_tokens_decoder.items()}
        return {id: name for id, (name, special) in added.items() if special or is_mark(name)}

    def _piece(self, token: int) -> bytes:
        found = self._known.get(token)
        if found is None:
            name = self._tokenizer.convert_ids_to_tokens(token)
            found = self._known[token] = b"" if name is None else self._bytes(name)
        return found

    def _bytes(self, name: str) -> bytes:
        if self.kind == "bytes":
            if all(sign in self._signs for sign in name):
                return bytes(self._signs[sign] for sign in name)
            return name.encode()
        byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", name)
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()


def _kind(decoder: dict[str, Any] | None) -> str:
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    types = {step["type"] for step in steps}
    if "ByteLevel" in types:
        return "bytes"
    return "sentencepiece" if types & {"ByteFallback", "Metaspace"} else "decode"
