"""Where files live. The only place that reads the environment; makes no folder until something is written."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any


def home() -> Path:
    """JEITO_HOME, else the platform's data folder of the user."""
    given = os.environ.get("JEITO_HOME")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("jeito"))


def llama_library() -> str | None:
    """Another build of llama.cpp's library to load (JEITO_LLAMA_LIB), or none."""
    return os.environ.get("JEITO_LLAMA_LIB") or None


def mkl_is_strict() -> bool:
    """Does Intel's library give a row the same bits wherever it lies (MKL_CBWR)?"""
    return "STRICT" in os.environ.get("MKL_CBWR", "")


def hub_endpoint() -> str:
    """Where the hub is (HF_ENDPOINT), without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_is_offline() -> bool:
    """Must the hub not be asked (HF_HUB_OFFLINE)?"""
    return (os.environ.get("HF_HUB_OFFLINE") or "").upper() in ("1", "ON", "YES", "TRUE")


def api_keys() -> list[str]:
    """Keys that a server takes (JEITO_KEYS), commas between."""
    return [key.strip() for key in (os.environ.get("JEITO_KEYS") or "").split(",") if key.strip()]


def remote_key(host: str) -> str | None:
    """A key for another server: JEITO_REMOTE_KEY_HOST_PORT, all but letters and digits as _, or JEITO_REMOTE_KEY."""
    name = re.sub(r"[^A-Za-z0-9]", "_", host).upper()
    return os.environ.get(f"JEITO_REMOTE_KEY_{name}") or os.environ.get("JEITO_REMOTE_KEY") or None


def named(kind: str, name: str) -> Path | None:
    """What has this name here: an adapter's folder (`adapters`) or a control vector's file (`steering`), if it is."""
    path = home() / kind / (f"{name}.gguf" if kind == "steering" else name)
    return path if re.fullmatch(r"[\w-][\w.-]*", name) and path.exists() else None


def recall(kind: str, key: str) -> Any | None:
    """A fact kept on this machine, such as a file's digest; none when nothing readable is kept."""
    return all_of(kind).get(key)


def all_of(kind: str) -> dict[str, Any]:
    """Every fact of a kind that is kept on this machine."""
    try:
        return dict(json.loads((home() / "facts" / f"{kind}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def remember(kind: str, key: str, value: Any) -> None:
    """Keep a fact that can be measured again; a home that cannot be written only costs the next measurement."""
    path = home() / "facts" / f"{kind}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = all_of(kind) | {key: value}
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(kept, indent=1))
        partial.replace(path)
    except OSError:
        return


def file_digest(path: Path) -> str:
    """sha256 of a file, kept by its path, size and time of change: a large file is read once."""
    found = path.stat()
    key = f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"
    kept = recall("digests", key)
    if isinstance(kept, str):
        return kept
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    remember("digests", key, digest)
    return digest
