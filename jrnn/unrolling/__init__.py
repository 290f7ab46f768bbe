"""Running a cell over time."""

from jrnn._exports import public_names
from jrnn.unrolling.associative import Associative as Associative
from jrnn.unrolling.chunked import Chunked as Chunked
from jrnn.unrolling.cudnn import CuDNN as CuDNN
from jrnn.unrolling.driver import gradient_memory as gradient_memory
from jrnn.unrolling.driver import unroll as unroll
from jrnn.unrolling.methods import Loop as Loop
from jrnn.unrolling.methods import Method as Method
from jrnn.unrolling.newton import Convergence as Convergence
from jrnn.unrolling.newton import Newton as Newton
from jrnn.unrolling.scan import Scan as Scan

__all__ = public_names(globals())
