"""What can be counted in a text: words, sentences, code, lists, numbers, repetition. Knows nothing of traces."""

import ast
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

WORD = re.compile(r"[^\W_]+(?:['’\-.,][^\W_]+)*")
"""Letters and digits; an apostrophe, hyphen, point or comma inside belongs to it (don't, 3.5, guarda-chuva)."""

FENCE = re.compile(r"^[ ]{0,3}```[ ]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ ]{0,3}```[ ]*$|\Z)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^[ ]{0,3}(?:[-*+•]|(\d{1,3})[.)])[ \t]+(?=\S)", re.MULTILINE)
_TABLE = re.compile(r"^[ ]*\|?[ ]*:?-+:?[ ]*(?:\|[ ]*:?-+:?[ ]*)*\|?[ ]*$")
_END = re.compile(r"(?<=[.!?…])[\"'”’»)*_]*\s+(?=[\"'“‘«(*_]*[^\W_a-z])|\n\s*\n|\n(?=\s*(?:[-*+•#|]|\d{1,3}[.)])\s)")
_SHORT = re.compile(
    r"(?:^|\s)(?:mr|mrs|ms|dr|dra|prof|profa|sr|sra|st|vs|etc|fig|art|av|p\.?\s?ex|e\.g|i\.e|[A-Z])\.$", re.IGNORECASE
)


def words(text: str) -> list[str]:
    return WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Ends at . ! ? … before something that begins, at blank lines and at list items; not after Dr. or e.g.

    A rule of thumb for languages that write so; code in fences is left out.
    """
    found: list[str] = []
    for piece in _END.split(without_code(text)):
        if found and _SHORT.search(found[-1]):
            found[-1] += f" {piece}"
        elif WORD.search(piece):
            found.append(piece.strip())
    return found


def paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def without_code(text: str) -> str:
    return FENCE.sub("\n\n", text)


def blocks(text: str, language: str | None = None) -> list[str]:
    """Code in fences; of one language, those that name no other."""
    names = {language, "", *_ALIASES.get(language or "", ())}
    return [code for named, code in FENCE.findall(text) if language is None or named.lower() in names]


_ALIASES = {"python": ("py", "python3", "py3"), "javascript": ("js",), "bash": ("sh", "shell")}


def python(text: str) -> str | None:
    """The Python of a reply: its fences, else the longest run of lines that parses and defines or does something."""
    if fenced := blocks(text, "python"):
        whole = "\n".join(fenced)
        return whole if parses(whole) else next((code for code in fenced if parses(code)), None)
    lines = text.splitlines()
    begin = next((at for at, line in enumerate(lines) if re.match(r"(?:def|class|import|from|@)\b|@", line)), 0)
    for end in range(len(lines), begin, -1):
        if parses(code := "\n".join(lines[begin:end])):
            return code
    return None


def parses(code: str) -> bool:
    """Is it Python that does or defines something? One bare word or number is not."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in tree.body)


class Table(NamedTuple):
    rows: int
    columns: int


def tables(text: str) -> list[Table]:
    """Markdown tables: a line of names, a line of dashes, rows below it."""
    lines, found = text.splitlines(), []
    for at in range(1, len(lines)):
        if "|" in lines[at] + lines[at - 1] and _TABLE.match(lines[at]) and "|" in lines[at - 1]:
            below = 0
            while at + below + 1 < len(lines) and "|" in lines[at + below + 1]:
                below += 1
            found.append(Table(below, len(lines[at - 1].strip().strip("|").split("|"))))
    return found


def distinct(items: Sequence[str], n: int) -> float | None:
    """Different n-grams over all n-grams (distinct-n: Li et al. 2016); none where there is not one."""
    grams = [tuple(items[at : at + n]) for at in range(len(items) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def plain(text: str) -> str:
    """Lower case without accents, so that ação, AÇÃO and acao are one."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(letter)
    )


@lru_cache(maxsize=4096)
def pattern_of(fact: str) -> "re.Pattern[str]":
    """What finds `a|b*` in a plain text: whole words, `*` any ending, a blank any white space."""
    ways = []
    for way in filter(None, (each.strip() for each in plain(fact).split("|"))):
        stem = way.rstrip("*")
        inner = r"\s+".join(map(re.escape, stem.split()))
        before = r"(?<![^\W_])" if re.match(r"[^\W_]", stem) else ""
        after = r"(?![^\W_])" if re.search(r"[^\W_]$", stem) and stem == way else ""
        ways.append(before + inner + after)
    return re.compile("|".join(ways) or r"(?!)")


@lru_cache(maxsize=512)
def _grams(text: str, longest: int) -> list[Counter[str]]:
    squeezed = "".join(text.split())
    return [Counter(squeezed[at : at + n] for at in range(len(squeezed) - n + 1)) for n in range(1, longest + 1)]


def chrf(text: str, reference: str, *, longest: int = 6, beta: float = 2.0) -> float:
    """chrF, from 0 to 1: F-score of character n-grams, recall counting twice as much (Popović 2015, WMT).

    Precision and recall are means over the orders that both texts have; white space is left out.
    """
    precisions, recalls = [], []
    for ours, theirs in zip(_grams(text, longest), _grams(reference, longest), strict=True):
        if ours and theirs:
            common = (ours & theirs).total()
            precisions.append(common / ours.total())
            recalls.append(common / theirs.total())
    if not precisions:
        return 0.0
    precision, recall = math.fsum(precisions) / len(precisions), math.fsum(recalls) / len(recalls)
    return (1 + beta**2) * precision * recall / ((beta**2 * precision + recall) or 1.0)
