"""The page of a comparison: paired differences, where replies part, who can be told apart, and which knob did it."""

import shlex
from collections.abc import Mapping, Sequence

from jeito.proof.comparison import Cause, Comparison, Confusion, Pair, Separation, Share
from jeito.proof.page import Cell, Couple, Facts, Figure, Mark, Page, Section, Shade, Table
from jeito.proof.plots import Bar, Kind, forest
from jeito.proof.report_parts import called, check_words, decision, remarks, reproduction, running, unhonoured
from jeito.proof.surprisal import couple, cut, parting
from jeito.types import Trace

SAID = 120
"""Letters of a line of a prompt in a table."""
COUPLES = 4
"""Pairs of replies that a page shows."""


def comparison_page(found: Comparison) -> Page:
    """What differs, and why; names of sides are shortened to what tells them apart."""
    short = shortened([side.name for side in found.sides])
    pairs = [pair.model_copy(update={"a": short[pair.a], "b": short[pair.b]}) for pair in found.pairs]
    names = list(short.values())
    said = (
        f"{found.clusters} cases from {found.cases}, {found.repeats} repl{'ies' if found.repeats > 1 else 'y'} to each "
        f"on every side. Reply by reply the sides have the same seed, so the same noise: what differs is theirs. "
        f"Intervals speak of {found.meaning} and hold together with {100 * (1 - found.alpha):g} %."
    )
    sections = [*_differences(pairs, names), *_causes(found.cause), *_separation(found.separation, short),
                *_couples(found, pairs, short), _sides(found, short), *_environment(found.runs), _again(found),
                *unhonoured(found.runs), *remarks(found.notes)]  # fmt: skip
    return Page(_sentence(found, pairs, names), said, decision(found.decision), sections)


def shortened(names: Sequence[str]) -> dict[str, str]:
    """Each name without the changes that all have, such as `+max_new_tokens=80`."""
    parts = [name.split("+") for name in names]
    common = set.intersection(*(set(one[1:]) for one in parts)) if len(parts) > 1 else set()
    short = [called("+".join([one[0], *(part for part in one[1:] if part not in common)])) for one in parts]
    return dict(zip(names, short if len(set(short)) == len(names) else names, strict=True))


def _sentence(found: Comparison, pairs: Sequence[Pair], names: Sequence[str]) -> str:
    sure = [pair for pair in pairs if pair.differs and pair.difference is not None]
    checks = sorted((one for one in sure if one.kind == "check"), key=lambda one: -abs(one.difference or 0))
    if found.cause and (changed := _changed(found.cause)):
        return changed
    if checks:
        return _difference(checks[0])
    separation = found.separation
    confusion = separation.confusion if separation else None
    if confusion and confusion.accuracy.low > 1 / len(confusion.names):
        return f"{_listed(names)} can be told apart: {confusion.accuracy.rate:.0%} of replies are recognised"
    if separation and any(one.adjusted <= found.alpha for one in separation.pairs):
        return f"{_listed(names)} do not all reply alike"
    if sure:
        return f"{sure[0].b} differs from {sure[0].a} in {sure[0].check}"
    return f"No sure difference between {_listed(names)} on {found.clusters} cases"


def _changed(cause: Cause) -> str | None:
    """What the part does that changes a check the most; none: nothing surely changes any."""
    named = [(check, parts[0]) for check, parts in cause.named.items() if parts]
    found = [
        (pair, name, pair.difference or 0)
        for check, name in named for part in cause.parts for pair in part.pairs
        if (part.name, pair.check) == (name, check)
    ]  # fmt: skip
    if not found:
        return None
    pair, name, change = max(found, key=lambda one: abs(one[2]))
    side, less = shortened([cause.a, cause.b])[cause.a], "less" if change > 0 else "more"
    does = f"passes {pair.check} {less} often" if pair.kind == "check" else f"has {less} {pair.check}"
    return f"{name} is why {side} {does}"


def _difference(pair: Pair) -> str:
    verb = "passes" if (pair.difference or 0) > 0 else "fails"
    return f"{pair.b} {verb} {pair.check} more often than {pair.a}: {_signed(pair.difference)}"


def _differences(pairs: Sequence[Pair], names: Sequence[str]) -> list[Section]:
    if not pairs:
        return []
    checks = [pair for pair in pairs if pair.kind == "check"]
    two = len(names) == 2
    looked = [pair for pair in pairs if pair.kind == "feature"]
    # Of many pairs of sides, those that are not sure to differ would bury the others.
    features = sorted((pair for pair in looked if two or pair.differs), key=lambda pair: not pair.differs)
    title = "Features" if two else f"Features that surely differ, {len(features)} of {len(looked)}"
    blocks: list[Figure | Table] = []
    if checks:
        labels = [pair.check if two else f"{pair.check}: {pair.a} → {pair.b}" for pair in checks]
        blocks.append(_forest("differences-plot", "Difference in the share that passes", checks, labels))
    blocks += [_pairs(name, chosen, two) for name, chosen in (("Checks", checks), (title, features)) if chosen]
    of = f"{names[1]} less {names[0]}" if two else "the second side less the first"
    said = (
        f"What {of} gives, between replies of one case and one seed, mean over cases. A variance ratio of 0.25 says "
        "that one coupled pair is worth four others."
    )
    return [Section("differences", "Differences", said, blocks)]


