"""Base of SB3's own algorithms with a compiled update."""

import stable_baselines3.common.buffers as stock_buffers

from sb3_sparse.buffers.device_replay_buffer import DeviceReplayBuffer
from sb3_sparse.training.compiled_training import CompiledTraining


class StockTraining(CompiledTraining):
    """
    Mixin for SB3's off-policy algorithms: their replay buffer goes to the GPU where it can (vectors, no ``VecNormalize``, no
    replay buffer class of one's own), and what a compiled update cannot do is left to SB3's. Arguments:
    :class:`CompiledTraining`.
    """

    def _build(self) -> None:
        # SB3 makes a buffer only where there is none, and notes the class it would have made, so checkpoints name its own.
        if self.replay_buffer is None and self._keeps_buffer_on_device():
            self.replay_buffer = self._device_buffer()
            super()._build()
            self.replay_buffer.seed(self.seed)
        else:
            super()._build()

    def _keeps_buffer_on_device(self) -> bool:
        stock = (None, stock_buffers.ReplayBuffer, stock_buffers.DictReplayBuffer, stock_buffers.NStepReplayBuffer)
        return (
            self.device.type == "cuda"
            and self.replay_buffer_device == "auto"
            and self.replay_buffer_class in stock
            and not self.optimize_memory_usage
            and self._vec_normalize_env is None
            and DeviceReplayBuffer.takes(self.observation_space)
        )

    def _device_buffer(self) -> DeviceReplayBuffer:
        kwargs = {"n_steps": self.n_steps, "gamma": self.gamma, **self.replay_buffer_kwargs}
        spaces = self.observation_space, self.action_space
        return DeviceReplayBuffer(self.buffer_size, *spaces, device=self.device, n_envs=self.n_envs, **kwargs)

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        obstacle = self._obstacle()
        if obstacle is None:
            super()._update(gradient_steps, batch_size)
            return
        if needed := self._needs_compiled_update():
            raise ValueError(f"{needed} needs the compiled update, but {obstacle}.")
        self._warn_once(f"{type(self).__name__} updates as Stable-Baselines3 does, at its speed, because {obstacle}.")
        super(CompiledTraining, self).train(gradient_steps, batch_size)

    def _obstacle(self) -> str | None:
        """Why SB3's own update has to do."""
        if self.use_sde:
            return "gSDE (use_sde) draws new noise for every update"
        return self._obstacle_to_capture() if self._runs_on_gpu() else None

    def _needs_compiled_update(self) -> str:
        """What was asked for that SB3's update cannot do, "" if nothing."""
        return ""
