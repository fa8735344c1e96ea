"""The one table of SB3's and sb3-contrib's algorithms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sb3_contrib
import stable_baselines3
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_sparse.algorithms.acting_networks import (
    ActingNetwork,
    ActionValues,
    ActorCriticMean,
    DeterministicActor,
    MeanQuantiles,
    SquashedMean,
)

from sb3_sparse.algorithms.losses import DQN_LOSSES, SAC_LOSSES, TD3_LOSSES, TQC_LOSSES, SampleLosses


@dataclass(frozen=True)
class KnownAlgorithm:
    """
    An algorithm, as files, the RL Zoo and figures know it.

    :param name: Name in files
    :param policy: Base class of its policies
    :param acting: Makes the part of a model that acts; None where there is no such single network
    :param zoo: The zoo's name
    :param mark: Attribute of saved models that tells it from others with the same policies; "" if there is none
    :param n_critics: Number of critics in ``policy_kwargs`` that tells it from others with the same policies, if any
    :param exploration: How it explores with the paper's hyperparameters, by "entropy" or "noise"; None where these do not
        fit
    :param label: Name in figures; the zoo's in capitals if None
    :param losses: Network -> its losses, sample by sample, where they are known
    """

    name: str
    policy: type[BasePolicy]
    acting: type[ActingNetwork] | None
    zoo: str
    mark: str = ""
    n_critics: int | None = None
    exploration: str | None = None
    label: str | None = None
    losses: Mapping[str, SampleLosses] = field(default_factory=dict, hash=False)

    def has_saved(self, data: Mapping[str, Any]) -> bool:
        """
        Tell whether a model may be of this algorithm, as a saved one does not say.

        :param data: What SB3 keeps in a model's zip file
        """
        policy = data.get("policy_class")
        if not (isinstance(policy, type) and issubclass(policy, self.policy)) or (self.mark and self.mark not in data):
            return False
        return self.n_critics is None or data["policy_kwargs"].get("n_critics") == self.n_critics


# Where two share policies, the special one comes first.
STOCK: dict[type[BaseAlgorithm], KnownAlgorithm] = {
    stable_baselines3.SAC: KnownAlgorithm("SB3 SAC", SACPolicy, SquashedMean, "sac", exploration="entropy", losses=SAC_LOSSES),
    # TD3's constructor leaves the number of critics to the policy, DDPG's writes it down.
    stable_baselines3.DDPG: KnownAlgorithm(
        "SB3 DDPG", TD3Policy, DeterministicActor, "ddpg", n_critics=1, exploration="noise", losses=TD3_LOSSES
    ),
    stable_baselines3.TD3: KnownAlgorithm(
        "SB3 TD3", TD3Policy, DeterministicActor, "td3", exploration="noise", losses=TD3_LOSSES
    ),
    sb3_contrib.TQC: KnownAlgorithm("TQC", TQCPolicy, SquashedMean, "tqc", exploration="entropy", losses=TQC_LOSSES),
    sb3_contrib.CrossQ: KnownAlgorithm("CrossQ", CrossQPolicy, SquashedMean, "crossq", exploration="entropy", label="CrossQ"),
    sb3_contrib.QRDQN: KnownAlgorithm("QRDQN", QRDQNPolicy, MeanQuantiles, "qrdqn", label="QR-DQN"),
    stable_baselines3.DQN: KnownAlgorithm("SB3 DQN", DQNPolicy, ActionValues, "dqn", losses=DQN_LOSSES),
    sb3_contrib.MaskablePPO: KnownAlgorithm("MaskablePPO", MaskableActorCriticPolicy, None, "ppo_mask"),
    sb3_contrib.RecurrentPPO: KnownAlgorithm("RecurrentPPO", RecurrentActorCriticPolicy, None, "ppo_lstm"),
    stable_baselines3.PPO: KnownAlgorithm("SB3 PPO", ActorCriticPolicy, ActorCriticMean, "ppo", mark="clip_range"),
    sb3_contrib.TRPO: KnownAlgorithm("TRPO", ActorCriticPolicy, ActorCriticMean, "trpo", mark="cg_max_steps"),
    stable_baselines3.A2C: KnownAlgorithm("SB3 A2C", ActorCriticPolicy, ActorCriticMean, "a2c"),
}
STOCK_POLICIES = tuple({row.policy for row in STOCK.values()})
