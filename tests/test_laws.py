import inspect

import pytest

import jrnn
from jrnn.testing import LAWS, check_cell
from tests.attending import Attending
from tests.cases import CASES, FIRST, VARIANTS, has_state_of_first

# An option that leaves the state as it is can break what follows from the step alone. The other laws are
# those of the state and of its loop; variants take turns at them: each is checked with every third of them.
OF_THE_STEP = "interface", "dtypes are kept", "gradients", "linear = scan"
OF_THE_STATE = [name for name in LAWS if name not in OF_THE_STEP]
TURNS = 3


@pytest.mark.parametrize("case", FIRST, ids=lambda case: repr(case.cell))
def test_laws(case):
    check_cell(case.cell, case.in_features, inputs=case.inputs, exempt=case.exempt)


@pytest.mark.parametrize(
    "case, turn",
    [pytest.param(case, i % TURNS, id=repr(case.cell)) for i, case in enumerate(VARIANTS)],
)
def test_laws_of_variants(case, turn):
    laws = (*OF_THE_STEP, *OF_THE_STATE[turn::TURNS]) if has_state_of_first(case) else tuple(LAWS)
    check_cell(case.cell, case.in_features, inputs=case.inputs, exempt=case.exempt, laws=laws)


def test_every_public_cell_is_in_the_list():
    exported = (getattr(jrnn, name) for name in dir(jrnn))
    public = {
        v for v in exported if inspect.isclass(v) and hasattr(v, "initial_carry") and hasattr(v, "step")
    }
    public.discard(jrnn.Cell)
    cells = (case.cell.cell if isinstance(case.cell, Attending) else case.cell for case in CASES)
    assert public == {type(cell) for cell in cells}
