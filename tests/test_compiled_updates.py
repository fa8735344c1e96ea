"""SAC, DDPG and TD3 with a compiled update, against Stable-Baselines3 and against the paper's code."""

import copy
import warnings
from typing import Any

import flax_reference
import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import sb3_sparse
from sb3_sparse import SparseSimBaExtractor, SparseSimBaPolicy, SparseSimBaTD3Policy, sparsify
from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.common.architecture import SimBaSize
from sb3_sparse.common.initial_statistics import start_statistics
from sb3_sparse.common.networks import SimBaCritic
from sb3_sparse.networks import DeferredNormalizer, RunningNormalizer, SimBaEncoder
from sb3_sparse.sac.policies import SimBaActor
from sb3_sparse.sparsity import share_topology, sparse_layers
from sb3_sparse.td3.policies import SimBaDeterministicActor
from sb3_sparse.training import compiled_training
from sb3_sparse.training.compiled_training import CompiledTraining
from sb3_sparse.training.divergence import DivergenceError
from sb3_sparse.training.held_objects import all_optimizers
from sb3_sparse.training.live_optimizers import LiveOptimizers, obstacle_to_capture

OURS = {"SAC": SparseSimBaPolicy, "TD3": SparseSimBaTD3Policy, "DDPG": SparseSimBaTD3Policy}
NAMES = list(OURS)
TINY = {"width_scale": 0.0625}
MLP = {"net_arch": [16]}
each_algorithm = pytest.mark.parametrize("name", NAMES)
device = "cuda" if th.cuda.is_available() else "cpu"


def build(library: Any, name: str, policy: Any = None, env: Any = "Pendulum-v1", **kwargs: Any) -> OffPolicyAlgorithm:
    policy = OURS[name] if policy is None else policy
    policy_kwargs = kwargs.pop("policy_kwargs", {"sparsity": 0.8, **TINY} if policy is OURS[name] else MLP)
    arguments = {"learning_starts": 16, "batch_size": 8, "buffer_size": 500, "seed": 3, "device": "cpu", **kwargs}
    return getattr(library, name)(policy, env, policy_kwargs=dict(policy_kwargs), **arguments)


