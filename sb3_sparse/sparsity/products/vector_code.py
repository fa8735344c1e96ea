"""Machine code of vectors for the compiled kernels: what numba's own language cannot say."""

from collections.abc import Iterable, Sequence
from typing import Any

import llvmlite.binding
import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic

# Widest vector of the processor.
VECTOR_BYTES = 64 if llvmlite.binding.get_host_cpu_features().get("avx512f", False) else 32
INT, INT16, INT32 = ir.IntType(64), ir.IntType(16), ir.IntType(32)
FUSED = ("contract", "reassoc")  # multiply and add in one instruction, sums in any order; NaN and infinity keep their meaning


@intrinsic
def pointer(typing_context: Any, address: Any, like: Any) -> Any:
    """Make an address a pointer to numbers of the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.intp, like), generate


@intrinsic
def size_of(typing_context: Any, zero: Any) -> Any:
    """Bytes of a number of the type of ``zero``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return INT(zero.bitwidth // 8)

    return types.intp(zero), generate


@intrinsic
def rounded(typing_context: Any, zero: Any, number: Any) -> Any:
    """A number as one of the type of ``zero``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[1], number, zero)

    return zero(zero, number), generate


def place(builder: Any, address: Any, index: Any, element: Any) -> Any:
    """Pointer to an element of an array."""
    size = element.width // 8 if isinstance(element, ir.IntType) else 8 if isinstance(element, ir.DoubleType) else 4
    return builder.inttoptr(builder.add(address, builder.mul(index, INT(size))), element.as_pointer())


def load_index(builder: Any, address: Any, k: Any, integer: Any) -> Any:
    """Entry ``k`` of an array of unsigned integers, as INT."""
    return builder.zext(builder.load(place(builder, address, k, integer)), INT)


def load(builder: Any, address: Any, vector: Any) -> Any:
    """A vector from an address."""
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=4)


def store(builder: Any, value: Any, address: Any) -> None:
    """A vector to an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def selection(indices: Iterable[int]) -> Any:
    """Which entries a shuffle takes."""
    indices = list(indices)
    return ir.Constant(ir.VectorType(INT32, len(indices)), indices)


def broadcast(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of one number."""
    single = builder.insert_element(ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(single, single, selection([0] * lanes))


def horizontal_sum(builder: Any, vector: Any) -> Any:
    """Sum of a vector, half to half."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        halves = [builder.shuffle_vector(vector, vector, selection(range(i, i + lanes))) for i in (0, lanes)]
        vector = builder.fadd(*halves, flags=FUSED)
    return builder.extract_element(vector, INT32(0))


def horizontal_sums(builder: Any, vectors: Sequence[Any]) -> Any:
    """The sums of several vectors, a power of two, as a vector: together they take half of the shuffles."""
    vectors = list(vectors)
    n, apart = vectors[0].type.count, 1
    while len(vectors) > 1:
        # Of pairs, so that entries of both take turns, each a sum of two.
        vectors = [_add_pair(builder, *pair, n, apart) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        apart *= 2
    (total,) = vectors
    while n > apart:
        n //= 2
        halves = [builder.shuffle_vector(total, total, selection(range(i, i + n))) for i in (0, n)]
        total = builder.fadd(*halves, flags=FUSED)
    return total


def _add_pair(builder: Any, first: Any, second: Any, n: int, apart: int) -> Any:
    """Runs of ``apart`` entries, of the first vector and of the second in turn: each the sum of two neighbouring runs."""
    starts = [i for i in range(0, n, 2 * apart)]
    even = [start + i for start in starts for i in [*range(apart), *range(n, n + apart)]]
    odd = [i + apart for i in even]
    halves = [builder.shuffle_vector(first, second, selection(indices)) for indices in (even, odd)]
    return builder.fadd(*halves, flags=FUSED)
