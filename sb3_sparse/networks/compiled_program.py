"""Steps in one compiled pass: what a step costs beyond its arithmetic is nanoseconds."""

import math

import numpy as np
from numba import carray, njit

from sb3_sparse.networks.steps import ARGUMENTS, Step, size_after
from sb3_sparse.sparsity.products.compiling import compiled
from sb3_sparse.sparsity.products.kernels import multiply_samples
from sb3_sparse.sparsity.products.vector_code import pointer

CODES = {name: code for code, name in enumerate(ARGUMENTS)}
(
    STANDARDIZE,
    CLIP,
    AFFINE,
    ONE_HOT,
    LAYER_NORM,
    SPARSE,
    DENSE,
    RELU,
    TANH,
    SIGMOID,
    SILU,
    GELU,
    GELU_TANH,
    ELU,
    LEAKY_RELU,
    HARDTANH,
    SAVE,
    ADD,
    DUELING,
    EXPECTATION,
    ARGMAX,
    ARGMAX_OF_EACH,
    IS_POSITIVE,
) = range(len(CODES))
_ZERO = np.float32(0.0)
_NO_NUMBERS = np.int32(0)


class CompiledProgram:
    """
    A program for :func:`run`.

    :param steps: The steps, which fit together
    :param input_size: Size of the vector that comes in
    """

    def __init__(self, steps: list[Step], input_size: int):
        # They are referred to by address from here on.
        self._arrays = [self._prepare(*step) for step in steps]
        size, sizes, saved, most_saved, program = input_size, [input_size], 0, 0, []
        for (name, given), arrays in zip(steps, self._arrays, strict=True):
            width, size = size, size_after(name, given, size)
            saved += (name == "save") - (name == "add")
            most_saved = max(most_saved, saved)
            sizes.append(size)
            addresses = [array.ctypes.data for array in arrays]
            program.append([CODES[name], width, size, *addresses, *[0] * (4 - len(addresses))])
        self._program, self._output_size, self._width = np.array(program, dtype=np.int64), size, max(sizes)
        self._scratch = (2 + most_saved) * self._width

    @staticmethod
    def _prepare(name: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        if name == "sparse":  # first and last entry of every row, as the kernels take them
            arrays = {**arrays, "starts": np.stack([arrays["starts"][:-1], arrays["starts"][1:]], axis=1)}
        return [np.ascontiguousarray(arrays[key]) for key in ARGUMENTS[name]]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """
        :param inputs: (batch, input_size) float32, contiguous
        :return: (batch, output_size)
        """
        outputs = np.empty((len(inputs), self._output_size), np.float32)
        # Of its own, as several threads may be in here.
        buffers = np.empty(self._scratch, np.float32)
        run(_ZERO, self._program, inputs, outputs, buffers, self._width)
        return outputs


@njit(inline="always")
def _array(address, size):  # type: ignore[no-untyped-def]
    return carray(pointer(address, _ZERO), size)


@njit(inline="always")
def _numbers(address, size):  # type: ignore[no-untyped-def]
    return carray(pointer(address, _NO_NUMBERS), size)


@njit(fastmath={"contract", "reassoc"})
def _multiply_dense(weight, x, bias, target):  # type: ignore[no-untyped-def]
    for row in range(len(target)):
        total = _ZERO
        for column in range(len(x)):
            total += weight[row, column] * x[column]
        target[row] = total + bias[row]


@njit(fastmath={"contract", "reassoc"})
def _normalize_layer(x, weight, bias, eps):  # type: ignore[no-untyped-def]
    total, square = _ZERO, _ZERO
    for i in range(len(x)):
        total += x[i]
    mean = total / np.float32(len(x))
    for i in range(len(x)):
        square += (x[i] - mean) * (x[i] - mean)
    scale = np.float32(1.0) / np.float32(math.sqrt(square / np.float32(len(x)) + eps))
    for i in range(len(x)):
        x[i] = (x[i] - mean) * scale * weight[i] + bias[i]


@njit
def _apply(code, x, first, second):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        if code == STANDARDIZE:
            x[i] = (x[i] - first[i]) / second[i]
        elif code == CLIP:
            x[i] = min(max(x[i], first[i]), second[i])
        else:
            x[i] = x[i] * first[i] + second[i]


@njit
def _activate(code, x, argument):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        if code == RELU:
            x[i] = _ZERO if x[i] < _ZERO else x[i]  # so that NaN stays
        elif code == TANH:
            x[i] = math.tanh(x[i])
        elif code == SIGMOID:
            x[i] = 1.0 / (1.0 + math.exp(-x[i]))
        elif code == SILU:
            x[i] = x[i] / (1.0 + math.exp(-x[i]))
        elif code == GELU:
            x[i] = 0.5 * x[i] * (1.0 + math.erf(x[i] * math.sqrt(0.5)))
        elif code == GELU_TANH:
            x[i] = 0.5 * x[i] * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x[i] + 0.044715 * x[i] ** 3)))
        elif code == ELU:
            x[i] = x[i] if x[i] > _ZERO else argument * math.expm1(x[i])
        elif code == LEAKY_RELU:
            x[i] = x[i] if x[i] > _ZERO else argument * x[i]
        else:
            x[i] = 1.0 if x[i] > _ZERO else 0.0


