import inspect

import pytest

import jrnn
from jrnn.testing import LAWS, check_cell
from tests.attending import Attending
from tests.cases import ALL, CASES, COMBINATORS, FIRST, VARIANTS, has_state_of_first, turn

# An option that leaves the state as it is can break what follows from the step alone. The other laws are
# those of the state and of its loop: variants take turns at them, each is checked with every third.
OF_THE_STEP = "interface", "dtypes are kept", "gradients", "linear = scan"
OF_THE_STATE = [name for name in LAWS if name not in OF_THE_STEP]
TURNS = 3


def check(case, laws):
    check_cell(case.cell, case.in_features, inputs=case.inputs, exempt=case.exempt, laws=tuple(laws))


@pytest.mark.parametrize("case", FIRST + COMBINATORS, ids=lambda case: repr(case.cell))
def test_all_laws(case):
    check(case, LAWS)


@pytest.mark.parametrize("case", VARIANTS, ids=lambda case: repr(case.cell))
def test_laws_of_variants(case):
    some = (*OF_THE_STEP, *OF_THE_STATE[turn(case, TURNS) :: TURNS])
    check(case, some if has_state_of_first(case) and not ALL else LAWS)


def test_every_public_cell_is_in_the_list():
    exported = (getattr(jrnn, name) for name in dir(jrnn))
    public = {
        v for v in exported if inspect.isclass(v) and hasattr(v, "initial_carry") and hasattr(v, "step")
    }
    public.discard(jrnn.Cell)
    cells = (case.cell.cell if isinstance(case.cell, Attending) else case.cell for case in CASES)
    assert public == {type(cell) for cell in cells}
