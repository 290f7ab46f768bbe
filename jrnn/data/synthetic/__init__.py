"""Data that is generated: every task in small, from a seed, without files."""

from jrnn.data.synthetic.images import Digit as Digit
from jrnn.data.synthetic.images import caption as caption
from jrnn.data.synthetic.images import describe as describe
from jrnn.data.synthetic.images import digits as digits
from jrnn.data.synthetic.memory import adding_problem as adding_problem
from jrnn.data.synthetic.memory import copy_memory as copy_memory
from jrnn.data.synthetic.memory import delayed_echo as delayed_echo
from jrnn.data.synthetic.memory import flip_flop as flip_flop
from jrnn.data.synthetic.memory import temporal_order as temporal_order
from jrnn.data.synthetic.music import chorales as chorales
from jrnn.data.synthetic.sentiment import reviews as reviews
from jrnn.data.synthetic.series import ar_process as ar_process
from jrnn.data.synthetic.series import lorenz as lorenz
from jrnn.data.synthetic.series import seasonal_series as seasonal_series
from jrnn.data.synthetic.signals import tones as tones
from jrnn.data.synthetic.tagging import tagged_sentences as tagged_sentences
from jrnn.data.synthetic.toys import toy_sentences as toy_sentences
from jrnn.data.synthetic.transduction import additions as additions
from jrnn.data.synthetic.transduction import copies as copies
from jrnn.data.synthetic.transduction import dates as dates
from jrnn.data.synthetic.transduction import reversals as reversals
from jrnn.data.synthetic.translation import phrases as phrases
from jrnn.exports import public_names

__all__ = public_names(globals())
