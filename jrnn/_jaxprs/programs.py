"""A traced function as a list of ops over numbered values.

`trace` takes a function and the types of its arguments, and gives a `Program`. For h' = tanh(x @ w + h), with
the arguments w, h and x:

    inputs (0, 1, 2)   ops  3 = dot_general(2, 0)   4 = add(3, 1)   5 = tanh(4)   outputs (5,)

The engine cuts such a list into parts. To run one, it puts arrays under the numbers that the part reads, in a
dict called `env`, and calls `eval_ops`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from jrnn._caching import cached
from jrnn._jaxprs.regions import interface, regions

Values = tuple[int, ...]  # numbers of values
Env = dict[int, Any]  # number of a value -> its array


@dataclass(frozen=True, eq=False)
class Op:
    """One equation of a traced function, on numbered values."""

    fun: Callable[..., Any]  # the arrays of `inputs` -> a list, the arrays of `outputs`
    inputs: Values  # distinct
    outputs: Values
    additive: bool  # adds or rearranges its inputs (`_SUMS`); other linear ops, matmul and reduce_sum, do not
    fusible: bool  # XLA fuses it into its neighbors; not a matmul, a gather or anything unknown
    recomputable: bool  # fusible, and cheaper to recompute than to load; not a tanh
    matmul: bool  # a product of matrices or vectors (`dot_general`)
    reverse_only: bool  # has no forward-mode derivative, e.g. a custom_vjp
    bounds: tuple[int, int, int] | None  # (axis, start, stop) of a slice along one axis
    primitive: str  # its name; "" for more than one equation
    params: Any  # of the primitive
    operands: tuple[Any, ...]  # in the order of the primitive: numbers, and literals, which have a `val`
    traceback: Any  # source position, for messages; for an op of a called function, that of the call


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function as a list of ops in order, with calls to inner functions inlined."""

    ops: tuple[Op, ...]
    inputs: Values
    outputs: Values
    types: dict[int, Any]  # of each value: shape and dtype
    # Values whose arrays are known: constants of called functions, and literals passed to these or returned.
    # Literals that an op reads stay in `Op.fun`.
    literals: dict[int, Any]
    names: dict[int, str]  # value -> the name that `checkpoint_name` gives it
    pure: bool  # False: it has effects (prints, callbacks), so the order and number of its steps matter


def trace(function: Callable[..., Any], *types: Any) -> tuple[Program, list[Any], Any]:
    """Trace a function of pytrees into a program; the same function is traced once.

    Args:
      function: any traceable function.
      *types: its arguments, or their types.

    Returns:
      `(program, closed_over, result_types)`: the inputs of the program are `closed_over`, the arrays that
      the function closes over, followed by the leaves of the arguments; `result_types` is the tree of the
      types that the function returns.
    """
    closed, result_types = jax.make_jaxpr(function, return_shape=True)(*types)
    # JAX caches traces: it returns the very same jaxpr for the same function and types. The program is cached
    # by that jaxpr, and all that follows by the program.
    return _program(closed.jaxpr), list(closed.consts), result_types


@cached
def _program(jaxpr: Any) -> Program:
    """Number the values of a jaxpr."""
    numbering = _Numbering(jaxpr)
    inputs = {v: numbering.new(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)}
    outputs = numbering.visit(jaxpr, dict(inputs))
    known = numbering.types, numbering.literals, numbering.names
    return Program(tuple(numbering.ops), tuple(inputs.values()), outputs, *known, not jaxpr.effects)


