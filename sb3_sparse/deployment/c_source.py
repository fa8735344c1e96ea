"""Policies as one file of C99 for microcontrollers: active weights as constants, and nothing that allocates."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_sparse.deployment.recording import Recording
from sb3_sparse.deployment.runtime import TOLERANCE, Step, check_steps

MARK = "/* sb3-sparse policy"
# Deviations are told by the program, and its exit status is 1 if one is too large.
MAIN = "SB3_SPARSE_MAIN"
_CHECK = "SB3_SPARSE_CHECK"
_LINE = 120
_INTEGERS = {"uint16": "uint16_t", "int32": "int32_t"}
_DISCRETE = ("argmax", "argmax_of_each", "is_positive")


class _Function(NamedTuple):
    """
    What a step becomes.

    :param arguments: Names of its arrays, as it is called with them
    :param moves: Whether it writes into another vector
    :param body: Its text; ``x`` are n numbers, ``y`` m numbers
    """

    arguments: tuple[str, ...]
    moves: bool
    body: str


def _loop(expression: str) -> str:
    return f"    int i;\n    for (i = 0; i < n; ++i)\n        x[i] = {expression};\n"


_FUNCTIONS: dict[str, _Function] = {
    "standardize": _Function(("mean", "scale"), False, _loop("(x[i] - mean[i]) / scale[i]")),
    "clip": _Function(("low", "high"), False, _loop("fminf(fmaxf(x[i], low[i]), high[i])")),
    "affine": _Function(("scale", "offset"), False, _loop("x[i] * scale[i] + offset[i]")),
    "one_hot": _Function(
        ("sizes",),
        True,
        """\
    int i, j;
    (void)m;
    for (i = 0; i < n; ++i) {
        if (sizes[i] == 0)
            *y++ = x[i];
        for (j = 0; j < sizes[i]; ++j)
            *y++ = x[i] == (float)j ? 1.0f : 0.0f;
    }
""",
    ),
    "layer_norm": _Function(
        ("weight", "bias", "eps"),
        False,
        """\
    float mean = 0.0f, square = 0.0f, scale;
    int i;
    for (i = 0; i < n; ++i)
        mean += x[i];
    mean /= (float)n;
    for (i = 0; i < n; ++i)
        square += (x[i] - mean) * (x[i] - mean);
    scale = 1.0f / sqrtf(square / (float)n + eps[0]);
    for (i = 0; i < n; ++i)
        x[i] = (x[i] - mean) * scale * weight[i] + bias[i];
""",
    ),
    "sparse": _Function(
        ("values", "columns", "counts", "bias"),
        True,
        """\
    int i;
    uint_fast16_t left;
    (void)n;
    for (i = 0; i < m; ++i) {
        float sum = 0.0f;
        for (left = counts[i]; left > 0; --left)
            sum += *values++ * x[*columns++];
        y[i] = sum + bias[i];
    }
""",
    ),
    "dense": _Function(
        ("weight", "bias"),
        True,
        """\
    int i, j;
    for (i = 0; i < m; ++i) {
        float sum = 0.0f;
        for (j = 0; j < n; ++j)
            sum += *weight++ * x[j];
        y[i] = sum + bias[i];
    }
