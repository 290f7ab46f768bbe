"""Running a cell over time."""

from jrnn.unrolling.driver import unroll as unroll
from jrnn.unrolling.scan import Scan as Scan
