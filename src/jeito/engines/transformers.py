"""Any decoder-only model that transformers loads, on CUDA, MPS or CPU: rows in, logits out.

Knows nothing of prompts, sampling or who asks. torch and transformers are imported when a model is loaded.
"""

import hashlib
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jeito import home
from jeito.engines.base import AS_FOUND, Card, Loading, Logits, Row, Shape
from jeito.engines.demo import demo_folder
from jeito.engines.folder import (
    Folder,
    card_of,
    check_tokenizer,
    context_of,
    end_tokens,
    read_folder,
    versions_of,
)  # fmt: skip
from jeito.engines.llama_binding import SPIN_COUNT
from jeito.engines.meter import free_memory, taken
from jeito.engines.needs import BYTES, choose
from jeito.engines.pieces import Pieces
from jeito.engines.slots import Slab, Work
from jeito.engines.slots_probe import Suited, suit
from jeito.engines.slots_selftest import is_exact
from jeito.engines.weights import SIZES, Weights, check_types, find_weights, footprint
from jeito.errors import EngineError, InputError, MemoryFull, ModelError, nearest

SLOTS = 8
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4")
PACKAGES = "torch transformers accelerate"
INSTALL = "pip install 'jeito[hf]'"
# Rows of every pass of an exact call. Measured on 2 cores: where a pass costs by its weights, more rows are nearly
# free; where it costs by its rows (bf16 without bf16 instructions), fewer serve a lone reply better. A GPU takes 32
# hardly slower than 8.
WIDTHS = {"fp32": 16, "bf16": 4, "fp16": 4, "nf4": 8, "int8": 8}
WIDTH_ON_GPU = 32
# Tokens of one exact call, in several passes if need be: more would hold the lock for longer.
EXACT_BATCH = 64
_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
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
        wanted = f" --revision {revision}" if revision else ""
        raise ModelError(
            f"{text!r} is no folder here and not in the hub's cache", hint=f"hf download {text}{wanted}"
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
    _check_words(loading)
    folder = find(target, revision)
    weights = find_weights(folder.path, allow_pickle=True)
    chosen = _file_precision(folder, weights) if loading.precision == "auto" else loading.precision
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
) -> "TransformersEngine":
    """Load a model: `demo`, a folder, or ORG/NAME. Everything that small files and headers tell is checked first.

    Raises ModelError, and InputError for what was asked in words that there are not.
    """
    _check_words(loading)
    _prepare_torch()
    for module in PACKAGES.split():
        if find_spec(module) is None:
            raise ModelError(f"{str(target)!r} runs on transformers, and {module!r} is not here", hint=INSTALL)
    with _quietly():
        folder = find(target, revision, notify)
        check_tokenizer(folder, trust_remote_code=loading.trust_remote_code)
        weights = find_weights(folder.path, allow_pickle=loading.allow_pickle)
        check_types(weights, folder.config, folder.name)
        length = context_of(folder, loading.context)
        check_architecture(folder, trust_remote_code=loading.trust_remote_code)
        device = loading.device or _best_device()
        precision = choose_precision(folder, weights, loading, device=device, context=length)
        start = time.perf_counter()
        model = _load_model(folder, precision, loading, device, use_safetensors=weights.format == "safetensors")
        tokenizer = _load_tokenizer(folder, trust_remote_code=loading.trust_remote_code)
        seconds = time.perf_counter() - start
        card = card_of(
            folder, precision=precision, device=device, slots=loading.slots or SLOTS, context=length,
            size=_bytes(model),
        )  # fmt: skip
        return TransformersEngine(
            folder, weights, model, tokenizer, card, loading=loading, load_seconds=seconds, notify=notify
        )


