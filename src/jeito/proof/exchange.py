"""Results to and from other programs: lm-evaluation-harness, evalsig, statgate. Knows nothing of how they were made.

Written, one folder a model: `samples_TASK_TIME.jsonl` and `results_TIME.json` as lm-evaluation-harness has them,
`TASK.statgate.jsonl` (a line a reply: case_id, passed, run_index, metadata) and `TASK.evalsig.json` (a RunFrame:
run_id, model_id, task_id, metric_name, items). The last two need a score: what was not measured is left out of them.
Read: any of these but `results_…`, which has no single replies.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from jeito.errors import InputError
from jeito.proof.bench import Cell, Contender, Item
from jeito.proof.plan import ALPHA
from jeito.proof.shares import share
from jeito.proof.stats import by_case

METRIC = "correct"
_KNOWN = ("acc", "exact_match", "score", "passed", "is_correct")
"""Metrics of a sample, where it does not name its own."""


def write_results(folder: Path, items: Sequence[Item], time: str) -> list[Path]:
    """Every model's replies in the three forms; what was written. `time` goes into names, as it is."""
    written = []
    try:
        for model in dict.fromkeys(item.model for item in items):
            place = folder / _safe(model)
            place.mkdir(parents=True, exist_ok=True)
            tasks: dict[str, list[Item]] = {}
            for item in items:
                if item.model == model:
                    tasks.setdefault(_safe(f"{item.cases}_{item.behaviour}"), []).append(item)
            for task, own in tasks.items():
                files = {
                    f"samples_{task}_{time}.jsonl": _lines(map(_sample, range(len(own)), own)),
                    f"{task}.statgate.jsonl": _lines(_record(one) for one in own if one.score is not None),
                    f"{task}.evalsig.json": json.dumps(_frame(model, task, own), ensure_ascii=False, indent=1),
                }
                for name, text in files.items():
                    (place / name).write_text(text, encoding="utf-8")
                    written.append(place / name)
            summary = place / f"results_{time}.json"
            summary.write_text(json.dumps(_summary(model, tasks), ensure_ascii=False, indent=1), encoding="utf-8")
            written.append(summary)
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written: {error.strerror}", hint="--export FOLDER") from error
    return written


def read_results(path: Path) -> list[Contender]:
    """What other programs found, a contender for each model: of a file, or of every such file in a folder.

    Raises InputError for what is none of the known forms.
    """
    files = sorted(path.rglob("*"), key=_first_forms) if path.is_dir() else [path]
    known = [file for file in files if file.is_file() and _is_known(file)]
    if not known:
        hint = "samples_*.jsonl, *.jsonl with case_id and passed, or a RunFrame .json"
        raise InputError(f"{str(path)!r} holds no results of single replies", hint=hint)
    cells: dict[str, dict[str, Cell]] = {}
    for file in known:
        model, cell = _read(file)
        cells.setdefault(model, {}).setdefault(cell.cases, cell)
    return [_contender(model, list(own.values())) for model, own in cells.items()]


def _first_forms(file: Path) -> tuple[bool, str]:
    """In a folder the same replies may lie in several forms: the one that says most comes first, and is taken."""
    return not file.name.startswith("samples_"), str(file)


def _is_known(file: Path) -> bool:
    return file.suffix == ".jsonl" or (file.suffix == ".json" and not file.name.startswith("results_"))


def _sample(number: int, item: Item) -> dict[str, Any]:
    doc = {"name": item.case, "repeat": item.repeat, "prompt": item.prompt}
    return {
        "doc_id": number,
        "doc": doc,
        "target": item.target,
        "arguments": {"gen_args_0": {"arg_0": item.prompt, "arg_1": {}}},
        "resps": [[item.answer]],
        "filtered_resps": [item.answer],
        "filter": "none",
        "metrics": [METRIC],
        "doc_hash": _hash(json.dumps(doc, ensure_ascii=False)),
        "prompt_hash": _hash(item.prompt),
        "target_hash": _hash(item.target),
        METRIC: item.score,
    }


def _record(item: Item) -> dict[str, Any]:
    return {"case_id": item.case, "passed": item.score == 1, "run_index": item.repeat, "metadata": {"run": item.run}}