@njit
def _one_hot(x, sizes, target):  # type: ignore[no-untyped-def]
    place = 0
    for i in range(len(x)):
        if sizes[i] == 0:
            target[place] = x[i]
            place += 1
        else:
            target[place : place + sizes[i]] = _ZERO
            target[place + np.int64(x[i])] = 1.0
            place += sizes[i]


@njit
def _dueling(x, atoms, target):  # type: ignore[no-untyped-def]
    actions = len(target) // atoms
    for atom in range(atoms):
        total = _ZERO
        for action in range(actions):
            total += x[action * atoms + atom]
        shift = x[actions * atoms + atom] - total / np.float32(actions)
        for action in range(actions):
            target[action * atoms + atom] = x[action * atoms + atom] + shift


@njit
def _expectation(x, support, target):  # type: ignore[no-untyped-def]
    atoms = len(support)
    for action in range(len(target)):
        logits = x[action * atoms : (action + 1) * atoms]
        largest, total, weights = logits.max(), _ZERO, _ZERO
        for atom in range(atoms):
            weight = np.float32(math.exp(logits[atom] - largest))
            total += weight * support[atom]
            weights += weight
        target[action] = total / weights


@njit
def _argmax_of_each(x, sizes, target):  # type: ignore[no-untyped-def]
    place = 0
    for i in range(len(target)):
        target[i] = np.argmax(x[place : place + sizes[i]])
        place += sizes[i]


@njit
def _reshape(code, x, first, target):  # type: ignore[no-untyped-def]
    n, m = len(x), len(target)
    if code == ONE_HOT:
        _one_hot(x, _numbers(first, n), target)
    elif code == DUELING:
        _dueling(x, n - m, target)
    elif code == EXPECTATION:
        _expectation(x, _array(first, n // m), target)
    elif code == ARGMAX:
        target[0] = np.argmax(x)
    else:
        _argmax_of_each(x, _numbers(first, m), target)


# Whoever changes multiply_samples removes compiled_program.*.nbi from __pycache__: numba sees changes of this file only.
@compiled(nogil=True, error_model="numpy")
def run(zero, program, inputs, outputs, buffers, width):  # type: ignore[no-untyped-def]
    """
    Run a program on every row of ``inputs``.

    :param program: (steps, 7) int64: code, size of the vector before and after, addresses of up to four arrays
    :param inputs: (batch, input size)
    :param outputs: (batch, output size)
    :param buffers: Scratch memory for two vectors and those that are saved
    :param width: Largest size of a vector
    """
    base = np.int64(buffers.ctypes.data)
    for sample in range(len(inputs)):
        here, there, saved = 0, width, 2 * width
        buffers[: inputs.shape[1]] = inputs[sample]
        for step in range(len(program)):
            code, n, m, first, second, third, fourth = program[step]
            x = buffers[here : here + n]
            if code == SPARSE:
                source, target = base + 4 * here, base + 4 * there
                multiply_samples(zero, first, second, third, 1, 0, m, source, n, 1, fourth, target, m)
                here, there = there, here
            elif code == DENSE:
                _multiply_dense(carray(pointer(first, zero), (m, n)), x, _array(second, m), buffers[there : there + m])
                here, there = there, here
            elif code == LAYER_NORM:
                _normalize_layer(x, _array(first, n), _array(second, n), _array(third, 1)[0])
            elif code == SAVE:
                buffers[saved : saved + n] = x
                saved += width
            elif code == ADD:
                saved -= width
                x += buffers[saved : saved + n]
            elif code == HARDTANH:
                low, high = _array(first, 1)[0], _array(second, 1)[0]
                for i in range(n):
                    x[i] = min(max(x[i], low), high)
            elif code in (ONE_HOT, DUELING, EXPECTATION, ARGMAX, ARGMAX_OF_EACH):
                _reshape(code, x, first, buffers[there : there + m])
                here, there = there, here
            elif code <= AFFINE:
                _apply(code, x, _array(first, n), _array(second, n))
            else:
                _activate(code, x, _array(first, 1)[0] if first != 0 else zero)
        outputs[sample] = buffers[here : here + outputs.shape[1]]
