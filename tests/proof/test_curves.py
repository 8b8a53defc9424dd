"""The widest plateau of a curve or a grid."""

from jeito.proof.curves import plateau


def test_the_widest_plateau_is_the_longest_run_of_neighbours() -> None:
    found = plateau([[0.1, 0.2, 0.5, 1, 2]], [1, 0, 1, 1, 1])
    assert found is not None
    assert (found.low, found.high, found.middle, found.points) == ((0.5,), (2,), (1,), 3)
    wider = plateau([[0.1, 0.2, 0.5, 1, 2]], [1, 1, 0, 1, 1])
    assert wider is not None
    assert (wider.low, wider.high) == ((1,), (2,))


def test_the_plateau_of_two_knobs_is_a_box() -> None:
    found = plateau([[0, 1, 2], [5, 6]], [[1, 1], [1, 1], [0, 1]])
    assert found is not None
    assert (found.low, found.high, found.points) == ((0, 5), (1, 6), 4)


def test_no_plateau_where_nothing_holds() -> None:
    assert plateau([[1, 2]], [0, 0]) is None
