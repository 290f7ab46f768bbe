"""Cells made of cells."""

from jrnn._exports import public_names
from jrnn.combinators.blocks import Block as Block
from jrnn.combinators.blocks import Gated as Gated
from jrnn.combinators.carries import Cast as Cast
from jrnn.combinators.carries import Feedback as Feedback
from jrnn.combinators.carries import FeedbackCarry as FeedbackCarry
from jrnn.combinators.carries import LearnedCarry as LearnedCarry
from jrnn.combinators.carries import LearnedCarryParams as LearnedCarryParams
from jrnn.combinators.carries import Tap as Tap
from jrnn.combinators.clipping import ClipGradient as ClipGradient
from jrnn.combinators.integrating import MultiplicativeIntegration as MultiplicativeIntegration
from jrnn.combinators.noise import Dropout as Dropout
from jrnn.combinators.noise import NoisyCarry as NoisyCarry
from jrnn.combinators.noise import Zoneout as Zoneout
from jrnn.combinators.pacing import Dilated as Dilated
from jrnn.combinators.pacing import FastSlow as FastSlow
from jrnn.combinators.pacing import MixedMemory as MixedMemory
from jrnn.combinators.pacing import Multiplicative as Multiplicative
from jrnn.combinators.pacing import SkipRNN as SkipRNN
from jrnn.combinators.stacking import Project as Project
from jrnn.combinators.stacking import ProjectParams as ProjectParams
from jrnn.combinators.stacking import Residual as Residual
from jrnn.combinators.stacking import Skip as Skip
from jrnn.combinators.stacking import SkipStack as SkipStack
from jrnn.combinators.stacking import Stack as Stack
from jrnn.combinators.stacking import StackCarry as StackCarry

__all__ = public_names(globals())
