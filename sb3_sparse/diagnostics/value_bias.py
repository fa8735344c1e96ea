"""Whether a critic over- or underestimates."""

import torch as th


def discounted_returns(rewards: th.Tensor, discount: float, bootstrap: float = 0.0) -> th.Tensor:
    """
    Return from every step of an episode on, ``G_t = r_t + discount G_{t+1}``.

    :param rewards: (steps,) rewards of one episode
    :param discount: Discount factor in [0, 1]
    :param bootstrap: Value of what follows the last step: 0 after termination, an estimate after truncation
    :return: (steps,)
    """
    returns, following = th.empty_like(rewards), bootstrap
    for t in range(len(rewards) - 1, -1, -1):
        following = float(rewards[t]) + discount * following
        returns[t] = following
    return returns


def q_value_bias(q_values: th.Tensor, returns: th.Tensor, normalize: bool = False) -> float:
    """
    Mean of ``Q(s, a) - G`` over visited pairs (van Hasselt et al., 2016); positive means overestimation.

    :param q_values: (samples,) the critic's values of state-action pairs
    :param returns: (samples,) discounted returns that followed them, of the policy that the critic is to value
    :param normalize: Divide by the absolute mean return (Chen et al., 2021, REDQ)
    :return: Bias
    :raises ValueError: if the shapes differ.
    """
    if q_values.shape != returns.shape:
        raise ValueError(f"q_values and returns differ in shape: {tuple(q_values.shape)} and {tuple(returns.shape)}.")
    bias = (q_values - returns).double().mean()
    return float(bias / returns.double().mean().abs() if normalize else bias)
