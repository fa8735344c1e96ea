"""
Stream AC compiled by numba: what :class:`~sb3_sparse.stream_ac.numba_learner.NumbaLearner` calls at every step.

A network is a flat vector of its parameters, a second of their traces, a third of their running squares (adaptive ObGD), and a
table of its layers, one line each: two hidden layers, then the heads. Sparse layers hold their active weights only, row by
row; ``rows`` has the first entry of every row, ``columns`` the column of every active weight. Columns are unsigned, for numba
looks at the sign of other indices in every iteration, which keeps it from vectorising, and of 16 bits where these are enough,
for what limits wide networks is the memory.
"""

import math

import numpy as np
from numba import njit

from sb3_sparse.sparsity.products.compiling import compiled

# Columns of the table of layers: where its weights and the rest begin in the vectors; ROWS is -1 for a dense layer.
WEIGHTS, BIAS, INPUTS, OUTPUTS, ROWS, COLUMNS, FIRST_OUTPUT, TABLE_COLUMNS = range(8)
# The workspace, each with a line per observation; pre-activations are replaced by their normalised values.
NORMALIZED_1, HIDDEN_1, NORMALIZED_2, HIDDEN_2, GRADIENT_1, GRADIENT_2, WORKSPACES = range(7)
# What learn() writes for the caller.
DELTA, ENTROPY, ACTOR_STEP, CRITIC_STEP, ACTOR_NORM, CRITIC_NORM, RESULTS = range(7)
# Options.
GAMMA, ENT_COEF, LR, ACTOR_DECAY, CRITIC_DECAY, KAPPA_ACTOR, KAPPA_CRITIC, BETA2, EPS, OPTIONS = range(10)

# All that act() and learn() call is inlined: compiled by itself, it would be linked to one copy in the process that compiles
# and to another where it comes from numba's cache, and these round differently.
# Sums may be reordered, which lets them be vectorised; infinities and NaN keep their meaning, which the checks need.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_NORM_EPS = np.float32(1e-5)
_SLOPE = np.float32(0.01)
_VARIANCE_EPS = 1e-8
# Arithmetic of indices stays unsigned only if all of it is; slices would cost more than a short row.
_Index = np.uintp
_ONE = np.uintp(1)
_HALF_LOG_2PI_E = 0.5 + 0.5 * math.log(2.0 * math.pi)


@compiled()
def observe(observation, mean, squares, count, features):  # type: ignore[no-untyped-def]
    """Count an observation in the statistics and write it, normalised, into ``features``; False if it is not finite."""
    for i in range(observation.size):
        if not np.isfinite(observation[i]):
            return False
    count[0] += 1.0
    for i in range(mean.size):
        value = np.float64(observation[i])
        difference = value - mean[i]
        mean[i] += difference / count[0]
        squares[i] += difference * (value - mean[i])
        variance = squares[i] / (count[0] - 1.0) if count[0] > 1.0 else 1.0
        features[i] = (value - mean[i]) / math.sqrt(variance + _VARIANCE_EPS)
    for i in range(mean.size, observation.size):
        features[i] = observation[i]
    return True


@njit(inline="always")
def _affine(layer, params, rows, columns, inputs, outputs):  # type: ignore[no-untyped-def]
    """outputs[b] = W inputs[b] + bias, for all lines b; a row of W is read once for all of them."""
    weights, bias, first = _Index(layer[WEIGHTS]), _Index(layer[BIAS]), _Index(layer[FIRST_OUTPUT])
    n, lines, is_dense = _Index(layer[INPUTS]), _Index(inputs.shape[0]), layer[ROWS] < 0
    first_row, first_column = _Index(layer[ROWS]), _Index(layer[COLUMNS])
    for i in range(_Index(layer[OUTPUTS])):
        if is_dense:
            start = weights + i * n
            for b in range(lines):
                total = np.float32(0.0)
                for j in range(n):
                    total += params[start + j] * inputs[b, j]
                outputs[b, first + i] = total + params[bias + i]
        else:
            begin, end = _Index(rows[first_row + i]), _Index(rows[first_row + i + _ONE])
            for b in range(lines):
                total = np.float32(0.0)
                for j in range(begin, end):
                    total += params[weights + j] * inputs[b, columns[first_column + j]]
                outputs[b, first + i] = total + params[bias + i]