""",
    ),
    "relu": _Function((), False, _loop("x[i] < 0.0f ? 0.0f : x[i]")),
    "tanh": _Function((), False, _loop("tanhf(x[i])")),
    "sigmoid": _Function((), False, _loop("1.0f / (1.0f + expf(-x[i]))")),
    "silu": _Function((), False, _loop("x[i] / (1.0f + expf(-x[i]))")),
    "gelu": _Function((), False, _loop("0.5f * x[i] * (1.0f + erff(x[i] * 0.707106781f))")),
    "gelu_tanh": _Function(
        (), False, _loop("0.5f * x[i] * (1.0f + tanhf(0.797884561f * (x[i] + 0.044715f * x[i] * x[i] * x[i])))")
    ),
    "elu": _Function(("alpha",), False, _loop("x[i] > 0.0f ? x[i] : alpha[0] * expm1f(x[i])")),
    "leaky_relu": _Function(("slope",), False, _loop("x[i] > 0.0f ? x[i] : slope[0] * x[i]")),
    "hardtanh": _Function(("min", "max"), False, _loop("fminf(fmaxf(x[i], min[0]), max[0])")),
    "add": _Function((), False, ""),
    "dueling": _Function(
        (),
        True,
        """\
    int i, atoms = n - m, actions = m / atoms, atom;
    for (atom = 0; atom < atoms; ++atom) {
        float sum = 0.0f;
        for (i = 0; i < actions; ++i)
            sum += x[i * atoms + atom];
        for (i = 0; i < actions; ++i)
            y[i * atoms + atom] = x[m + atom] + x[i * atoms + atom] - sum / (float)actions;
    }
""",
    ),
    "expectation": _Function(
        ("support",),
        True,
        """\
    int i, j, atoms = n / m;
    for (i = 0; i < m; ++i, x += atoms) {
        float largest = x[0], sum = 0.0f, weights = 0.0f;
        for (j = 1; j < atoms; ++j)
            largest = fmaxf(largest, x[j]);
        for (j = 0; j < atoms; ++j) {
            const float weight = expf(x[j] - largest);
            sum += weight * support[j];
            weights += weight;
        }
        y[i] = sum / weights;
    }
""",
    ),
    "argmax": _Function(
        (),
        True,
        """\
    int i, best = 0;
    (void)m;
    for (i = 1; i < n; ++i)
        if (x[i] > x[best])
            best = i;
    y[0] = (float)best;
""",
    ),
    "argmax_of_each": _Function(
        ("sizes",),
        True,
        """\
    int i, j;
    (void)n;
    for (i = 0; i < m; x += sizes[i], ++i) {
        int best = 0;
        for (j = 1; j < sizes[i]; ++j)
            if (x[j] > x[best])
                best = j;
        y[i] = (float)best;
    }
""",
    ),
    "is_positive": _Function((), False, _loop("x[i] > 0.0f ? 1.0f : 0.0f")),
}


def prefix_of(path: Path) -> str:
    """
    :param path: File of C
    :return: What its names begin with
    :raises ValueError: if its own name gives none.
    """
    prefix = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    if not re.match(r"[A-Za-z]", prefix):
        raise ValueError(f"The names in a file of C begin with its own, which must begin with a letter, got {path.name}.")
    return prefix


def c_source(prefix: str, steps: Sequence[Step], recording: Recording, metadata: Mapping[str, Any]) -> str:
    """
    Write a policy down in C99.

    :param prefix: What all names begin with
    :param steps: Its steps
    :param recording: Observations and actions that the file carries
    :param metadata: What it tells of the policy
    """
    size = recording.flat().shape[1]
    writer = _Writer(prefix, steps, size)
    body = "\n".join([*writer.head(), *writer.functions(), *writer.arrays(), *writer.act(), *_check(writer, recording)])
    body = f"\n{_about(prefix, metadata)}\n{body}\n"
    return f"{MARK}, sha256 of all below this line: {hashlib.sha256(body.encode()).hexdigest()} */{body}"


def checked_text(text: str) -> str:
    """
    :param text: File of :func:`c_source`
    :return: The same
    :raises ValueError: if it is another file, or was edited.
    """
    first, newline, rest = text.partition("\n")
    found = re.fullmatch(re.escape(MARK) + r", sha256 of all below this line: (\w+) \*/", first)
    if found is None:
        raise ValueError("it is no C file that was exported")
    if hashlib.sha256((newline + rest).encode()).hexdigest() != found[1]:
        raise ValueError("its checksum is not that of its content")
    return text


def _about(prefix: str, metadata: Mapping[str, Any]) -> str:
    described = json.dumps(metadata, indent=1).replace("*/", "* /")
    return f"""\
