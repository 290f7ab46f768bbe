import inspect

import pytest

import jrnn
from jrnn.testing import check_cell
from tests.attending import Attending
from tests.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.cell))
def test_laws(case):
    check_cell(case.cell, case.in_features, inputs=case.inputs, exempt=case.exempt)


def test_every_public_cell_is_in_the_list():
    exported = (getattr(jrnn, name) for name in dir(jrnn))
    public = {
        v for v in exported if inspect.isclass(v) and hasattr(v, "initial_carry") and hasattr(v, "step")
    }
    public.discard(jrnn.Cell)
    cells = (case.cell.cell if isinstance(case.cell, Attending) else case.cell for case in CASES)
    assert public == {type(cell) for cell in cells}
