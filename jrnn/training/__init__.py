"""Training: one step as a pure function, and the loop around it, both compiled here."""

from jrnn._exports import public_names
from jrnn.training.devices import use_cores as use_cores
from jrnn.training.devices import use_fused_loops as use_fused_loops
from jrnn.training.fitting import FitResult as FitResult
from jrnn.training.fitting import fit as fit
from jrnn.training.objectives import AtLast as AtLast
from jrnn.training.objectives import Loss as Loss
from jrnn.training.objectives import PerSequence as PerSequence
from jrnn.training.objectives import PerStep as PerStep
from jrnn.training.populations import Member as Member
from jrnn.training.populations import SweepResult as SweepResult
from jrnn.training.populations import sweep as sweep
from jrnn.training.progress import Progress as Progress
from jrnn.training.steps import TrainState as TrainState
from jrnn.training.steps import evaluate as evaluate
from jrnn.training.steps import init_state as init_state
from jrnn.training.steps import predict as predict
from jrnn.training.steps import train_step as train_step

__all__ = public_names(globals())