def _frame(model: str, task: str, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "run_id": f"{model}::{task}",
        "model_id": model,
        "task_id": task,
        "metric_name": METRIC,
        "config_hash": "",
        "items": [
            {"item_id": f"{item.case}#{item.repeat}", "score": item.score, "cluster_id": item.case,
             "epoch": item.repeat, "metadata": {"run": item.run}}
            for item in items if item.score is not None
        ],
    }  # fmt: skip


def _summary(model: str, tasks: dict[str, list[Item]]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for task, items in tasks.items():
        known = [item.score for item in items if item.score is not None]
        results[task] = {"alias": task, f"{METRIC},none": fmean(known) if known else None}
    counts = {task: {"original": len(items), "effective": len(items)} for task, items in tasks.items()}
    return {
        "results": results,
        "configs": {task: {"task": task, "metric_list": [{"metric": METRIC}]} for task in tasks},
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": dict.fromkeys(tasks, 0),
        "n-samples": counts,
        "model_source": "jeito",
        "model_name": model,
        "model_name_sanitized": _safe(model),
    }


def _read(file: Path) -> tuple[str, Cell]:
    """The model and its scores in one file, whichever form it has."""
    try:
        if file.suffix == ".jsonl":
            rows = [(f"{file}:{at}", row) for at, row in _objects(file)]
            return _of_samples(file, rows) if "doc_id" in rows[0][1] else _of_records(file, rows)
        frame = json.loads(file.read_text(encoding="utf-8"))
        where = [(f"{file}, item {at}", one) for at, one in enumerate(frame["items"])]
        scored = [(str(one.get("cluster_id") or one["item_id"]), _score(one["score"], at)) for at, one in where]
        return str(frame["model_id"]), _cell(str(frame["task_id"]), str(frame["metric_name"]), scored, "evalsig")
    except (OSError, UnicodeDecodeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: no known form of results: {error!r:.120}", hint="see docs/comparing.md") from error


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for at, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            yield at, json.loads(line)


def _of_samples(file: Path, rows: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, Cell]:
    """lm-evaluation-harness: the folder is the model's, the name the task's."""
    first = rows[0][1]
    metric = next((name for name in [*first.get("metrics", ()), *_KNOWN] if name in first), None)
    if metric is None:
        raise InputError(f"{rows[0][0]}: the sample has no metric", hint="--log_samples writes them")
    task = re.sub(r"^samples_|_\d{4}-\d\d-\d\dT.*$", "", file.stem)
    # Repeats of one document are one cluster; ours say whose they are.
    scored = [(str((row.get("doc") or {}).get("name", row["doc_id"])), _score(row.get(metric), at)) for at, row in rows]
    return file.parent.name, _cell(task, metric, scored, "lm-evaluation-harness")


def _of_records(file: Path, rows: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, Cell]:
    """statgate: `case_id` (or id, test_id, case), and `passed` or `score`."""
    scored = []
    for at, row in rows:
        name = next((row[key] for key in ("case_id", "id", "test_id", "case") if row.get(key) is not None), None)
        if name is None:
            raise InputError(f"{at}: the record names no case", hint="case_id, and passed or score")
        scored.append((str(name), _score(row["passed"] if row.get("passed") is not None else row.get("score"), at)))
    return file.parent.name, _cell(file.name.split(".")[0], "passed", scored, "statgate")


def _score(value: Any, at: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise InputError(f"{at}: {value!r} is no score from 0 to 1", hint="a share, or true and false")
    return float(value)


def _cell(task: str, metric: str, scored: Sequence[tuple[str, float | None]], form: str) -> Cell:
    groups = [[scored[i][1] for i in group] for group in by_case([name for name, _ in scored])]
    known = [score for _, score in scored if score is not None]
    return Cell(
        behaviour=f"({form})", cases=task, check=metric, quality=share(groups, ALPHA),
        passed=sum(score == 1 for score in known), trials=len(scored), clusters=len(groups),
        unmeasured=len(scored) - len(known), tokens=0, tokens_per_second=None, first_token_seconds=None, plan=None,
    )  # fmt: skip


def _contender(model: str, cells: Sequence[Cell]) -> Contender:
    only = cells[0].quality if len(cells) == 1 else None
    return Contender(
        model=model, engine=None, precision=None, device=None, weight_bytes=None, peak_bytes=None, load_seconds=None,
        tokens_per_second=None, first_token_seconds=None, quality=only, follows=None, claims={}, on_front=False,
        cells=tuple(cells),
    )  # fmt: skip


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
