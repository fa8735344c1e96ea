"""PlasticityCallback: what it measures, where it writes, and that the run does not notice."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer
from test_compiled_updates import FarEnv, encoder_inputs
from test_policies import RandomEnv

import sb3_sparse
from sb3_sparse import SparseSimBaExtractor, SparseSimBaPolicy, SparseSimBaTD3Policy, SparseSimBaTQCPolicy, sparsify
from sb3_sparse.callbacks import PlasticityCallback
from sb3_sparse.callbacks.measured_networks import measured_networks
from sb3_sparse.callbacks.measurement_file import COLUMNS, Measurement, read_measurements, saved_matrices
from sb3_sparse.algorithms.sampling import private_randomness, sample_batch
from sb3_sparse.diagnostics import dormant_ratio, parameter_norm, record, srank
from sb3_sparse.networks import RunningNormalizer
from sb3_sparse.sparsity import sparse_layers
from sb3_sparse.algorithms.own_algorithm import sample_losses

SMALL = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "seed": 0, "device": "cpu"}
SIMBA = {"sparsity": 0.5, "width_scale": 0.0625}
EXTRACTOR = {
    "net_arch": [],
    "features_extractor_class": SparseSimBaExtractor,
    "features_extractor_kwargs": {"sparsity": 0.5, "width_scale": 0.125},
}
MLP = {"net_arch": [16, 16]}
MODELS: dict[str, tuple[type[BaseAlgorithm], Any, str, dict[str, Any]]] = {
    "sac": (SAC, SparseSimBaPolicy, "Pendulum-v1", SIMBA),
    "sac-dense": (SAC, SparseSimBaPolicy, "Pendulum-v1", {"width_scale": 0.0625}),
    "td3": (TD3, SparseSimBaTD3Policy, "Pendulum-v1", SIMBA),
    "ddpg": (DDPG, SparseSimBaTD3Policy, "Pendulum-v1", SIMBA),
    "tqc": (TQC, SparseSimBaTQCPolicy, "Pendulum-v1", SIMBA),
    "sac-compiled": (sb3_sparse.SAC, SparseSimBaPolicy, "Pendulum-v1", SIMBA),
    "td3-compiled": (sb3_sparse.TD3, SparseSimBaTD3Policy, "Pendulum-v1", SIMBA),
    "sac-stock": (SAC, "MlpPolicy", "Pendulum-v1", MLP),
    "dqn-stock": (DQN, "MlpPolicy", "CartPole-v1", MLP),
    "qrdqn-stock": (QRDQN, "MlpPolicy", "CartPole-v1", MLP),
    "dqn-extractor": (DQN, "MlpPolicy", "CartPole-v1", EXTRACTOR),
}
each_model = pytest.mark.parametrize("name", MODELS)


def make(name: str, **kwargs: Any) -> Any:
    model_class, policy, env, policy_kwargs = MODELS[name]
    return model_class(policy, kwargs.pop("env", env), policy_kwargs=dict(policy_kwargs), **{**SMALL, **kwargs})


def watch(tmp_path: Path, **kwargs: Any) -> PlasticityCallback:
    return PlasticityCallback(**{"log_freq": 20, "batch_size": 16, "path": tmp_path / "plasticity.csv", **kwargs})


def measured(tmp_path: Path, network: str = "critic", layer: str = "") -> dict[tuple[int, str], float]:
    found = read_measurements(tmp_path / "plasticity.csv")
    return {(m.agent_steps, m.metric): m.value for m in found if m.network == network and m.layer == layer}


def measure_now(model: Any, callback: PlasticityCallback) -> None:
    """Measure without training, and write that down."""
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.num_timesteps = model.num_timesteps
    callback.measure()
    callback.on_training_end()


def everything(model: Any) -> dict[str, Any]:
    state: dict[str, Any] = dict(model.policy.state_dict())
    for i, module in enumerate(model.policy.modules()):
        if isinstance(optimizer := getattr(module, "optimizer", None), th.optim.Optimizer):
            for j, moments in optimizer.state_dict()["state"].items():
                state.update({f"moment {i} {j} {k}": th.as_tensor(value) for k, value in moments.items()})
    state["numpy"] = th.tensor(np.random.get_state()[1].astype(np.int64))
    state["torch"] = th.get_rng_state()
    return state


@each_model
@pytest.mark.filterwarnings("ignore:.*PlasticityCallback")
def test_a_run_with_the_callback_is_the_run_without(name: str, tmp_path: Path) -> None:
    plain = everything(make(name).learn(45))
    callback = watch(tmp_path, covariance_freq=20, covariance_networks=("actor", "critic", "q_net"), tau=(0.1, 0.0))
    observed = everything(make(name).learn(45, callback=callback))
    assert plain.keys() == observed.keys()
    assert [key for key in plain if not th.equal(plain[key], observed[key])] == []
    steps = sorted({m.agent_steps for m in read_measurements(tmp_path / "plasticity.csv")})
    assert steps == [20, 40, 48 if "dqn" in name else 45]  # DQN collects four steps at a time


@pytest.mark.filterwarnings("ignore:.*PlasticityCallback")
@pytest.mark.parametrize("kind", ["vectorised", "episodes", "normalised", "n-step"])
def test_the_run_does_not_notice_with_other_ways_of_collecting(kind: str, tmp_path: Path) -> None:
    def run(callback: BaseCallback | None) -> dict[str, Any]:
        kwargs: dict[str, Any] = {}
        if kind == "vectorised":
            kwargs["env"] = make_vec_env("Pendulum-v1", n_envs=3, seed=0)
        elif kind == "normalised":
            kwargs["env"] = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
        elif kind == "episodes":
            kwargs["env"], kwargs["train_freq"] = RandomEnv(), (1, "episode")
        else:
            kwargs["n_steps"] = 3
        return everything(make("sac", **kwargs).learn(60, callback=callback))

    plain, observed = run(None), run(watch(tmp_path))
    assert [key for key in plain if not th.equal(plain[key], observed[key])] == []
    assert len(measured(tmp_path)) > 6


def test_goals_are_sampled_once_an_episode_is_over(tmp_path: Path) -> None:
    from stable_baselines3.common.envs import BitFlippingEnv

    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
    model = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, policy_kwargs=dict(MLP), **SMALL)
    model.learn(40, callback=watch(tmp_path, log_freq=2))
    assert min(step for step, _ in measured(tmp_path)) >= 16


@each_model
@pytest.mark.filterwarnings("ignore:.*PlasticityCallback")
def test_every_network_is_measured_and_logged(name: str, tmp_path: Path) -> None:
    model = make(name)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(
        60,
        callback=watch(
            tmp_path,
            metrics=(
                "dormant",
                "active",
                "srank",
                "srank_threshold",
                "feature_norm",
                "parameter_norm",
                "gradient_norm",
                "effective_learning_rate",
            ),
        ),
    )
    expected = {
        "dormant_0.1",
        "active",
        "srank",
        "srank_threshold",
        "feature_norm",
        "parameter_norm",
        "effective_learning_rate",
    }
    for network in measured_networks(model):
        values = measured(tmp_path, network)
        for step in (20, 40, 60):
            found = {metric for at, metric in values if at == step}
            # A compiled model is asked for the gradients of its last update, of which there is none at first.
            has_gradient = step > 20 or not name.endswith("-compiled")
            assert found == ({*expected, "gradient_norm"} if has_gradient else expected), (network, step)
        assert all(math.isfinite(value) for value in values.values())
        assert 0.2 < values[20, "active"] < 0.8
        header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
        assert {f"plasticity/{network}/{metric}" for metric in expected} <= set(header)
    layers = {m.layer for m in read_measurements(tmp_path / "plasticity.csv")} - {""}
    assert len(layers) > 4


def test_values_are_those_of_the_functions_on_the_replay_buffer(tmp_path: Path) -> None:
    model = make("sac-stock")
    model.learn(60)
    measure_now(model, watch(tmp_path, batch_size=32, seed=7))
    with private_randomness(model, 7, 60):
        batch = sample_batch(model, 32)
    critic = model.critic
    recording = record(critic, lambda: critic(batch.observations, batch.actions))
    values = measured(tmp_path)
    assert values[60, "dormant_0.1"] == pytest.approx(dormant_ratio(recording.post))
    assert values[60, "srank"] == pytest.approx(np.mean([srank(f) for f in recording.features.values()]))
    assert values[60, "parameter_norm"] == pytest.approx(parameter_norm(critic))
    activations = th.relu(critic.qf1[0](th.cat([batch.observations, batch.actions], dim=1)))
    assert measured(tmp_path, layer="qf1.1")[60, "dormant_0.1"] == pytest.approx(dormant_ratio(activations))


def test_pre_activations_are_those_of_the_papers_code(tmp_path: Path) -> None:
    model = make("sac-dense")
    model.learn(40, callback=watch(tmp_path, activation="pre"))
    layers = {
        m.layer for m in read_measurements(tmp_path / "plasticity.csv") if m.metric == "dormant_0.1" and m.network == "critic"
    }
    blocks = {f"qf0.encoder.blocks.{i}.{layer}" for i in (0, 1) for layer in ("expand", "contract")}
    assert layers == {"", "qf0.encoder.projection", *blocks}


@pytest.mark.parametrize("name", ["sac", "td3", "sac-stock", "dqn-stock"])
def test_gradients_are_read_when_the_optimizer_gets_them(name: str, tmp_path: Path) -> None:
    model = make(name, gradient_steps=2)
    network = model.policy.q_net if name.startswith("dqn") else model.critic
    optimizer = model.policy.optimizer if name.startswith("dqn") else network.optimizer
    norms: list[tuple[int, float]] = []

    def note(*_: Any) -> None:
        norms.append((model.num_timesteps, math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))))

    optimizer.register_step_pre_hook(note)
    model.learn(60, callback=watch(tmp_path))
    values = measured(tmp_path, "q_net" if name.startswith("dqn") else "critic")
    first = next(norm for step, norm in norms if step >= 40)
    assert values[40, "gradient_norm"] == pytest.approx(first, rel=1e-5)
    if name == "sac":  # what is left after train() is something else
        left = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))
        assert left != pytest.approx(norms[-1][1], rel=1e-2)


def test_gradients_of_compiled_models_are_means_over_the_updates_since_the_last_measurement(tmp_path: Path) -> None:
    model = make("sac-compiled", gradient_steps=2)
    norms: list[tuple[int, float]] = []
    model.critic.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            (model.num_timesteps, math.sqrt(sum(float(p.grad.square().sum()) for p in model.critic.parameters())))
        )
    )
    model.learn(60, callback=watch(tmp_path))
    # Updates come after the callbacks of their step.
    since = [norm for step, norm in norms if 20 <= step < 40]
    assert len(since) == 38  # two after each step that follows the first 20
    assert measured(tmp_path)[40, "gradient_norm"] == pytest.approx(np.mean(since), rel=1e-5)
    assert model.gradient_means is None


def test_a_compiled_model_that_falls_back_is_watched(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="updates as Stable-Baselines3 does"):
        model = sb3_sparse.SAC("MlpPolicy", "Pendulum-v1", use_sde=True, policy_kwargs=dict(MLP), **SMALL)
        model.learn(60, callback=watch(tmp_path))
    assert (40, "gradient_norm") in measured(tmp_path) and (40, "gradient_norm") in measured(tmp_path, "actor")


def test_a_model_that_offers_gradients_is_asked(tmp_path: Path) -> None:
    class Offers(SAC):
        def gradients(self, name: str) -> dict[str, th.Tensor]:
            return {"weight": th.full((4,), 1.5 if name == "critic" else 1.0)} if self._n_updates else {}

    model = Offers(SparseSimBaPolicy, "Pendulum-v1", policy_kwargs=dict(SIMBA), **SMALL)
    model.learn(60, callback=watch(tmp_path))
    assert measured(tmp_path)[40, "gradient_norm"] == 3.0 and measured(tmp_path, "actor")[60, "gradient_norm"] == 2.0
    assert (20, "gradient_norm") not in measured(tmp_path)
    assert measured(tmp_path, layer="weight")[40, "gradient_norm"] == 3.0
    # In the same order in every process, so that a run that goes on writes the same file.
    lines = [m for m in read_measurements(tmp_path / "plasticity.csv") if m.metric == "gradient_norm" and not m.layer]
    assert [m.network for m in lines] == ["actor", "critic"] * (len(lines) // 2)
    assert not model.critic.optimizer._optimizer_step_pre_hooks


def test_hooks_are_gone_when_training_ends(tmp_path: Path) -> None:
    model = make("sac")
    model.learn(45, callback=watch(tmp_path))
    assert not model.critic.optimizer._optimizer_step_pre_hooks and not model.actor.optimizer._optimizer_step_pre_hooks
    assert not any(part._forward_hooks for part in model.policy.modules())


@pytest.mark.parametrize(
    ("model_class", "network", "draws"),
    [
        (SAC, "critic", 1),
        (SAC, "actor", 0),
        (TQC, "critic", 1),
        (TQC, "actor", 0),
        (TD3, "critic", 0),
        (DDPG, "critic", 0),
        (DQN, "q_net", 0),
    ],
)
def test_sample_losses_average_to_the_loss_that_is_trained_with(
    model_class: type[BaseAlgorithm], network: str, draws: int
) -> None:
    # Without a learning rate all of an update's gradients are those of the same parameters.
    env = "CartPole-v1" if model_class is DQN else "Pendulum-v1"
    model: Any = model_class("MlpPolicy", env, policy_kwargs=dict(MLP), learning_rate=0.0, **SMALL)
    model.learn(30)
    batch = model.replay_buffer.sample(8)
    model.replay_buffer.sample = lambda *_, **__: batch
    model.max_grad_norm = math.inf  # DQN clips
    module = measured_networks(model)[network].module
    with th.random.fork_rng():
        for _ in range(draws):  # for the actor's loss, which train() draws actions for first
            model.actor.action_log_prob(batch.observations)
        losses = sample_losses(model)[network](model, batch)
        assert losses().shape == (8,)
    with th.random.fork_rng():
        for _ in range(draws):
            model.actor.action_log_prob(batch.observations)
        expected = th.autograd.grad(
            sample_losses(model)[network](model, batch)().mean(), list(module.parameters()), allow_unused=True
        )  # type: ignore[misc]
    seen: list[th.Tensor | None] = []
    optimizer = getattr(module, "optimizer", None) or model.policy.optimizer
    optimizer.register_step_pre_hook(
        lambda *_: seen or seen.extend(None if p.grad is None else p.grad.clone() for p in module.parameters())
    )
    model.train(1, 8)
    assert len(seen) == len(expected)
    for given, computed in zip(seen, expected, strict=True):
        th.testing.assert_close(given, computed, rtol=1e-4, atol=1e-6)


def test_actor_losses_of_td3() -> None:
    model = make("td3")
    model.learn(30)
    batch = model.replay_buffer.sample(8)
    expected = -model.critic.q1_forward(batch.observations, model.actor(batch.observations))
    th.testing.assert_close(sample_losses(model)["actor"](model, batch)(), expected.reshape(-1))  # type: ignore[misc]
    assert "value" not in sample_losses(model)


@pytest.mark.filterwarnings("ignore:.*PlasticityCallback")
def test_covariance_before_and_after(tmp_path: Path) -> None:
    make("sac").learn(60, callback=watch(tmp_path, covariance_freq=1_000))
    matrices = saved_matrices(tmp_path / "plasticity.csv")
    assert [(network, step) for _, network, step in matrices] == [("critic", 20), ("critic", 60)]
    with np.load(matrices[0][0]) as saved:
        matrix = saved["matrix"]
        assert saved["updates"] == 0 and saved["env_steps"] == 20
    np.testing.assert_allclose(np.diag(matrix), 1.0, atol=1e-6)
    off_diagonal = np.abs(matrix[~np.eye(16, dtype=bool)]).mean()
    assert measured(tmp_path)[20, "gradient_interference"] == pytest.approx(off_diagonal, rel=1e-5)


@pytest.mark.parametrize("name", ["sac", "sac-compiled", "td3-compiled", "tqc", "dqn-extractor"])
@pytest.mark.filterwarnings("ignore:.*PlasticityCallback")
def test_networks_are_measured_on_normalised_observations_before_the_first_update(name: str, tmp_path: Path) -> None:
    model = make(name, env=FarEnv(discrete="dqn" in name), learning_starts=60).learn(40)
    before, inputs = everything(model), encoder_inputs(model)
    callback = watch(tmp_path, covariance_freq=20, covariance_networks=("actor", "critic", "q_net"))
    callback.init_callback(model)
    callback.measure(units=True, covariance=True)
    assert len(inputs) >= 3
    assert max(float(x.abs().max()) for x in inputs) < 3  # uniform ones lie within sqrt(3) standard deviations
    after = everything(model)
    assert [key for key in before if not th.equal(before[key], after[key])] == []


def test_a_resumed_run_goes_on_with_its_file(tmp_path: Path) -> None:
    model = make("sac-stock")
    model.learn(60, callback=watch(tmp_path, covariance_freq=20))
    file = tmp_path / "plasticity.csv"
    complete = file.read_text()
    later = Measurement(80, 80, 60, "critic", "", "srank", 1.0)
    with file.open("a") as lines:
        lines.write(",".join(str(getattr(later, column)) for column in COLUMNS) + "\n20,20,0,critic,,sra")  # and a crash
    model.learn(40, reset_num_timesteps=False, callback=watch(tmp_path, covariance_freq=20))
    assert file.read_text().startswith(complete)
    assert file.read_text().count("agent_steps") == 1
    assert [value for (step, metric), value in measured(tmp_path).items() if (step, metric) == (80, "srank")] != [1.0]
    assert sorted({m.agent_steps for m in read_measurements(file)}) == [20, 40, 60, 80, 100]
    assert [step for _, _, step in saved_matrices(file)] == [20, 40, 60, 80, 100]
    make("sac-stock").learn(40, callback=watch(tmp_path, covariance_freq=20))  # another run begins it anew
    assert sorted({m.agent_steps for m in read_measurements(file)}) == [20, 40]
    assert [step for _, _, step in saved_matrices(file)] == [20, 40]


def test_what_checkpoints_of_former_versions_hold_is_taken_over(tmp_path: Path) -> None:
    class Restore(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 30:
                state = watching.checkpoint_state()
                watching.restore_checkpoint_state({key: state[key] for key in ("steps", "said", "pending", "file")})
            return True

    watching = watch(tmp_path)
    make("sac-compiled").learn(40, callback=[watching, Restore()])
    assert (40, "gradient_norm") in measured(tmp_path)


def test_steps_of_the_environment_are_counted(tmp_path: Path) -> None:
    class Repeats(RandomEnv):
        action_repeat = 4

    make("sac-stock", env=Repeats()).learn(40, callback=watch(tmp_path))
    assert {(m.agent_steps, m.env_steps) for m in read_measurements(tmp_path / "plasticity.csv")} == {(20, 80), (40, 160)}


def test_measurements_lie_beside_what_else_the_run_writes(tmp_path: Path) -> None:
    for name, kwargs in {
        "monitor": {"env": make_vec_env("Pendulum-v1", monitor_dir=str(tmp_path / "monitor"))},
        "evaluations": {},
        "logger": {},
    }.items():
        model = make("sac-stock", **kwargs)
        callbacks: list[BaseCallback] = [PlasticityCallback(log_freq=20, batch_size=16)]
        if name == "evaluations":
            evaluation = EvalCallback(RandomEnv(model.observation_space), eval_freq=10**6, log_path=str(tmp_path / name))
            callbacks.append(evaluation)
        if name == "logger":
            model.set_logger(configure(str(tmp_path / name), ["csv"]))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            model.learn(30, callback=callbacks)
        assert (tmp_path / name / "plasticity.csv").is_file(), name


def test_without_a_folder_it_says_so_and_logs(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="give a path"):
        make("sac-stock").learn(30, callback=PlasticityCallback(log_freq=20, batch_size=16))


def test_the_zoo_makes_it_from_yaml() -> None:
    utils = pytest.importorskip("rl_zoo3.utils")
    (callback,) = utils.get_callback_list(
        {"callback": [{"sb3_sparse.callbacks.PlasticityCallback": {"log_freq": 7, "tau": [0.1, 0.2], "covariance_freq": 9}}]}
    )
    assert callback.log_freq == 7 and callback.taus == (0.1, 0.2)


def test_a_broken_network_is_reported_once(tmp_path: Path) -> None:
    model = make("sac-stock")
    model.learn(25)
    with th.no_grad():
        model.critic.qf0[0].weight.fill_(math.nan)
    callback = watch(tmp_path)
    with pytest.warns(UserWarning, match="critic returns numbers that are not finite") as caught:
        measure_now(model, callback)
        callback.measure()
    assert sum("not finite" in str(warning.message) for warning in caught) == 1
    values = measured(tmp_path)
    assert math.isnan(values[25, "dormant_0.1"]) and math.isnan(values[25, "srank"])
    assert math.isfinite(measured(tmp_path, "actor")[25, "srank"])
    with th.no_grad():
        model.actor.latent_pi[0].weight.fill_(math.nan)
    with pytest.warns(UserWarning, match="actor returns numbers that are not finite"):
        callback.measure()


def test_what_cannot_be_measured_is_said_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning) as caught:
        make("qrdqn-stock").learn(
            60, callback=watch(tmp_path, batch_size=32, covariance_freq=20, covariance_networks=("quantile_net",))
        )
    said = [str(warning.message) for warning in caught if "PlasticityCallback" in str(warning.message)]
    assert len(said) == len(set(said)) == 2
    assert any("does not hold 32 transitions" in message for message in said)
    assert any("QRDQN's quantile_net are not known" in message for message in said)
    with pytest.warns(UserWarning, match=r"Srank of critic is bounded by the batch \(4\), not by its 16 features"):
        make("sac-stock").learn(30, callback=watch(tmp_path, batch_size=4))


def test_networks_without_activation_modules_are_measured_before_activation(tmp_path: Path) -> None:
    kwargs = {"net_arch": [8, 8], "activation_fn": th.nn.Identity}
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, **SMALL)
    with pytest.warns(UserWarning, match="critic has no activation modules"):
        model.learn(30, callback=watch(tmp_path))
    assert (20, "dormant_0.1") in measured(tmp_path, layer="qf0.0")


def test_on_policy_models_are_refused(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="PPO does not have"):
        model.learn(8, callback=watch(tmp_path))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"log_freq": 0},
        {"log_freq": 1.5},
        {"batch_size": 1},
        {"covariance_freq": 0},
        {"metrics": ("dormancy",)},
        {"metrics": ()},
        {"metrics": "dormant"},
        {"tau": -0.1},
        {"tau": ()},
        {"activation": "both"},
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        PlasticityCallback(**kwargs)


def test_statistics_do_not_move_while_measuring(tmp_path: Path) -> None:
    model = make("sac")
    model.learn(30)
    normalizers = [part for part in model.policy.modules() if isinstance(part, RunningNormalizer)]
    assert normalizers and list(sparse_layers(model.policy))
    before = [part.mean.clone() for part in normalizers]
    model.policy.set_training_mode(True)
    measure_now(model, watch(tmp_path))
    assert all(th.equal(part.mean, mean) for part, mean in zip(normalizers, before, strict=True))
    assert model.critic.training


@pytest.mark.slow
def test_one_measurement_costs_at_most_an_update(tmp_path: Path) -> None:
    import time

    model = SAC(SparseSimBaPolicy, "Pendulum-v1", learning_starts=300, batch_size=256, buffer_size=1_000, seed=0, device="cpu")
    model.learn(310)
    start = time.process_time()
    model.train(5, 256)
    update = (time.process_time() - start) / 5
    callback = watch(tmp_path, batch_size=256)
    measure_now(model, callback)
    start = time.process_time()
    for _ in range(5):
        callback.measure()
    assert (time.process_time() - start) / 5 < update


def test_sparsified_models_can_be_measured(tmp_path: Path) -> None:
    model = sparsify(make("sac-stock"), 0.5)
    model.learn(45, callback=watch(tmp_path))
    assert any("values" in m.layer for m in read_measurements(tmp_path / "plasticity.csv"))


def test_frozen_networks_are_measured_but_for_their_gradients(tmp_path: Path) -> None:
    model = make("sac-compiled")
    model.actor.requires_grad_(False)
    with pytest.warns(UserWarning, match="actor is frozen, so there are no gradients of it: no covariance"):
        model.learn(45, callback=watch(tmp_path, covariance_freq=20, covariance_networks=("actor", "critic")))
    assert (20, "dormant_0.1") in measured(tmp_path, "actor")
    assert {network for _, network, _ in saved_matrices(tmp_path / "plasticity.csv")} == {"critic"}
