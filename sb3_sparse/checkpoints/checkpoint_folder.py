"""Files of checkpoints: written as a whole or not at all, and told apart from damaged ones by checksums."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError

FORMAT = 3
_MANIFEST = "checkpoint-{:06d}.json"
_LOCK = "lock"
# Beginnings of the names of files that belong to checkpoints.
STATE, WEIGHTS, ROWS = "state", "weights", "replay"
_STATE = STATE + "-{:06d}.pkl"
# Folders that this process holds: a lock excludes other processes, not the next run of this one.
_HELD: dict[Path, FileLock] = {}

Bytes = bytes | memoryview


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing, cut off, or altered."""


@dataclass(frozen=True)
class FileRecord:
    """
    What a manifest knows of a file.

    :param name: Name within the folder
    :param bytes: Size
    :param checksum: Of its content
    """

    name: str
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """
    A checkpoint: the file that appears last and names all others.

    :param number: Checkpoints of a folder are numbered
    :param num_timesteps: Agent steps of the model
    :param total_timesteps: Agent steps that training was asked for; its last rollout may go beyond
    :param fingerprint: What the run was made with
    :param files: "state" and "weights" -> file
    :param rows: Where the rows of the replay buffer are
    """

    number: int
    num_timesteps: int
    total_timesteps: int
    fingerprint: dict[str, Any]
    files: dict[str, FileRecord]
    rows: dict[str, Any]

    def records(self) -> list[FileRecord]:
        """All files of the checkpoint."""
        segments = [segment for group in self.rows.values() for segment in group["segments"]]
        return [*self.files.values(), *(FileRecord(**segment["file"]) for segment in segments)]


