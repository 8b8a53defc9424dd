"""Any decoder-only model that transformers loads, on CUDA, MPS or CPU: found, checked, and opened as wanted.

Everything that small files and headers tell is checked before torch and transformers are imported. Knows nothing of
how rows become logits: the engine does.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jeito.engines.base import AS_FOUND, Card, Loading
from jeito.engines.demo import demo_folder
from jeito.engines.folder import (
    Folder,
    card_of,
    check_tokenizer,
    context_of,
    read_folder,
)  # fmt: skip
from jeito.engines.llama_binding import SPIN_COUNT
from jeito.engines.meter import free_memory, taken
from jeito.engines.needs import BYTES, Outline, choose
from jeito.engines.transformers_engine import TransformersEngine
from jeito.engines.transformers_weights import (
    TORCH_NAMES,
    bytes_of,
    load_model,
    load_tokenizer,
    quietly,
    returning_memory,
)
from jeito.engines.weights import SIZES, Weights, check_types, find_weights, footprint
from jeito.errors import InputError, ModelError, nearest

SLOTS = 8
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4")
PACKAGES = "torch transformers accelerate"
INSTALL = "pip install 'jeito[hf]'"
_FILE_PRECISIONS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}


def locate(target: str | Path, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a model, and its name: a folder, or ORG/NAME in the hub's local cache; nothing is downloaded."""
    text = str(target)
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):  # unlike Path.is_dir, false for a name that no system takes
        if revision:
            raise InputError(f"a folder has no revision {revision!r}", hint=f"-m {text}")
        return path, read_folder(path).name
    if isinstance(target, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise ModelError(f"there is no folder {text!r}", hint="-m demo, a folder, or ORG/NAME of the hub")
    try:
        hub: Any = import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ModelError(f"{text!r} is looked for in the hub's cache by huggingface_hub", hint=INSTALL) from error
    try:
        return Path(hub.snapshot_download(text, revision=revision, local_files_only=True)), text
    except (OSError, ValueError) as error:
        partial = getattr(error, "snapshot_path", None)
        if partial:  # not all of the repository is here, which need not be all that the model needs
            return Path(partial), text
        wanted = f"#{revision}" if revision else ""
        raise ModelError(
            f"{text!r} is no folder here and not in the hub's cache", hint=f"jeito pull {text}{wanted}"
        ) from error


def find(target: str | Path, revision: str | None = None, notify: Callable[[str], None] = lambda text: None) -> Folder:
    """The small files of `demo`, a folder or ORG/NAME, read and checked."""
    if target == "demo":
        return read_folder(demo_folder(notify), "demo")
    path, name = locate(target, revision)
    return read_folder(path, name)


def read_card(target: str | Path, loading: Loading = AS_FOUND, revision: str | None = None) -> Card:
    """What a model says of itself, from its small files and its weights' headers; imports no torch.

    The demo model must have been unpacked before; else it is unpacked now, which imports all.
    """
    check_words(loading)
    folder = find(target, revision)
    weights = find_weights(folder.path, allow_pickle=True)
    chosen = own_precision(folder, weights) if loading.precision == "auto" else loading.precision
    size = footprint(weights.tensors, folder.text, chosen if chosen in BYTES else "bf16")
    return card_of(
        folder, precision=loading.precision, device=loading.device or "", slots=loading.slots or SLOTS,
        context=context_of(folder, loading.context), size=size,
    )  # fmt: skip


def load(
    target: str | Path,
    loading: Loading = AS_FOUND,
    *,
    revision: str | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> TransformersEngine:
    """Load a model: `demo`, a folder, or ORG/NAME. Everything that small files and headers tell is checked first.

    Raises ModelError, and InputError for what was asked in words that there are not.
    """
    check_words(loading)
    prepare_torch()
    for module in PACKAGES.split():
        if find_spec(module) is None:
            raise ModelError(f"{str(target)!r} runs on transformers, and {module!r} is not here", hint=INSTALL)
    with quietly(), returning_memory():
        folder = find(target, revision, notify)
        check_tokenizer(folder, trust_remote_code=loading.trust_remote_code)
        weights = find_weights(folder.path, allow_pickle=loading.allow_pickle)
        check_types(weights, folder.config, folder.name)
        length = context_of(folder, loading.context)
        check_architecture(folder, trust_remote_code=loading.trust_remote_code)
        device = loading.device or best_device()
        precision = choose_precision(folder, weights, loading, device=device, context=length)
        start, before = time.perf_counter(), taken(device)
        model = load_model(folder, precision, loading, device, use_safetensors=weights.format == "safetensors")
        tokenizer = load_tokenizer(folder, trust_remote_code=loading.trust_remote_code)
        facts = {
            "load_seconds": round(time.perf_counter() - start, 3),
            "memory": {"start": before, "load": taken(device)},
            "predicted": _predicted(folder, weights, precision, loading, device, length),
        }
        card = card_of(
            folder, precision=precision, device=device, slots=loading.slots or SLOTS, context=length,
            size=bytes_of(model),
        )  # fmt: skip
        return TransformersEngine(folder, weights, model, tokenizer, card, loading=loading, facts=facts, notify=notify)


def _predicted(
    folder: Folder, weights: Weights, precision: str, loading: Loading, device: str, context: int
) -> dict[str, int]:  # fmt: skip
    """What the model should take, by part; nothing for a pickle, and for a file that is quantised already."""
    if not weights.tensors or precision not in BYTES or folder.config.get("quantization_config"):
        return {}
    outline = Outline(folder.name, folder.config, weights.tensors)
    return outline.need(precision, slots=loading.slots or SLOTS, context=context, device=device)._asdict()


def read_outline(target: str | Path, revision: str | None = None) -> Outline:
    """What decides the memory that a model takes, from its config and its weights' headers; imports no torch."""
    folder = find(target, revision)
    return Outline(folder.name, folder.config, find_weights(folder.path, allow_pickle=True).tensors)


def prepare_torch() -> None:
    """What its libraries read when they are loaded; what the user has set stands.

    Without MKL's strict mode a row's bits depend on which thread has it, and how its memory lies. With OpenMP's long
    spinning a busy machine makes every step wait.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def check_words(loading: Loading) -> None:
    """Are precision, compute and slots words and numbers that there are? Raises InputError."""
    if loading.precision not in PRECISIONS:
        raise InputError(f"{loading.precision!r} is no precision", hint=nearest(loading.precision, PRECISIONS))
    if loading.compute is not None and loading.compute not in TORCH_NAMES:
        raise InputError(f"nothing computes in {loading.compute!r}", hint=nearest(loading.compute, TORCH_NAMES))
    if loading.slots is not None and loading.slots < 1:
        raise InputError(f"{loading.slots} slots hold no text", hint="--slots 8")


def check_architecture(folder: Folder, *, trust_remote_code: bool) -> None:
    """Does this version of transformers know the model, as one that writes token after token?"""
    config_auto: Any = import_module("transformers.models.auto.configuration_auto")
    model_auto: Any = import_module("transformers.models.auto.modeling_auto")
    kind = folder.config.get("model_type")
    if trust_remote_code and "AutoModelForCausalLM" in folder.config.get("auto_map", {}):
        return
    if kind not in config_auto.CONFIG_MAPPING_NAMES:
        if folder.config.get("auto_map"):
            hint = "it brings code of its own; trust its author: --trust-remote-code"
        else:
            hint = f"pip install --upgrade transformers (its config was written by {_written_by(folder)})"
        raise ModelError(f"{folder.name!r} is a {kind!r}, which this transformers does not know", hint=hint)
    made_for = [str(name) for name in folder.config.get("architectures") or ()]
    other = re.compile(r"For(MaskedLM|\w*Classification|QuestionAnswering|MultipleChoice|PreTraining)$")
    if (
        kind not in model_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or folder.config.get("is_encoder_decoder")
        or (made_for and all(other.search(name) for name in made_for))
    ):
        raise ModelError(
            f"{folder.name!r} ({', '.join(made_for) or kind}) is no model that writes one token after the other",
            hint="take a chat model",
        )


def _written_by(folder: Folder) -> str:
    return f"version {folder.config.get('transformers_version', 'unknown')}"


def best_device() -> str:
    """Where torch computes fastest here."""
    torch: Any = import_module("torch")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def own_precision(folder: Folder, weights: Weights) -> str:
    """The precision that most of the file's values have; a quantised file keeps its own."""
    sizes = weights.bytes_by_dtype()
    if not sizes:
        said = str(folder.text.get("dtype") or folder.text.get("torch_dtype") or "float32")
        return next((word for word, name in TORCH_NAMES.items() if name == said), "fp32")
    return _FILE_PRECISIONS.get(max(sizes, key=lambda dtype: sizes[dtype] / SIZES.get(dtype, 1)), "bf16")


def choose_precision(folder: Folder, weights: Weights, loading: Loading, *, device: str, context: int) -> str:
    """The precision to load in: the one asked for, if it fits; `auto`: the best that does.

    Best first: the file's own (but bf16 for an fp32 file on a GPU), bf16, int8, nf4. With a budget, weights and every
    slot filled to the context must fit it; without one, the weights and a thousand tokens in the memory that is free.
    Raises ModelError when nothing fits.
    """
    if folder.config.get("quantization_config"):
        return _quantised_file(folder, loading.precision)
    own = own_precision(folder, weights)
    if own == "fp32" and device != "cpu":
        own = "bf16"
    asked = loading.precision
    order = list(dict.fromkeys([own, "bf16", "int8", "nf4"])) if asked == "auto" else [asked]
    if any(word in ("int8", "nf4") for word in order) and find_spec("bitsandbytes") is None:
        if asked != "auto":
            raise ModelError(f"{asked} needs bitsandbytes", hint="pip install bitsandbytes")
        order = [word for word in order if word not in ("int8", "nf4")]
    if not weights.tensors:  # a pickle, which says nothing before it is run
        return order[0]
    slots, outline = loading.slots or SLOTS, Outline(folder.name, folder.config, weights.tensors)
    if loading.budget is not None:
        return choose(outline, order, slots=slots, context=context, budget=loading.budget)
    free = free_memory(device)
    if free is None:
        return order[0]
    return choose(outline, order, slots=1, context=min(context, 1024), budget=free)


def _quantised_file(folder: Folder, asked: str) -> str:
    found = folder.config["quantization_config"]
    method = "nf4" if found.get("load_in_4bit") else "int8" if found.get("load_in_8bit") else found.get("quant_method")
    if asked not in ("auto", method):
        raise ModelError(f"{folder.name!r} is quantised already ({method}), not {asked}", hint="--precision auto")
    return str(method)