@njit(inline="always")
def _normalize(values, hidden):  # type: ignore[no-untyped-def]
    """LayerNorm in place, LeakyReLU of it into ``hidden``; returns the reciprocal standard deviation."""
    mean = np.float32(0.0)
    for j in range(values.size):
        mean += values[j]
    mean /= np.float32(values.size)
    variance = np.float32(0.0)
    for j in range(values.size):
        values[j] -= mean
        variance += values[j] * values[j]
    scale = np.float32(1.0) / np.sqrt(variance / np.float32(values.size) + _NORM_EPS)
    for j in range(values.size):
        values[j] *= scale
        hidden[j] = values[j] if values[j] > 0 else _SLOPE * values[j]
    return scale


@njit(inline="always")
def _normalize_backward(gradient, normalized, scale):  # type: ignore[no-untyped-def]
    """Turn the gradient with respect to the activation into that of the pre-activation, in place."""
    mean, product = np.float32(0.0), np.float32(0.0)
    for j in range(gradient.size):
        if normalized[j] <= 0:
            gradient[j] *= _SLOPE
        mean += gradient[j]
        product += gradient[j] * normalized[j]
    mean /= np.float32(gradient.size)
    product /= np.float32(gradient.size)
    for j in range(gradient.size):
        gradient[j] = scale * (gradient[j] - mean - normalized[j] * product)


@njit(inline="always")
def _forward(layers, params, rows, columns, inputs, workspace, scales, heads):  # type: ignore[no-untyped-def]
    _affine(layers[0], params, rows, columns, inputs, workspace[NORMALIZED_1])
    for b in range(inputs.shape[0]):
        scales[b, 0] = _normalize(workspace[NORMALIZED_1, b], workspace[HIDDEN_1, b])
    _affine(layers[1], params, rows, columns, workspace[HIDDEN_1], workspace[NORMALIZED_2])
    for b in range(inputs.shape[0]):
        scales[b, 1] = _normalize(workspace[NORMALIZED_2, b], workspace[HIDDEN_2, b])
    for k in range(2, layers.shape[0]):
        _affine(layers[k], params, rows, columns, workspace[HIDDEN_2], heads)


@njit(inline="always")
def _trace_layer(layer, params, traces, rows, columns, decay, inputs, gradient, inputs_gradient):  # type: ignore[no-untyped-def]
    """
    traces <- decay traces + gradient, with ``gradient`` that of the layer's outputs; adds that of its inputs to
    ``inputs_gradient``, unless this is empty. Returns the L1 norm of the traces.
    """
    weights, bias, first = _Index(layer[WEIGHTS]), _Index(layer[BIAS]), _Index(layer[FIRST_OUTPUT])
    n, is_dense, is_first = _Index(layer[INPUTS]), layer[ROWS] < 0, inputs_gradient.size == 0
    first_row, first_column = _Index(layer[ROWS]), _Index(layer[COLUMNS])
    norm = 0.0
    for i in range(_Index(layer[OUTPUTS])):
        factor = gradient[first + i]
        value = decay * traces[bias + i] + factor
        traces[bias + i] = value
        row_norm = abs(value)
        if is_dense:
            start = weights + i * n
            for j in range(n):
                value = decay * traces[start + j] + factor * inputs[j]
                traces[start + j] = value
                row_norm += abs(value)
            if not is_first:
                for j in range(n):
                    inputs_gradient[j] += factor * params[start + j]
        else:
            begin, end = _Index(rows[first_row + i]), _Index(rows[first_row + i + _ONE])
            for j in range(begin, end):
                value = decay * traces[weights + j] + factor * inputs[columns[first_column + j]]
                traces[weights + j] = value
                row_norm += abs(value)
            if not is_first:
                for j in range(begin, end):
                    inputs_gradient[columns[first_column + j]] += factor * params[weights + j]
        norm += row_norm
    return norm