def _forest(name: str, title: str, pairs: Sequence[Pair], labels: Sequence[str]) -> Figure:
    bars = [
        Bar(label, pair.low, pair.difference, pair.high, pair.at_least, pair.decision or _kind(pair))
        for pair, label in zip(pairs, labels, strict=True)
    ]
    said = "; ".join(f"{bar.label}: {_signed(bar.at)}, {_between(bar.low, bar.high)}" for bar in bars)
    return Figure(
        forest(name, title, said, bars), "Right of the line: the second side has more. Hollow: it may be none."
    )


def _kind(pair: Pair) -> Kind:
    return "plain" if pair.differs else "undecided"


def _pairs(caption: str, pairs: Sequence[Pair], two: bool) -> Table:
    claimed = any(pair.decision for pair in pairs)
    columns = ["what", *([] if two else ["sides"]), "means", "difference", "interval", "sure", "p, adjusted", "pairs",
               "cases", "variance ratio", *(["claimed"] if claimed else [])]  # fmt: skip
    rows: list[list[Cell]] = []
    for pair in pairs:
        counted = f"{pair.n}" + (f", {pair.unmeasured} unmeasured" if pair.unmeasured else "")
        rows.append([
            pair.check, *([] if two else [f"{pair.a} → {pair.b}"]),
            f"{_number(pair.a_mean)} → {_number(pair.b_mean)}", _signed(pair.difference),
            _between(pair.low, pair.high) if pair.low is not None else pair.why or "none",
            Mark("plain", "differs") if pair.differs else "no", f"{pair.adjusted:.2g}", counted, str(pair.clusters),
            _number(pair.variance_ratio), *([decision(pair.decision) or ""] if claimed else []),
        ])  # fmt: skip
    return Table(caption, columns, rows, stacks=pairs[0].kind == "check")


def _causes(cause: Cause | None) -> list[Section]:
    if cause is None:
        return []
    short = shortened([cause.a, cause.b])
    checks = list(dict.fromkeys(pair.check for pair in cause.total))
    blocks: list[Figure | Table] = []
    for at, check in enumerate([check for check in checks if cause.named.get(check)] or checks[:1]):
        parts = [(part, pair) for part in cause.parts for pair in part.pairs if pair.check == check]
        whole = [pair for pair in cause.total if pair.check == check]
        title = f"{check}: what each part changes alone"
        labels = [*("all of it" for _ in whole), *(part.name for part, _ in parts)]
        blocks += [
            _forest(f"cause{at}-plot", title, [*whole, *(pair for _, pair in parts)], labels),
            Table(title, ("part", "before", "after", "difference", "interval", "plan"), [
                (part.name, cut(part.before, SAID), cut(part.after, SAID), _signed(pair.difference),
                 _between(pair.low, pair.high), part.plan[:12]) for part, pair in parts]),
        ]  # fmt: skip
    found = "; ".join(f"{check} surely changes by {_listed(named)}" for check, named in cause.named.items() if named)
    said = (
        f"Each line or knob by which {short[cause.b]} differs from {short[cause.a]}, switched alone. "
        f"{found or 'No part alone surely makes a difference'}."
    )
    return [Section("causes", "Causes", said, blocks)]


def _separation(found: Separation | None, short: Mapping[str, str]) -> list[Section]:
    if found is None:
        return []
    blocks = [_confusion(found.confusion, short)] if found.confusion else []
    if found.pairs:
        rows = [
            (f"{short[one.a]}, {short[one.b]}", f"{one.distance:.3f}", f"{one.p:.2g}", f"{one.adjusted:.2g}",
             str(one.replies), str(one.clusters))
            for one in found.pairs
        ]  # fmt: skip
        title = "Energy distance of the replies' features, tested by permutation"
        blocks.append(Table(title, ("sides", "distance", "p", "p, adjusted", "replies", "cases"), rows))
    if found.variety:
        title = "Diversity: distinct pairs of words within a reply; unlike ones between replies to one case"
        varied = [(short[one.side], _of(one.within), _of(one.between)) for one in found.variety]
        blocks.append(Table(title, ("side", "within", "between"), varied))
    said = f"{len(found.features)} features of a reply are looked at: {', '.join(found.features)}."
    said += f" {found.why}." if found.why else ""
    return [Section("separation", "Can they be told apart?", said, blocks)]


