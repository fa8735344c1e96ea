"""The sparse SimBa encoder as a features extractor, for algorithms without a policy of their own here."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_sparse.algorithms.known_algorithms import STOCK_POLICIES
from sb3_sparse.common.architecture import network_kind, simba_sizes
from sb3_sparse.common.constructing_algorithm import constructing_algorithm, normalizes_already
from sb3_sparse.common.observation_preprocessing import note_preprocessing
from sb3_sparse.common.observations import Observations, check_observation_space, flatten_observations
from sb3_sparse.common.mask_loading import LOAD_ALL, block_until_loaded, moved_topologies
from sb3_sparse.sparsity.optimizers import optimizers_of
from sb3_sparse.common.pruned_policy import PrunedPolicy, check_mask_seed, draw_mask_seed
from sb3_sparse.networks import DeferredNormalizer
from sb3_sparse.sparsity import SparseLayer, prune


class SparseSimBaExtractor(BaseFeaturesExtractor):
    """
    Statically sparse SimBa encoder for the stock policies of any SB3 or sb3-contrib algorithm (PPO, A2C, DQN, CrossQ, ...)::

        policy_kwargs = dict(features_extractor_class=SparseSimBaExtractor, features_extractor_kwargs=dict(sparsity=0.8))

    The stock policy puts its own dense layers (``net_arch``) on top; for algorithms whose networks are functions of the
    observation alone, ``net_arch=[]`` leaves SimBa with linear heads. The optimizer is the policy's, too: the paper's is AdamW
    with weight decay 0.01.

    *Masks.* SB3 builds an extractor for every network that does not share one, and each is pruned by itself: with a mask seed
    of its own if ``mask_seed`` is None, with the same masks if one is given. Target networks get the masks of their online
    network when SB3 copies its state into them, and keep them. Later, masks move only when the whole policy is loaded; loading
    a part of it that has other masks is refused, because the target network would keep its own, and so is an update with
    an optimizer's moments for other masks.

    *Initialisation* is SimBa's, in every layer. The orthogonal initialisation of SB3's on-policy policies (``ortho_init``),
    which would find the dense layers and miss the sparse ones, passes the extractor by.

    *Observation statistics.* Every extractor keeps its own, of the observations that it is trained on: those of batches seen
    in training mode with gradients enabled. They move between updates only, when SB3 switches training mode off to collect or
    to predict. So PPO's probability ratios compare policies with the same statistics, and the first ratio of an update is
    exactly 1. What is collected before the first update is not normalised. Statistics are averaged over at least the last 200
    updates and the last 51,200 observations. Target networks receive them together with the parameters, by SB3's rule for
    buffers named ``running_...``: at every target update as a copy, whatever ``tau`` is. A target network that is copied
    rarely (DQN) thus stays the snapshot that it is; one that follows at every gradient step (SAC, TD3, TQC) has the online
    network's statistics from the first target update after they moved.

    :param observation_space: Observation space: vectors, numbers of a discrete space, or a Dict of them
    :param sparsity: As for :func:`~sb3_sparse.sparsity.prune`, of the encoder
    :param distribution: As for :func:`~sb3_sparse.sparsity.prune`
    :param budget: As for :func:`~sb3_sparse.sparsity.prune`
    :param width_scale: Multiplies the hidden dimension 128, the paper's for an actor; 4 is that of a critic. It is also the
        number of features
    :param depth_scale: Multiplies the number of residual blocks, 1; at least one
    :param normalize_observations: Whether to standardise observations with running statistics; as the network's reference does
        if None (SimBa: yes, BroNet: no). It is switched off if the environment is wrapped in ``VecNormalize``
    :param mask_seed: Seed of the masks of every extractor of a model; drawn for each from torch's generator, which SB3 seeds
        with the model's seed, if None
    :param network: "simba", or "bronet" for a BroNet encoder (256 hidden units)
    :raises ValueError: for images and arguments out of range.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        sparsity: float = 0.0,
        distribution: str = "erdos_renyi",
        budget: str = "all",
        width_scale: float = 1.0,
        depth_scale: float = 1.0,
        normalize_observations: bool | None = None,
        mask_seed: int | None = None,
        network: str = "simba",
    ):
        check_observation_space(observation_space)
        size, _ = simba_sizes(width_scale, depth_scale, network)
        super().__init__(observation_space, size.hidden_dim)
        self.keys = tuple(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else ()
        input_dim = get_flattened_obs_dim(observation_space)
        algorithm = constructing_algorithm()
        note_preprocessing(algorithm)
        if normalize_observations is None:
            normalize_observations = network_kind(network).normalizes
        frozen = not normalize_observations or normalizes_already(algorithm)
        self.normalizer = DeferredNormalizer(input_dim, frozen=frozen)
        self.encoder = size.encoder(input_dim)
        seed = draw_mask_seed() if mask_seed is None else check_mask_seed(mask_seed)
        generator = th.Generator().manual_seed(seed)
        prune(self.encoder, sparsity, distribution=distribution, budget=budget, generator=generator)

    def forward(self, observations: Observations) -> th.Tensor:
        """
        :param observations: Preprocessed observations, (batch, *shape) each
        :return: (batch, features_dim) features, layer-normalised
        """
        return self.encoder(self.normalizer(flatten_observations(observations, self.keys)))

    def apply(self, fn: Callable[[nn.Module], Any]) -> "SparseSimBaExtractor":
        """
        Apply a function to every submodule, except SB3's orthogonal initialisation (see the class).

        :param fn: Function of a module
        """
        if isinstance(fn, functools.partial) and fn.func is BasePolicy.init_weights:
            return self
        return super().apply(fn)

    def _load_from_state_dict(self, state_dict, prefix, *args: Any, **kwargs: Any) -> None:  # type: ignore[no-untyped-def]
        own = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if moved_topologies(self, own):
            _move_with_the_policy()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _move_with_the_policy() -> None:
    """
    See that what belongs to the masks of an extractor that is being loaded moves along.

    Only the call stack knows: an extractor is told neither its policy nor what else is loaded.

    :raises ValueError: if an extractor keeps its masks, of which the target network's would have to follow.
    """
    frame, root, state_dict = inspect.currentframe(), None, {}
    while frame is not None:
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "_build" and isinstance(owner, BasePolicy):
            return  # SB3 gives a new target network the state of its online network.
        if frame.f_code.co_name == "load_state_dict" and isinstance(owner, nn.Module):
            root, state_dict = owner, frame.f_locals["state_dict"]
        frame = frame.f_back
    # SB3's actors and Q-networks are policies, too.
    is_whole = isinstance(root, (PrunedPolicy, *STOCK_POLICIES))
    if not (is_whole and isinstance(root, BasePolicy) and _values_are_in(state_dict, root)):
        raise ValueError(f"The masks of a SparseSimBaExtractor would change, but not those of its policy. {LOAD_ALL}")
    for optimizer in optimizers_of(root):
        if optimizer.state:
            block_until_loaded(optimizer)


def _values_are_in(state_dict: Mapping[str, Any], policy: BasePolicy) -> bool:
    modules = policy.named_modules(remove_duplicate=False)
    return all(f"{name}.values" in state_dict for name, layer in modules if isinstance(layer, SparseLayer))