@njit(inline="always")
def _accumulate(layers, params, traces, rows, columns, decay, inputs, workspace, scales, gradient):  # type: ignore[no-untyped-def]
    """Decay the traces and add the gradient, given that of the heads. Returns the L1 norm of the traces."""
    first, second = workspace[GRADIENT_1, 0], workspace[GRADIENT_2, 0]
    first[:] = 0.0
    second[:] = 0.0
    norm = 0.0
    for k in range(2, layers.shape[0]):
        norm += _trace_layer(layers[k], params, traces, rows, columns, decay, workspace[HIDDEN_2, 0], gradient, second)
    _normalize_backward(second, workspace[NORMALIZED_2, 0], scales[1])
    norm += _trace_layer(layers[1], params, traces, rows, columns, decay, workspace[HIDDEN_1, 0], second, first)
    _normalize_backward(first, workspace[NORMALIZED_1, 0], scales[0])
    norm += _trace_layer(layers[0], params, traces, rows, columns, decay, inputs, first, second[:0])
    return norm


@njit(inline="always")
def _note_squares(traces, squares, delta, beta2, correction, eps):  # type: ignore[no-untyped-def]
    """Adaptive ObGD: update the running squares; returns the L1 norm of the normalised traces."""
    norm = np.float32(0.0)
    for j in range(traces.size):
        scaled = delta * traces[j]
        squares[j] = beta2 * squares[j] + (np.float32(1.0) - beta2) * scaled * scaled
        norm += abs(traces[j]) / np.sqrt(squares[j] / correction + eps)
    return np.float64(norm)


@njit(inline="always")
def _descend(params, traces, squares, factor, correction, eps):  # type: ignore[no-untyped-def]
    """params <- params - factor traces, normalised if there are running squares."""
    if squares.size == 0:
        for j in range(params.size):
            params[j] -= factor * traces[j]
    else:
        for j in range(params.size):
            params[j] -= factor * traces[j] / np.sqrt(squares[j] / correction + eps)


@njit(inline="always")
def _step_size(lr, kappa, delta, norm):  # type: ignore[no-untyped-def]
    bound = lr * kappa * max(abs(delta), 1.0) * norm
    return lr / bound if bound > 1.0 else lr


@njit(inline="always")
def _softplus(x):  # type: ignore[no-untyped-def]
    return max(x, np.float32(0.0)) + np.log1p(np.exp(-abs(x)))


@njit(inline="always")
def _softmax(logits, probabilities):  # type: ignore[no-untyped-def]
    """Probabilities of the actions; returns the entropy."""
    largest = logits.max()
    total = np.float32(0.0)
    for j in range(logits.size):
        probabilities[j] = np.exp(logits[j] - largest)
        total += probabilities[j]
    entropy = np.float32(0.0)
    for j in range(logits.size):
        probabilities[j] /= total
        entropy -= probabilities[j] * (logits[j] - largest - np.log(total))
    return entropy


@njit(inline="always")
def _normal_gradient(heads, action, entropy_weight, gradient):  # type: ignore[no-untyped-def]
    """Gradient of -log pi(a) - entropy_weight H with respect to mean and pre-deviation; returns the entropy."""
    size, entropy = action.size, np.float32(0.0)
    for j in range(size):
        pre_std = heads[size + j]
        std = _softplus(pre_std)
        z = (action[j] - heads[j]) / std
        gradient[j] = -z / std
        # The derivative of softplus is the logistic function.
        gradient[size + j] = (np.float32(1.0) - z * z - entropy_weight) / std / (np.float32(1.0) + np.exp(-pre_std))
        entropy += np.float32(_HALF_LOG_2PI_E) + np.log(std)
    return entropy


@njit(inline="always")
def _softmax_gradient(heads, action, entropy_weight, gradient):  # type: ignore[no-untyped-def]
    """Gradient of -log pi(a) - entropy_weight H with respect to the logits; returns the entropy."""
    entropy = _softmax(heads, gradient)
    for j in range(heads.size):
        probability = gradient[j]
        if probability > 0:
            gradient[j] = probability + entropy_weight * probability * (np.log(probability) + entropy)
    gradient[int(action[0])] -= np.float32(1.0)
    return entropy


