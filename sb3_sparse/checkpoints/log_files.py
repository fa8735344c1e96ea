"""Log files of a run: lines after the checkpoint are dropped when it goes on."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, JSONOutputFormat, KVWriter, Logger
from stable_baselines3.common.monitor import ResultsWriter

from sb3_sparse.checkpoints.checkpoint_error import CheckpointError

_EVENTS = "events.out.tfevents.*"


class LogFiles:
    """
    The files of a logger and of Monitors. Starting a run anew has truncated those of SB3, so their content is part of a
    checkpoint; TensorBoard's files stay where they are, are cut to their length at the checkpoint, and new ones are written
    beside them.

    :param logger: The model's logger
    :param monitors: Files of Monitors
    :param files: Other files, which are written as a whole
    """

    def __init__(self, logger: Logger, monitors: Iterable[ResultsWriter], files: Iterable[Path]):
        self.logger, self.monitors, self.files = logger, list(monitors), list(files)

    def capture(self) -> dict[str, Any]:
        """What :meth:`restore` needs."""
        logger = self.logger
        return {
            "pending": (dict(logger.name_to_value), dict(logger.name_to_count), dict(logger.name_to_excluded)),
            "outputs": [_capture_output(output) for output in logger.output_formats],
            "monitors": [file_content(writer.file_handler) for writer in self.monitors],
            "files": [path.read_bytes() if path.exists() else None for path in self.files],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Bring logger and files to where they were.

        :param state: What :meth:`capture` returned
        :raises CheckpointError: if the logger has other outputs than it had.
        """
        logger, kinds = self.logger, [type(output).__name__ for output in self.logger.output_formats]
        before = [output["kind"] for output in state["outputs"]]
        if kinds != before or len(self.monitors) != len(state["monitors"]):
            raise CheckpointError(
                f"The run logged to {before} and {len(state['monitors'])} monitor files, now to {kinds} and "
                f"{len(self.monitors)}: configure the same ones."
            )
        pending: list[Any] = [logger.name_to_value, logger.name_to_count, logger.name_to_excluded]
        for values, stored in zip(pending, state["pending"], strict=True):
            values.clear()
            values.update(stored)
        for output, entry in zip(logger.output_formats, state["outputs"], strict=True):
            _restore_output(output, entry, logger)
        for writer, content in zip(self.monitors, state["monitors"], strict=True):
            rewrite_file(writer.file_handler, content)
        for path, content in zip(self.files, state["files"], strict=True):
            if content is not None:
                path.write_bytes(content)


def _capture_output(output: KVWriter) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": type(output).__name__}
    if _has_own_file(output):
        entry["content"] = file_content(output.file)  # type: ignore[attr-defined]
    if isinstance(output, CSVOutputFormat):
        entry["keys"] = list(output.keys)
    if type(output).__name__ == "TensorBoardOutputFormat":
        output.writer.flush()  # type: ignore[attr-defined]
        folder = Path(output.writer.log_dir).resolve()  # type: ignore[attr-defined]
        entry["folder"], entry["sizes"] = str(folder), {path.name: path.stat().st_size for path in folder.glob(_EVENTS)}
    return entry


def _restore_output(output: Any, entry: Mapping[str, Any], logger: Logger) -> None:
    if "content" in entry:
        rewrite_file(output.file, entry["content"])
    if "keys" in entry:
        output.keys = list(entry["keys"])
    if "folder" in entry:
        _continue_events(output, Path(entry["folder"]), entry["sizes"], logger)


def _has_own_file(output: KVWriter) -> bool:
    return isinstance(output, CSVOutputFormat | JSONOutputFormat) or (
        isinstance(output, HumanOutputFormat) and output.own_file
    )


def file_content(file: Any) -> str:
    file.flush()
    return Path(file.name).read_text()


def rewrite_file(file: Any, content: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(content)
    file.flush()


def _continue_events(output: Any, folder: Path, sizes: Mapping[str, int], logger: Logger) -> None:
    """Cut a run's old event files and write on beside them, not in the folder that was made for this process."""
    from torch.utils.tensorboard import SummaryWriter  # needs TensorBoard

    new = Path(output.writer.log_dir).resolve()
    if not folder.is_dir():
        return  # deleted, or on another machine: what comes is all there will be
    if new != folder:
        output.writer.close()
        _remove_events(new)
    for path in folder.glob(_EVENTS):
        if path.name in sizes:
            os.truncate(path, min(sizes[path.name], path.stat().st_size))
        elif new != folder or path.name != Path(output.writer.file_writer.event_writer._file_name).name:
            path.unlink()
    if new != folder:
        output.writer = SummaryWriter(log_dir=str(folder))
        logger.dir = str(folder) if logger.dir is not None and Path(logger.dir).resolve() == new else logger.dir


def _remove_events(folder: Path) -> None:
    for path in folder.glob(_EVENTS):
        path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
