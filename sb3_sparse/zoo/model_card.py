"""Model card of a sparse model for the Hub: networks, provenance, how to load it, beside what the RL Zoo writes."""

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sb3_sparse.installation import install_command
from sb3_sparse.common.pruned_policy import PrunedPolicy, network_trees
from sb3_sparse.common.simba_policy import SimBaPolicy
from sb3_sparse.der import CnnPolicy
from sb3_sparse.drqv2 import DrQv2Policy
from sb3_sparse.sparsity import summary
from sb3_sparse.zoo import recording
from sb3_sparse.zoo.provenance import versions
from sb3_sparse.zoo.zoo_files import read_yaml

TAG = "sb3-sparse"
_PAPER = "https://arxiv.org/abs/2506.17204"
_CITATION = """```bibtex
@inproceedings{ma2025network,
  title     = {Network Sparsity Unlocks the Scaling Potential of Deep Reinforcement Learning},
  author    = {Ma, Guozheng and Li, Lu and Wang, Zilin and Shen, Li and Bacon, Pierre-Luc and Tao, Dacheng},
  booktitle = {International Conference on Machine Learning},
  year      = {2025}
}
```"""
_UNKNOWN = "not on record"


@dataclass(frozen=True)
class SharedModel:
    """
    A model about to be uploaded, in the folder that the zoo has prepared.

    :param folder: What is uploaded: the model's zip, README.md, args.yml, config.yml, env_kwargs.yml, results.json
    :param repo_id: "owner/name" on the Hub
    :param source: The file in the run's folder that the model comes from, e.g. best_model.zip
    """

    folder: Path
    repo_id: str
    source: Path

    @property
    def args(self) -> Mapping[str, Any]:
        """Arguments of the training command, and our record among them."""
        return dict(read_yaml(self.folder / "args.yml"))

    @property
    def record(self) -> Mapping[str, Any]:
        """What was put on record at training; empty for a model trained without this package's hook."""
        return self.args.get(recording.KEY, {})

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """Hyperparameters of the run."""
        return dict(read_yaml(self.folder / "config.yml"))

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment, other than how it draws."""
        loaded = dict(read_yaml(self.folder / "env_kwargs.yml"))
        return {name: value for name, value in loaded.items() if name != "render_mode"}

    @property
    def env_id(self) -> str:
        """Id of the environment."""
        return str(self.args["env"])

    @property
    def results(self) -> Mapping[str, Any]:
        """The evaluation before the upload."""
        return json.loads((self.folder / "results.json").read_text())

    @property
    def file(self) -> Path:
        """The model's zip."""
        names = importlib.import_module("huggingface_sb3")
        return self.folder / names.ModelName(self.args["algo"], names.EnvironmentName(self.env_id)).filename

    def load(self) -> BaseAlgorithm:
        """Load what is uploaded, without a replay buffer; those of some kinds could not be made without an environment."""
        algo = importlib.import_module("rl_zoo3").ALGOS[self.args["algo"]]
        buffer: dict[str, Any] = {
            "replay_buffer_class": None,
            "replay_buffer_kwargs": {},
            "buffer_size": 1,
            "optimize_memory_usage": False,
        }
        is_off_policy = issubclass(algo, OffPolicyAlgorithm)
        return algo.load(self.file, device="cpu", custom_objects=buffer if is_off_policy else None)


def complete_card(shared: SharedModel) -> None:
    """
    Add our section and tag to the model card, if the model's policy is pruned; leave any other card as it is.

    :param shared: Model about to be uploaded
    :raises ValueError: if the card's metadata is not what the Hub accepts.
    """
    model = shared.load()
    if not isinstance(model.policy, PrunedPolicy):
        return
    readme = shared.folder / "README.md"
    card = importlib.import_module("huggingface_hub").ModelCard(readme.read_text(encoding="utf-8"))
    card.data.tags = [*card.data.tags, TAG]
    card.text = f"{card.text.rstrip()}\n\n{section(shared, model)}"
    card.save(readme)