@compiled(fastmath=_FAST, error_model="numpy")
def act(layers, params, rows, columns, features, workspace, scales, heads, noise, discrete):  # type: ignore[no-untyped-def]
    """The actor's forward pass, which :func:`learn` reuses, and an action."""
    _forward(layers, params, rows, columns, features.reshape(1, features.size), workspace, scales, heads)
    if discrete:
        probabilities = np.empty(heads.shape[1], np.float32)
        _softmax(heads[0], probabilities)
        chosen, below = 0, probabilities[0]
        while below <= noise[0] and chosen < probabilities.size - 1:
            chosen += 1
            below += probabilities[chosen]
        return np.full(1, chosen, np.float32)
    action = np.empty(noise.size, np.float32)
    for j in range(noise.size):
        action[j] = heads[0, j] + _softplus(heads[0, noise.size + j]) * noise[j]
    return action


@compiled(fastmath=_FAST, error_model="numpy")
def learn(  # type: ignore[no-untyped-def]
    actor_layers,
    actor_params,
    actor_traces,
    actor_squares,
    actor_rows,
    actor_columns,
    actor_workspace,
    actor_scales,
    actor_heads,
    critic_layers,
    critic_params,
    critic_traces,
    critic_squares,
    critic_rows,
    critic_columns,
    critic_workspace,
    critic_scales,
    critic_heads,
    features,
    next_features,
    action,
    reward,
    bootstrap,
    done,
    discrete,
    correction,
    options,
    results,
):
    """
    One update, after :func:`act` for the same features.

    :return: Whether it was finite. If not, no parameter has changed.
    """
    inputs = np.empty((2, features.size), np.float32)
    inputs[0] = features
    inputs[1] = next_features
    _forward(critic_layers, critic_params, critic_rows, critic_columns, inputs, critic_workspace, critic_scales, critic_heads)
    delta = np.float32(reward) - critic_heads[0, 0]
    if bootstrap:
        delta += np.float32(options[GAMMA]) * critic_heads[1, 0]
    entropy_weight = np.float32(options[ENT_COEF]) * np.sign(delta)
    gradient = np.empty(actor_heads.shape[1], np.float32)
    if discrete:
        entropy = _softmax_gradient(actor_heads[0], action, entropy_weight, gradient)
    else:
        entropy = _normal_gradient(actor_heads[0], action, entropy_weight, gradient)
    actor_norm = _accumulate(
        actor_layers,
        actor_params,
        actor_traces,
        actor_rows,
        actor_columns,
        np.float32(options[ACTOR_DECAY]),
        features,
        actor_workspace,
        actor_scales[0],
        gradient,
    )
    gradient[0] = -1.0
    critic_norm = _accumulate(
        critic_layers,
        critic_params,
        critic_traces,
        critic_rows,
        critic_columns,
        np.float32(options[CRITIC_DECAY]),
        features,
        critic_workspace,
        critic_scales[0],
        gradient,
    )
    beta2, eps, divisor = np.float32(options[BETA2]), np.float32(options[EPS]), np.float32(correction)
    if actor_squares.size > 0:
        actor_norm = _note_squares(actor_traces, actor_squares, delta, beta2, divisor, eps)
        critic_norm = _note_squares(critic_traces, critic_squares, delta, beta2, divisor, eps)
    if not (np.isfinite(delta) and np.isfinite(actor_norm) and np.isfinite(critic_norm)):
        return False
    actor_step = _step_size(options[LR], options[KAPPA_ACTOR], np.float64(delta), actor_norm)
    critic_step = _step_size(options[LR], options[KAPPA_CRITIC], np.float64(delta), critic_norm)
    _descend(actor_params, actor_traces, actor_squares, np.float32(actor_step * delta), divisor, eps)
    _descend(critic_params, critic_traces, critic_squares, np.float32(critic_step * delta), divisor, eps)
    if done:
        actor_traces[:] = 0.0
        critic_traces[:] = 0.0
    results[DELTA] += abs(delta)
    results[ENTROPY] += entropy
    results[ACTOR_STEP] += actor_step
    results[CRITIC_STEP] += critic_step
    results[ACTOR_NORM] += actor_norm
    results[CRITIC_NORM] += critic_norm
    return True
