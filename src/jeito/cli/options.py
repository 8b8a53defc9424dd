"""Options that several commands share, said once. Imports nothing heavy: `jeito --help` reads this."""

from typing import Annotated

import typer

Prompt = Annotated[str, typer.Argument(help="What is asked; - reads standard input.")]
Behaviour = Annotated[
    str, typer.Option("--behaviour", "-b", help="NAME or PATH.yaml, then +key=value as often as wanted.")
]
Behaviours = Annotated[list[str], typer.Option("--behaviour", "-b", help="As often as wanted.")]
Model = Annotated[str, typer.Option("--model", "-m", help="demo, FILE.gguf or toy; @engine:precision says how.")]
Models = Annotated[list[str], typer.Option("--model", "-m", help="As often as wanted.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="One value on top of the behaviour.")]
Seed = Annotated[int | None, typer.Option(help="0 to 2^64-1; drawn and written down when not given.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
Context = Annotated[int | None, typer.Option(help="Tokens that prompt and reply may take together.")]
Engine = Annotated[str | None, typer.Option(help="llamacpp, transformers or toy.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16, int8 or nf4.")]
AllowUnsupported = Annotated[
    bool, typer.Option("--allow-unsupported", help="Go on without what the model cannot honour; the receipt says so.")
]
Logprobs = Annotated[int | None, typer.Option(help="Log-probabilities, and so many alternatives for each token.")]
NoLog = Annotated[bool, typer.Option("--no-log", help="Keep no trace of this run.")]
