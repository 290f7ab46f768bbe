"""Looking inside: gradients, dynamics and memory of any cell, all derived from its `step`."""

from jrnn.analysis.gradients import GradientFlow as GradientFlow
from jrnn.analysis.gradients import Sensitivity as Sensitivity
from jrnn.analysis.gradients import Verdict as Verdict
from jrnn.analysis.gradients import gradient_flow as gradient_flow
from jrnn.analysis.gradients import log_bound as log_bound
from jrnn.analysis.gradients import sensitivity as sensitivity
from jrnn.analysis.gradients import verdict as verdict
from jrnn.analysis.states import from_vector as from_vector
from jrnn.analysis.states import linear_step as linear_step
from jrnn.analysis.states import to_vector as to_vector
