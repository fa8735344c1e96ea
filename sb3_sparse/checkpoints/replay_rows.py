"""The replay buffer, in segments of rows of which only those that changed are written again."""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError
from sb3_sparse.checkpoints.checkpoint_folder import ROWS, CheckpointFolder, DamagedCheckpointError, FileRecord

Array = np.ndarray | th.Tensor
# Bytes of a segment, about.
SEGMENT = 8 << 20
# Smaller arrays are pickled with the rest.
_SMALL = 1 << 10
# Arrays of SB3's buffers, and of ours on the device, that are written row by row at ``pos``.
_RINGS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "_rows")


@dataclass(frozen=True)
class Segment:
    """
    Rows of the arrays of a group.

    :param file: Where they are
    :param rows: How many
    :param sum: What they are compared by, to see whether they changed
    """

    file: FileRecord
    rows: int
    sum: int


@dataclass
class Group:
    """
    Arrays of the same length that change together.

    :param arrays: Name -> array
    :param filled: Rows that hold something
    :param written: Where the next row goes; None for arrays that are not written row by row
    """

    arrays: dict[str, Array]
    filled: int
    written: int | None

    @property
    def length(self) -> int:
        """Number of rows, filled or not."""
        return len(next(iter(self.arrays.values())))

    @property
    def segment_rows(self) -> int:
        """Rows of a segment."""
        size = sum(array[:1].nbytes for array in self.arrays.values())
        return max(1, SEGMENT // max(size, 1))

    def layout(self) -> dict[str, Any]:
        """What must be the same when rows are read again."""
        arrays = {name: [str(array.dtype), list(array.shape)] for name, array in self.arrays.items()}
        return {"arrays": arrays, "segment_rows": self.segment_rows}


@runtime_checkable
class WrittenInRings(Protocol):
    """A replay buffer that says itself which of its arrays are written row by row."""

    # Attributes whose own attributes are stored like those of the buffer.
    checkpoint_parts: tuple[str, ...]

    def checkpoint_rings(self) -> dict[str, tuple[int, int]]:
        """
        :return: Name of an array -> (position, filled rows); entries of dictionaries are called "attribute.key", those of
            parts "part/attribute"
        """


class ReplayRows:
    """
    Writes and reads a replay buffer's rows.

    A buffer can say itself what it consists of, see :class:`WrittenInRings`. Large arrays that are no rings are compared, as a
    whole, with what was written last.

    :param buffer: Replay buffer: SB3's, this package's, or one like them
    """

    def __init__(self, buffer: Any):
        self.buffer = buffer
        # What the newest checkpoint has, by group.
        self._segments: dict[str, list[Segment]] = {}
        self._written: dict[str, tuple[int | None, int]] = {}

    def small_attributes(self) -> set[str]:
        """Names of attributes that are stored with the rest of a run's state."""
        large = {name.split(".")[0] for name in large_arrays(self.buffer)}
        skipped = {"infos"} if isinstance(self.buffer, HerReplayBuffer) and not self.buffer.copy_info_dict else set()
        owned = {f"{prefix}{name}" for prefix, owner in owners(self.buffer).items() for name in vars(owner)}
        return owned - large - skipped - {prefix.rstrip("/") for prefix in owners(self.buffer)}

    def write(self, folder: CheckpointFolder, number: int, added: int) -> dict[str, Any]:
        """
        Write what changed since the last time.

        :param folder: Where to
        :param number: Number of the checkpoint, part of the files' names
        :param added: Agent steps since the last time, an upper bound of the rows that were written since
        :return: For the manifest, and :meth:`adopt` once it is written
        """
        return {name: self._write_group(folder, number, name, group, added) for name, group in self._groups().items()}

    def adopt(self, rows: Mapping[str, Any]) -> None:
        """
        Take note that a checkpoint is whole, or was read: its files are compared with from now on.

        :param rows: What :meth:`write` returned, or the manifest has
        """
        for name, group in rows.items():
            self._segments[name] = [Segment(FileRecord(**s["file"]), s["rows"], s["sum"]) for s in group["segments"]]
            self._written[name] = (group["written"], group["filled"])

    def read(self, folder: CheckpointFolder, rows: Mapping[str, Any]) -> None:
        """
        Fill the buffer.

        :param folder: Where from
        :param rows: What the manifest has
        :raises CheckpointError: if the buffer has other arrays than the one that was stored.
        """
        groups = self._groups()
        for name in rows.keys() | groups.keys():
            ours = groups[name].layout() if name in groups else None
            theirs = {key: rows[name][key] for key in ("arrays", "segment_rows")} if name in rows else None
            if ours != theirs:
                raise CheckpointError(
                    f"The replay buffer of the checkpoint is another one: it has {theirs}, this run's {ours}."
                )
        for name, group in groups.items():
            start = 0
            for segment in rows[name]["segments"]:
                _read_segment(group, start, segment["rows"], folder.read(FileRecord(**segment["file"])))
                start += segment["rows"]
        self.adopt(rows)

    def _groups(self) -> dict[str, Group]:
        groups: dict[str, Group] = {}
        rings = _rings(self.buffer)
        for name, array in large_arrays(self.buffer).items():
            written, filled = rings.get(name, (None, len(array)))
            part = name.rpartition("/")[0]
            key = "-".join(filter(None, [part, str(len(array)), "array" if written is None else "ring"]))
            group = groups.setdefault(key, Group({}, filled, written))
            group.arrays[name] = array
        return groups

    def _write_group(self, folder: CheckpointFolder, number: int, name: str, group: Group, added: int) -> dict[str, Any]:
        rows, known = group.segment_rows, self._segments.get(name, [])
        segments = []
        for index in range(math.ceil(group.filled / rows)):
            start, stop = index * rows, min((index + 1) * rows, group.filled)
            old = known[index] if index < len(known) else None
            segment = None if self._is_touched(name, group, start, stop, added) else old
            total = _sum(group, start, stop)
            is_known = segment is not None and segment.rows == stop - start and segment.sum == total
            if segment is None or not is_known or not folder.has(segment.file):
                file = folder.write(f"{ROWS}-{name}-{index:05d}-{number}", _pieces(group, start, stop))
                segment = Segment(file, stop - start, total)
            segments.append(asdict(segment))
        return {**group.layout(), "filled": group.filled, "written": group.written, "segments": segments}

    def _is_touched(self, name: str, group: Group, start: int, stop: int, added: int) -> bool:
        """Whether rows of a segment were written since the last time, as far as the position tells."""
        if group.written is None or name not in self._written:
            return False  # compared by what is in them
        before, now, length = self._written[name][0], group.written, group.length
        assert before is not None
        if added >= length:
            return True
        # With optimize_memory_usage, the row after the newest one has its next observation.
        last = (now + 1) % length
        ranges = [(before, last)] if before < last else [(before, length), (0, last)]
        return any(start < end and first < stop for first, end in ranges)


def owners(buffer: Any) -> dict[str, Any]:
    """
    Find whose attributes a buffer consists of.

    :param buffer: Replay buffer
    :return: Beginning of the attributes' names -> the buffer itself, and its parts
    """
    parts = buffer.checkpoint_parts if isinstance(buffer, WrittenInRings) else ()
    return {"": buffer, **{f"{name}/": getattr(buffer, name) for name in parts}}


def large_arrays(buffer: Any) -> dict[str, Array]:
    """
    Find what a buffer stores transitions in.

    :param buffer: Replay buffer
    :return: Name -> array; entries of dictionaries as "attribute.key"
    """
    found: dict[str, Array] = {}
    for prefix, owner in owners(buffer).items():
        for attribute, value in vars(owner).items():
            name = f"{prefix}{attribute}"
            entries = {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
            # All entries or none: a dictionary is stored in one place.
            is_stored = all(_is_array(entry) for entry in entries.values())
            if is_stored and sum(entry.nbytes for entry in entries.values()) >= _SMALL:
                found.update(entries)
    return found


def _rings(buffer: Any) -> dict[str, tuple[int, int]]:
    if isinstance(buffer, WrittenInRings):
        return buffer.checkpoint_rings()
    filled = buffer.buffer_size if buffer.full else buffer.pos
    if not buffer.full and isinstance(buffer, ReplayBuffer) and buffer.optimize_memory_usage:
        filled = min(filled + 1, buffer.buffer_size)
    arrays = large_arrays(buffer)
    names = [name for name in arrays if name.split(".")[0] in _RINGS and len(arrays[name]) == buffer.buffer_size]
    return {name: (buffer.pos, filled) for name in names}


def _is_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0 and value.dtype != object and value.flags.c_contiguous
    return isinstance(value, th.Tensor) and value.ndim > 0 and value.is_contiguous()


def _pieces(group: Group, start: int, stop: int) -> Iterator[Any]:
    for array in group.arrays.values():
        yield _as_bytes(array[start:stop])


def _as_bytes(array: Array) -> np.ndarray:
    """The array's memory, as a copy only where it lies on another device."""
    if isinstance(array, th.Tensor):
        array = array.detach().cpu().contiguous().view(-1).view(th.uint8).numpy()
    return array.reshape(-1).view(np.uint8)


def _sum(group: Group, start: int, stop: int) -> int:
    """A number that another content would hardly have: rows in rings are known to change by their position as well."""
    total = 0
    for array in group.arrays.values():
        part = array[start:stop]
        if group.written is None:
            total = zlib.crc32(_as_bytes(part).data, total)
        elif isinstance(part, th.Tensor):
            total += int(part.reshape(-1).view(th.uint8).sum(dtype=th.int64))
        else:
            flat = _as_bytes(part)
            words = len(flat) // 8 * 8
            total += int(flat[:words].view(np.uint64).sum()) + int(flat[words:].sum())
    return total


def _read_segment(group: Group, start: int, rows: int, content: bytes) -> None:
    position = 0
    for array in group.arrays.values():
        part = array[start : start + rows]
        piece = np.frombuffer(content, np.uint8, part.nbytes, position)
        position += len(piece)
        if isinstance(part, th.Tensor):
            part.copy_(th.from_numpy(piece.copy()).view(part.dtype).view(part.shape))
        else:
            _as_bytes(part)[:] = piece
    if position != len(content):
        raise DamagedCheckpointError(f"Rows of {list(group.arrays)} have {len(content)} bytes instead of {position}.")
