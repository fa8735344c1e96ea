"""A run that is stopped anywhere and started again ends as if it had never stopped."""

from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from torture.envs import DISCRETE, GOALS, IMAGES, MASKS, OPAQUE
from torture.kills import describe
from torture.models import ALGORITHMS, ENVIRONMENTS, OUTPUTS, TortureRun
from torture.runs import CHECKPOINTS, differences, outcome, train


class Crash(Exception):
    """What ends a run in these tests."""


class CrashAt(BaseCallback):
    """Raises within a step, when the environment has moved and nothing is stored."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if 0 <= self.num_timesteps - self.step < self.training_env.num_envs:
            raise Crash
        return True


class NoCrash(CrashAt):
    """Takes its place in a run that goes on."""


VARIED = [
    TortureRun("SB3 TD3", callbacks=("plasticity", "eval"), normalize=True),
    TortureRun("SAC", callbacks=("eval", "plasticity", "reset", "redo")),
    TortureRun("DDPG", noise="ou", n_envs=2, normalize=True),
    TortureRun("SB3 SAC, MlpPolicy", topology="pruning"),
    TortureRun("SAC", topology="expansion"),
    TortureRun("StreamAC", callbacks=("eval",)),
    TortureRun("DrQv2", env=IMAGES, sparsity=0.6, buffer_size=100),
    TortureRun("DER", env=DISCRETE, buffer_size=100, callbacks=("plasticity",)),
    TortureRun("SAC", env=OPAQUE),
    TortureRun("SAC", env=GOALS, buffer_size=100),
    TortureRun("SB3 SAC, MlpPolicy", use_sde=True, outputs=OUTPUTS),
    TortureRun("QR-DQN", env=DISCRETE),
    TortureRun("PPO", n_envs=2, subprocesses=True, normalize=True, callbacks=("eval",)),
    TortureRun("A2C", n_envs=2, log_interval=3),
    TortureRun("RecurrentPPO", env=DISCRETE, n_envs=2),
    TortureRun("MaskablePPO", env=MASKS),
]
LONG = [
    *(TortureRun(algorithm) for algorithm in ALGORITHMS if algorithm not in ENVIRONMENTS),
    TortureRun("DrQv2", env=IMAGES, n_envs=2, topology="set", callbacks=("plasticity", "eval")),
    TortureRun("DER", env=DISCRETE, n_envs=2, topology="set", callbacks=("eval", "reset")),
    TortureRun("SAC", topology="set"),
    TortureRun("SB3 SAC", topology="rigl"),
    TortureRun("TD3", topology="pruning"),
    TortureRun("SB3 TD3", topology="revival"),
    TortureRun("TD3", noise="normal", n_steps=3, buffer_size=60),
    TortureRun("StreamAC", env=OPAQUE),
    TortureRun("DQN", env=DISCRETE, n_envs=2),
    TortureRun("SB3 SAC, MlpPolicy", env=GOALS, n_envs=2),
    TortureRun("PPO", use_sde=True, n_envs=2, normalize=True, outputs=OUTPUTS),
    TortureRun("SAC", env=OPAQUE, subprocesses=True),
    TortureRun("TRPO", env=DISCRETE, subprocesses=True, n_envs=2),
    TortureRun("StreamAC", subprocesses=True),
    TortureRun("SB3 TD3", noise="ou", subprocesses=True, n_envs=2),
]
RUNS = [*(pytest.param(run, marks=pytest.mark.slow) for run in LONG), *VARIED]


@pytest.mark.parametrize("run", RUNS, ids=describe)
@pytest.mark.filterwarnings("ignore:Checkpoints are written at the start of episodes only")
def test_stopped_runs_end_like_others(run: TortureRun, tmp_path: Path) -> None:
    train(run, tmp_path / "whole", [NoCrash(-1)])
    for step in (33, 135):
        with pytest.raises(Crash):
            train(run, tmp_path / "stopped", [NoCrash(step)])
    train(run, tmp_path / "stopped", [NoCrash(-1)])
    assert differences(outcome(tmp_path / "whole"), outcome(tmp_path / "stopped")) == []
    assert len(list((tmp_path / "stopped" / CHECKPOINTS).glob("*.json"))) == 2
