"""A result as one page: its sentence first, then what it rests on. Knows no screen and runs nothing."""

from collections.abc import Sequence
from pathlib import Path

from jeito.proof.bench import Bench
from jeito.proof.comparison import Comparison
from jeito.proof.judge import Judge
from jeito.proof.page import save
from jeito.proof.report_grids import bench_page, sweeps_page
from jeito.proof.report_proof import proof_page
from jeito.proof.report_sides import comparison_page
from jeito.proof.sweep import Sweep, Sweeps
from jeito.types import Trace

Result = Judge | Comparison | Sweep | Sweeps | Bench


def write(result: Result, traces: Sequence[Trace], file: Path) -> None:
    """Write the page of a judged plan, a comparison, a sweep or a benchmark.

    `traces`: of a judged plan those that `report_proof.chosen` names; a comparison has its own. Raises InputError where
    it cannot be written.
    """
    if isinstance(result, Judge):
        page = proof_page(result, traces)
    elif isinstance(result, Comparison):
        page = comparison_page(result)
    elif isinstance(result, Bench):
        page = bench_page(result)
    else:
        page = sweeps_page(result.sweeps if isinstance(result, Sweeps) else (result,))
    save(page, file)
