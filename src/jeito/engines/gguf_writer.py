"""GGUF files written by the gguf package. Knows nothing of what they hold."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from jeito.errors import ModelError


def package() -> Any:
    """The gguf package; raises ModelError where it is not installed."""
    try:
        return import_module("gguf")
    except ModuleNotFoundError as error:
        raise ModelError("GGUF files are written by the gguf package", hint="pip install gguf") from error


def write_gguf(file: Path, architecture: str, fill: Callable[[Any], None]) -> None:
    """A whole file or none: it gets its name when all of it is written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    writer = package().GGUFWriter(partial, architecture)
    try:
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
