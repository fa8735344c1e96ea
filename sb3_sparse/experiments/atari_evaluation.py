"""Evaluation by the protocol of Atari-100k: whole games, raw scores, greedy but for one action in a thousand."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sparse.installation import import_extra
from sb3_sparse.der import DER
from sb3_sparse.envs.atari import AtariWrapper
from sb3_sparse.envs.random_actions import RandomActions
from sb3_sparse.experiments.figures.normalized_scores import human_normalized
from sb3_sparse.experiments.figures.references import atari_scores
from sb3_sparse.experiments.sweep.grid_run import short_task

EPISODES, EPSILON = 100, 0.001  # Dopamine's


def evaluate_atari(
    model: BaseAlgorithm,
    env_id: str,
    n_eval_episodes: int = EPISODES,
    epsilon: float = EPSILON,
    seed: int = 0,
    n_envs: int = 1,
    **wrapper: Any,
) -> list[float]:
    """
    Play whole games and add up their rewards, unclipped, with noise off. After the loss of a life observations begin anew, as
    in training and in Dopamine.

    :param model: Model, trained on :class:`~sb3_sparse.envs.atari.AtariWrapper`'s observations
    :param env_id: Game, such as "ALE/Breakout-v5"
    :param n_eval_episodes: Number of games
    :param epsilon: Probability of a random action
    :param seed: Seed of games and random actions
    :param n_envs: Games at a time, for a GPU
    :param wrapper: Further arguments of the wrapper, where training has changed them
    :return: Scores
    :raises ValueError: if ``epsilon`` is no probability, there is nothing to play, or the model takes other observations.
    """
    if not 0 <= epsilon <= 1 or n_eval_episodes < 1 or n_envs < 1:
        raise ValueError(
            f"epsilon must lie in [0, 1], and there must be games to play; got epsilon={epsilon!r}, "
            f"n_eval_episodes={n_eval_episodes!r}, n_envs={n_envs!r}."
        )
    makers = [maker(env_id, **wrapper)] * n_envs
    env = DummyVecEnv([_with_random_actions(make, epsilon, seed + i) for i, make in enumerate(makers)])
    if env.observation_space.shape != model.observation_space.shape:
        raise ValueError(f"The model takes {model.observation_space}, the game shows {env.observation_space}.")
    env.seed(seed)
    scores, _ = evaluate_policy(model, env, n_eval_episodes, return_episode_rewards=True)
    env.close()
    return scores  # type: ignore[return-value]


def _with_random_actions(make: Callable[[], gym.Env], epsilon: float, seed: int) -> Callable[[], gym.Env]:
    return lambda: RandomActions(make(), epsilon, seed)


def maker(env_id: str, **wrapper: Any) -> Callable[[], gym.Env]:
    """
    :param env_id: Game, such as "ALE/Breakout-v5"
    :param wrapper: Arguments of :class:`~sb3_sparse.envs.atari.AtariWrapper`
    :return: Function that makes the game; scores of whole games are recorded below the wrapper
    """
    gym.register_envs(import_extra("ale_py", "atari"))
    return lambda: AtariWrapper(Monitor(gym.make(env_id)), **wrapper)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Evaluate a saved model and print its score.

    :param arguments: Command line, that of the process if None
    """
    options = _parser().parse_args(arguments)
    model = DER.load(options.model, device=options.device)
    scores = evaluate_atari(model, options.env, options.episodes, options.epsilon, options.seed, options.n_envs)
    mean, std = float(np.mean(scores)), float(np.std(scores))
    is_known = short_task(options.env) in atari_scores()
    normalized = f", human-normalised {human_normalized(options.env, mean):.3f}" if is_known else ""
    print(f"{options.env}: {mean:.1f} +/- {std:.1f} over {len(scores)} games{normalized}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="atari-evaluation", description="Play whole games with a model saved by DER.")
    parser.add_argument("model", type=Path, help="zip file")
    parser.add_argument("--env", required=True, help="game, such as ALE/Breakout-v5")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="games (default: %(default)s)")
    parser.add_argument("--epsilon", type=float, default=EPSILON, help="share of random actions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-envs", type=int, default=1, help="games at a time (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