class StartsAsOurs(BaseCallback):
    """Has a stock model begin with the observation statistics of its replay buffer, as our classes do by themselves."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        if model._n_updates == 0 and model.num_timesteps > model.learning_starts:
            start_statistics(model)


def learn(model: OffPolicyAlgorithm, steps: int) -> Any:
    return model.learn(steps, callback=None if isinstance(model, CompiledTraining) else StartsAsOurs())


def parameters(model: OffPolicyAlgorithm) -> dict[str, th.Tensor]:
    found = {key: value.clone() for key, value in model.policy.state_dict().items()}
    if getattr(model, "log_ent_coef", None) is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach().clone()
    return found


def assert_same(first: dict[str, th.Tensor], second: dict[str, th.Tensor], tolerance: float = 1e-5) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert th.allclose(value.double(), second[key].double(), rtol=tolerance, atol=tolerance), key


class Sparse(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, 12)
        # Without a bias, whose gradient before a normalisation is rounding errors, which Adam scales to steps.
        self.layers = nn.Sequential(nn.Linear(observation_space.shape[0], 12, bias=False), nn.BatchNorm1d(12), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


SHARED = {"features_extractor_class": Sparse, "share_features_extractor": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "sparse": {},
    "dense": {"policy_kwargs": TINY},
    "half": {"policy_kwargs": {"sparsity": 0.5, "n_critics": 2, **TINY}},
    "stock policy": {"policy": "MlpPolicy"},
    "shared extractor": {"policy": "MlpPolicy", "policy_kwargs": {**MLP, **SHARED}},
    "shared sparse extractor": {"policy_kwargs": {"sparsity": 0.5, **TINY, **SHARED}},
    "n steps": {"n_steps": 3},
    "several steps": {"gradient_steps": 3, "train_freq": 2},
    "optimizer": {"policy": "MlpPolicy", "policy_kwargs": {**MLP, "optimizer_class": th.optim.RMSprop}},
}


@each_algorithm
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_parity_with_sb3(name: str, variant: dict[str, Any]) -> None:
    models = [learn(build(library, name, **variant), 36) for library in (stable_baselines3, sb3_sparse)]
    assert models[0]._n_updates == models[1]._n_updates >= 10
    assert_same(*map(parameters, models))
    stock, ours = (model.logger.name_to_value for model in models)
    assert stock.keys() == ours.keys() and "train/critic_loss" in stock
    for key, value in stock.items():
        assert ours[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize(
    "kwargs", [{"ent_coef": 0.1}, {"ent_coef": "auto_0.01", "target_update_interval": 2, "gradient_steps": 3}]
)
def test_parity_of_sac(kwargs: dict[str, Any]) -> None:
    models = [learn(build(library, "SAC", **kwargs), 36) for library in (stable_baselines3, sb3_sparse)]
    assert_same(*map(parameters, models))


@each_algorithm
def test_parity_with_dictionaries_and_normalised_environments(name: str) -> None:
    her, normalised = [], []
    for library in (stable_baselines3, sb3_sparse):
        goals = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
        her.append(learn(build(library, name, env=goals, replay_buffer_class=HerReplayBuffer, learning_starts=20), 36))
        env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2))
        with pytest.warns(UserWarning, match="wrapped in VecNormalize"):
            normalised.append(build(library, name, env=env).learn(60))
    assert_same(*map(parameters, her))
    assert_same(*map(parameters, normalised))


class FarEnv(gym.Env):
    """Observations far from 0, where normalised and raw ones are easily told apart."""

    def __init__(self, keys: tuple[str, ...] = (), discrete: bool = False):
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        box = spaces.Box(90, 110, (3,), np.float32)
        self.observation_space = spaces.Dict({key: box for key in keys}) if keys else box

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


EXTRACTOR = {
    "policy": "MlpPolicy",
    "policy_kwargs": {
        "features_extractor_class": SparseSimBaExtractor, "features_extractor_kwargs": {"width_scale": 0.25}, "net_arch": []
    },
}  # fmt: skip
STARTS: dict[str, dict[str, Any]] = {
    "policy": {},
    "dictionary": {"env": FarEnv(("b", "a"))},
    "environments": {"env": DummyVecEnv([FarEnv] * 3)},
    "n steps": {"n_steps": 3},
    "device": {"replay_buffer_class": DeviceReplayBuffer},
    "dictionary on the device": {"env": FarEnv(("b", "a")), "replay_buffer_class": DeviceReplayBuffer},
    "extractor": EXTRACTOR,
    "full buffer": {"buffer_size": 12},
}


def encoder_inputs(model: Any) -> list[th.Tensor]:
    """Noted from now on: what enters SimBa's encoders."""
    inputs: list[th.Tensor] = []
    for module in model.policy.modules():
        if isinstance(module, SimBaEncoder):
            module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach().clone()))
    return inputs


def collected(name: str, variant: dict[str, Any]) -> Any:
    return build(sb3_sparse, name, **{"env": FarEnv(), **variant, "learning_starts": 1_000}).learn(60)


def normalizers(network: nn.Module) -> list[Any]:
    return [part for part in network.modules() if isinstance(part, RunningNormalizer | DeferredNormalizer)]


@each_algorithm
@pytest.mark.parametrize("variant", STARTS.values(), ids=STARTS)
def test_the_first_update_sees_normalised_observations(name: str, variant: dict[str, Any]) -> None:
    model = collected(name, variant)
    inputs = encoder_inputs(model)
    model.train(1, 8)
    assert len(inputs) >= 3
    assert max(float(x.abs().max()) for x in inputs) < 3  # uniform ones lie within sqrt(3) standard deviations


def test_an_update_of_sb3_sees_normalised_observations() -> None:
    model = collected("SAC", {**EXTRACTOR, "use_sde": True})
    inputs = encoder_inputs(model)
    with pytest.warns(UserWarning, match="updates as Stable-Baselines3 does"):
        model.train(1, 8)
    assert max(float(x.abs().max()) for x in inputs) < 3


