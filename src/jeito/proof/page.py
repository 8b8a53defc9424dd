"""What a page of a report is made of, and the page as HTML. Knows nothing of proofs or models.

All text is escaped by the template: whatever a model wrote stays text. A page refers to nothing outside itself.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from jeito import __version__
from jeito.errors import InputError


class Mark(NamedTuple):
    """A decision in a cell: a colour, a shape and a word. kind: holds, fails, undecided."""

    kind: str
    text: str


class Shade(NamedTuple):
    """A number in a cell whose ground is as dark as its share, from 0 to 1."""

    share: float
    text: str


Cell = str | Mark | Shade


class Table(NamedTuple):
    """Rows, each headed by its first cell. `stacks`: on a narrow screen each row is a card; else it is scrolled."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    stacks: bool = True


class Figure(NamedTuple):
    drawing: Markup
    caption: str


class Figures(NamedTuple):
    """Small drawings, side by side where there is room."""

    figures: Sequence[Figure]


class Facts(NamedTuple):
    """Names and values, and under them what is said of them all."""

    rows: Sequence[tuple[str, str]]
    said: str = ""


class Lines(NamedTuple):
    """Sentences, one under the other; or commands to type."""

    lines: Sequence[str]
    commands: bool = False


class Piece(NamedTuple):
    """Some text of a reply. `level`: how surprising, 0 to 4; `mark`: same, or parted where two replies part."""

    text: str
    level: int = 0
    said: str = ""
    mark: str = ""


class Reply(NamedTuple):
    """A reply as it came. `facts`: about it; `said`: in a sentence, what its colours say."""

    title: str
    verdicts: Sequence[tuple[Mark, str]]
    asked: str
    pieces: Sequence[Piece]
    facts: str
    said: str = ""


class Couple(NamedTuple):
    """Two replies that share their noise, side by side, and where they part."""

    title: str
    said: str
    asked: str
    replies: tuple[Reply, Reply]


class Section(NamedTuple):
    """A part of a page. `name` is its address in the page."""

    name: str
    title: str
    said: str
    blocks: Sequence[Table | Figure | Figures | Facts | Lines | Reply | Couple]


class Page(NamedTuple):
    """A report: its sentence first. `decision`: none where nothing was claimed."""

    sentence: str
    said: str
    decision: Mark | None
    sections: Sequence[Section]


LEVELS = (0.5, 1.5, 3.0, 5.0)
"""Nats of surprisal from which a token is of the next level: about 60 %, 22 %, 5 % and 0.7 % likely."""


def save(page: Page, file: Path) -> None:
    """Write a page. Raises InputError where that cannot be."""
    try:
        file.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be written: {error.strerror}", hint="--report FILE.html") from error


def render(page: Page) -> str:
    """A page as one HTML file: the same for the same page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("jeito", "proof"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["breakable"] = _breakable
    made.tests["block"] = lambda block, name: type(block).__name__ == name
    # Half a surrogate pair, which JSON can hold, is no text for a file.
    likely = [f"{100 * math.exp(-level):.2g} %" for level in LEVELS]
    filled = made.get_template("report.html").render(page=page, likely=likely, version=__version__)
    return filled.encode("utf-8", "replace").decode()


def _breakable(text: str) -> Markup:
    """A text whose long names break where they are made of parts."""
    return Markup(re.sub(r"(?<=\w)(?=[+/])", "<wbr>", str(escape(text))))