def _prepare_torch() -> None:
    """What its libraries read when they are loaded; what the user has set stands.

    Without MKL's strict mode a row's bits depend on which thread has it, and how its memory lies. With OpenMP's long
    spinning a busy machine makes every step wait.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _check_words(loading: Loading) -> None:
    if loading.precision not in PRECISIONS:
        raise InputError(f"{loading.precision!r} is no precision", hint=nearest(loading.precision, PRECISIONS))
    if loading.compute is not None and loading.compute not in _TORCH_NAMES:
        raise InputError(f"nothing computes in {loading.compute!r}", hint=nearest(loading.compute, _TORCH_NAMES))
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


def _best_device() -> str:
    torch: Any = import_module("torch")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _file_precision(folder: Folder, weights: Weights) -> str:
    """The precision that most of the file's values have; a quantised file keeps its own."""
    sizes = weights.bytes_by_dtype()
    if not sizes:
        said = str(folder.text.get("dtype") or folder.text.get("torch_dtype") or "float32")
        return next((word for word, name in _TORCH_NAMES.items() if name == said), "fp32")
    return _FILE_PRECISIONS.get(max(sizes, key=lambda dtype: sizes[dtype] / SIZES.get(dtype, 1)), "bf16")


def choose_precision(folder: Folder, weights: Weights, loading: Loading, *, device: str, context: int) -> str:
    """The precision to load in: the one asked for, if it fits; `auto`: the best that does.

    Best first: the file's own (but bf16 for an fp32 file on a GPU), bf16, int8, nf4. With a budget, weights and every
    slot filled to the context must fit it; without one, the weights and a thousand tokens in the memory that is free.
    Raises ModelError when nothing fits.
    """
    if folder.config.get("quantization_config"):
        return _quantised_file(folder, loading.precision)
    own = _file_precision(folder, weights)
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
    slots = loading.slots or SLOTS
    if loading.budget is not None:
        return choose(folder, weights, order, slots=slots, context=context, budget=loading.budget)
    free = free_memory(device)
    if free is None:
        return order[0]
    return choose(folder, weights, order, slots=1, context=min(context, 1024), budget=free)


def _quantised_file(folder: Folder, asked: str) -> str:
    found = folder.config["quantization_config"]
    method = "nf4" if found.get("load_in_4bit") else "int8" if found.get("load_in_8bit") else found.get("quant_method")
    if asked not in ("auto", method):
        raise ModelError(f"{folder.name!r} is quantised already ({method}), not {asked}", hint="--precision auto")
    return str(method)


def _load_model(folder: Folder, precision: str, loading: Loading, device: str, *, use_safetensors: bool) -> Any:
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    computing = loading.compute or ("fp16" if device.startswith("cuda") else "bf16")
    options: dict[str, Any] = {"dtype": getattr(torch, _TORCH_NAMES.get(precision, _TORCH_NAMES[computing]))}
    if not folder.config.get("quantization_config") and precision in ("nf4", "int8"):
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=precision == "nf4",
            load_in_8bit=precision == "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=loading.double_quantisation,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    if device != "cpu" or precision not in _TORCH_NAMES:
        options["device_map"] = {"": device}
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=loading.trust_remote_code, output_loading_info=True,
            use_safetensors=use_safetensors, **options,
        )  # fmt: skip
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder.name!r} cannot be loaded: {_first_line(error)}",
            hint=f"compare its files with its source: {folder.path}",
        ) from error
    # transformers would fill these with random numbers and only warn.
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder.name!r} lacks {len(missing)} of its weights, such as {missing[0]!r}",
            hint=f"compare its files with its source: {folder.path}",
        )
    return model.eval()


