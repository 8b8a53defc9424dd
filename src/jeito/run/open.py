"""From what a person types for a model to a model: the grammar of references, and which engine takes which.

Heavy libraries are imported here only when their engine is wanted.
"""

import os
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jeito.decode.local import LocalModel
from jeito.engines.base import AS_FOUND, Card, Engine, Loading
from jeito.engines.demo import demo_file
from jeito.engines.remote import Remote
from jeito.engines.remote_open import is_remote, open_remote
from jeito.errors import InputError, UnsupportedError, nearest
from jeito.preflight import loads
from jeito.preflight.gguf import HUB, cached_gguf
from jeito.preflight.knowledge import Fact, facts_of_folder, facts_of_gguf
from jeito.run.health import check_health

Opened = LocalModel | Remote
ENGINES = ("llamacpp", "transformers", "toy")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4")


class Reference(NamedTuple):
    """`TARGET[#within][@engine:precision]`, as SEMANTICS has it; none where nothing was said."""

    text: str
    target: str
    within: str | None = None
    engine: str | None = None
    precision: str | None = None


def parse(text: str) -> Reference:
    """Read a model reference; raises InputError for an engine or precision that there is not."""
    target, _, how = text.rpartition("@") if _says_how(text) else (text, "", "")
    target, _, within = target.partition("#")
    if not target:
        raise InputError(f"{text!r} names no model", hint="demo, FILE.gguf, a folder, ORG/NAME or http://host/v1")
    engine = precision = None
    for word in filter(None, how.split(":")):
        if word in ENGINES and engine is None:
            engine = word
        elif word in PRECISIONS and precision is None:
            precision = word
        else:
            raise InputError(f"{word!r} is no engine and no precision", hint=nearest(word, [*ENGINES, *PRECISIONS]))
    return Reference(text, target, within or None, engine, precision)


def _says_how(text: str) -> bool:
    # A path may hold an @ too: what follows the last one must look like the closed lists' words.
    # os.path's, which does not raise for what is too long to be one.
    return re.search(r"@[\w:]+$", text) is not None and not os.path.exists(text)


def open_model(
    text: str,
    *,
    engine: str | None = None,
    precision: str | None = None,
    loading: Loading = AS_FOUND,
    notify: Callable[[str], None] = lambda text: None,
) -> Opened:
    """The model that a reference names, ready to run; `notify` hears what takes long. Raises ModelError, InputError.

    One short pass tells a model from noise: what is broken is refused before anybody waits for it.

    The precision is the reference's, or this one's, not the one in `loading`. A server that nobody answers for is an
    EngineError.
    """
    reference = _with(parse(text), engine, precision)
    if is_remote(reference.target):
        if reference.engine or reference.precision:
            how = reference.engine or reference.precision
            raise InputError(
                f"{reference.target!r} is a server: what it runs on is not {how!r}'s to say", hint="--server vllm"
            )
        return open_remote(reference.text, reference.target, reference.within, loading, notify)
    if loading.server != "auto":
        raise InputError(
            f"{reference.text!r} is no server of the kind {loading.server!r}", hint="-m http://host:8000/v1"
        )
    made = _engine(reference, _loading(reference, loading), notify)
    try:
        check_health(made, reference.text, _again(reference.target))
    except BaseException:
        made.close()
        raise
    loads.record(reference.text, made.card)
    return LocalModel(made, reference.text)


def open_apart(text: str, **how: Any) -> Opened:
    """`open_model` for a program of many threads: all that the model computes is computed in one thread of its own.

    OpenMP keeps threads for every thread that ever computed; where that makes more of them than there are cores, all of
    them wait asleep, and a step of a small model takes a fifth longer.
    """
    worker = ThreadPoolExecutor(1, "model")
    try:
        model = worker.submit(partial(open_model, text, **how)).result()
    except BaseException:
        worker.shutdown(wait=False)
        raise
    if isinstance(model, LocalModel):
        model.worker = worker
    else:
        worker.shutdown()
    return model


def in_process(model: Opened) -> LocalModel:
    """The model itself, for what looks into it; one behind a server is closed, and InputError raised."""
    if not isinstance(model, LocalModel):
        model.close()
        raise InputError(f"{model.name!r} is a server, which shows nothing of its model's inside", hint="-m demo")
    return model


def _again(target: str) -> str:
    """How to get a model anew whose weights are broken."""
    if os.path.isfile(os.path.expanduser(target)):
        return f"does its source tell the same digest? sha256sum {shlex.quote(target)}"
    if HUB.fullmatch(target) and not os.path.isdir(target):
        return f"jeito pull {target}"
    return "get its files again from where they came from"