class CheckpointFolder:
    """
    A folder of checkpoints, for one run at a time.

    Every file is written under another name, flushed to the disk and renamed; the manifest comes last. Files that no manifest
    names are deleted after a new checkpoint is whole.

    :param path: Folder, made if missing
    :param keep: Checkpoints to keep, at least 1
    """

    def __init__(self, path: Path, keep: int = 2):
        self.path, self.keep = path.resolve(), keep
        # Manifests that were found to be damaged; the next checkpoint replaces them.
        self._damaged: set[Path] = set()

    def acquire(self) -> None:
        """
        Make the folder and keep other processes from writing to it, until :meth:`release` or the end of the process.

        :raises CheckpointError: if another process has it, or it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = _HELD.setdefault(self.path, FileLock(self.path / _LOCK))
            lock.acquire(timeout=0)
            self._write_bytes("probe", [b"x"])
            (self.path / "probe").unlink()
        except Timeout:
            raise CheckpointError(
                f"Another process writes checkpoints to {self.path}: give every run a folder of its own, or wait for its end."
            ) from None
        except OSError as error:
            raise CheckpointError(f"Checkpoints cannot be written to {self.path}: {error}. Choose another folder.") from error

    def release(self) -> None:
        """Let others write to the folder."""
        lock = _HELD.pop(self.path, None)
        if lock is not None:
            lock.release(force=True)

    def manifests(self) -> list[Path]:
        """Files of manifests, the newest one first."""
        return sorted(self.path.glob(_MANIFEST.format(0).replace("000000", "*")), reverse=True)

    def newest(self) -> Manifest | None:
        """
        Find the newest checkpoint that is whole; damaged ones are skipped with a warning each.

        :return: None if there never was one
        :raises CheckpointError: if there are checkpoints, or were, and all are damaged.
        """
        manifests = self.manifests()
        for path in manifests:
            try:
                manifest = self._read(path)
                for record in manifest.records():
                    self.check(record)
                return manifest
            except DamagedCheckpointError as error:
                self._damaged.add(path)
                warnings.warn(f"The checkpoint {path} is damaged and skipped: {error}", stacklevel=2)
        if manifests:
            raise CheckpointError(
                f"None of the {len(manifests)} checkpoints in {self.path} is whole, so the run cannot go on. To begin it "
                "anew, delete the folder, or give another one."
            )
        self._refuse_loss()
        return None

    def _refuse_loss(self) -> None:
        """Files of a first checkpoint that was never completed may be there without a manifest, those of later ones not."""
        later = [path.name for path in self.path.glob(f"{STATE}-*") if path.name != _STATE.format(1)]
        if later:
            raise CheckpointError(
                f"{self.path} has files of a checkpoint ({later[0]}) but none that names them, so the run cannot go on. To "
                "begin it anew, delete the folder, or give another one."
            )

    def check(self, record: FileRecord) -> None:
        """
        Compare a file with what its manifest says.

        :param record: The file
        :raises DamagedCheckpointError: if it is missing or another.
        """
        path = self.path / record.name
        try:
            size = path.stat().st_size
            if size != record.bytes:
                raise DamagedCheckpointError(f"{record.name} has {size} bytes instead of {record.bytes}.")
            checksum = _checksum_of_file(path)
        except OSError as error:
            raise DamagedCheckpointError(f"{record.name} cannot be read: {error}.") from error
        if checksum != record.checksum:
            raise DamagedCheckpointError(f"The checksum of {record.name} is not the one it was written with.")

    def read(self, record: FileRecord) -> bytes:
        """
        :param record: A file that was checked
        :return: Its content
        """
        return (self.path / record.name).read_bytes()

    def next_number(self) -> int:
        """Number of the next checkpoint."""
        manifests = self.manifests()
        return 1 + (int(manifests[0].stem.split("-")[1]) if manifests else 0)

    def write(self, name: str, chunks: Iterable[Bytes]) -> FileRecord:
        """
        Write a file, which is on the disk as a whole afterwards.

        :param name: Name within the folder
        :param chunks: Content, in pieces
        :raises OSError: if that fails; there is no such file then.
        """
        return self._write_bytes(name, chunks)

    def commit(self, manifest: Manifest) -> None:
        """
        Make a checkpoint of files that were written, then delete what is no longer needed.

        :param manifest: The checkpoint
        :raises OSError: if it cannot be written; the former checkpoints are as they were.
        """
        body = asdict(manifest)
        text = json.dumps({"format": FORMAT, "checksum": _checksum_of(body), "checkpoint": body}, indent=1)
        self._write_bytes(_MANIFEST.format(manifest.number), [text.encode()])
        self._tidy()

    def discard(self) -> None:
        """Delete files of a checkpoint that could not be completed."""
        self._tidy(expired=())

    def free(self) -> bool:
        """
        Delete all checkpoints but the newest whole one.

        :return: Whether there were any
        """
        older = [path for path in self.manifests() if path not in self._damaged][1:]
        self._tidy([*self._damaged, *older])
        return bool(older)

    def has(self, record: FileRecord) -> bool:
        """
        :param record: A file that was written
        :return: Whether it is still there
        """
        return (self.path / record.name).exists()

    def _tidy(self, expired: Iterable[Path] | None = None) -> None:
        try:
            self._sweep(expired)
        except OSError as error:  # what is left over does no harm, and the next checkpoint tries again
            warnings.warn(f"Old files in {self.path} could not be deleted: {error}.", stacklevel=2)

    def _sweep(self, expired: Iterable[Path] | None = None) -> None:
        """Delete manifests that are out of date (by default damaged ones and all but the newest), and files none names."""
        if expired is None:
            whole = [path for path in self.manifests() if path not in self._damaged]
            expired = [*self._damaged, *whole[self.keep :]]
        for path in expired:
            path.unlink(missing_ok=True)
            self._damaged.discard(path)
        named: set[str] = set()
        for path in self.manifests():
            try:
                named.update(record.name for record in self._read(path).records())
            except DamagedCheckpointError:
                self._damaged.add(path)
        for path in self.path.iterdir():
            is_ours = path.name.startswith((STATE + "-", WEIGHTS + "-", ROWS + "-", ".partial-"))
            if is_ours and path.name not in named:
                path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Manifest:
        try:
            content = json.loads(path.read_bytes())
            body, checksum, version = content["checkpoint"], content["checksum"], content["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpointError(f"its manifest cannot be read ({error}).") from error
        if version != FORMAT:
            raise CheckpointError(
                f"{path} has format {version}; this version of sb3-sparse reads format {FORMAT}. Go on with the version that "
                "wrote it, or begin anew in another folder."
            )
        if checksum != _checksum_of(body):
            raise DamagedCheckpointError("its manifest was altered.")
        files = {key: FileRecord(**record) for key, record in body["files"].items()}
        return Manifest(**{**body, "files": files})

    def _write_bytes(self, name: str, chunks: Iterable[Bytes]) -> FileRecord:
        path, partial = self.path / name, self.path / f".partial-{name}"
        checksum, size = _hash(), 0
        try:
            with partial.open("wb") as file:
                for chunk in chunks:
                    checksum.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            self._sync()
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return FileRecord(name, size, checksum.hexdigest())

    def _sync(self) -> None:
        """Have the names of the folder's files on the disk, too."""
        if os.name != "posix":  # Windows cannot open folders
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _hash(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)


def _checksum_of_file(path: Path) -> str:
    found = _hash()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def _checksum_of(body: Mapping[str, Any]) -> str:
    return _hash(json.dumps(body, sort_keys=True).encode()).hexdigest()
