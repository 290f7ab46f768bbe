"""Analysis of gradients, dynamics and memory, for any cell, derived from its `step`."""

from jrnn._exports import public_names
from jrnn.analysis.exponents import Lyapunov as Lyapunov
from jrnn.analysis.exponents import Parallelism as Parallelism
from jrnn.analysis.exponents import Predictability as Predictability
from jrnn.analysis.exponents import lyapunov as lyapunov
from jrnn.analysis.exponents import parallelism as parallelism
from jrnn.analysis.exponents import predictability as predictability
from jrnn.analysis.fixed_points import FixedPoints as FixedPoints
from jrnn.analysis.fixed_points import draw_starts as draw_starts
from jrnn.analysis.fixed_points import find_fixed_points as find_fixed_points
from jrnn.analysis.fixed_points import trajectory as trajectory
from jrnn.analysis.gates import GateStatistics as GateStatistics
from jrnn.analysis.gates import gate_statistics as gate_statistics
from jrnn.analysis.gradients import GradientFlow as GradientFlow
from jrnn.analysis.gradients import Sensitivity as Sensitivity
from jrnn.analysis.gradients import Verdict as Verdict
from jrnn.analysis.gradients import gradient_flow as gradient_flow
from jrnn.analysis.gradients import log_bound as log_bound
from jrnn.analysis.gradients import sensitivity as sensitivity
from jrnn.analysis.gradients import verdict as verdict
from jrnn.analysis.jacobians import Spectrum as Spectrum
from jrnn.analysis.jacobians import growth as growth
from jrnn.analysis.jacobians import jacobian as jacobian
from jrnn.analysis.jacobians import spectra as spectra
from jrnn.analysis.jacobians import spectrum as spectrum
from jrnn.analysis.jacobians import transient_growth as transient_growth
from jrnn.analysis.memory import MemoryCapacity as MemoryCapacity
from jrnn.analysis.memory import forgetting_curve as forgetting_curve
from jrnn.analysis.memory import memory_capacity as memory_capacity
from jrnn.analysis.memory import pulse_response as pulse_response
from jrnn.analysis.memory import retention as retention
from jrnn.analysis.memory import time_scale as time_scale
from jrnn.analysis.monitoring import Watch as Watch
from jrnn.analysis.penalties import ActivationPenalty as ActivationPenalty
from jrnn.analysis.penalties import GradientFlossing as GradientFlossing
from jrnn.analysis.penalties import OrthogonalPenalty as OrthogonalPenalty
from jrnn.analysis.penalties import VanishingGradientPenalty as VanishingGradientPenalty
from jrnn.analysis.penalties import recurrent_matrices as recurrent_matrices
from jrnn.analysis.projections import Projection as Projection
from jrnn.analysis.projections import principal_components as principal_components
from jrnn.analysis.reporting import Report as Report
from jrnn.analysis.reporting import inspect as inspect
from jrnn.analysis.states import from_vector as from_vector
from jrnn.analysis.states import linear_step as linear_step
from jrnn.analysis.states import to_vector as to_vector

__all__ = public_names(globals())
