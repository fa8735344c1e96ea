import flax_reference
import pytest
import torch as th
import torch.nn.functional as F
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.networks import SimBaCritic
from sb3_sparse.sac.policies import SimBaActor
from sb3_sparse.sparsity import SparseLinear, share_topology
from sb3_sparse.td3.policies import SimBaDeterministicActor

GOLDEN = flax_reference.read("golden_update.json")
BATCH = {name: th.tensor(value) for name, value in GOLDEN["batch"].items()}
H = GOLDEN["hyperparameters"]


class ReferenceUpdate:
    """The reference's update, in its order: actor, temperature, critic with the new actor and temperature, target."""

    def __init__(self, name: str):
        self.case = GOLDEN["cases"][name]
        self.is_sac = name.startswith("sac")
        actor_class = SimBaActor if self.is_sac else SimBaDeterministicActor
        self.actor = flax_reference.build(actor_class, 5, 3, SimBaSize(8, 1))
        self.critic = flax_reference.build(SimBaCritic, 5, 3, SimBaSize(8, 2))
        self.target = flax_reference.build(SimBaCritic, 5, 3, SimBaSize(8, 2))
        masks = {name: mask or {} for name, mask in self.case["masks"].items()}
        flax_reference.load(self.actor, self.case["init"]["actor"], masks["actor"])
        flax_reference.load(self.critic, self.case["init"]["critic"], masks["critic"])
        flax_reference.load(self.target, self.case["init"]["target_critic"], {})
        share_topology(self.critic, self.target)
        self.log_temperature = th.tensor(H["temp_init"]).log().requires_grad_()
        self.optimizers = {
            network: th.optim.AdamW(network.parameters(), lr=H["lr"], weight_decay=H["weight_decay"])
            for network in (self.actor, self.critic)
        }
        self.temperature_optimizer = th.optim.AdamW([self.log_temperature], lr=H["temp_lr"], weight_decay=0.0)
        self.info: dict[str, float] = {}

    def act(self, observations: th.Tensor, eps: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        if not self.is_sac:
            return (self.actor(observations) + H["noise_std"] * eps).clamp(-1, 1), th.zeros(len(observations))
        mean, log_std, _ = self.actor.get_action_dist_params(observations)
        gaussian = mean + log_std.exp() * eps
        actions = th.tanh(gaussian)
        return actions, self.actor.action_dist.proba_distribution(mean, log_std).log_prob(actions, gaussian)

    def step(self, loss: th.Tensor, network: nn.Module, name: str) -> None:
        # The norm that is compared is the one of the parameters before the step.
        self.info[f"{name}_pnorm"] = norm([p.detach() for p in network.parameters()])
        optimizer = self.optimizers[network]
        optimizer.zero_grad()
        loss.backward()
        self.info[f"{name}_gnorm"] = norm([p.grad for p in network.parameters()])
        self.info[f"{name}_loss"] = loss.item()
        optimizer.step()

    def __call__(self, k: int) -> dict[str, float]:
        observations, next_observations = BATCH["observation"], BATCH["next_observation"]
        temperature = self.log_temperature.detach().exp() if self.is_sac else 0.0
        actions, log_prob = self.act(observations, th.tensor(self.case["eps_actor"][k]))
        (q,) = self.critic(observations, actions)
        self.step((temperature * log_prob - q.flatten()).mean(), self.actor, "actor")
        if self.is_sac:
            entropy = -log_prob.detach().mean()
            loss = self.log_temperature.exp() * (entropy - H["temp_target_entropy"])
            self.info |= {"entropy": entropy.item(), "temperature": float(temperature), "temperature_loss": loss.item()}
            self.temperature_optimizer.zero_grad()
            loss.backward()
            self.temperature_optimizer.step()
            temperature = self.log_temperature.detach().exp()
        with th.no_grad():
            next_actions, next_log_prob = self.act(next_observations, th.tensor(self.case["eps_critic"][k]))
            (next_q,) = self.target(next_observations, next_actions)
            soft_q = next_q.flatten() - temperature * next_log_prob
            td_target = BATCH["reward"] + H["gamma"] * (1 - BATCH["terminated"]) * soft_q
        (q,) = self.critic(observations, BATCH["action"])
        self.info["q1_mean"] = q.mean().item()
        self.step(F.mse_loss(q.flatten(), td_target), self.critic, "critic")
        polyak_update(self.critic.parameters(), self.target.parameters(), H["target_tau"])
        return self.info


def norm(tensors: list[th.Tensor]) -> float:
    return th.cat([tensor.flatten() for tensor in tensors]).norm().item()


@pytest.mark.parametrize("name", ["sac_0.0", "ddpg_0.5"])
def test_update_against_reference(name: str) -> None:
    update = ReferenceUpdate(name)
    sparse = [layer for layer in update.critic.modules() if isinstance(layer, SparseLinear)]
    assert len(sparse) == len(update.case["masks"]["critic"] or {})
    for k, expected in enumerate(update.case["info"]):
        info = update(k)
        for key, value in info.items():
            assert value == pytest.approx(expected[f"train/{key}"], rel=1e-5, abs=1e-5), (k, key)
        if after := update.case["after"].get(str(k + 1)):
            flax_reference.assert_parameters(update.actor, after["actor"])
            flax_reference.assert_parameters(update.critic, after["critic"])
            flax_reference.assert_parameters(update.target, after["target_critic"])
            if "log_temp" in after:
                assert update.log_temperature.item() == pytest.approx(after["log_temp"], abs=1e-6)
    assert k == 4


def test_inactive_weights_stay_zero() -> None:
    update = ReferenceUpdate("ddpg_0.5")
    for k in range(5):
        update(k)
    for path, mask in update.case["masks"]["critic"].items():
        for critic in (update.critic, update.target):
            weight = critic.get_submodule(flax_reference.layer_name(critic, path)).weight.detach()
            assert (weight[th.tensor(mask).t() == 0] == 0).all()