def _confusion(found: Confusion, short: Mapping[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [short[name], *(_shade(share, count) for share, count in zip(shares, counts, strict=True))]
        for name, shares, counts in zip(found.names, found.rates, found.counts, strict=True)
    ]
    title = (
        f"Who is taken for whom, by a judge that never saw the case: {found.accuracy.rate:.0%} right "
        f"({_of(found.accuracy)}), by chance {1 / len(found.names):.0%}; {found.clusters} cases"
    )
    return Table(title, ("replies of", *(f"taken for {short[name]}" for name in found.names)), rows, stacks=False)


def _shade(share: Share, count: int) -> Shade:
    return Shade(share.rate, f"{share.rate:.0%} ({count}), {share.low:.0%} to {share.high:.0%}")


def _couples(found: Comparison, pairs: Sequence[Pair], short: Mapping[str, str]) -> list[Section]:
    """Coupled replies of the first side and another, those first that the check of the largest difference parts."""
    of_side = found.clusters * found.repeats
    checks = sorted((one for one in pairs if one.kind == "check"), key=lambda one: -abs(one.difference or 0))
    outcomes = found.outcomes.get(checks[0].check, ()) if checks else ()
    names = [short[side.name] for side in found.sides]
    # One reply to a case, one side after the other: what is shown is what comes first, not what looks best.
    places = [(place, 1 + at % (len(names) - 1)) for at, place in enumerate(range(0, of_side, found.repeats))]
    if outcomes:
        places.sort(key=lambda one: outcomes[0][one[0]] == outcomes[one[1]][one[0]])
    shown: list[Couple] = []
    for place, side in places:
        sides = (0, side)
        a, b = (found.runs[at * of_side + place] for at in sides)
        if parting(a, b) is None or len(shown) == COUPLES:
            continue
        verdicts = [[_outcome(checks[0].check, outcomes[at][place])] if outcomes else [] for at in sides]
        shown.append(couple(a, b, (names[0], names[side]), f"{a.case or 'reply'}, seed {a.seed}", verdicts))
    rows = [
        (f"{short[one.a]}, {short[one.b]}", f"{one.identical} of {one.n}", _number(one.median))
        for one in found.divergence
    ]
    table = Table("Tokens before the first that differs", ("sides", "identical", "median of the others"), rows)
    said = "Two replies with the same noise say the same until what differs between the sides changes a draw."
    said += f" First come those of which only one passes {checks[0].check}." if outcomes else ""
    return [Section("replies", "Where replies part", said, [*([table] if rows else []), *shown])]


def _outcome(check: str, value: float | None) -> tuple[Mark, str]:
    kind = "undecided" if value is None else "holds" if value else "fails"
    return Mark(kind, check), "unmeasured" if value is None else "passes" if value else "fails"


def _sides(found: Comparison, short: Mapping[str, str]) -> Section:
    rows = [(short[side.name], side.behaviour, side.model, side.plan[:12], "yes" if side.exact else "no",
             str(side.unmeasured)) for side in found.sides]  # fmt: skip
    facts = [
        ("Cases", f"{found.clusters} from {found.cases}"), ("Replies to each", str(found.repeats)),
        ("Seed", str(found.seed)), ("Speaks of", found.meaning), ("Errors allowed", f"{100 * found.alpha:g} %"),
    ]  # fmt: skip
    table = Table("Sides", ("side", "behaviour", "model", "plan", "exact", "runs that failed"), rows)
    return Section("plan", "Plan", "Each side's runs are kept under its plan.", [Facts(facts), table])


def _environment(runs: Sequence[Trace]) -> list[Section]:
    if not runs:
        return []
    first = runs[0]
    said = {key: value for key, value in first.environment.items() if isinstance(value, str)}
    return [running(said, first.receipt.template)]


def _again(found: Comparison) -> Section:
    behaviours = dict.fromkeys(side.behaviour for side in found.sides)
    models = dict.fromkeys(side.model for side in found.sides)
    claimed = {pair.check: pair.at_least for pair in found.pairs if pair.kind == "check"}
    said = [(check, least) for check, least in claimed.items() if check != "correct" or least is not None]
    checks = [word for check, least in said for word in check_words(check, least)]
    words = ["jeito", "compare", *(word for name in behaviours for word in ("-b", name)),
             *(word for name in models for word in ("-m", name)), "--cases", found.cases,
             "-n", str(found.clusters * found.repeats), "--seed", str(found.seed), *checks,
             "--unit", "case" if found.meaning == "cases like these" else "run", "--alpha", f"{found.alpha:g}",
             *(["--cause"] if found.cause else [])]  # fmt: skip
    return reproduction([shlex.join(words), *(f"jeito judge {side.plan[:12]}" for side in found.sides)])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _of(share: Share | None) -> str:
    return "none" if share is None else f"{share.rate:.3f}, {share.low:.3f} to {share.high:.3f}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3f}" if abs(value) < 1 else f"{value:+.3g}"


def _between(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
