"""Writes the tables of fields into docs/serve.md; with --check it only says whether they are up to date."""

import re
import sys
from pathlib import Path

from jeito.serve.endpoints import ENDPOINTS, table
from jeito.serve.fields import Own

PAGE = Path(__file__).with_name("serve.md")
ROWS = re.compile(r"(\| `.*\n)*")


def page(text: str) -> str:
    """The page with the tables as they should be; raises ValueError where a heading is missing."""
    tables = {f"## Fields of `{path}`": table(one.fields) for path, one in ENDPOINTS.items()}
    tables["### In `jeito`"] = [f"| `{name}` | {field.description} |" for name, field in Own.model_fields.items()]
    for heading, rows in tables.items():
        before, _, rest = text.partition(heading)
        head, line, after = rest.partition("| --- | --- |\n")
        if not line:
            raise ValueError(f"docs/serve.md has no table under {heading}")
        text = before + heading + head + line + "".join(f"{row}\n" for row in rows) + ROWS.sub("", after, count=1)
    return text


def main() -> int:
    found = page(PAGE.read_text())
    if "--check" not in sys.argv:
        PAGE.write_text(found)
    elif PAGE.read_text() != found:
        print("docs/serve.md is not what the tables say: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
