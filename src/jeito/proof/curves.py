"""Where along the values of knobs do all claims hold? Pure functions."""

from collections.abc import Sequence
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Plateau(NamedTuple):
    """The widest box of a grid where everything holds. Of each knob: its first and last value, and the one between."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    middle: tuple[float, ...]
    points: int


def plateau(axes: Sequence[Sequence[float]], holds: ArrayLike) -> Plateau | None:
    """The box of neighbouring points that all hold with the most points, then the widest; none if no point holds.

    `holds` has one axis for each knob, in the order of `axes`, whose values ascend. The middle is a value of the grid.
    """
    given: NDArray[np.bool_] = np.asarray(holds, bool)
    best: tuple[tuple[int, float], list[tuple[int, int]]] | None = None
    for box in product(*(combinations_with_replacement(range(size), 2) for size in given.shape)):
        inside = given[tuple(slice(first, last + 1) for first, last in box)]
        if inside.all():
            width = float(np.prod([axis[last] - axis[first] for axis, (first, last) in zip(axes, box, strict=True)]))
            if best is None or (inside.size, width) > best[0]:
                best = (inside.size, width), list(box)
    if best is None:
        return None
    ends = list(zip(axes, best[1], strict=True))
    return Plateau(
        low=tuple(float(axis[first]) for axis, (first, _) in ends),
        high=tuple(float(axis[last]) for axis, (_, last) in ends),
        middle=tuple(float(axis[(first + last) // 2]) for axis, (first, last) in ends),
        points=best[0][0],
    )
