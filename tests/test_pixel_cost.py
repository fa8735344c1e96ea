"""The benchmark of images, from the command line down."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sb3_sparse.cli.command_line import main
from sb3_sparse.envs import NoRendererError
from sb3_sparse.experiments.benchmarks import pixel_cost as module
from sb3_sparse.experiments.benchmarks.pixel_cost import ACTIONS, PIXELS, PixelCost, format_pixels, pixel_cost

pytest.importorskip("dm_control", reason="needs the extra dmc")
SMALL = partial(pixel_cost, rounds=1, tasks=[("cartpole", "swingup")], steps=1, filled=50)


def costs_or_skip() -> list[PixelCost]:
    try:
        return SMALL()
    except NoRendererError as error:
        pytest.skip(str(error))


def test_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 1)
    costs = costs_or_skip()
    kinds = {(cost.what, cost.unit) for cost in costs}
    assert {"cartpole-swingup", "sending an observation", "a transition", "a batch of 256"} == {what for what, _ in kinds}
    assert all(value > 0 for cost in costs for value in cost.values)
    sizes = {cost.variant: cost.values[0] for cost in costs if cost.unit == "bytes"}
    assert 21_168 < sizes["FrameReplayBuffer"] < 22_500
    # Two stacks, twelve float32 actions, and float32 reward, done and time-out.
    assert sizes["SB3's ReplayBuffer"] == 2 * 9 * 84 * 84 + 4 * 15


def test_the_buffer_is_filled_with_whole_stacks() -> None:
    """So that what is measured is what training does."""
    buffer = module.FrameReplayBuffer(600, PIXELS, ACTIONS, "cpu", frame_stack=3, n_steps=3, partial_returns=False)
    module._filling(buffer, 600)()
    starts = buffer.is_start(module.th.arange(600)).numpy()
    assert np.flatnonzero(~starts).tolist() == [498, 499, 598, 599]


def test_table() -> None:
    costs = [PixelCost("a", "b", "ms", [3.0, 1.0, 2.0]), PixelCost("c", "d", "bytes", [22_110.4])]
    assert format_pixels(costs).splitlines()[2:] == ["| a | b | 2 (1 to 3) | ms |", "| c | d | 22,110 | bytes |"]


def test_refuses_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
        pixel_cost(rounds=0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    costs_or_skip()
    monkeypatch.setattr(module, "pixel_cost", lambda rounds: SMALL(rounds=rounds))
    path = tmp_path / "pixels.json"
    assert main(["bench", "pixels", "--rounds", "2", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert len(written[0]["values"]) == 2
    assert "| cartpole-swingup | exact |" in capsys.readouterr().out


def test_command_without_a_renderer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rounds: int) -> None:
        raise NoRendererError("dm_control cannot draw images")

    monkeypatch.setattr(module, "pixel_cost", refuse)
    assert main(["bench", "pixels"]) == 1
    assert "sb3-sparse: dm_control cannot draw images" in capsys.readouterr().err
