"""Actions of a Gaussian squashed by tanh, and their log-probabilities, as one operation of autograd on a CPU."""

import math
from typing import Any

import llvmlite.ir as ir
import torch as th
from numba import carray, types
from numba.extending import intrinsic

from sb3_sparse.networks.squashed_gaussian import constant, draw_by_torch
from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.kernel_products import ZEROS
from sb3_sparse.sparsity.products.vector_code import INT, INT32, pointer, rounded

# Taylor series, precise to the last digits of a double: (exp(r) - 1) / r for |r| <= log(2) / 2, and atanh(s) / s as a series
# in s^2 for s <= 1/3.
_EXPONENTIAL = [1 / math.factorial(k + 1) for k in reversed(range(14))]
_ARTANH = [1 / (2 * k + 1) for k in reversed(range(18))]
# Of log(2), the second part what a double that ends in zeros leaves over; a single number has so much room only once.
_LOG2_HIGH, _LOG2_LOW = 0.693145751953125, math.log(2.0) - 0.693145751953125
_LEAST = -80.0  # exp of it is 0 beside 1, and an ordinary number in single precision

_kernel = compiled(nogil=True, error_model="numpy")
_reduction = compiled(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


def _polynomial(coefficients: list[float]) -> Any:
    """Compiles a polynomial, highest power first; unrolled, so that loops around it become vector code."""

    @intrinsic
    def evaluate(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            real = context.get_value_type(x)
            total = ir.Constant(real, coefficients[0])
            for coefficient in coefficients[1:]:
                total = builder.fma(total, arguments[0], ir.Constant(real, coefficient))
            return total

        return x(x), generate

    return evaluate


_exponential, _artanh = _polynomial(_EXPONENTIAL), _polynomial(_ARTANH)


@intrinsic
def _nearest(typing_context: Any, x: Any) -> Any:
    """
    The nearest whole number, and 2 to the power of it.

    Adding a number whose last digit counts ones leaves the whole number in the lowest bits, which become an exponent.
    """
    digits, bias = (23, 127) if x.bitwidth == 32 else (52, 1023)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real, whole = context.get_value_type(x), INT32 if x.bitwidth == 32 else INT
        shift = ir.Constant(real, 1.5 * 2.0**digits)
        shifted = builder.fadd(arguments[0], shift)
        bits = builder.shl(builder.bitcast(shifted, whole), whole(digits))
        power = builder.bitcast(builder.add(bits, whole(bias << digits)), real)
        return context.make_tuple(builder, signature.return_type, [builder.fsub(shifted, shift), power])

    return types.UniTuple(x, 2)(x), generate


@_kernel
def _exp_parts(zero, x):  # type: ignore[no-untyped-def]
    """``power, rest`` with ``exp(x) = power * (1 + rest)``, for x >= _LEAST."""
    number, power = _nearest(x * rounded(zero, 1 / math.log(2.0)))
    r = (x - number * rounded(zero, _LOG2_HIGH)) - number * rounded(zero, _LOG2_LOW)
    return power, r * _exponential(r)


@_kernel
def _tanh(zero, x):  # type: ignore[no-untyped-def]
    """``tanh(x)``, and ``exp(-2 |x|) - 1``."""
    two, least, exponent = rounded(zero, 2.0), rounded(zero, _LEAST), rounded(zero, -2.0) * math.fabs(x)
    power, rest = _exp_parts(zero, least if exponent < least else exponent)  # so that NaN stays
    less = power * rest + (power - rounded(zero, 1.0))
    positive = -less / (two + less)
    return positive if x >= zero else -positive, less


@_kernel
def _draw(zero, count, least, half_range, means, heads, noises, actions, steps, bends, entries):  # type: ignore[no-untyped-def]
    """
    Draw numbers one by one; ``entries`` takes their log-probabilities, a constant apart, ``steps`` what the noise adds and
    ``bends`` the derivative of the log standard deviation.
    """
    mean, head = carray(pointer(means, zero), count), carray(pointer(heads, zero), count)
    noise, step = carray(pointer(noises, zero), count), carray(pointer(steps, zero), count)
    action = carray(pointer(actions, zero), count)
    bend, entry = carray(pointer(bends, zero), count), carray(pointer(entries, zero), count)
    one, two, half, three = rounded(zero, 1.0), rounded(zero, 2.0), rounded(zero, 0.5), rounded(zero, 3.0)
    low, middle = rounded(zero, least), rounded(zero, half_range)
    # More arrays at a time are too many for the compiler to tell whether they overlap: there would be no vector code.
    for i in range(count):
        t, _ = _tanh(zero, head[i])
        entry[i] = low + middle * (one + t)
        bend[i] = middle * (one - t * t)
    for i in range(count):
        power, rest = _exp_parts(zero, entry[i])
        step[i] = noise[i] * (power + power * rest)
    for i in range(count):
        x = mean[i] + step[i]
        action[i], less = _tanh(zero, x)
        # log(1 + exp(-2 |x|)) / 2 = artanh of this
        s = (one + less) / (three + less)
        entry[i] = two * (math.fabs(x) + two * s * _artanh(s * s)) - entry[i] - half * noise[i] * noise[i]


@_reduction
def _add_rows(zero, entries, sums, rows, width, constant):  # type: ignore[no-untyped-def]
    entry, total = carray(pointer(entries, zero), (rows, width)), carray(pointer(sums, zero), rows)
    for row in range(rows):
        found = zero
        for i in range(width):
            found += entry[row, i]
        total[row] = found - rounded(zero, constant)


@_kernel
def _draw_back(zero, rows, width, grad_actions, grad_sums, actions, steps, bends, grad_means, grad_heads):  # type: ignore[no-untyped-def]
    shape, one, two = (rows, width), rounded(zero, 1.0), rounded(zero, 2.0)
    outer, of_sum = carray(pointer(grad_actions, zero), shape), carray(pointer(grad_sums, zero), rows)
    action, step, bend = (
        carray(pointer(actions, zero), shape),
        carray(pointer(steps, zero), shape),
        carray(pointer(bends, zero), shape),
    )
    mean, head = carray(pointer(grad_means, zero), shape), carray(pointer(grad_heads, zero), shape)
    for row in range(rows):
        weight = of_sum[row]
        for i in range(width):
            a = action[row, i]
            slope = outer[row, i] * (one - a * a) + weight * two * a
            mean[row, i] = slope
            head[row, i] = (slope * step[row, i] - weight) * bend[row, i]


class SquashedGaussian(th.autograd.Function):
    """What :func:`~sb3_sparse.networks.squashed_gaussian.draw` computes."""

    @staticmethod
    def forward(ctx, mean, head, noise, least, half_range):  # type: ignore[no-untyped-def]
        mean, head, noise = mean.contiguous(), head.contiguous(), noise.contiguous()
        zero, (rows, width) = ZEROS[mean.dtype], mean.shape
        actions, steps, bends, entries = (th.empty_like(mean) for _ in range(4))
        log_prob = mean.new_empty(rows)
        places = [tensor.data_ptr() for tensor in (mean, head, noise, actions, steps, bends, entries)]
        _draw(zero, rows * width, least, half_range, *places)
        _add_rows(zero, entries.data_ptr(), log_prob.data_ptr(), rows, width, constant(width))
        ctx.save_for_backward(mean, head, noise, actions)
        ctx.steps, ctx.bends, ctx.range = steps, bends, (least, half_range)
        return actions, log_prob

    @staticmethod
    def backward(ctx, *grad_outputs):  # type: ignore[no-untyped-def]
        mean, head, noise, actions = ctx.saved_tensors
        # The gradient is to be differentiated, or there are several (is_grads_batched=True).
        if th.is_grad_enabled() or any(map(th._C._functorch.is_legacy_batchedtensor, grad_outputs)):
            return *_differentiate(ctx, mean, head, noise, grad_outputs), None, None, None
        outer, of_sum = (gradient.contiguous() for gradient in grad_outputs)
        gradients = th.empty_like(mean), th.empty_like(mean)
        places = [tensor.data_ptr() for tensor in (outer, of_sum, actions, ctx.steps, ctx.bends, *gradients)]
        _draw_back(ZEROS[mean.dtype], *mean.shape, *places)
        return *gradients, None, None, None


def _differentiate(ctx, mean, head, noise, grad_outputs):  # type: ignore[no-untyped-def]
    """The gradients by torch's own operations, which can be differentiated again."""
    needed, is_differentiable = ctx.needs_input_grad[:2], th.is_grad_enabled()
    with th.enable_grad():
        outputs = draw_by_torch(mean, head, noise, *ctx.range)
    wanted = [tensor for tensor, is_wanted in zip((mean, head), needed, strict=True) if is_wanted]
    found = iter(th.autograd.grad(outputs, wanted, grad_outputs, create_graph=is_differentiable))
    return [next(found) if is_wanted else None for is_wanted in needed]
