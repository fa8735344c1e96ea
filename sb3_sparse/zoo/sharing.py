"""Models to the Hugging Face Hub and back by the RL Zoo's own commands, repaired where its dependencies have moved on."""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sb3_sparse.installation import import_extra
from sb3_sparse.zoo.model_card import SharedModel, complete_card


class SharingError(Exception):
    """What a user can mend; the message says how."""


@contextmanager
def pushing() -> Iterator[None]:
    """
    Have ``rl_zoo3.push_to_hub`` work while this is open, and complete the cards of sparse models before it uploads them.

    :raises SharingError: if there is no such model, or the Hub refuses or cannot be reached.
    """
    utils = _module("rl_zoo3.utils")
    replay = _module("huggingface_sb3.push_to_hub")
    api = _module("huggingface_hub").HfApi
    sources: list[Path] = []
    with ExitStack() as stack:
        stack.enter_context(_explaining_refusals())
        stack.enter_context(_generate_metadata())
        stack.enter_context(_ffmpeg())
        stack.enter_context(_replaced(replay, "_generate_replay", _explaining_video(replay._generate_replay)))
        stack.enter_context(_replaced(utils, "get_model_path", _noting(_explaining_path(utils.get_model_path), sources)))
        stack.enter_context(_replaced(api, "upload_folder", _completing(api.upload_folder, sources)))
        yield


@contextmanager
def finding_model() -> Iterator[None]:
    """
    Have ``rl_zoo3.enjoy`` and ``rl_zoo3.record_video`` say what to do where there is no such model.

    :raises SharingError: if there is none, or the Hub, where the zoo looks for its own, cannot be reached.
    """
    utils = _module("rl_zoo3.utils")
    with _explaining_refusals(), _replaced(utils, "get_model_path", _explaining_path(utils.get_model_path)):
        yield


@contextmanager
def pulling() -> Iterator[None]:
    """
    Have ``rl_zoo3.load_from_hub`` work while this is open.

    :raises SharingError: if the Hub does not have the model, its author is not trusted, or there is a run in its place.
    """
    hub = _module("huggingface_sb3")
    with _explaining_refusals(), _replaced(hub, "load_from_hub", _raising_as_requests(hub.load_from_hub)):
        try:
            yield
        except ValueError as error:  # the zoo's own, and all that it does is download and copy
            raise SharingError(str(error)) from error


def _module(name: str) -> Any:
    try:
        return import_extra(name, "zoo")
    except ImportError as error:
        raise SharingError(str(error)) from error


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    missing = object()
    original = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if original is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


@contextmanager
def _explaining_refusals() -> Iterator[None]:
    errors = _module("huggingface_hub.errors")
    # The base of all that goes wrong on the way there, of whichever HTTP client huggingface_hub uses.
    network_error = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except (network_error, errors.EntryNotFoundError) as error:
        raise SharingError(f"{error}\n{_hint(error)}".rstrip()) from error


def _hint(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is None:
        endpoint = _module("huggingface_hub.constants").ENDPOINT
        return f"Is there a connection to {endpoint}?"
    if response.status_code in (401, 403):
        return "Log in with `hf auth login`, or set HF_TOKEN to a token that may write to the organization given by -orga."
    return ""


@contextmanager
def _generate_metadata() -> Iterator[None]:
    """
    rl_zoo3 2.9 imports ``generate_metadata`` and saves a dictionary, but sb3-team-hf-integration 3.2 calls it
    ``_generate_metadata`` and returns an object.
    """
    module = _module("huggingface_sb3.push_to_hub")
    if hasattr(module, "generate_metadata"):
        yield
        return

    def generate_metadata(*args: Any) -> dict[str, Any]:
        return module._generate_metadata(*args).to_dict()

    with _replaced(module, "generate_metadata", generate_metadata):
        yield


@contextmanager
def _ffmpeg() -> Iterator[None]:
    """The zoo calls the program ffmpeg, and without one leaves out the video without a word; moviepy brings one along."""
    if shutil.which("ffmpeg"):
        yield
        return
    program = Path(_module("imageio_ffmpeg").get_ffmpeg_exe())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(program, Path(folder, "ffmpeg").with_suffix(program.suffix if os.name == "nt" else ""))
        with _replaced_path(f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"):
            yield


@contextmanager
def _replaced_path(path: str) -> Iterator[None]:
    before = os.environ.get("PATH")
    os.environ["PATH"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _explaining_video(generate_replay: Callable) -> Callable:
    @functools.wraps(generate_replay)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            generate_replay(*args, **kwargs)
        except Exception as error:
            hint = "Give --no-render to do without, or set MUJOCO_GL to egl or osmesa on a machine without a display."
            raise SharingError(f"The video of the agent could not be made: {error}\n{hint}") from error

    return wrapped


def _noting(get_model_path: Callable, sources: list[Path]) -> Callable:
    """Remember which file of the run is shared."""

    @functools.wraps(get_model_path)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[str, str, str]:
        found = get_model_path(*args, **kwargs)
        sources.append(Path(found[1]))
        return found

    return wrapped


def _explaining_path(get_model_path: Callable) -> Callable:
    @functools.wraps(get_model_path)
    def wrapped(exp_id: int, folder: str, *args: Any, **kwargs: Any) -> tuple[str, str, str]:
        try:
            return get_model_path(exp_id, folder, *args, **kwargs)
        except (AssertionError, ValueError) as error:
            if "rl-trained-agents" in folder:  # the zoo catches this, and downloads the model
                raise
            raise SharingError(
                f"{error}\nThere is no such model: train it with `sb3-sparse train`, or correct -f, --algo, --env."
            ) from error

    return wrapped


def _completing(upload_folder: Callable, sources: list[Path]) -> Callable:
    """Complete the card just before the upload, when all else is in the folder."""

    @functools.wraps(upload_folder)
    def wrapped(self: Any, *, repo_id: str, folder_path: Path, **kwargs: Any) -> Any:
        complete_card(SharedModel(Path(folder_path), repo_id, sources[-1]))
        return upload_folder(self, repo_id=repo_id, folder_path=folder_path, **kwargs)

    return wrapped


def _raising_as_requests(load_from_hub: Callable) -> Callable:
    """
    rl_zoo3 2.9 tries to download ``vec_normalize.pkl`` and expects the error of requests where there is none, but
    huggingface_hub has its errors from another HTTP client since 1.0.
    """
    errors = _module("huggingface_hub.errors")
    http_error = _module("requests.exceptions").HTTPError

    @functools.wraps(load_from_hub)
    def wrapped(repo_id: str, filename: str) -> str:
        try:
            return load_from_hub(repo_id, filename)
        except errors.EntryNotFoundError as error:
            if filename != "vec_normalize.pkl" or isinstance(error, errors.LocalEntryNotFoundError):
                raise
            raise http_error(str(error)) from error

    return wrapped
