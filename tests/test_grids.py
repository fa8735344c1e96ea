"""Grids: what they stand for, which sparsities are solved for, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import sb3_sparse
from sb3_sparse.experiments.figures.grid_figures import FIGURES
from sb3_sparse.experiments.sweep.equal_parameters import equal_sparsity, learnable_parameters
from sb3_sparse.experiments.sweep.grid import Grid, GridError, figure_grid, load_grid, parse_grid
from sb3_sparse.experiments.sweep.shipped_grids import BUDGETS, figures
from sb3_sparse.experiments.sweep.grid_run import POLICY_AXES, GridRun, short_task
from sb3_sparse.experiments.sweep.run_defaults import POLICIES, _defaults
from sb3_sparse.zoo.hyperparameter_files import our_policy

pytest.importorskip("yaml")
dmc = pytest.importorskip("dm_control")

SMALL = """
algorithm: sac
task: Pendulum-v1
seeds: 2
agent_steps: 400
arms:
  - {width_scale: [0.0625, 0.125], sparsity: [0, 0.5]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.yml"
    path.write_text(text)
    return path


def test_there_is_a_grid_and_a_drawing_for_every_figure() -> None:
    assert figures() == list(range(1, 19)) == sorted(FIGURES)
    for number in figures():
        for budget in BUDGETS[:2]:
            assert figure_grid(number, budget).runs


@pytest.mark.parametrize(
    ("number", "runs", "tasks", "seeds"),
    [
        (1, 1_216, 4, 8),
        (2, 1_440, 6, 8),
        (3, 2 * 4 * 20 * 8, 4, 8),  # two algorithms, two sizes with ten sparsities each
        (5, 2 * 2 * 5 * 8, 2, 8),
        (7, 5 * 8, 1, 8),
        (10, 2 * 8 * 5, 2, 5),
        (12, 2 * 16 * 5, 2, 5),
        (13, 2 * 12 * 5, 2, 5),
        (14, 1_216, 4, 8),
        (15, 864, 6, 8),
        (18, 26 * 4 * 5, 26, 5),
    ],
)
def test_the_paper_s_grids(number: int, runs: int, tasks: int, seeds: int) -> None:
    grid = figure_grid(number, "full")
    assert (len(grid.runs), len(grid.tasks), len({run.seed for run in grid.runs})) == (runs, tasks, seeds)
    assert len({run.id for run in grid.runs}) == runs
    rules = {run.algorithm: run.hyperparameters.get("update_rule") for run in grid.runs}
    assert all(rule == ("paper" if algorithm in ("sac", "ddpg") else None) for algorithm, rule in rules.items())


def test_figures_share_runs() -> None:
    ids = {number: {run.id for run in figure_grid(number, "full").runs} for number in (2, 3, 4, 5, 7, 8, 9, 12, 13, 17)}
    assert ids[4] < ids[3] and ids[9] < ids[4] and ids[8] < ids[3] and ids[12] == ids[17]
    assert ids[7] < ids[5] < ids[2] | ids[3]
    assert len(ids[12] & ids[13]) == 2 * 8 * 5


@pytest.mark.parametrize("number", [1, 2, 14, 15])
def test_dense_widths_are_those_of_the_paper_s_tables(number: int) -> None:
    dense = [run for run in figure_grid(number, "full").runs if run.sparsity == 0 and run.policy["depth_scale"] == 1]
    assert {512 * run.policy["width_scale"] for run in dense} == {256, 512, 1024, 1536, 2048, 2560}


@pytest.mark.parametrize("number", [5, 7])
def test_plasticity_is_compared_at_equal_learnable_parameters(number: int) -> None:
    for run in figure_grid(number, "full").runs:
        if run.is_solved:
            sizes = {"width_scale": run.policy["width_scale"], "depth_scale": run.policy["depth_scale"]}
            anchor = learnable_parameters(run.algorithm, run.task, {"width_scale": 2, "depth_scale": 1}, 0.0)
            assert learnable_parameters(run.algorithm, run.task, sizes, run.sparsity) == pytest.approx(anchor, rel=1e-5)
    assert any(run.is_solved for run in figure_grid(number, "full").runs)


@pytest.mark.parametrize("number", [10, 11])
def test_visual_runs_have_the_hyperparameters_of_table_4_on_every_task(number: int) -> None:
    table = {"n_steps": 3, "batch_size": 256, "buffer_size": 1_000_000, "learning_rate": 1e-4}
    for run in figure_grid(number, "full").runs:
        assert table.items() <= run.hyperparameters.items()
        assert run.hyperparameters["stddev_schedule"] == "linear(1.0, 0.1, 500000)"


def test_simba_s_grids_measure_what_the_paper_s_code_does() -> None:
    for number in (*range(1, 12), 14, 15, 16):
        for run in figure_grid(number, "full").runs[:1]:
            assert run.plasticity is not None and run.plasticity["tau"] == [0.1, 0.2]
            assert run.evaluation is not None and run.evaluation.final_episodes == 100


def test_seeds_come_last() -> None:
    seeds = [run.seed for run in figure_grid(13, "short").runs]
    assert seeds == sorted(seeds)


def test_parameters_of_the_paper_s_sizes() -> None:
    # Sizes of humanoid (67 observations, 21 actions), in the paper's words 4.5M, 17M and 109M.
    sizes = [learnable_parameters("sac", "dm_control/humanoid-run-v0", {"width_scale": w}, 0.0) for w in (1, 2, 5)]
    assert sizes == [146_346 + 4_248_577, 554_794 + 16_885_761, 3_353_002 + 105_128_961]


@pytest.mark.parametrize("size", [{"width_scale": 3}, {"width_scale": 5}, {"width_scale": 2, "depth_scale": 4}])
@pytest.mark.parametrize("algorithm", ["sac", "ddpg"])
def test_sparse_networks_get_the_parameters_of_the_anchor(algorithm: str, size: dict[str, float]) -> None:
    task, anchor = "dm_control/humanoid-run-v0", {"width_scale": 2, "depth_scale": 1}
    sparsity = equal_sparsity(algorithm, task, size, anchor)
    kept, total = (learnable_parameters(algorithm, task, s, 0.0) for s in (anchor, size))
    assert sparsity == pytest.approx(1 - kept / total, abs=1e-5)
    assert learnable_parameters(algorithm, task, size, sparsity) == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("algorithm", ["sac", "ddpg", "td3"])
@pytest.mark.parametrize("budget", ["all", "weights"])
def test_counts_are_those_of_built_models(algorithm: str, budget: str) -> None:
    policies = {"sac": "SparseSimBaPolicy", "ddpg": "SparseSimBaTD3Policy", "td3": "SparseSimBaTD3Policy"}
    kwargs = {"width_scale": 0.25, "sparsity": 0.6, "budget": budget}
    model = getattr(sb3_sparse, algorithm.upper())(
        getattr(sb3_sparse, policies[algorithm]), gym.make("Pendulum-v1"), policy_kwargs=kwargs
    )
    built = sum(p.numel() for name in ("actor", "critic") for p in getattr(model.policy, name).parameters())
    assert learnable_parameters(algorithm, "Pendulum-v1", {"width_scale": 0.25}, 0.6, budget=budget) == built


def test_runs_of_a_grid_of_one_s_own(tmp_path: Path) -> None:
    grid = load_grid(write(tmp_path, SMALL))
    assert [run.seed for run in grid.runs] == [0] * 4 + [1] * 4
    assert [run.label for run in grid.runs[:4]] == [
        "w = 0.0625, dense",
        "w = 0.0625, S = 0.5",
        "w = 0.125, dense",
        "w = 0.125, S = 0.5",
    ]
    assert grid.name == "grid" and grid.figure is None


def test_a_budget_replaces_keys(tmp_path: Path) -> None:
    grid = load_grid(write(tmp_path, SMALL + "budgets: {tiny: {seeds: [7], agent_steps: 100}}\n"), "tiny")
    assert {(run.seed, run.agent_steps) for run in grid.runs} == {(7, 100)} and grid.name == "grid-tiny"


def test_equal_settings_are_the_same_run_and_others_are_not() -> None:
    run = GridRun("sac", "Pendulum-v1", {"sparsity": 0.5, "width_scale": 1.0})
    assert run.id == GridRun("sac", "Pendulum-v1", {"width_scale": 1.0, "sparsity": 0.5}).id
    assert run.arm == GridRun("ddpg", "Hopper-v4", {"width_scale": 1.0, "sparsity": 0.5}, seed=3).arm
    others = [
        GridRun("sac", "Pendulum-v1", {"sparsity": 0.5, "width_scale": 1.0}, agent_steps=10),
        GridRun("sac", "Pendulum-v1", {"sparsity": 0.5, "width_scale": 1.0}, hyperparameters={"tau": 0.1}),
        GridRun("sac", "Pendulum-v1", {"sparsity": 0.5, "width_scale": 1.0}, reset_freq=5),
    ]
    assert len({run.id, *(other.id for other in others)}) == 4


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [
        ("sac", {"width_scale": 1}),
        ("ddpg", {"depth_scale": 1.0}),
        ("sac", {"sparsity": 0, "distribution": "uniform", "budget": "weights"}),
        ("sac", {"sparsity": {"actor": 0.0, "critic": 0.0}}),
        ("tqc", {"distribution": "erdos_renyi", "budget": "all", "mask_seed": None}),
        ("drqv2", {"prune_modules": "critic", "width_scale": 1.0}),
        ("der", {"width_scale": 1}),
        ("stream_ac", {"width": 128, "init": "sparse"}),
    ],
)
def test_what_is_so_anyway_does_not_make_another_run(algorithm: str, policy: dict[str, Any]) -> None:
    assert GridRun(algorithm, "a", policy).id == GridRun(algorithm, "a").id
    others = {**policy, "sparsity": 0.5}, {**policy, "width_scale": 2.0}
    assert len({GridRun(algorithm, "a", other).id for other in (policy, *others)}) == 3