@pytest.mark.parametrize("variant", STARTS.values(), ids=STARTS)
def test_statistics_begin_with_all_stored_observations(variant: dict[str, Any]) -> None:
    model = collected("SAC", variant)
    kept = model.replay_buffer.observations
    parts = [kept[key] for key in model.observation_space.spaces] if isinstance(kept, dict) else [kept]
    size = 12 if variant.get("buffer_size") else 60 // model.n_envs
    rows = np.concatenate([np.asarray(part)[:size].reshape(-1, 3) for part in parts], axis=1)
    start_statistics(model)
    for normalizer in normalizers(model.policy):
        state = {key.removeprefix("running_"): value for key, value in normalizer.state_dict().items()}
        np.testing.assert_allclose(state["mean"], rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(state["var"], rows.var(0), rtol=1e-4)


def count(model: Any) -> int:
    """What the critic's normaliser has counted so far: batches, or observations."""
    normalizer = normalizers(model.critic)[0]
    return int(normalizer.num_batches if isinstance(normalizer, RunningNormalizer) else normalizer.total + normalizer.pooled)


# A critic's extractor sees each batch of 8 in both losses.
@pytest.mark.parametrize(("variant", "at_start", "per_update"), [("policy", 1, 1), ("extractor", 62, 16)])
def test_observations_are_taken_in_once(variant: str, at_start: int, per_update: int, tmp_path: Any) -> None:
    """Before the first update, also of a loaded model, and not again by one that goes on."""
    model = collected("SAC", STARTS[variant])
    model.save_replay_buffer(tmp_path / "buffer")
    for updates in (0, 1, 2):
        model.save(tmp_path / "model")
        model = sb3_sparse.SAC.load(tmp_path / "model", env=FarEnv(), device="cpu")
        model.load_replay_buffer(tmp_path / "buffer")
        assert count(model) == (at_start + updates * per_update if updates else 0)
        model.learn(2, reset_num_timesteps=updates == 2)
        model.train(0, 8)
        assert count(model) == (at_start + updates * per_update if updates else 0)
        model.train(1, 8)
    assert count(model) == at_start + 3 * per_update


GOLDEN = flax_reference.read("golden_update.json")
H = GOLDEN["hyperparameters"]


class ReferenceEnv(gym.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = spaces.Box(-1, 1, (3,), np.float32)


def reference_model(name: str, case: dict[str, Any]) -> Any:
    """The networks of the golden figures, in place of those that were built."""
    given: dict[str, Any] = {"ent_coef": f"auto_{H['temp_init']}", "target_entropy": H["temp_target_entropy"]}
    model: Any = build(
        sb3_sparse, name, "MlpPolicy", ReferenceEnv(), update_rule="paper", learning_rate=H["lr"], gamma=H["gamma"],
        tau=H["target_tau"], **(given if name == "SAC" else {}),
    )  # fmt: skip
    actor_class = SimBaActor if name == "SAC" else SimBaDeterministicActor
    networks = {
        "actor": flax_reference.build(actor_class, 5, 3, SimBaSize(8, 1)),
        "critic": flax_reference.build(SimBaCritic, 5, 3, SimBaSize(8, 2)),
        "critic_target": flax_reference.build(SimBaCritic, 5, 3, SimBaSize(8, 2)),
    }
    masks = {key: mask or {} for key, mask in case["masks"].items()}
    flax_reference.load(networks["actor"], case["init"]["actor"], masks["actor"])
    flax_reference.load(networks["critic"], case["init"]["critic"], masks["critic"])
    flax_reference.load(networks["critic_target"], case["init"]["target_critic"], {})
    share_topology(networks["critic"], networks["critic_target"])
    if name == "DDPG":
        networks["actor_target"] = flax_reference.build(actor_class, 5, 3, SimBaSize(8, 1))
        flax_reference.load(networks["actor_target"], case["init"]["actor"], {})
        share_topology(networks["actor"], networks["actor_target"])
        model.target_policy_noise = H["noise_std"]
    for key, network in networks.items():
        setattr(model.policy, key, network)
    for network in (model.policy.actor, model.policy.critic):
        network.optimizer = th.optim.AdamW(network.parameters(), lr=H["lr"], weight_decay=H["weight_decay"])
    model._create_aliases()
    model.set_logger(configure(None, []))
    return model


class ReferenceBuffer:
    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        batch = {key: th.tensor(value) for key, value in GOLDEN["batch"].items()}
        dones, rewards = batch["terminated"].reshape(-1, 1).float(), batch["reward"].reshape(-1, 1)
        return ReplayBufferSamples(batch["observation"], batch["action"], batch["next_observation"], dones, rewards)


@pytest.mark.parametrize(("name", "key"), [("SAC", "sac_0.0"), ("DDPG", "ddpg_0.5")])
def test_paper_rule_against_reference(name: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = GOLDEN["cases"][key]
    model = reference_model(name, case)
    model.replay_buffer = ReferenceBuffer()
    noise = iter([th.tensor(case[f"eps_{part}"][k]) for k in range(5) for part in ("actor", "critic")])
    monkeypatch.setattr(th.distributions.normal, "_standard_normal", lambda *_, **__: next(noise))
    monkeypatch.setattr(th, "randn_like", lambda *_, **__: next(noise))
    for k, expected in enumerate(case["info"]):
        model.train(1, len(GOLDEN["batch"]["reward"]))
        logged = model.logger.name_to_value
        for loss in ("actor_loss", "critic_loss"):
            assert logged[f"train/{loss}"] == pytest.approx(expected[f"train/{loss}"], rel=1e-5, abs=1e-5)
        for network in ("actor", "critic"):
            gradients = model.gradients(network)
            norm = th.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
            assert norm == pytest.approx(expected[f"train/{network}_gnorm"], rel=1e-5, abs=1e-5)
        if after := case["after"].get(str(k + 1)):
            flax_reference.assert_parameters(model.actor, after["actor"])
            flax_reference.assert_parameters(model.critic, after["critic"])
            flax_reference.assert_parameters(model.critic_target, after["target_critic"])
            if "log_temp" in after:
                assert model.log_ent_coef.item() == pytest.approx(after["log_temp"], abs=1e-6)
    assert k == 4 and next(noise, None) is None


@each_algorithm
@pytest.mark.parametrize("variant", ["sparse", "stock policy"])
def test_save_and_load_both_ways(name: str, variant: str, tmp_path: Any) -> None:
    for saves, loads in [(stable_baselines3, sb3_sparse), (sb3_sparse, stable_baselines3)]:
        model = build(saves, name, **VARIANTS[variant]).learn(30)
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        loaded = getattr(loads, name).load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cpu")
        assert_same(parameters(model), parameters(loaded), tolerance=0)
        loaded.load_replay_buffer(tmp_path / "buffer")
        for m in (model, loaded):
            m.set_random_seed(5)
            m.set_logger(configure(None, []))
            m.train(5, 8)
        assert_same(parameters(model), parameters(loaded))


@each_algorithm
def test_checkpoints_are_those_of_sb3(name: str) -> None:
    optimizers = []
    for library in (stable_baselines3, sb3_sparse):
        model = build(library, name).learn(20)
        saved = model.get_parameters()
        optimizers.append({key: value["param_groups"] for key, value in saved.items() if key.endswith("optimizer")})
    assert optimizers[0] == optimizers[1]
    assert all("programs" not in key and "kept" not in key for key in set(model.__dict__) - set(model._excluded_save_params()))


def trained(name: str, **kwargs: Any) -> Any:
    return build(sb3_sparse, name, **kwargs).learn(20)


@each_algorithm
def test_learning_rates_reach_captured_optimizers(name: str) -> None:
    model = trained(name)
    optimizers = all_optimizers(model)
    live = LiveOptimizers(optimizers, th.device("cpu"))
    model.lr_schedule = lambda _: 0.25
    model._update_learning_rate(optimizers)
    live.refresh()
    with live.capturing():
        for optimizer in optimizers:
            assert all(float(group["lr"]) == 0.25 and group["capturable"] for group in optimizer.param_groups)
            assert all(isinstance(group["lr"], th.Tensor) for group in optimizer.param_groups)
    for optimizer in optimizers:
        assert all(group["lr"] == 0.25 and type(group["lr"]) is float for group in optimizer.param_groups)
        assert not any(group["capturable"] for group in optimizer.param_groups)


@each_algorithm
def test_schedule_takes_effect(name: str) -> None:
    model = build(sb3_sparse, name, learning_rate=lambda remaining: 0.0 if remaining < 0.5 else 1e-2).learn(20)
    before = parameters(model)
    model._current_progress_remaining = 0.1
    model.train(2, 8)
    after = parameters(model)
    for key in before:
        if key.startswith(("actor.mu", "actor.latent", "critic.qf")):
            assert th.equal(before[key], after[key]), key


def change_gamma(model: Any) -> None:
    model.gamma = 0.1


def change_tau(model: Any) -> None:
    model.tau = 0.5


def load_parameters(model: Any) -> None:
    model.set_parameters(
        {k: v for k, v in trained(type(model).__name__, seed=7, policy_kwargs=FIXED).get_parameters().items()}
    )


def swap_module(model: Any) -> None:
    for layer in model.critic.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.weight = nn.Parameter(layer.weight.detach() * 2.0)
    optimizer = model.critic.optimizer
    model.critic.optimizer = type(optimizer)(model.critic.parameters(), lr=1e-3)


def move_topology(model: Any) -> None:
    (_, layer) = next(sparse_layers(model.critic))
    inactive = (~layer.topology.mask()).flatten().nonzero().flatten()
    indices = th.cat([layer.indices[1:].long(), inactive[-1:]]).sort().values
    layer.set_topology(indices, layer.values.detach() + 0.5)


def write_values(model: Any) -> None:
    for _, layer in sparse_layers(model.critic):
        layer.values.data.mul_(0.5)


FIXED = {"sparsity": 0.5, "mask_seed": 1, **TINY}
CHANGES = [change_gamma, change_tau, load_parameters, swap_module, move_topology, write_values]


@each_algorithm
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_nothing_goes_stale(name: str, change: Any, where: str) -> None:
    """A model that has updated before a change goes on as one that is made after it."""
    model = trained(name, policy_kwargs=FIXED, device=where, replay_buffer_device="cpu")
    model.train(8, 8)
    change(model)
    fresh = trained(name, policy_kwargs=FIXED, device="cpu")
    fresh.train(8, 8)
    change(fresh)
    fresh.recapture()
    fresh.set_parameters(copy.deepcopy(model.get_parameters()), device="cpu")  # optimizers would share their state
    if hasattr(model, "log_ent_coef"):
        fresh.log_ent_coef.data.copy_(model.log_ent_coef.data)
    fresh.replay_buffer = model.replay_buffer
    results = []
    for m in (model, fresh):
        m.replay_buffer.device = m.device
        np.random.seed(0)
        m.actor.eval()
        _without_noise(m)
        m.train(4, 8)
        results.append({key: value.cpu() for key, value in parameters(m).items()})
    assert_same(*results, tolerance=1e-5 if where == "cpu" else 1e-3)


def _without_noise(model: Any) -> None:
    """Random streams differ between devices."""
    if hasattr(model, "target_policy_noise"):
        model.target_policy_noise = 0.0
    else:
        model.actor.action_log_prob = lambda obs: (lambda a: (a, a.sum(1)))(model.actor(obs, deterministic=True))
    model.recapture() if model.device.type == "cuda" else None


@each_algorithm
def test_programs_are_kept_while_nothing_changes(name: str) -> None:
    model = trained(name)
    model.train(2, 8)
    kept = dict(model._programs.programs)
    assert kept
    model.train(4, 8)
    assert {key: model._programs.programs[key] for key in kept} == kept
    move_topology(model)
    model.train(2, 8)
    assert not set(kept.values()) & set(model._programs.programs.values())


@each_algorithm
def test_gradients_are_those_of_the_own_loss(name: str) -> None:
    class Recorder(BaseCallback):
        def _on_training_start(self) -> None:
            self.model.critic.optimizer.register_step_pre_hook(self.note)

        def note(self, *_: Any) -> None:
            self.true = {key: p.grad.clone() for key, p in self.model.critic.named_parameters()}

        def _on_step(self) -> bool:
            return True

    assert build(sb3_sparse, name).gradients("critic") == {}
    recorder = Recorder()
    model: Any = build(sb3_sparse, name).learn(30, callback=recorder)
    gradients = model.gradients("critic")
    assert gradients.keys() == recorder.true.keys()
    for key, gradient in gradients.items():
        assert th.equal(gradient, recorder.true[key]), key
    assert model.gradients("actor").keys() == dict(model.actor.named_parameters()).keys()


@each_algorithm
def test_nan_stops_training(name: str) -> None:
    model = trained(name)
    good = parameters(model)
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(DivergenceError, match=r"Not finite are .*critic_loss.* more\. Go on from the last checkpoint"):
        model.train(2, 8)
    assert all(value.isfinite().all() for value in good.values())


def test_gsde_falls_back() -> None:
    model = build(sb3_sparse, "SAC", "MlpPolicy", use_sde=True)
    with pytest.warns(UserWarning, match="updates as Stable-Baselines3 does.*gSDE"):
        model.learn(24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)
    assert_same(parameters(build(stable_baselines3, "SAC", "MlpPolicy", use_sde=True).learn(34)), parameters(model))
    paper = build(sb3_sparse, "SAC", "MlpPolicy", use_sde=True, update_rule="paper")
    with pytest.raises(ValueError, match="needs the compiled update, but gSDE"):
        paper.learn(24)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("SAC", {"update_rule": "simba"}, "update_rule must be one of 'sb3', 'paper', got 'simba'"),
        ("TD3", {"update_rule": "paper"}, "The paper has no TD3"),
        ("DDPG", {"matmul_precision": "tf32"}, "matmul_precision must be one of None, 'highest'"),
        ("SAC", {"replay_buffer_device": "cuda"}, "replay_buffer_device must be one of 'auto', 'cpu'"),
    ],
)
def test_unknown_options(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(sb3_sparse, name, **kwargs)


def test_optimizer_that_cannot_be_captured() -> None:
    weights = [nn.Parameter(th.ones(2))]
    assert obstacle_to_capture(th.optim.AdamW(weights)) is None
    assert "SGD has no option `capturable`" in str(obstacle_to_capture(th.optim.SGD(weights)))


def test_global_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    model = trained("SAC", matmul_precision="high")
    update = model.gradient_step
    monkeypatch.setattr(
        model, "gradient_step", lambda *args: (seen.append(th.get_float32_matmul_precision()), update(*args))[1]
    )
    before = th.distributions.Distribution._validate_args
    model.recapture()
    model.train(1, 8)
    assert seen == ["high"] and th.get_float32_matmul_precision() == "highest"
    assert th.distributions.Distribution._validate_args is before


FROZEN = [("SAC", "sb3"), ("SAC", "paper"), ("TD3", "sb3"), ("DDPG", "sb3"), ("DDPG", "paper")]


@pytest.mark.parametrize(("name", "rule"), FROZEN)
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_frozen_networks_are_not_trained(name: str, rule: str, network: str) -> None:
    model = trained(name, update_rule=rule)
    getattr(model, network).requires_grad_(False)
    before = parameters(model)
    with pytest.warns(UserWarning, match=f"{name} does not train {network}: all parameters are frozen") as said:
        model.train(4, 8)
    assert len([w for w in said if "does not train" in str(w.message)]) == 1
    for part in ("actor", "critic"):
        names = [key for key, _ in getattr(model, part).named_parameters()]
        moved = any(not th.equal(before[f"{part}.{key}"], parameters(model)[f"{part}.{key}"]) for key in names)
        assert moved == (part != network)


@each_algorithm
def test_partly_frozen_actors_are_trained_as_by_sb3(name: str) -> None:
    models = [learn(build(library, name), 20) for library in (stable_baselines3, sb3_sparse)]
    for model in models:
        next(model.actor.parameters()).requires_grad_(False)
        np.random.seed(0)
        th.manual_seed(0)
        model.train(6, 8)
    assert_same(*map(parameters, models))


def test_a_frozen_temperature_stays() -> None:
    model = trained("SAC")
    model.log_ent_coef.requires_grad_(False)
    before = model.log_ent_coef.clone()
    with pytest.warns(UserWarning, match="SAC does not train the temperature"):
        model.train(4, 8)
    assert th.equal(before, model.log_ent_coef)


@pytest.mark.parametrize(
    ("saved", "loads", "message"),
    [
        ({}, {"env": make_vec_env("Pendulum-v1", 4)}, "transitions of 1 environments, the model has 4 environments"),
        ({"env": make_vec_env("Pendulum-v1", 2)}, {}, "transitions of 2 environments, the model has 1 environments"),
        ({"n_steps": 3, "env": make_vec_env("Pendulum-v1", 2)}, {"n_steps": 3}, "transitions of 2 environments"),
        ({"replay_buffer_class": DeviceReplayBuffer}, {"env": make_vec_env("Pendulum-v1", 4)}, "1 environments, the model"),
        ({}, {"env": FarEnv(("a",))}, r"observations of shape \(3,\), the model has observations of shape \{'a': \(3,\)\}"),
        ({}, {"env": FarEnv()}, r"actions of shape \(1,\), the model has actions of shape \(2,\)"),
    ],
)  # fmt: skip
def test_replay_buffers_of_other_environments_are_refused(saved: Any, loads: Any, message: str, tmp_path: Any) -> None:
    build(sb3_sparse, "SAC", **saved).learn(20).save_replay_buffer(tmp_path / "buffer")
    model = build(sb3_sparse, "SAC", **loads)
    kept = model.replay_buffer
    with pytest.raises(ValueError, match=message):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is kept


def test_pruned_stock_model() -> None:
    models = [sparsify(build(library, "SAC", "MlpPolicy"), 0.5).learn(36) for library in (stable_baselines3, sb3_sparse)]
    assert_same(*map(parameters, models))


def test_many_captures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_training, "_MANY_CAPTURES", 2)
    model = trained("SAC")
    model._count_captures()
    model._count_captures()
    with pytest.warns(UserWarning, match="captured over and over"):
        model._count_captures()


@pytest.mark.gpu
@each_algorithm
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_graphs_update_as_eager_programs(name: str, variant: str) -> None:
    model: Any = build(sb3_sparse, name, device="cuda", **VARIANTS[variant]).learn(40)
    programs = list(model._programs.programs.values())
    assert programs and all(program.graph is not None for program in programs if program.runs > 3)
    eager: Any = build(sb3_sparse, name, device="cuda", **VARIANTS[variant])
    eager.set_parameters(copy.deepcopy(model.get_parameters()))
    if hasattr(model, "log_ent_coef"):
        eager.log_ent_coef.data.copy_(model.log_ent_coef.data)
    eager._n_updates = model._n_updates
    eager.replay_buffer = model.replay_buffer
    eager.set_logger(configure(None, []))
    results = []
    for m in (model, eager):
        m.replay_buffer.seed(1)
        th.cuda.manual_seed(1)
        m.train(2, 8)
        results.append(parameters(m))
    assert_same(*results, tolerance=1e-4)


@pytest.mark.gpu
def test_an_update_that_waits_is_not_captured() -> None:
    model: Any = build(sb3_sparse, "SAC", device="cuda")
    model.critic.optimizer.register_step_pre_hook(lambda *_: next(model.critic.parameters()).sum().item())
    with pytest.warns(UserWarning, match=r"kernel by kernel.*test_compiled_updates\.py:\d+"):
        model.learn(40)
    assert all(program.graph is None and program.runs > 3 for program in model._programs.programs.values())


@pytest.mark.gpu
@each_algorithm
def test_gpu_checkpoint_on_cpu(name: str, tmp_path: Any) -> None:
    model: Any = build(sb3_sparse, name, device="cuda").learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    for library in (stable_baselines3, sb3_sparse):
        loaded = getattr(library, name).load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cpu")
        assert type(loaded.replay_buffer) is stable_baselines3.common.buffers.ReplayBuffer
        loaded.load_replay_buffer(tmp_path / "buffer")
        loaded.learn(5, reset_num_timesteps=False)
        assert loaded._n_updates > model._n_updates


@pytest.mark.parametrize("library", [sb3_sparse, stable_baselines3])
def test_default_device_is_not_that_of_the_model(library: Any) -> None:
    found = []
    for default in ("cpu", "meta"):
        model = build(library, "SAC")
        with th.device(default):
            learn(model, 40)
        found.append(parameters(model))
    assert found[0].keys() == found[1].keys()
    assert all(th.equal(value, found[1][key]) for key, value in found[0].items())
