"""The equations of the cells written again from the papers, in NumPy, importing nothing of jrnn.

Gate by gate, each with its own matrices, on column vectors: W x + U h + b. Vectors stand in the last
axis, so the same lines serve any batch. Every step is `(p, carry, x, **options) -> (carry, y)`, with `p`
a dict whose keys are the letters of the equation. All functions are analytic (relu piecewise), so that a
complex step gives derivatives exact to rounding.
"""

from tests.references.convolutional import conv_gru as conv_gru
from tests.references.convolutional import conv_lstm as conv_lstm
from tests.references.convolutional import convolve as convolve
from tests.references.functions import absolute as absolute
from tests.references.functions import clamp as clamp
from tests.references.functions import derivative as derivative
from tests.references.functions import elu as elu
from tests.references.functions import exponential as exponential
from tests.references.functions import gelu as gelu
from tests.references.functions import hard_sigmoid as hard_sigmoid
from tests.references.functions import hard_tanh as hard_tanh
from tests.references.functions import in_heads as in_heads
from tests.references.functions import layer_norm as layer_norm
from tests.references.functions import leaky_relu as leaky_relu
from tests.references.functions import maximum as maximum
from tests.references.functions import modrelu as modrelu
from tests.references.functions import relu as relu
from tests.references.functions import run as run
from tests.references.functions import scaled_tanh as scaled_tanh
from tests.references.functions import sigmoid as sigmoid
from tests.references.functions import silu as silu
from tests.references.functions import softplus as softplus
from tests.references.functions import softsign as softsign
from tests.references.functions import tanh as tanh
from tests.references.functions import thresholded_relu as thresholded_relu
from tests.references.functions import times as times
from tests.references.functions import times_heads as times_heads
from tests.references.gru import atr as atr
from tests.references.gru import brc as brc
from tests.references.gru import cfn as cfn
from tests.references.gru import factored as factored
from tests.references.gru import fastgrnn as fastgrnn
from tests.references.gru import fastrnn as fastrnn
from tests.references.gru import gru_d as gru_d
from tests.references.gru import gru_reset_after as gru_reset_after
from tests.references.gru import gru_reset_before as gru_reset_before
from tests.references.gru import intersection_rnn as intersection_rnn
from tests.references.gru import layer_norm_gru as layer_norm_gru
from tests.references.gru import lightru as lightru
from tests.references.gru import ligru as ligru
from tests.references.gru import mgu as mgu
from tests.references.gru import minimal_rnn as minimal_rnn
from tests.references.gru import mut1 as mut1
from tests.references.gru import mut2 as mut2
from tests.references.gru import mut3 as mut3
from tests.references.gru import nbrc as nbrc
from tests.references.gru import ran as ran
from tests.references.gru import sgrn as sgrn
from tests.references.gru import star as star
from tests.references.gru import ugrnn as ugrnn
from tests.references.linear import lru as lru
from tests.references.linear import min_gru as min_gru
from tests.references.linear import min_lstm as min_lstm
from tests.references.linear import mlstm as mlstm
from tests.references.linear import qrnn as qrnn
from tests.references.linear import rg_lru as rg_lru
from tests.references.linear import slstm as slstm
from tests.references.linear import sru as sru
from tests.references.linear import t_gru as t_gru
from tests.references.linear import t_lstm as t_lstm
from tests.references.linear import t_rnn as t_rnn
from tests.references.lstm import janet as janet
from tests.references.lstm import layer_norm_lstm as layer_norm_lstm
from tests.references.lstm import lstm as lstm
from tests.references.lstm import lstm_1997 as lstm_1997
from tests.references.lstm import lstm_variant as lstm_variant
from tests.references.lstm import mogrifier_lstm as mogrifier_lstm
from tests.references.lstm import multiplicative_lstm as multiplicative_lstm
from tests.references.simple import dense as dense
from tests.references.simple import echo_state as echo_state
from tests.references.simple import elman as elman
from tests.references.simple import embed as embed
from tests.references.simple import finite_response as finite_response
from tests.references.simple import indrnn as indrnn
from tests.references.simple import jordan as jordan
from tests.references.simple import leaky_rnn as leaky_rnn
from tests.references.simple import mapping as mapping
from tests.references.simple import narx as narx
from tests.references.simple import window as window
from tests.references.structured import antisymmetric_rnn as antisymmetric_rnn
from tests.references.structured import clockwork_rnn as clockwork_rnn
from tests.references.structured import cornn as cornn
from tests.references.structured import gated_antisymmetric_rnn as gated_antisymmetric_rnn
from tests.references.structured import legendre as legendre
from tests.references.structured import lem as lem
from tests.references.structured import lmu as lmu
from tests.references.structured import nas as nas
from tests.references.structured import orthogonal as orthogonal
from tests.references.structured import orthogonal_rnn as orthogonal_rnn
from tests.references.structured import rhn as rhn
from tests.references.structured import scrn as scrn
from tests.references.structured import unicornn as unicornn

# isort: split
# Last, or the module of that name would stand in its place.
from tests.references.functions import linear as linear
