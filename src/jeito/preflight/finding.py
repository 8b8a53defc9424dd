"""What a check can find: the one table of all findings, with what to do about each. docs/preflight.md is made of it."""

from typing import Literal, NamedTuple

from jeito.types import Value

Level = Literal["ok", "warning", "blocker"]


class Finding(Value):
    """One thing found. `evidence` is what was seen; `remedy` is what to do, empty where nothing has to be done."""

    id: str
    level: Level
    title: str
    evidence: str
    remedy: str = ""


class Check(NamedTuple):
    """What a finding is called and what mends it; `{…}` is filled in where it is found."""

    title: str
    remedy: str


CHECKS: dict[str, Check] = {
    "access.exists": Check("The model is there", "{near}"),
    "access.open": Check("Its files may be read", "accept its terms at {page}, then: hf auth login"),
    "access.renamed": Check("It has the name that was asked", "write {name}: the old name may be given to another"),
    "access.hub": Check("The hub answered", "ask again with the hub in reach, to see what the cache lacks"),
    "files.safe": Check("File names stay in their folder", "do not download it: its names reach outside its folder"),
    "files.readable": Check("Small files and headers can be read", "{again}"),
    "weights.present": Check("There are weights", "{elsewhere}"),
    "weights.complete": Check("The weights are whole", "{again}"),
    "weights.format": Check("Weights are safetensors or GGUF", "{how}"),
    "adapter.base": Check("An adapter names its base", "{how}"),
    "engine.packages": Check("The packages that it needs are here", "{install}"),
    "engine.architecture": Check("The installed engine knows its architecture", "{how}"),
    "engine.code": Check("It needs no code of its own", "read its code, then trust its author: --trust-remote-code"),
    "tokenizer.present": Check("There is a tokenizer", "copy tokenizer.json and tokenizer_config.json from {source}"),
    "tokenizer.vocabulary": Check(
        "Every token has its row in the embedding", "take a copy whose tokenizer is the one it was trained with"
    ),
    "tokens.end": Check("A token ends a reply", "{how}"),
    "tokens.begin": Check("The first token is in the vocabulary", "correct bos_token_id in config.json"),
    "tokens.pad": Check(
        "Padding is told from the end of a reply",
        "harmless in running it; before training, give it a pad token of its own, or its end is never learned",
    ),
    "template.present": Check(
        "There is a chat template", "take its chat version, or live with plain turns: they have no system role"
    ),
    "template.compiles": Check(
        "The template compiles and ends", "take the template of {source}, or an earlier revision"
    ),
    "template.conversations": Check("The template takes five conversations", "keep to those that it takes"),
    "template.system": Check(
        "An instruction reaches the prompt", "none needed: jeito puts the instruction before the first question"
    ),
    "template.tools": Check(
        "Tools reach the prompt", "take a model whose template has tools, for behaviours with tools"
    ),
    "template.reply": Check(
        "The prompt ends where a reply begins", "expect a reply that goes on with the question: its author's template"
    ),
    "template.reasoning": Check("Marks of reasoning", ""),
    "licence": Check("The licence", "{how}"),
    "base": Check("What it was made from", ""),
    "precision": Check("The weights' precision is free", "its files decide: leave @transformers:PRECISION away"),
    "context": Check("The longest text is known", "say it yourself: --context 4096"),
    "sampling": Check(
        "No sampling values act unsaid",
        "they hold where a behaviour says nothing: jeito explain -m {model} -b technical",
    ),
    "memory": Check("It fits the memory that is free", "see what would fit, and what to give up: jeito fit {model}"),
    "speed": Check("How fast it can be at most", ""),
}


def found(check: str, level: Level, evidence: str, **words: str) -> Finding:
    """A finding of the table; the words fill its remedy, which what is ok does not need."""
    title, remedy = CHECKS[check]
    return Finding(
        id=check, level=level, title=title, evidence=evidence, remedy="" if level == "ok" else remedy.format(**words)
    )
