"""Wirings: which units of a sparse cell are connected."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jrnn._checks import brief, check_in_features
from jrnn._fields import Share, Width, checked


class NCPMasks(NamedTuple):
    """Connections of an `NCP`, booleans (sources, targets)."""

    inter: Array  # (in, inter), from the inputs
    command: Array  # (inter, command)
    recurrent: Array  # (command, command)
    motor: Array  # (command, outputs)


@checked
@dataclass(frozen=True)
class NCP:
    """Wiring of a neural circuit policy: three layers of units, sparsely connected at random.

        inputs → inter units → command units → motor units = outputs,   command units → command units

    Of the units that are not motor units, 40 % are command units, rounded down. An input reaches a share
    `density` of the inter units, an inter unit of the command units, and a motor unit is reached by that
    share of the command units (at least one each). Units left out are connected to a mean number of others.
    The command units have 2 · density · command connections to each other. These are the numbers of
    `AutoNCP` in ncps; a cell draws the connections in `init`, and they are not trained.

    Args:
      outputs: number of motor units.
      density: share of the possible connections.

    Raises:
      ValueError: at `init`, fewer than outputs + 2 units.

    Reference: Lechner, Hasani, Amini, Henzinger, Rus, Grosu, Neural circuit policies enabling auditable
    autonomy, 2020, doi:10.1038/s42256-020-00237-3.

    >>> import jrnn
    >>> jrnn.NCP(4).layers(20)
    (10, 6, 4)
    """

    outputs: Width
    _: KW_ONLY
    density: Share = 0.5

    def layers(self, hidden: int) -> tuple[int, int, int]:
        """Numbers of inter, command and motor units."""
        rest = hidden - self.outputs
        if rest < 2:
            raise ValueError(
                f"{self} needs at least {self.outputs + 2} units: one inter and one command unit beside the "
                f"outputs, got hidden={hidden}"
            )
        command = max(2 * rest // 5, 1)
        return rest - command, command, self.outputs

    def masks(self, key: Array, in_features: int, hidden: int) -> NCPMasks:
        """Draw the connections."""
        check_in_features(in_features, least=1)
        k_inter, k_command, k_motor, k_recurrent = jax.random.split(key, 4)
        inter, command, motor = self.layers(hidden)
        some = max(int(command * self.density), 1)
        pairs = jax.random.randint(k_recurrent, (2, max(int(2 * command * self.density), 1)), 0, command)
        return NCPMasks(
            inter=_connected(k_inter, in_features, inter, max(int(inter * self.density), 1)),
            command=_connected(k_command, inter, command, some),
            recurrent=jnp.zeros((command, command), bool).at[pairs[0], pairs[1]].set(True),
            motor=_connected(k_motor, motor, command, some).T,
        )


def _connected(key: Array, sources: int, targets: int, fan_out: int) -> Array:
    """Connect every source to `fan_out` targets, and targets left out to a mean number of sources."""
    k_out, k_in = jax.random.split(key)
    mask = _some(k_out, (sources, targets), fan_out)
    fan_in = min(max(sources * fan_out // targets, 1), sources)
    return mask | (~mask.any(0, keepdims=True) & _some(k_in, (targets, sources), fan_in).T)


def _some(key: Array, shape: tuple[int, int], count: int) -> Array:
    """Choose `count` entries of every row."""
    draw = jax.random.uniform(key, shape)
    return draw <= jnp.sort(draw, axis=1)[:, count - 1, None]


def _check_wiring(argument: str, given: Any) -> NCP:
    """Return a wiring, or raise a TypeError that names what was given instead."""
    if not isinstance(given, NCP):
        raise TypeError(f"{argument} must be a wiring like NCP(4), got {brief(given)}")
    return given


Wiring = Annotated[NCP, _check_wiring]
