"""Plots, drawn without pyplot: its state is not changed, and nothing is shown.

Every function draws into the given axes, or into those of a new figure, and returns them.
`ax.figure.savefig("name.png")` writes the figure. In a notebook, `ax.figure` as the last line of a cell
shows it, once `%matplotlib inline` has been run.
"""

from jrnn._exports import public_names
from jrnn.plots.dynamics import eigenvalues as eigenvalues
from jrnn.plots.dynamics import gate_saturation as gate_saturation
from jrnn.plots.dynamics import gradient_norms as gradient_norms
from jrnn.plots.dynamics import lyapunov_spectrum as lyapunov_spectrum
from jrnn.plots.dynamics import phase_portrait as phase_portrait
from jrnn.plots.dynamics import sensitivities as sensitivities
from jrnn.plots.grids import pictures as pictures
from jrnn.plots.lines import curves as curves
from jrnn.plots.lines import forecasts as forecasts
from jrnn.plots.losses import LossCurve as LossCurve
from jrnn.plots.losses import loss_curve as loss_curve
from jrnn.plots.losses import population_curves as population_curves
from jrnn.plots.losses import training_curves as training_curves
from jrnn.plots.matrices import confusion_matrix as confusion_matrix
from jrnn.plots.matrices import heat_map as heat_map
from jrnn.plots.matrices import piano_roll as piano_roll
from jrnn.plots.reports import report as report

__all__ = public_names(globals())
