"""The evaluation at the end of a run of a grid."""

from collections.abc import Sequence

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import sync_envs_normalization

from sb3_sparse.experiments.sweep.grid_run import GridRun


def final_returns(model: BaseAlgorithm, run: GridRun, callbacks: Sequence[BaseCallback]) -> list[float] | None:
    """
    Evaluate a trained model as the evaluations during its training did, but in more episodes.

    :param model: Model
    :param run: Run
    :param callbacks: Its callbacks, among them the one that evaluated it
    :return: Return of each episode; None if the run asks for no such evaluation
    """
    if run.evaluation is None or run.evaluation.final_episodes is None:
        return None
    callback = next(callback for callback in callbacks if isinstance(callback, EvalCallback))
    env = callback.eval_env
    if model.get_vec_normalize_env() is not None:
        sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type]
    # Whatever was evaluated before, so that a run that was stopped meanwhile ends as any other.
    env.seed(run.seed)
    returns, _ = evaluate_policy(
        model, env, run.evaluation.final_episodes, deterministic=callback.deterministic, return_episode_rewards=True
    )
    return [float(value) for value in returns]  # type: ignore[union-attr]