def _load_tokenizer(folder: Folder, *, trust_remote_code: bool) -> Any:
    transformers: Any = import_module("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the tokenizer of {folder.name!r} cannot be loaded: {_first_line(error)}",
            hint=f"compare tokenizer.json with its source: {folder.path}",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tensors(model: Any) -> Iterator[Any]:
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


def _bytes(model: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(model))


@contextmanager
def _quietly() -> Iterator[None]:
    """transformers' notes and progress bars kept off the terminal while a model is loaded."""
    logging: Any = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The libraries' advice to their own developers: nothing that a user could act on.
            for module in ("torch", "transformers", "bitsandbytes", "accelerate"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class TransformersEngine:
    """One model in memory, and one memory for its sequences. `model` and `tokenizer` are transformers' own objects."""

    def __init__(
        self,
        folder: Folder,
        weights: Weights,
        model: Any,
        tokenizer: Any,
        card: Card,
        *,
        loading: Loading,
        load_seconds: float,
        notify: Callable[[str], None],
    ) -> None:
        self._folder, self._weights, self._budget, self._notify = folder, weights, loading.budget, notify
        self.model, self.tokenizer = model, tokenizer
        self._torch: Any = import_module("torch")
        self._pieces = Pieces(tokenizer)
        self._device, self._precision = card.device, card.precision
        self._suited: Suited = suit(model, context=card.context, room=self._check_room)
        self.memory_of_slots = self._suited.make(card.slots)
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.card: Card = replace(
            card,
            vocabulary=self._vocabulary(),
            bos=bos if bos is not None else card.bos,
            ends=end_tokens(folder, eos),
            add_bos=bos is not None and _ids(tokenizer, "", added=True)[:1] == [bos],
            rewinds=self.memory_of_slots.rewinds,
            facts=self._facts(load_seconds, loading),
            notes=self._notes(loading),
        )
        self._exact: tuple[Shape | None, str] | None = None
        self._fingerprint: str | None = None

    def _facts(self, load_seconds: float, loading: Loading) -> dict[str, Any]:
        by_dtype: dict[str, int] = {}
        for tensor in _tensors(self.model):
            name = str(tensor.dtype).removeprefix("torch.")
            by_dtype[name] = by_dtype.get(name, 0) + tensor.nbytes
        facts: dict[str, Any] = {
            "format": self._weights.format,
            "weights": by_dtype,
            "load_seconds": round(load_seconds, 3),
            "attention": self.model.config._attn_implementation,
            "rows": "together" if self._suited.shares else "one by one",
            "memory": {"load": taken(self._device)},
        }
        if self._precision == "nf4":
            compute = next(word for word, name in _TORCH_NAMES.items() if str(self.model.dtype) == f"torch.{name}")
            facts |= {"compute": compute, "double_quantisation": loading.double_quantisation}
        return facts

    def _notes(self, loading: Loading) -> tuple[str, ...]:
        notes = []
        if not self._suited.shares:
            notes.append(f"rows run one by one: {self._suited.why}")
        if loading.trust_remote_code and self._folder.config.get("auto_map"):
            notes.append("the model's own code ran (trust_remote_code)")
        if self._weights.format == "pickle":
            notes.append("the weights were read from a pickle (allow_pickle)")
        return tuple(notes)

    def _vocabulary(self) -> int:
        head = self.model.get_output_embeddings()
        size = getattr(head, "out_features", None)
        return int(size or self.model.config.get_text_config(decoder=True).vocab_size)

    def tokens(self, text: str, special: bool) -> list[int]:
        return _ids(self.tokenizer, text.encode(errors="replace").decode(), special=special)

    def text(self, ids: Sequence[int]) -> bytes:
        return self._pieces.text(ids)

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        shape = self.exact()[0] if exact else None
        if exact and shape is None:
            raise EngineError(f"no exact replies here: {self.exact()[1]}")
        self._check(rows, shape.high if shape else self.card.batch)
        work = [Work(row.slot, row.tokens, row.want) for row in rows]
        memory = self.memory_of_slots
        before = [memory.lengths[row.slot] for row in rows]
        try:
            if shape is not None:
                assert isinstance(memory, Slab)
                found = memory.append_exactly(work, shape.low)
            else:
                found = memory.append(work)
        except (RuntimeError, MemoryError, IndexError, ValueError, TypeError) as error:
            for row in rows:
                memory.mend(row.slot)
            if _is_out_of_memory(error):
                raise MemoryFull(
                    f"no room for {sum(len(row.tokens) for row in rows)} more tokens",
                    hint="fewer replies at once, or a shorter --context",
                ) from error
            raise EngineError(f"the model failed at a call of {len(rows)} rows: {_first_line(error)}") from error
        logits = [tensor.float().cpu().numpy() for tensor in found]
        if any(np.isnan(part).any() for part in logits):
            for row, length in zip(rows, before, strict=True):
                memory.truncate(row.slot, length)
            raise EngineError(
                f"the model gave no numbers in {self.card.precision}: its values overflow", hint="--precision bf16"
            )
        return logits

    def _check(self, rows: Sequence[Row], most: int) -> None:
        total = sum(len(row.tokens) for row in rows)
        if total > most or not all(row.tokens for row in rows):
            raise EngineError(f"a call of {total} tokens in {len(rows)} rows: from 1 a row to {most} together can be")
        for row in rows:
            length = self.memory_of_slots.lengths[row.slot] + len(row.tokens)
            if length > self.card.context:
                raise MemoryFull(
                    f"a text of {length} tokens: the context is {self.card.context}", hint="a longer --context"
                )

    def _check_room(self, more: int, held: int) -> None:
        """Before more bytes are taken for texts than are held: a full system ends the process without a word."""
        if self._budget is not None:
            left: int | None = self._budget - self.card.bytes - held
        elif self._device == "cpu":
            left = free_memory("cpu")
        else:
            return  # torch says so itself
        if left is not None and more > left:
            raise MemoryFull(
                f"{more / 2**20:.0f} MiB more for texts, and {max(left, 0) / 2**20:.0f} MiB are left",
                hint="fewer replies at once, or a shorter --context",
            )

    def fork(self, source: int, target: int, length: int) -> None:
        self.memory_of_slots.fork(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        self.memory_of_slots.truncate(slot, length)

    def memory(self) -> dict[str, int]:
        """Bytes: of the weights, of what the slots hold, and what the process and the device have taken."""
        held = {"weights": self.card.bytes, "slots": self.memory_of_slots.bytes()}
        return held | taken(self._device)

    def exact(self) -> tuple[Shape | None, str]:
        if self._exact is None:
            self._exact = self._recall_exact()
        return self._exact

    def _recall_exact(self) -> tuple[Shape | None, str]:
        if not self._suited.shares:
            return None, f"rows run one by one: {self._suited.why}"
        config = self.model.config.get_text_config(decoder=True)
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            return None, "a mixture of experts computes a token differently beside others"
        if self._device == "cpu" and self._torch.backends.mkl.is_available() and "STRICT" not in _mkl_mode():
            return None, "torch was loaded before MKL_CBWR=AUTO,STRICT was set"
        width = WIDTHS[self._precision] if self._device == "cpu" else WIDTH_ON_GPU
        key = f"{self.fingerprint()} device={self._device_name()} threads={self._torch.get_num_threads()} width={width}"
        kept = home.recall("exact", key)
        if not isinstance(kept, bool):
            self._notify("testing, once for these files, whether replies are exact …")
            slab = self._suited.make(4)
            assert isinstance(slab, Slab), "only a slab shares passes"
            kept = is_exact(slab, width=width, vocabulary=self.card.vocabulary, context=self.card.context)
            home.remember("exact", key, kept)
        if not kept:
            return None, f"calls of {width} rows gave other logits alone than among others, on these files and build"
        return Shape(width, EXACT_BATCH), f"tested on these files with torch {self._torch.__version__}"

    def _device_name(self) -> str:
        if self._device.startswith("cuda"):
            return str(self._torch.cuda.get_device_name(self._device))
        return self._device

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            small = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
            parts = {
                "weights": self._weights.digest(),
                "files": {
                    name: home.file_digest(self._folder.path / name)
                    for name in small
                    if (self._folder.path / name).is_file()
                },
                "template": self.card.template,
                "engine": "transformers",
                "precision": self.card.precision,
                "computes": str(self.model.dtype),
                "attention": self.model.config._attn_implementation,
                "double": self.card.facts.get("double_quantisation"),
                "versions": dict(versions_of(self.card.precision)),
            }
            text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
            self._fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """Let the weights and the slots go; on a GPU also what torch keeps for later."""
        del self.model, self.memory_of_slots, self._suited
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()


def _ids(tokenizer: Any, text: str, *, special: bool = True, added: bool = False) -> list[int]:
    """Token ids. `special`: names of special tokens become those tokens; `added`: as the tokenizer begins a text."""
    encoded = tokenizer(text, add_special_tokens=added, split_special_tokens=not special, verbose=False)
    return [int(token) for token in encoded.input_ids]


def _mkl_mode() -> str:
    return os.environ.get("MKL_CBWR", "")


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
