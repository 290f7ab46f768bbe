"""Gradients forward in time: a pure step that learns from a stream, in constant memory, for any cell."""

from jrnn._exports import public_names
from jrnn.online.exact import RTRL as RTRL
from jrnn.online.exact import SnAp as SnAp
from jrnn.online.learning import Influence as Influence
from jrnn.online.learning import Online as Online
from jrnn.online.local import RFLO as RFLO
from jrnn.online.local import EProp as EProp
from jrnn.online.moments import Moment as Moment
from jrnn.online.moments import OnlineMethod as OnlineMethod
from jrnn.online.stochastic import UORO as UORO
from jrnn.online.stochastic import Kronecker as Kronecker
from jrnn.online.stochastic import KroneckerRTRL as KroneckerRTRL
from jrnn.online.stochastic import RankOne as RankOne
from jrnn.online.truncated import Truncated as Truncated
from jrnn.online.truncated import Window as Window

__all__ = public_names(globals())
