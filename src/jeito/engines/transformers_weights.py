"""A checked folder as transformers' own model and tokenizer in memory, and what its tensors take."""

import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from logging import ERROR, getLogger
from typing import Any

from jeito.engines.base import Loading
from jeito.engines.folder import (
    Folder,
)  # fmt: skip
from jeito.errors import ModelError

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load_model(folder: Folder, precision: str, loading: Loading, device: str, *, use_safetensors: bool) -> Any:
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    computing = loading.compute or ("fp16" if device.startswith("cuda") else "bf16")
    options: dict[str, Any] = {"dtype": getattr(torch, TORCH_NAMES.get(precision, TORCH_NAMES[computing]))}
    if not folder.config.get("quantization_config") and precision in ("nf4", "int8"):
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=precision == "nf4",
            load_in_8bit=precision == "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=loading.double_quantisation,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    if device != "cpu" or precision not in TORCH_NAMES:
        options["device_map"] = {"": device}
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=loading.trust_remote_code, output_loading_info=True,
            use_safetensors=use_safetensors, **options,
        )  # fmt: skip
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder.name!r} cannot be loaded: {first_line(error)}",
            hint=f"compare its files with its source: {folder.path}",
        ) from error
    # transformers would fill these with random numbers and only warn.
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder.name!r} lacks {len(missing)} of its weights, such as {missing[0]!r}",
            hint=f"compare its files with its source: {folder.path}",
        )
    if device == "cpu" and "quantization_config" in options:
        _let_go_of_files(model)
    return model.eval()


# glibc's names, from its malloc.h; the largest threshold that it would itself come to.
_MMAP_THRESHOLD, _SMALL, _LARGEST = -3, 1 << 20, 32 << 20


@contextmanager
def returning_memory() -> Iterator[None]:
    """What is freed while weights are made, and repacked by their first pass, goes back to the system.

    glibc keeps freed pieces of up to 32 MB for later: up to five times what a small NF4 model takes was seen to stay.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):  # another system, or another C library
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.malloc_trim(0)


def _let_go_of_files(model: Any) -> None:
    """What was not quantised still lies in the file's pages, and holds the whole file mapped: copied, it lets go."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and getattr(tensor, "quant_state", None) is None:
            tensor.data = tensor.data.clone()


def load_tokenizer(folder: Folder, *, trust_remote_code: bool) -> Any:
    transformers: Any = import_module("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the tokenizer of {folder.name!r} cannot be loaded: {first_line(error)}",
            hint=f"compare tokenizer.json with its source: {folder.path}",
        ) from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def tensors_of(model: Any) -> Iterator[Any]:
    """Each tensor of the weights once, with what bitsandbytes keeps beside its own."""
    seen: set[int] = set()
    for tensor in [*model.parameters(), *model.buffers()]:
        state = getattr(tensor, "quant_state", None)
        inner = getattr(state, "state2", None)
        beside = [getattr(tensor, "SCB", None)]
        for part in (state, inner):
            beside += [getattr(part, name, None) for name in ("absmax", "code", "offset")]
        for found in [tensor, *beside]:
            if hasattr(found, "nbytes") and id(found) not in seen:
                seen.add(id(found))
                yield found


def bytes_of(model: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(model))


@contextmanager
def quietly() -> Iterator[None]:
    """transformers' notes and progress bars, and bitsandbytes' notes, kept off the terminal while a model is loaded."""
    logging: Any = import_module("transformers.utils.logging")
    other = getLogger("bitsandbytes")
    others = other.level
    other.setLevel(ERROR)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The libraries' advice to their own developers: nothing that a user could act on.
            for module in ("torch", "transformers", "bitsandbytes", "accelerate", "peft"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        other.setLevel(others)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
