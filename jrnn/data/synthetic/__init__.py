"""The classic synthetic tasks for recurrent networks, generated from a seed."""

from jrnn._exports import public_names
from jrnn.data.synthetic.languages import brackets as brackets
from jrnn.data.synthetic.languages import distracted_sums as distracted_sums
from jrnn.data.synthetic.languages import equal_counts as equal_counts
from jrnn.data.synthetic.languages import nested_tags as nested_tags
from jrnn.data.synthetic.memory import adding_problem as adding_problem
from jrnn.data.synthetic.memory import associative_recall as associative_recall
from jrnn.data.synthetic.memory import copy_memory as copy_memory
from jrnn.data.synthetic.memory import delayed_echo as delayed_echo
from jrnn.data.synthetic.memory import flip_flop as flip_flop
from jrnn.data.synthetic.memory import state_tracking as state_tracking
from jrnn.data.synthetic.memory import temporal_order as temporal_order
from jrnn.data.synthetic.music import chorales as chorales
from jrnn.data.synthetic.series import ar_process as ar_process
from jrnn.data.synthetic.series import lorenz as lorenz
from jrnn.data.synthetic.transduction import additions as additions
from jrnn.data.synthetic.transduction import copies as copies
from jrnn.data.synthetic.transduction import dates as dates
from jrnn.data.synthetic.transduction import reversals as reversals

__all__ = public_names(globals())