def read_card(
    text: str, *, engine: str | None = None, precision: str | None = None, loading: Loading = AS_FOUND
) -> Card:  # fmt: skip
    """What the model says of itself, read without its weights."""
    reference = _with(parse(text), engine, precision)
    _refuse_servers(reference)
    name = engine_of(reference)
    if name == "toy":
        from jeito.engines.toy import ToyEngine

        return ToyEngine().card
    if name == "transformers":
        from jeito.engines import transformers

        return transformers.read_card(_folder(reference), _loading(reference, loading), reference.within)
    from jeito.engines import llama_file

    return llama_file.read_card(_file(reference))


def read_fingerprint(text: str) -> str | None:
    """The fingerprint that the model has now; none where only its weights in memory would tell."""
    reference = parse(text)
    if engine_of(reference) != "llamacpp":
        return None
    from jeito.engines import llama_file, llamacpp

    file = _file(reference)
    return llamacpp.fingerprint_of(file, llama_file.read_card(file))


def read_facts(text: str, *, engine: str | None = None, precision: str | None = None) -> list[Fact]:
    """Every key of the model's small files, with what it touches; the toy has none."""
    reference = _with(parse(text), engine, precision)
    _refuse_servers(reference)
    name = engine_of(reference)
    if name == "toy":
        return []
    if name == "transformers":
        from jeito.engines import transformers

        return facts_of_folder(transformers.find(_folder(reference), reference.within))
    from jeito.engines import llama_file

    file = _file(reference)
    return facts_of_gguf(file.name, llama_file.read_metadata(file))


def _loading(reference: Reference, loading: Loading) -> Loading:
    return loading._replace(precision=reference.precision or "auto")


def _with(reference: Reference, engine: str | None, precision: str | None) -> Reference:
    for given, known in ((engine, ENGINES), (precision, PRECISIONS)):
        if given is not None and given not in known:
            raise InputError(f"{given!r} is no engine or precision", hint=nearest(given, known))
    how = ":".join(word for word in (engine or reference.engine, precision or reference.precision) if word)
    within = f"#{reference.within}" if reference.within else ""
    text = f"{reference.target}{within}" + (f"@{how}" if how else "")
    return Reference(
        text, reference.target, reference.within, engine or reference.engine, precision or reference.precision
    )


def engine_of(reference: Reference) -> str:
    """Which engine runs what a reference names."""
    if reference.engine:
        return reference.engine
    if reference.target == "toy":
        return "toy"
    is_gguf = reference.target == "demo" or reference.target.endswith(".gguf")
    if is_gguf and reference.precision in (None, "auto"):
        return "llamacpp"
    return "llamacpp" if cached_gguf(reference.target, reference.within) else "transformers"


def _engine(reference: Reference, loading: Loading, notify: Callable[[str], None]) -> Engine:
    name = engine_of(reference)
    if name == "toy":
        from jeito.engines.toy import ToyEngine

        if reference.precision or reference.within or reference.target != "toy":
            raise InputError(f"{reference.text!r}: the toy is only ever called toy", hint="-m toy")
        return ToyEngine(context=loading.context or 4096, slots=loading.slots or 8)
    if name == "transformers":
        from jeito.engines import transformers

        return transformers.load(_folder(reference), loading, revision=reference.within, notify=notify)
    from jeito.engines import llamacpp

    return llamacpp.load(_file(reference), loading, notify)


def _refuse_servers(reference: Reference) -> None:
    if is_remote(reference.target):
        what = f"{reference.target!r} is a server, which shows no files of its model"
        raise UnsupportedError(what, hint=f"jeito probe {reference.target}")


def _folder(reference: Reference) -> str:
    """What the transformers engine takes: `demo`, a folder, ORG/NAME."""
    if reference.target.endswith(".gguf") or cached_gguf(reference.target, reference.within):
        raise InputError(f"{reference.target!r} is a GGUF, which llama.cpp runs", hint=f"-m {reference.target}")
    if reference.within and reference.target == "demo":
        raise InputError("the demo model has one revision", hint="-m demo@transformers")
    return reference.target


def _file(reference: Reference) -> Path:
    """What the llama.cpp engine takes: `demo`, a GGUF file, or one in the hub's cache."""
    if reference.precision not in (None, "auto"):
        raise InputError(f"a GGUF file has its own precision, not {reference.precision}", hint=f"-m {reference.target}")
    found = cached_gguf(reference.target, reference.within)
    if found:
        return found
    if reference.within:
        raise InputError(f"a file has nothing to select with #{reference.within}", hint=f"-m {reference.target}")
    return demo_file() if reference.target == "demo" else Path(os.path.expanduser(reference.target))
