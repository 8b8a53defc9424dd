"""Options that several commands share, said once. Imports nothing heavy: `jeito --help` reads this."""

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jeito.errors import InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading

Prompt = Annotated[str, typer.Argument(help="What is asked; - reads standard input.")]
Behaviour = Annotated[
    str, typer.Option("--behaviour", "-b", help="NAME or PATH.yaml, then +key=value as often as wanted.")
]
Behaviours = Annotated[list[str], typer.Option("--behaviour", "-b", help="As often as wanted.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m",
        help="demo, FILE.gguf, FOLDER, ORG/NAME[:QUANT], http://host/v1[#NAME] or toy; @engine:precision says how.",
    ),
]  # fmt: skip
Models = Annotated[list[str], typer.Option("--model", "-m", help="As often as wanted.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One value on top of the behaviour.")]
Seed = Annotated[int | None, typer.Option(help="0 to 2^64-1; drawn and written down when not given.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
Engine = Annotated[str | None, typer.Option(help="llamacpp, transformers or toy.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16, int8 or nf4.")]
AllowUnsupported = Annotated[
    bool, typer.Option("--allow-unsupported", help="Go on without what the model cannot honour; the receipt says so.")
]
Logprobs = Annotated[int | None, typer.Option(help="Log-probabilities, and so many alternatives for each token.")]
Context = Annotated[int | None, typer.Option(help="Tokens that prompt and reply may take together.")]
Slots = Annotated[int | None, typer.Option(min=1, help="Replies that run at once.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the best there is.")]
Server = Annotated[
    str, typer.Option(help="What a remote -m is: vllm, llama-server, ollama, transformers, openai, jeito or auto.")
]
Schema = Annotated[
    str | None,
    typer.Option(metavar="FILE.json", help="A JSON schema that the answer must meet, whatever the behaviour."),
]
Tools = Annotated[
    list[str],
    typer.Option("--tools", help="What the model may call: calculator, FILE.py:function, mcp:…; commas between."),
]
Adapters = Annotated[
    str,
    typer.Option(
        "--adapters", metavar="none,NAME,…", help="Each behaviour with each of these instead of its own, and with none."
    ),
]
Checks = Annotated[
    list[str], typer.Option("--check", metavar="CHECK", help="One more claim: json, or 'words: {max: 120}'.")
]
AtLeast = Annotated[
    list[float], typer.Option("--at-least", help="The share that must pass: of every --check, or one for each.")
]
Report = Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write what was found as one page.")]
Junit = Annotated[Path | None, typer.Option(metavar="FILE.xml", help="Write the claims as JUnit XML.")]
NoLog = Annotated[bool, typer.Option("--no-log", help="Keep no trace of this run.")]

# How a model is loaded; `loads_model` adds them to a command.
_LOADING: dict[str, tuple[Any, Any]] = {
    "context": (Context, None),
    "slots": (Slots, None),
    "budget": (
        Annotated[str | None, typer.Option(metavar="SIZE", help="Most memory to take, such as 15GB or 900MiB.")], None,
    ),
    "device": (Device, None),
    "compute": (
        Annotated[str | None, typer.Option(help="What NF4 computes in: fp16 (on CUDA), bf16 (elsewhere) or fp32.")],
        None,
    ),
    "single_quantisation": (
        Annotated[bool, typer.Option("--single-quantisation", help="NF4 without the second quantisation.")], False,
    ),
    "allow_pickle": (
        Annotated[bool, typer.Option("--allow-pickle", help="Read weights that can run any code when read.")], False,
    ),
    "trust_remote_code": (
        Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that the model brings.")], False,
    ),
    "server": (Server, "auto"),
}  # fmt: skip
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def loads_model(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes `loading` gets the options that make it."""

    @wraps(command)
    def wrapped(**given: Any) -> Any:
        wanted = {name: given.pop(name) for name in _LOADING}
        return command(**given, loading=_loading(wanted))

    signature = inspect.signature(command)
    kept = [parameter for name, parameter in signature.parameters.items() if name != "loading"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _LOADING.items()
    ]
    wrapped.__signature__ = signature.replace(parameters=kept + added)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in kept + added}
    return wrapped


def _loading(wanted: dict[str, Any]) -> "Loading":
    from jeito.engines.base import Loading

    double = not wanted.pop("single_quantisation")
    budget = None if wanted["budget"] is None else size(wanted["budget"])
    return Loading(**wanted | {"budget": budget}, double_quantisation=double)


def size(text: str) -> int:
    """Bytes: 15GB is 15·10⁹, 15GiB 15·2³⁰."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    if not match or len(match[1]) > 20 or float(match[1]) == 0:
        raise InputError(f"{text!r} is no amount of memory", hint="--budget 15GB, or 900MiB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def tools_set(tools: list[str]) -> list[str]:
    """Tools in place of the behaviour's own, as a value to set."""
    import json

    names = [name.strip() for one in tools for name in one.split(",") if name.strip()]
    return [f"tools={json.dumps(names)}"] if names else []