class _Numbering:
    """The ops of a jaxpr and of the functions that it calls, in one list, over numbered values."""

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr
        self.ops: list[Op] = []
        self.types: dict[int, Any] = {}
        self.literals: dict[int, Any] = {}
        self.names: dict[int, str] = {}
        self.computed: dict[Any, Values] = {}  # (inputs, equation or bounds of a slice) -> outputs

    def new(self, aval: Any) -> int:
        """Number a new value."""
        number = len(self.types)
        self.types[number] = aval
        return number

    def literal(self, array: Any, aval: Any) -> int:
        """Number a value whose array is known."""
        number = self.new(aval)
        self.literals[number] = array
        return number

    def visit(self, inner: Any, numbers: dict[Any, int], caller: Any = None) -> Values:
        """Add the ops of a jaxpr whose inputs have `numbers`, and return the numbers of its outputs."""

        def number_of(atom: Any) -> int:
            return self.literal(atom.val, atom.aval) if isinstance(atom, Literal) else numbers[atom]

        # `regions` gives the equations one by one; only on a mesh with `auto_axes` some stay together.
        for eqn, *more in regions(inner.eqns, self.jaxpr):
            called = eqn.params.get("jaxpr") if not more else None
            if eqn.primitive.name in ("jit", "pjit", "closed_call") and isinstance(called, ClosedJaxpr):
                # A function that is called, such as jax.nn.silu, is a jaxpr: its equations become ops here.
                arguments = dict(zip(called.jaxpr.invars, map(number_of, eqn.invars), strict=True))
                for var, array in zip(called.jaxpr.constvars, called.consts, strict=True):
                    arguments[var] = self.literal(array, var.aval)
                outputs = self.visit(called.jaxpr, arguments, caller or eqn)
                numbers.update(zip(eqn.outvars, outputs, strict=True))
            elif eqn.primitive.name == "name":  # `checkpoint_name`: an alias of its input
                numbers[eqn.outvars[0]] = named = number_of(eqn.invars[0])
                self.names[named] = eqn.params["name"]
            else:
                self.add([eqn, *more], numbers, caller or eqn)
        return tuple(map(number_of, inner.outvars))

    def add(self, eqns: list[Any], numbers: dict[Any, int], caller: Any) -> None:
        """Add an op, unless an equal one exists: a slice, or an equation of a function called twice."""
        in_vars, out_vars = interface(eqns)  # of one equation: its distinct inputs, and its outputs
        inputs = tuple(numbers[v] for v in in_vars)
        # JAX traces a called function once, so two calls share equations: on equal inputs one op will do.
        key = inputs, (_slice_bounds(eqns[0]) if len(eqns) == 1 else None) or eqns[0]
        is_new = key not in self.computed
        if is_new:
            self.computed[key] = tuple(self.new(v.aval) for v in out_vars)
        numbers.update(zip(out_vars, self.computed[key], strict=True))
        if is_new:
            traceback = caller.source_info.traceback
            self.ops.append(_op(self.jaxpr, eqns, in_vars, out_vars, numbers, traceback))


# Primitives by name; one that is in no list is costly, opaque and not additive, which is always correct.
# Behind `_SUMS`, the additive ops, a weight site may lie. Other linear ops end its chain of ops: behind a
# broadcast or an upcast the site would be larger, and `sliced_values` would take a `reduce_sum`, whose
# result is smaller than what it reads, for a slice.
_SUMS = "add add_any concatenate expand_dims neg reshape slice split squeeze stack sub tile transpose unstack"
_ARITHMETIC = """
    abs and broadcast_in_dim ceil clamp conj convert_element_type copy copy_p div eq floor ge gt imag
    integer_pow iota is_finite le lt max min mul ne nextafter not one_minus_square or pad pvary real
    reduce_and reduce_max reduce_min reduce_or reduce_sum rem rev round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sqrt square stop_gradient xor
"""
_TRANSCENDENTAL = """
    acos acosh asin asinh atan atan2 atanh cbrt cos cosh custom_jvp_call digamma erf erf_inv erfc exp
    exp2 expm1 lgamma log log1p log2 logistic polynomial pow sin sinh tan tanh
"""
_ADDITIVE = frozenset(_SUMS.split())
_RECOMPUTABLE = _ADDITIVE | frozenset(_ARITHMETIC.split())
_FUSIBLE = _RECOMPUTABLE | frozenset(_TRANSCENDENTAL.split())


def _op(
    jaxpr: Any,
    eqns: list[Any],
    in_vars: list[Any],
    out_vars: list[Any],
    numbers: dict[Any, int],
    traceback: Any,
) -> Op:
    """An op of one equation, or of all equations of a region; `numbers` has all variables read and made."""
    kind = eqns[0].primitive.name if len(eqns) == 1 else ""
    inexact = all(is_inexact(v.aval) for v in (*in_vars, *out_vars))
    return Op(
        as_function(jaxpr, eqns, in_vars, out_vars),
        inputs=tuple(numbers[v] for v in in_vars),
        outputs=tuple(numbers[v] for v in out_vars),
        additive=kind in _ADDITIVE and inexact,
        fusible=kind in _FUSIBLE,
        recomputable=kind in _RECOMPUTABLE,
        matmul=kind == "dot_general",
        reverse_only=any(map(_is_reverse_only, eqns)),
        bounds=_slice_bounds(eqns[0]) if kind else None,
        primitive=kind,
        params=eqns[0].params,
        operands=tuple(v if isinstance(v, Literal) else numbers[v] for v in eqns[0].invars),
        traceback=traceback,
    )


def as_function(jaxpr: Any, eqns: list[Any], in_vars: list[Any], out_vars: list[Any]) -> Callable[..., Any]:
    """Some equations of a jaxpr as a function: the values of `in_vars` -> a list, those of `out_vars`."""
    # The names that a jaxpr keeps for messages belong to its own arguments and results.
    info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    parts = {"constvars": [], "invars": in_vars, "outvars": out_vars, "eqns": eqns, "effects": effects}
    function: Callable[..., Any] = jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(**parts, debug_info=info), ()))
    return function


