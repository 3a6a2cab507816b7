import ast
import math
from pathlib import Path

import pytest

from cmp.results.recovered import recovered_fraction

CMP = Path(__file__).parents[2] / "cmp"


def test_recovered_is_the_share_of_the_gap_that_was_closed() -> None:
    assert recovered_fraction(4.0, 3.0, 3.25) == 0.75
    assert recovered_fraction(4.0, 3.0, 4.5) == -0.5
    assert recovered_fraction(4.0, 3.0, 2.5) == 1.5


@pytest.mark.parametrize("full_context", [4.0, 4.5, math.nan, None])
def test_recovered_is_undefined_where_the_context_does_not_help_or_a_bound_is_not_known(
    full_context: float | None,
) -> None:
    assert recovered_fraction(4.0, full_context, 3.0) is None


def test_recovered_is_worked_out_in_one_place() -> None:
    """It once was in three, with three answers to a context that does not help."""
    places = [path.name for path in CMP.rglob("*.py") if any(map(is_a_share, ast.walk(ast.parse(path.read_text()))))]

    assert places == ["recovered.py"]


def is_a_share(node: ast.AST) -> bool:
    """(a - b) / (a - c) with the loss without context for a."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
        return False
    sides = [side.left for side in (node.left, node.right) if isinstance(side, ast.BinOp)]
    return len({ast.unparse(side) for side in sides}) == 1 < len(sides) and "no_context" in ast.unparse(node)