/*
An observation is {prefix.upper()}_OBSERVATIONS floats as the environment returns them, a Dict's entries one after the
other; of discrete ones, the number. {prefix}_act() returns 0; or 1 if one of them is NaN or infinite, 2 if there is
no such number, and then no action is written. It has {prefix.upper()}_FLOATS floats of static RAM, so only one call
may run at a time. Do not compile it with -ffast-math, which makes a compiler forget about NaN.
Check it on a machine: cc -std=c99 -O2 -D{MAIN} {prefix}.c -lm && ./a.out; or call {prefix}_check(), with -D{_CHECK}.

{described}
*/"""


class _Writer:
    """Parts of the file."""

    def __init__(self, prefix: str, steps: Sequence[Step], size: int):
        self.prefix, self.steps, self.size = prefix, steps, size
        self.sizes = [check_steps(steps[:i], size) for i in range(len(steps) + 1)]
        self.width = max(self.sizes)
        depths = np.cumsum([(step.name == "save") - (step.name == "add") for step in steps])
        self.depth = int(depths.max(initial=0))
        self.kept = max((s for step, s in zip(steps, self.sizes, strict=False) if step.name == "save"), default=0)
        self.is_discrete = steps[-1].name in _DISCRETE

    @property
    def action_type(self) -> str:
        return "int32_t" if self.is_discrete else "float"

    def head(self) -> Iterator[str]:
        upper = self.prefix.upper()
        yield "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"
        yield f"#define {upper}_OBSERVATIONS {self.size}"
        yield f"#define {upper}_ACTIONS {self.sizes[-1]}"
        yield f"#define {upper}_FLOATS {2 * self.width + self.depth * self.kept}\n"
        yield f"typedef {self.action_type} {self.prefix}_action;\n"
        yield f"int {self.prefix}_act(const float *observation, {self.prefix}_action *action);\n"
        yield f"#ifdef {MAIN}\n#define {_CHECK}\n#endif\n#ifdef {_CHECK}\nfloat {self.prefix}_check(void);\n#endif\n"

    def functions(self) -> Iterator[str]:
        for name in dict.fromkeys(step.name for step in self.steps):
            if name in ("save", "add"):
                continue
            function = _FUNCTIONS[name]
            types = {"columns": "uint16_t", "counts": "uint16_t", "sizes": "int32_t"}
            sizes = "const float *x, int n, float *y, int m" if function.moves else "float *x, int n"
            given = "".join(f", const {types.get(argument, 'float')} *{argument}" for argument in function.arguments)
            yield f"static void {self.prefix}_{name}({sizes}{given})\n{{\n{function.body}}}\n"

    def arrays(self) -> Iterator[str]:
        for number, (name, arrays) in enumerate(self.steps):
            for argument, array in _c_arrays(name, arrays).items():
                yield _array(f"{self.prefix}_{argument}_{number}", array)
        yield ""

    def act(self) -> Iterator[str]:
        p, upper = self.prefix, self.prefix.upper()
        yield f"static float {p}_floats[{upper}_FLOATS];\n"
        yield f"int {p}_act(const float *observation, {p}_action *action)\n{{"
        yield f"    float *x = {p}_floats, *y = x + {self.width};\n    int i;"
        yield from self._checks()
        yield f"    memcpy(x, observation, {upper}_OBSERVATIONS * sizeof(float));"
        place, here = 0, "x"
        for number, step in enumerate(self.steps):
            size, after = self.sizes[number], self.sizes[number + 1]
            kept = f"{p}_floats + {2 * self.width + (place - (step.name == 'add')) * self.kept}"
            place += (step.name == "save") - (step.name == "add")
            if step.name == "save":
                yield f"    memcpy({kept}, {here}, {size} * sizeof(float));"
            elif step.name == "add":
                yield f"    for (i = 0; i < {size}; ++i)\n        {here}[i] += ({kept})[i];"
            else:
                there = "y" if here == "x" else "x"
                function = _FUNCTIONS[step.name]
                vectors = f"{here}, {size}, {there}, {after}" if function.moves else f"{here}, {size}"
                given = "".join(f", {p}_{argument}_{number}" for argument in function.arguments)
                yield f"    {p}_{step.name}({vectors}{given});"
                here = there if function.moves else here
        yield f"    for (i = 0; i < {upper}_ACTIONS; ++i)\n        action[i] = ({p}_action){here}[i];"
        yield "    return 0;\n}\n"

    def _checks(self) -> Iterator[str]:
        upper = self.prefix.upper()
        yield f"    for (i = 0; i < {upper}_OBSERVATIONS; ++i)\n        if (!isfinite(observation[i]))\n            return 1;"
        number = next((i for i, step in enumerate(self.steps) if step.name == "one_hot"), None)
        if number is not None:
            sizes, given = f"{self.prefix}_sizes_{number}[i]", "observation[i]"
            wrong = f"{given} < 0.0f || {given} >= (float){sizes} || {given} != floorf({given})"
            loop = f"    for (i = 0; i < {upper}_OBSERVATIONS; ++i)"
            yield f"{loop}\n        if ({sizes} > 0 && ({wrong}))\n            return 2;"


def _c_arrays(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if name == "sparse":  # how many weights a row has takes two bytes, where they start would take four
        return {**{k: v for k, v in arrays.items() if k != "starts"}, "counts": np.diff(arrays["starts"]).astype(np.uint16)}
    return {key: array for key, array in arrays.items() if key in _FUNCTIONS[name].arguments} if arrays else {}


def _array(name: str, array: np.ndarray) -> str:
    kind = _INTEGERS.get(str(array.dtype), "float")
    flat = array.ravel()
    # C knows no arrays without elements.
    words = [_number(value) for value in flat.tolist()] if kind == "float" else list(map(str, flat.tolist()))
    return f"static const {kind} {name}[{max(1, flat.size)}] = {{\n{_wrapped(words or ['0'])}}};"


def _number(value: float) -> str:
    """Nine digits tell all float32 apart."""
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _wrapped(words: Sequence[str]) -> str:
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > _LINE:
            lines.append(line)
            line = ""
        line += f"{word},"
    return "\n".join([*lines, line]) + "\n"


def _check(writer: _Writer, recording: Recording) -> Iterator[str]:
    p, upper, number = writer.prefix, writer.prefix.upper(), len(recording.actions)
    half = np.zeros(0) if recording.half_range is None else recording.half_range
    actions = recording.actions.reshape(number, -1)
    yield f"#ifdef {_CHECK}"
    yield _array(f"{p}_recorded_observations", recording.flat())
    yield _array(f"{p}_recorded_actions", actions.astype(np.int32 if writer.is_discrete else np.float32))
    if writer.is_discrete:
        deviation = "action[j] != expected[j] ? 1.0f : 0.0f"
    else:
        yield _array(f"{p}_half_range", half.astype(np.float32))
        deviation = f"fabsf(action[j] - expected[j]) / {p}_half_range[j]"
    yield f"""
/* Largest deviation from the recorded actions, as a fraction of half their range; more than {TOLERANCE:g} is too much. */
float {p}_check(void)
{{
    float largest = 0.0f;
    int i, j;
    for (i = 0; i < {number}; ++i) {{
        const {p}_action *expected = {p}_recorded_actions + i * {upper}_ACTIONS;
        {p}_action action[{upper}_ACTIONS];
        if ({p}_act({p}_recorded_observations + i * {upper}_OBSERVATIONS, action) != 0)
            return INFINITY;
        for (j = 0; j < {upper}_ACTIONS; ++j) {{
            const float deviation = {deviation};
            if (!(deviation <= largest))
                largest = deviation;
        }}
    }}
    return largest;
}}
#endif

#ifdef {MAIN}
#include <stdio.h>

int main(void)
{{
    const float largest = {p}_check();
    printf("{p}.c: deviates from the recorded actions by at most %.1e\\n", (double)largest);
    return largest <= {TOLERANCE:g}f ? 0 : 1;
}}
#endif"""