def test_defaults_of_measurements_do_not_make_another_run() -> None:
    ids = [GridRun("sac", "a", plasticity=given).id for given in ({}, {"log_freq": 1_000, "covariance_freq": None}, None)]
    assert ids[0] == ids[1] != ids[2]


def test_one_sparsity_is_that_of_actor_and_critic() -> None:
    given = [GridRun("sac", "a", {"sparsity": sparsity}).id for sparsity in (0.5, {"actor": 0.5, "critic": 0.5})]
    assert given[0] == given[1]


def test_policies_that_share_an_argument_share_its_default() -> None:
    values: dict[str, set[Any]] = {}
    for policy in POLICIES:
        for name, value in _defaults(policy).items():
            if name in POLICY_AXES:
                values.setdefault(name, set()).add(value)
    assert set(values) == set(POLICY_AXES) and all(len(defaults) == 1 for defaults in values.values())


@pytest.mark.parametrize("algorithm", ["sac", "td3", "ddpg", "tqc"])
def test_a_size_is_for_our_policy_on_any_task(algorithm: str, tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_sparse.experiments.sweep.grid_check import check_grid
    from sb3_sparse.zoo import register

    register()
    text = "algorithm: %s\ntask: %s\nseeds: 1\nagent_steps: 10\narms: [{%s}, {sparsity: 0.5}]"
    size, sparsified = load_grid(write(tmp_path, text % (algorithm, "Pendulum-v1", "width_scale: 1, sparsity: 0.5"))).runs
    assert size.hyperparameters == {"policy": our_policy(algorithm)} and sparsified.hyperparameters == {}
    assert size.id != sparsified.id
    for run in (size, sparsified):
        check_grid(Grid("mine", None, "", (run,)))
    (known,) = load_grid(write(tmp_path, text % (algorithm, "dm_control/dog-run-v0", "width_scale: 1, sparsity: 0.5"))).runs
    assert known.hyperparameters == {}


def test_a_policy_that_the_grid_names_is_kept(tmp_path: Path) -> None:
    text = "algorithm: sac\ntask: Pendulum-v1\nseeds: 1\nagent_steps: 10\narms: [{width_scale: 2}]\n"
    text += "hyperparameters: {policy: mine}"
    assert load_grid(write(tmp_path, text)).runs[0].hyperparameters == {"policy": "mine"}


def test_arms_that_differ_in_hyperparameters_are_told_apart(tmp_path: Path) -> None:
    text = SMALL.replace("{width_scale: [0.0625, 0.125], sparsity: [0, 0.5]}", "{sparsity: 0.5, hyperparameters: {tau: 0.1}}")
    text += (
        "  - {sparsity: 0.5, hyperparameters: {tau: 0.2}, label: slow}\n  - {sparsity: 0.5}\nhyperparameters: {gamma: 0.9}\n"
    )
    grid = load_grid(write(tmp_path, text))
    assert [run.label for run in grid.runs[:3]] == ["S = 0.5, tau = 0.1", "slow", "S = 0.5"]
    assert len({run.arm for run in grid.runs}) == 3 and {run.hyperparameters["gamma"] for run in grid.runs} == {0.9}
    # What a run is called in legends does not decide what it is.
    renamed = load_grid(write(tmp_path, text.replace("slow", "slower")))
    assert [run.key for run in renamed.runs] == [run.key for run in grid.runs] and renamed.runs[1].label == "slower"


def test_keys_are_replaced_and_the_text_with_them(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "budgets: {tiny: {seeds: [7], agent_steps: 100}}\n")
    grid = load_grid(path, "tiny", {"agent_steps": 50, "arms": [{"sparsity": 0.5}]})
    assert [(run.seed, run.agent_steps, run.policy) for run in grid.runs] == [(7, 50, {"sparsity": 0.5})]
    again = parse_grid(grid.source, grid.stem, grid.budget)
    assert again.runs == grid.runs and again.name == grid.name == "grid-tiny"
    with pytest.raises(GridError, match="what is changed has no key 'sedes'"):
        load_grid(path, None, {"sedes": 1})


def test_grids_of_the_package_have_names() -> None:
    grid = load_grid(Path("learning-curves"))
    assert {run.label for run in grid.runs} == {"w = 0.125, dense", "w = 0.125, S = 0.5", "SB3 MlpPolicy"}
    assert load_grid(Path("figure-13"), "short").runs == figure_grid(13, "short").runs
    with pytest.raises(GridError, match=r"come with this package: .*learning-curves, plasticity-loss"):
        load_grid(Path("learning-curve"))


def test_names_of_tasks() -> None:
    ids = ("dm_control/dog-run-v0", "ALE/Breakout-v5", "Walker2d-v4", "dm_control/quadruped-run-pixels-v0")
    assert [short_task(task) for task in ids] == ["dog-run", "Breakout", "Walker2d", "quadruped-run-pixels"]


def changed(old: str, new: str) -> Callable[[], str]:
    return lambda: SMALL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("seeds", "seed"), "no key 'seed'"),
        (changed("width_scale", "wdith_scale"), "an arm has no key 'wdith_scale'"),
        (changed("seeds: 2", "seeds: 0"), "no run"),
        (changed("seeds: 2", "seeds: many"), "seeds must be"),
        (changed("agent_steps: 400", "agent_steps: 0"), "agent_steps must be an integer of at least 1, got 0"),
        (changed("agent_steps: 400\n", ""), "lacks agent_steps"),
        (changed("sparsity: [0, 0.5]", "sparsity: 0.5, equal_parameters: {width_scale: 1}"), "not both"),
        (changed("sparsity: [0, 0.5]", "equal_parameters: {width_scale: 1}"), "fewer than the anchor's"),
        (changed("sparsity: [0, 0.5]", "equal_parameters: {width: 1}"), "width_scale and depth_scale"),
        (changed("sparsity: [0, 0.5]", "sparsity: [0, 1.5]"), r"sparsity must lie in \[0, 1\)"),
        (lambda: SMALL + "evaluation: {freq: 500, episodes: 1}\n", "more than agent_steps"),
        (lambda: SMALL + "evaluation: {freq: 50}\n", "must have freq"),
        (lambda: SMALL + "evaluation: {freq: 50, episodes: 1, deterministic: 3}\n", "must be true or false"),
        (lambda: SMALL + "evaluation: {freq: 50, episodes: 1, epsilon: 2}\n", r"epsilon must lie in \[0, 1\]"),
        (changed("sparsity: [0, 0.5]", "sparsity: [0, 0.5], label: both"), "a label is for one network"),
        (
            lambda: SMALL + "  - {sparsity: 0.5, label: a}\n  - {sparsity: 0.9, label: a}\n",
            "several of its arms are called 'a' in figures",
        ),
        (lambda: SMALL + "score: best\n", "score must be one of"),
        (lambda: SMALL + "resources: {gpus: -1}\n", "at least 0"),
        (lambda: SMALL + "budgets: {tiny: {sedes: 1}}\n", "'tiny' has no key 'sedes'"),
        (lambda: "- 1\n", "no grid"),
        (lambda: "a: [", "not YAML"),
    ],
)
def test_what_is_no_grid_is_refused(text: Callable[[], str], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text())
    with pytest.raises(GridError, match=message) as error:
        load_grid(path)
    assert str(path) in str(error.value)


def test_unknown_budgets_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="no budget 'huge'"):
        load_grid(write(tmp_path, SMALL), "huge")
    with pytest.raises(GridError, match="cannot be read"):
        load_grid(tmp_path / "nowhere.yml")
    with pytest.raises(GridError, match="no grid for figure 19"):
        figure_grid(19, "full")