def section(shared: SharedModel, model: BaseAlgorithm) -> str:
    """
    Write our section of the model card.

    :param shared: Model about to be uploaded
    :param model: The same, loaded
    :return: Markdown
    """
    policy = model.policy
    assert isinstance(policy, PrunedPolicy)
    networks = _networks(policy)
    parts = [
        "# Static sparsity",
        f"The networks are statically sparse: pruned at random once, before training ([paper]({_PAPER})), by sb3-sparse. Only "
        "active weights are parameters, so loading this model takes that package:",
        _commands(shared),
        _snippet(shared, model),
        "## Networks",
        _table(("", ""), _pruning(policy)),
        _table(("network", "parameters if dense", "active", "sparsity"), _sizes(networks)),
        *(
            f"<details><summary>{name}, layer by layer</summary>\n\n```\n{summary(net)}\n```\n\n</details>"
            for name, net in networks.items()
        ),
        f"The file `{shared.file.name}` has {shared.file.stat().st_size:,} bytes, optimizer state included.",
        "## Provenance",
        _table(("", ""), _provenance(shared, model)),
        "## Citation",
        _CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def _networks(policy: PrunedPolicy) -> dict[str, nn.Module]:
    found = {name: module for name, module in policy.named_children() if name in ("actor", "critic", "q_net")}
    return found or {"policy": policy}


def _pruned(policy: PrunedPolicy) -> list[str]:
    """Names of the networks that the sparsity is for; DrQ-v2's actor stays dense."""
    roles = {role for role, _ in network_trees(policy, set())}
    return [name for name in _networks(policy) if name in roles] or list(_networks(policy))


def _pruning(policy: PrunedPolicy) -> Iterable[tuple[str, str]]:
    asked = policy.sparsity if isinstance(policy.sparsity, Mapping) else dict.fromkeys(_pruned(policy), policy.sparsity)
    yield "policy", f"`{type(policy).__name__}`"
    yield "sparsity asked for", ", ".join(f"{name} {value:g}" for name, value in asked.items())
    yield "distribution", f"`{policy.pruning.distribution}`"
    yield "budget", f"`{policy.pruning.budget}`"
    yield "mask seed", str(policy.mask_seed)
    if isinstance(policy, DrQv2Policy):
        yield "width scale of the critic, pruned as one", f"{policy.width_scale:g}, `{policy.prune_modules}`"
    if isinstance(policy, SimBaPolicy):
        yield "width scale, depth scale", f"{policy.width_scale:g}, {policy.depth_scale:g}"
    elif isinstance(policy, CnnPolicy):
        yield "encoder, width scale", f"{policy.encoder}, {policy.width_scale:g}"


def _sizes(networks: Mapping[str, nn.Module]) -> Iterable[tuple[str, ...]]:
    for name, network in networks.items():
        total = summary(network)
        yield name, f"{total.total:,}", f"{total.active:,}", f"{total.sparsity:.4f}"


def _provenance(shared: SharedModel, model: BaseAlgorithm) -> Iterable[tuple[str, str]]:
    args, record, results = shared.args, shared.record, shared.results
    yield "trained", ", ".join(record.get(name, _UNKNOWN) for name in ("date", "hardware"))
    yield "steps", _steps(model.num_timesteps, record.get("action_repeat"))
    if args["trained_agent"]:
        yield "continued from", f"`{Path(args['trained_agent']).name}`"
    yield "seed", str(args["seed"])
    yield "command", f"`{record.get('command', _UNKNOWN)}`"
    yield (
        "hyperparameters",
        f"`{record.get('hyperparameters', _UNKNOWN)}`, changed by the command's options, as in `config.yml`",
    )
    yield "weights", f"`{shared.source.name}` of the run"
    yield "versions at training", _list(record["versions"]) if "versions" in record else _UNKNOWN
    yield "commit of sb3-sparse", record.get("commit", _UNKNOWN)
    yield "versions at upload", "the same" if versions() == record.get("versions") else _list(versions())
    mode = "deterministic" if results["is_deterministic"] else "stochastic"
    mean, std = results["mean_reward"], results["std_reward"]
    yield "return", f"{mean:.2f} +/- {std:.2f} over {results['n_eval_episodes']} episodes, {mode} actions"
    yield "evaluated", results["eval_datetime"][:10]


def _steps(agent_steps: int, action_repeat: int | None) -> str:
    if action_repeat is None:
        return f"{agent_steps:,} agent steps (action repeat {_UNKNOWN})"
    return f"{agent_steps:,} agent steps = {agent_steps * action_repeat:,} environment steps (action repeat {action_repeat})"


def _list(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [header, ("---",) * len(header), *rows]
    # A bar would end the cell.
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def _commands(shared: SharedModel) -> str:
    owner, name = shared.repo_id.split("/")
    run = f"--algo {shared.args['algo']} --env {shared.env_id} -f logs"
    extras = "zoo,dmc" if _needs_mujoco(shared) else "zoo"
    return f"""```bash
{install_command(extras, is_for_others=True)}
export TRUST_REMOTE_CODE=True  # a model is a pickle, which can run anything: only if you trust {owner}
python -m sb3_sparse pull {run} -orga {owner} -name {name}
python -m sb3_sparse enjoy {run} --no-render
```"""


def _snippet(shared: SharedModel, model: BaseAlgorithm) -> str:
    wrappers = [name for name in ("env_wrapper", "vec_env_wrapper", "frame_stack") if shared.hyperparameters.get(name)]
    if wrappers:
        return f"Its environment is wrapped (`{'`, `'.join(wrappers)}` in `config.yml`), which these commands take care of."
    library, algorithm = type(model).__module__.split(".")[0], type(model).__name__
    buffer = ", buffer_size=1" if isinstance(model, OffPolicyAlgorithm) else ""
    arguments = "".join(f", {name}={value!r}" for name, value in shared.env_kwargs.items())
    normalised = (shared.folder / "vec_normalize.pkl").exists() and bool(shared.hyperparameters.get("normalize"))
    lines = [
        "import os",
        "",
        "import gymnasium as gym",
        "from huggingface_sb3 import load_from_hub",
        f"from {library} import {algorithm}",
        "from stable_baselines3.common.evaluation import evaluate_policy",
        *(["from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize"] if normalised else []),
        "",
        "import sb3_sparse.envs" if _is_of_the_suite(shared) else "import sb3_sparse",
        "",
        'os.environ["TRUST_REMOTE_CODE"] = "True"  # see above',
        f'repo = "{shared.repo_id}"',
        f'env = gym.make("{shared.env_id}"{arguments})',
        *(_NORMALISED if normalised else []),
        f'model = {algorithm}.load(load_from_hub(repo, "{shared.file.name}"), env=env{buffer})',
        "print(evaluate_policy(model, env, n_eval_episodes=10))",
    ]
    return "Or in Python:\n\n```python\n" + "\n".join(lines) + "\n```"


_NORMALISED = [
    'env = VecNormalize.load(load_from_hub(repo, "vec_normalize.pkl"), DummyVecEnv([lambda env=env: env]))',
    "env.training = env.norm_reward = False",
]


def _is_of_the_suite(shared: SharedModel) -> bool:
    return re.match(r"(sb3_sparse\.envs:)?dm_control/", shared.env_id) is not None


def _needs_mujoco(shared: SharedModel) -> bool:
    spec = gym.registry.get(shared.env_id)
    return _is_of_the_suite(shared) or (spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco"))
