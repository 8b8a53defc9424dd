"""Whether the weights are all there, and whether an engine that is installed here can run them."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from jeito.engines import llama_binding
from jeito.engines.folder import Folder
from jeito.engines.transformers import PACKAGES, check_architecture
from jeito.errors import EngineError, ModelError
from jeito.preflight.find import Facts
from jeito.preflight.finding import Finding, found
from jeito.preflight.gguf import SHARD, choose_gguf

_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# What each way of quantising is read by: module → package. https://huggingface.co/docs/transformers/quantization
_QUANTISERS = {
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "aqlm": {"aqlm": "aqlm"},
    "torchao": {"torchao": "torchao"},
    "mxfp4": {"kernels": "kernels"},
}


def weights(facts: Facts) -> Iterator[Finding]:
    """Present, complete, and of a format that cannot run code when it is read."""
    if is_adapter(facts):
        yield from _adapter(facts)
        return
    shards = weight_files(facts)
    if not shards:
        yield _without_weights(facts)
        return
    size = sum(facts.files.get(name) or 0 for name in shards)
    yield found("weights.present", "ok", f"{len(shards)} files, {size:,} bytes")
    yield _completeness(facts, shards)
    if shards[0].endswith(_PICKLES):
        how = "take a copy in safetensors, or trust its author: --allow-pickle"
        yield found("weights.format", "blocker", f"a pickle only ({shards[0]}), which can run any code", how=how)
    else:
        yield found("weights.format", "ok", "GGUF" if shards[0].endswith(".gguf") else "safetensors")


def is_adapter(facts: Facts) -> bool:
    """Is there an adapter, and no whole model beside it?"""
    whole = any(name not in _ADAPTERS and name.endswith(".safetensors") for name in facts.files)
    return facts.adapter is not None and not whole


def _adapter(facts: Facts) -> Iterator[Finding]:
    held = weight_files(facts)
    if not held:
        yield found("weights.present", "blocker", "adapter_config.json without its weights", elsewhere=again(facts))
    else:
        yield found("weights.present", "ok", f"an adapter, {facts.files[held[0]] or 0:,} bytes")
        yield _completeness(facts, held)
        if held[0].endswith(".bin"):
            yield found("weights.format", "blocker", f"a pickle only ({held[0]})", how="save it as safetensors")
        else:
            yield found("weights.format", "ok", "safetensors, adapter only")
    base = (facts.adapter or {}).get("base_model_name_or_path")
    if isinstance(base, str) and base:
        how = f"run its base with it: jeito check {base}"
        yield found("adapter.base", "warning", f"an adapter only; its base is {base}", how=how)
    else:
        yield found("adapter.base", "blocker", "an adapter that names no base", how="ask its author for the base")


def weight_files(facts: Facts) -> list[str]:
    """Names of the files that make the model, whether or not they are there; none where nothing says which."""
    names = [name for name in facts.files if "/" not in name]
    if facts.gguf_file:
        return _all_parts(choose_gguf(facts.files, facts.quantisation) or [facts.gguf_file])
    if facts.quantisation:
        return []
    if is_adapter(facts):
        return [name for name in _ADAPTERS if name in names][:1]
    if facts.index:
        return list(facts.index.shards)
    for endings in ((".safetensors",), _PICKLES):
        held = [name for name in names if name.endswith(endings) and name not in (*_ADAPTERS, "training_args.bin")]
        parts = [name for name in held if SHARD.fullmatch(name)]
        if parts:
            return _all_parts(parts)
        if held:
            usual = next((name for name in ("model.safetensors", "pytorch_model.bin") if name in held), None)
            return [usual or next((name for name in held if name.startswith("model.")), held[0])]
    return []


def _all_parts(parts: list[str]) -> list[str]:
    match = SHARD.fullmatch(parts[0])
    if not match:
        return parts
    total = min(int(match[3]), 1000)
    return [f"{match[1]}-{number:05d}-of-{match[3]}.{match[4]}" for number in range(1, total + 1)]


def _without_weights(facts: Facts) -> Finding:
    ggufs = sorted(name for name in facts.files if name.endswith(".gguf"))
    if facts.quantisation or ggufs:
        wanted = f"no {facts.quantisation} among" if facts.quantisation else "say which of"
        return found(
            "weights.present", "blocker", f"{wanted} {len(ggufs)} GGUF files: {', '.join(ggufs[:6])}",
            elsewhere=f"name one: jeito check {facts.asked}:Q4_K_M" if ggufs else f"jeito check {facts.name}",
        )  # fmt: skip
    other = sorted(name for name in facts.files if name.endswith((".h5", ".msgpack", ".onnx", ".tflite", ".ot")))
    if other:
        evidence = f"only for other frameworks: {', '.join(other[:3])}"
    elif facts.files:
        evidence = f"{len(facts.files)} files, none of them weights: {', '.join(sorted(facts.files)[:4])}"
    else:
        evidence = "it has no files"
    base = next((one for one in facts.base if one != facts.name), None)
    instead = (
        f"its base may have them: jeito check {base}"
        if base
        else "take another copy: hf models list --search " + (facts.name.rsplit("/", 1)[-1])
    )
    return found("weights.present", "blocker", evidence, elsewhere=instead)


def _completeness(facts: Facts, shards: list[str]) -> Finding:
    anew = again(facts)
    absent = [name for name in shards if name not in facts.files]
    if absent:
        evidence = f"{len(absent)} of {len(shards)} files are missing: {', '.join(absent[:3])}"
        return found("weights.complete", "blocker", evidence, again=anew)
    broken = next((facts.unreadable[name] for name in shards if name in facts.unreadable), None)
    if broken and not facts.refused:
        return found("weights.complete", "blocker", broken, again=anew)
    for name, header in facts.headers.items():
        size = facts.files.get(name)
        if name in shards and size is not None and size != header.size:
            how = "is cut short" if size < header.size else "is longer than its header says"
            return found("weights.complete", "blocker", f"{name} {how}: {size:,} of {header.size:,} bytes", again=anew)
    empty = [name for name in shards if facts.files[name] == 0]
    if empty:
        return found("weights.complete", "blocker", f"{empty[0]} is empty", again=anew)
    if shards[0].endswith(".safetensors") and len(shards) > 1 and not facts.index:
        return found("weights.complete", "blocker", "shards without their index", again=anew)
    read = [name for name in shards if name in facts.headers or name == facts.gguf_file]
    settled = f"headers of {len(read)} files agree with their sizes" if read else "sizes agree with the index"
    if not read and not (facts.index and facts.index.bytes is not None):
        settled = "every file is there; nothing says how long they should be"
    return found("weights.complete", "ok", settled)


def again(facts: Facts) -> str:
    """How to get files anew of which some are missing or broken."""
    if facts.place == "hub":
        return f"jeito pull {facts.name}; if that says the same, tell its author, or take {facts.name}#ANOTHER-REVISION"
    return f"jeito pull {facts.name}" if facts.place == "cache" else "copy it again from the model's source"


def engine(facts: Facts) -> Iterator[Finding]:
    """Which engine takes it, does that know it, and is everything here that it needs?"""
    if facts.gguf is not None:
        yield _llama(facts)
        return
    if facts.config is None and facts.adapter is None:
        return
    lacking = sorted({package for module, package in _needs(facts).items() if not _is_here(module)})
    if lacking:
        install = f"pip install {' '.join(lacking)}"
        yield found("engine.packages", "blocker", f"missing: {', '.join(lacking)}", install=install)
    else:
        yield found("engine.packages", "ok", "all are here")
    if facts.config is not None and facts.adapter is None and _is_here("transformers"):
        yield _transformers(facts)


def _llama(facts: Facts) -> Finding:
    kind = str((facts.gguf or {}).get("general.architecture"))
    try:
        known = llama_binding.knows(kind)
    except EngineError as error:
        return found("engine.architecture", "blocker", str(error), how=error.hint)
    evidence = f"{kind}, by {llama_binding.version()}"
    return found("engine.architecture", "ok" if known else "blocker", evidence, how="pip install --upgrade jeito")


def _transformers(facts: Facts) -> Finding:
    config, kind = dict(facts.config or {}), (facts.config or {}).get("model_type")
    if not isinstance(kind, str):
        how = "take its config.json from the model's source"
        return found("engine.architecture", "blocker", f"config.json says model_type {kind!r}", how=how)
    # Strangers' files: what is of another kind than it should be says nothing.
    for key, sort in (("architectures", list), ("auto_map", dict)):
        if not isinstance(config.get(key), sort):
            config.pop(key, None)
    folder = Folder(Path(), config, {}, {}, None, facts.name)
    try:
        check_architecture(folder, trust_remote_code=False)
    except ModelError as error:
        if "AutoModelForCausalLM" in config.get("auto_map", {}):
            return found("engine.code", "blocker", f"{kind!r} is code that the model brings")
        return found("engine.architecture", "blocker", str(error), how=error.hint)
    return found("engine.architecture", "ok", f"{kind}, by transformers")


def _needs(facts: Facts) -> dict[str, str]:
    """Module → package of everything that this model is read by."""
    needs = {module: module for module in PACKAGES.split()}
    names = facts.files
    if not {"tokenizer.json", "vocab.txt", "merges.txt"} & names.keys():
        if any(name.endswith(".tiktoken") for name in names):
            needs["tiktoken"] = "tiktoken"
        elif any("spiece" in name or name in ("tokenizer.model", "sentencepiece.bpe.model") for name in names):
            needs |= {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
    quantised = (facts.config or {}).get("quantization_config")
    if isinstance(quantised, dict):
        needs |= _QUANTISERS.get(str(quantised.get("quant_method")), {})
        if quantised.get("load_in_4bit") or quantised.get("load_in_8bit"):
            needs |= _QUANTISERS["bitsandbytes"]
    if facts.adapter is not None:
        needs["peft"] = "peft"
    return needs


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False