def _slice_bounds(eqn: Any) -> tuple[int, int, int] | None:
    """(axis, start, stop) of an equation that slices a numeric array along one axis."""
    if eqn.primitive.name != "slice" or any(step != 1 for step in eqn.params["strides"] or ()):
        return None
    # Keys are left alone: to `jax_debug_key_reuse` a split of them is their use.
    if not jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.number):
        return None
    shape = eqn.invars[0].aval.shape
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], shape, strict=True)
    cut = [(axis, start, stop) for axis, (start, stop, size) in enumerate(bounds) if stop - start < size]
    return cut[0] if len(cut) == 1 else None


def _is_reverse_only(eqn: Any) -> bool:
    """True for a custom_vjp, and for an equation that contains one: a branch, a loop, a call."""
    if eqn.primitive.name.startswith("custom_vjp_call"):
        return True
    params = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda param: hasattr(param, "jaxpr"))
    for param in params:
        inner = getattr(param, "jaxpr", param)  # a ClosedJaxpr holds a jaxpr
        if any(map(_is_reverse_only, getattr(inner, "eqns", ()))):
            return True
    return False


# Running parts of a program.


def read(env: Env, values: Iterable[int]) -> tuple[Any, ...]:
    """Read the arrays of values."""
    return tuple(env[value] for value in values)


def eval_ops(ops: Iterable[Op], env: Env) -> None:
    """Evaluate ops in order, and add their results to `env`."""
    for op in ops:
        env.update(zip(op.outputs, op.fun(*read(env, op.inputs)), strict=True))


def inputs_of(ops: Iterable[Op]) -> list[int]:
    """The inputs of all ops, in order; a value that several ops read comes as many times."""
    return [value for op in ops for value in op.inputs]


def outputs_of(ops: Iterable[Op]) -> list[int]:
    """The outputs of all ops, in order."""
    return [value for op in ops for value in op.outputs]


def dce(ops: Iterable[Op], wanted: Iterable[int], known: Iterable[int] = ()) -> list[Op]:
    """Eliminate dead code: return the ops that compute `wanted` from `known`."""
    known = set(known)
    needed, alive = set(wanted) - known, []
    # Backwards: an op is needed if a later needed one reads it.
    for op in reversed(list(ops)):
        if needed.intersection(op.outputs):
            needed.update(i for i in op.inputs if i not in known)
            alive.append(op)
    return alive[::-1]


def free_values(ops: Iterable[Op], outputs: Iterable[int], bound: Iterable[int]) -> list[int]:
    """The distinct values, in order, that ops and outputs read, neither `bound` nor made by the ops."""
    ops = list(ops)
    made = {*bound, *outputs_of(ops)}
    read_by_any = dict.fromkeys([*inputs_of(ops), *outputs])  # an ordered set
    return [value for value in read_by_any if value not in made]


def split_constant(ops: Iterable[Op], constants: Iterable[int]) -> tuple[list[Op], list[Op], set[int]]:
    """Divide ops into those on constants alone, and the rest.

    Returns:
      `(constant_ops, varying_ops, constant)`: the third are `constants` and the results of the first.
    """
    constant = set(constants)
    constant_ops: list[Op] = []
    varying_ops: list[Op] = []
    for op in ops:
        if constant.issuperset(op.inputs):
            constant.update(op.outputs)
            constant_ops.append(op)
        else:
            varying_ops.append(op)
    return constant_ops, varying_ops, constant


def enlarges(op: Op, program: Program) -> bool:
    """True for a broadcast and its like, which give more than they read: cheaper to repeat than to store."""
    return op.fusible and count_elements(op.outputs, program) > count_elements(op.inputs, program)


def is_inexact(array: Any) -> bool:
    """True if an array or type is floating or complex, and so has a tangent."""
    return bool(jnp.issubdtype(array.dtype, jnp.inexact))


UNKNOWN = 32  # assumed size of a symbolic axis of `jax.export`; affects only speed


def element_count(shape: Iterable[Any]) -> int:
    """Number of elements of an array of this shape."""
    return math.prod(n if isinstance(n, int) else UNKNOWN for n in shape)


def count_elements(values: Iterable[int], program: Program) -> int:
    """Number of elements of all values together."""
    return sum(element_count(program.types[v].shape) for v in values)


def size_in_bytes(values: Iterable[int], program: Program) -> int:
    """Total bytes of values."""
    total = 0
    for value in values:
        type_ = program.types[value]
        total += element_count(type_.shape) * type_.dtype.itemsize
    return total
