"""Former places of classes that saved models, buffers and checkpoints name by their module, so that older files load."""

import sys

from sb3_sparse.buffers import device_replay_buffer, frame_replay_buffer, frame_store, start_queue

sys.modules.update(
    {
        "sb3_sparse.common.device_replay_buffer": device_replay_buffer,
        "sb3_sparse.common.frame_replay_buffer": frame_replay_buffer,
        "sb3_sparse.common.frame_store": frame_store,
        "sb3_sparse.common.start_queue": start_queue,
    }
)
