"""`jeito fit`: will it fit in this memory, in which precision, with how long a text? And what else would."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jeito.cli import options, show
from jeito.errors import OK, InputError, ModelError, nearest

if TYPE_CHECKING:
    from jeito.preflight.catalogue import Candidate
    from jeito.preflight.fit import Ask, Fit
    from jeito.preflight.loads import Past
    from jeito.preflight.speed import Bandwidth


def fit(
    reference: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="As for check; without one, well-known models that fit are listed."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="SIZE", help="Memory: 15GB, 800MB. Else: all that is free now.")
    ] = None,
    context: options.Context = None,
    slots: options.Slots = None,
    precision: options.Precision = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Whose memory counts: cpu, unless cuda or cuda:1 is said.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Of the list: only models that name this ISO code, such as pt.")
    ] = None,
    json: options.Json = False,
) -> int:
    """Memory by part before anything is loaded; what fits, and what to give up first where it does not.

    Exit code 0 when it fits as asked, 1 when something has to be given up, 2 when nothing helps.
    """
    from jeito.engines.devices import find_driver
    from jeito.engines.meter import free_memory
    from jeito.preflight.fit import Ask
    from jeito.preflight.speed import bandwidth

    where = device or "cpu"
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,3}))?", where)
    if not match:
        raise InputError(f"there is no kind of device {where!r}", hint="--device cpu, cuda, cuda:1 or mps")
    if budget:
        room = options.size(budget)
    elif where.startswith("cuda"):  # by its driver: torch, which could tell too, is not loaded here
        driver = find_driver()
        gpus = driver.gpus if driver else ()
        if int(match[1] or 0) >= len(gpus):
            raise ModelError(f"there is no GPU {where!r} here whose memory is free", hint="--budget 15GB")
        room = gpus[int(match[1] or 0)].free
    else:
        room = free_memory(where) or 0
    ask = Ask(room, precision or "auto", slots or (1 if reference is None else None), context, where)
    speed = bandwidth(where)
    return _catalogue(ask, speed, language, json) if reference is None else _model(reference, ask, speed, json)


def _model(reference: str, ask: "Ask", speed: "Bandwidth", json: bool) -> int:
    from jeito.engines.demo import demo_folder
    from jeito.engines.llama_needs import GgufOutline
    from jeito.preflight.find import find
    from jeito.preflight.fit import fit, outline_of
    from jeito.preflight.loads import past
    from jeito.run.open import PRECISIONS, engine_of, parse

    asked = parse(reference)
    wanted = ask._replace(precision=asked.precision or ask.precision)
    if wanted.precision not in PRECISIONS:
        raise InputError(f"{wanted.precision!r} is no precision", hint=nearest(wanted.precision, PRECISIONS))
    is_unpacked = asked.target == "demo" and engine_of(asked._replace(precision=wanted.precision)) == "transformers"
    target = str(demo_folder(show.say)) if is_unpacked else asked.target
    facts = find(target, asked.within, headers=True)
    outline = outline_of(facts)
    if outline is None:
        raise ModelError(f"nothing says which tensors {reference!r} has", hint=f"jeito check {reference}")
    engine = "llamacpp" if isinstance(outline, GgufOutline) else "transformers"
    found = fit(outline, wanted, most=facts.longest, speed=speed, past=past(engine, ask.device))
    if json:
        show.emit({**found.model_dump(mode="json"), "bandwidth": speed.model_dump(), "exit": found.code})
    else:
        _print(found, speed)
    return found.code


def _print(found: "Fit", speed: "Bandwidth") -> None:
    show.table(
        f"{found.name}, {found.slots} slots of {found.context:,} tokens, in {_size(found.budget)}",
        ("precision", "weights", "texts", "a pass", "together", "fits", "while loading", "longest", "tokens/s under"),
        [
            (
                row.precision, _size(row.weights), _size(row.texts), _size(row.work), _size(row.total),
                "yes" if row.fits else "no", f"{_size(row.load)} ({_size(row.mapped)} of it file pages)",
                f"{row.longest:,}" if row.longest else "none", f"{row.bound:.0f}" if row.bound else "",
            )
            for row in found.rows
        ],
    )  # fmt: skip
    parts = sorted({word for row in found.rows for word in row.classes})
    if parts:
        rows = [(row.precision, *(_size(row.classes.get(part, 0)) for part in parts)) for row in found.rows]
        show.table("\nWeights by what they are for", ("precision", *parts), rows)
    lengths = list(found.rows[0].totals)
    marks = [
        (row.precision, *(_size(total) + ("" if total <= found.budget else " no") for total in row.totals.values()))
        for row in found.rows
    ]
    show.table("\nTogether, by context", ("precision", *(f"{one:,}" for one in lengths)), marks)
    print(f"\nlayers: {found.layers}; {found.token_bytes:,} bytes a token of text")
    print(f"beside it the libraries take {_size(found.rows[0].engine)} more of this process, once they are loaded")
    print(f"tokens/s: a bound, of one reply: memory is read at {speed.bytes / 1e9:.1f} GB/s, {speed.how}")
    print(_past(found.past))
    if found.instead:
        print("does not fit as asked; give up first: " + ", or ".join(found.instead))


def _past(past: "Past") -> str:
    if past.error is None:
        return "no load was measured here yet: figures are as predicted"
    used = "used here as a correction" if past.correction != 1 else "too few to correct by"
    return (
        f"{past.loads} loads here took {past.least:+.1%} to {past.greatest:+.1%} of what was predicted "
        f"(median {past.error:+.1%}, {used})"
    )


def _catalogue(ask: "Ask", speed: "Bandwidth", language: str | None, json: bool) -> int:
    from jeito.preflight.catalogue import candidates
    from jeito.preflight.loads import past

    found = candidates(ask, speed=speed, past=past("transformers", ask.device), language=language)
    if json:
        show.emit({"budget": ask.budget, "bandwidth": speed.model_dump(), "models": [_entry(one) for one in found]})
        return OK if found else 2
    rows = []
    for one in found:
        entry, row = one.entry, one.row
        assert row is not None, "what does not fit is not a candidate"
        smaller = one.smaller
        less = f"{smaller.entry.name} ({_size(smaller.row.total)})" if smaller and smaller.row else ""
        rows.append(
            (
                entry.name, f"{entry.parameters / 1e9:.2f} B", row.precision, _size(row.total),
                f"{row.bound:.0f}" if row.bound else "", f"{entry.context:,}", "yes" if entry.tools else "",
                ",".join(entry.languages[:6]) + (" …" if len(entry.languages) > 6 else ""), entry.licence, less,
            )
        )  # fmt: skip
    slots, context = (found[0].fit.slots, found[0].fit.context) if found else (ask.slots, ask.context)
    show.table(
        f"{len(found)} models in {_size(ask.budget)}, {slots} slots of up to {context} tokens; most parameters first",
        (
            "model",
            "size",
            "precision",
            "takes",
            "tokens/s under",
            "context",
            "tools",
            "languages",
            "licence",
            "smaller",
        ),
        rows,
    )
    print("\nread from their sources, not from the hub now: jeito check MODEL, then jeito fit MODEL")
    return OK if found else 2


def _entry(one: "Candidate") -> dict[str, Any]:
    said: dict[str, Any] = {**one.entry.model_dump(mode="json"), "fits": one.row and one.row.model_dump(mode="json")}
    if one.smaller:
        said["smaller"] = {"name": one.smaller.entry.name, "total": one.smaller.row and one.smaller.row.total}
    return said


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
