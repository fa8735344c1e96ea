"""The paper's figures and the report, from made-up results whose numbers are known."""

import itertools
import math
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_sparse.experiments.figures import panels as drawing
from sb3_sparse.experiments.figures import scaling_figures
from sb3_sparse.experiments.figures.aggregation import aggregate
from sb3_sparse.experiments.figures.grid_figures import FIGURES, draw_figure
from sb3_sparse.experiments.figures.panels import Panels, styles
from sb3_sparse.experiments.figures.references import atari_scores
from sb3_sparse.experiments.figures.report import _published, write_report
from sb3_sparse.experiments.sweep.grid import Grid, figure_grid
from sb3_sparse.experiments.sweep.grid_results import GridResults
from sb3_sparse.experiments.sweep.grid_run import GridRun
from sb3_sparse.experiments.sweep.grid_table import MEASURED, PROVENANCE
from sb3_sparse.experiments.sweep.results_folder import ResultsFolder
from sb3_sparse.experiments.sweep.shipped_grids import figures

pytest.importorskip("dm_control")
pytest.importorskip("yaml")
pytest.importorskip("rliable")
image = pytest.importorskip("matplotlib.image")

POINTS = (100, 200, 1_000)


def lines_of(run: GridRun, value: Callable[[GridRun, int], float], **changes: Any) -> list[dict[str, Any]]:
    settings = {
        "run": run.id,
        "algo": run.algorithm,
        "task": run.task,
        "label": run.label,
        "seed": run.seed,
        "sparsity": run.sparsity,
        "parameters": int(4.36e6 * float(run.policy.get("width_scale", 1)) ** 2 * float(run.policy.get("depth_scale", 1))),
        "active_parameters": 10**6,
        "simplicity_bias": 6.0 + run.sparsity,
        "total_env_steps": POINTS[-1],
        **dict.fromkeys(PROVENANCE, "1"),
    }
    return [
        {**settings, "env_steps": step, "return_mean": value(run, step), **dict.fromkeys(MEASURED, 0.5), **changes}
        for step in POINTS
    ]


def made_up(
    grid: Grid, value: Callable[[GridRun, int], float], more: Callable[[GridRun, int], dict[str, float]] = lambda *_: {}
) -> GridResults:
    made = [{**line, **more(run, line["env_steps"])} for run in grid.runs for line in lines_of(run, value)]
    table = [{key: str(item) for key, item in line.items()} for line in made]
    return GridResults.select(grid, [{**dict.fromkeys(MEASURED, ""), **line} for line in table])


def height(run: GridRun, step: int) -> float:
    return step * (1 + run.sparsity) / 10 + run.seed


def with_matrices(grid: Grid, folder: Path) -> Path:
    for run in grid.runs:
        zoo = folder / run.id / run.algorithm / "task_1"
        zoo.mkdir(parents=True)
        (zoo / "plasticity.csv").write_text(
            "agent_steps,env_steps,updates,network,layer,metric,value\n50,100,1,critic,,srank,3\n"
        )
        (zoo / "0.monitor.csv").write_text('#{"t_start": 0.0, "env_id": "Pendulum-v1"}\nr,l,t\n')
        for step, network in itertools.product((0, 50), ("critic", "actor")):
            cosine = (0.1 if network == "critic" else 0.3) + 0.2 * run.seed + step / 1_000
            matrix = np.where(np.eye(4) == 1, 1.0, -cosine)
            np.savez(zoo / f"plasticity-covariance-{network}-{step}.npz", matrix=matrix)
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Panels]:
    """The panels of all figures that are drawn."""
    kept: list[Panels] = []
    original = Panels.save

    def save(self: Panels, *args: Any, **kwargs: Any) -> list[Path]:
        kept.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Panels, "save", save)
    return kept


def lifelike(run: GridRun, step: int) -> float:
    """Returns of the size that they have, so that figures get the room that they need."""
    width = float(run.policy.get("width", 128 * float(run.policy.get("width_scale", 1))))
    noise = np.random.default_rng([run.seed, step, len(run.task), int(10 * run.sparsity), int(10 * width)]).normal(0, 25)
    return float(900 * (1 - math.exp(-3 * step / POINTS[-1])) * (0.4 + 0.5 * run.sparsity * width / 1024) + noise)


def measured(run: GridRun, step: int) -> dict[str, float]:
    value = lifelike(run, step) / 1_000
    return {column: value * (1 + i % 3) + 0.1 for i, column in enumerate(MEASURED)}


def clashes(panels: Panels) -> list[str]:
    """Texts that leave the canvas or overlap another."""
    renderer = panels.figure._get_renderer()
    panels.figure.draw(renderer)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(panels)]
    canvas = panels.figure.bbox
    found = [f"{text!r} leaves the canvas" for text, box in boxes if not inside(box, canvas)]
    for (text, box), (other, its) in itertools.combinations(boxes, 2):
        # A pixel is less than the space between two lines.
        width = min(box.x1, its.x1) - max(box.x0, its.x0)
        height_ = min(box.y1, its.y1) - max(box.y0, its.y0)
        found += [f"{text!r} overlaps {other!r}"] if width > 1 and height_ > 1 else []
    return found


def inside(box: Any, canvas: Any) -> bool:
    return bool(min(box.x0 - canvas.x0, box.y0 - canvas.y0, canvas.x1 - box.x1, canvas.y1 - box.y1) > -1)


def texts(panels: Panels) -> list[Any]:
    """All that is written, without ticks beyond the ends of axes, which are not drawn."""
    kept = [found for legend in panels.figure.legends for found in (*legend.get_texts(), legend.get_title())]
    kept += [panels.figure._suptitle]
    for axes in panels.figure.axes:
        kept += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts] if axes.get_visible() else []
        for axis in (axes.xaxis, axes.yaxis) if axes.get_visible() else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            kept += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
            kept += [axis.get_offset_text()]
    return [text for text in kept if text is not None and text.get_visible() and text.get_text()]


@pytest.mark.parametrize("number", figures())
def test_every_figure_can_be_read(number: int, tmp_path: Path, drawn: list[Panels], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the paper's full grid: no text leaves the canvas or lies on another."""
    monkeypatch.setattr(drawing, "FORMATS", ("png",))
    monkeypatch.setattr(scaling_figures, "aggregate", partial(aggregate, resamples=20))
    grid = figure_grid(number, "full")
    runs = with_matrices(grid, tmp_path / "runs") if number == 9 else tmp_path
    for file in draw_figure(made_up(grid, lifelike, measured), runs, tmp_path / "figure"):
        assert file.stat().st_size > 3_000
    assert image.imread(tmp_path / "figure.png")[..., :3].std() > 0.01
    assert clashes(drawn[0]) == []
    seeds = {len({run.seed for run in grid.runs})}
    assert number == 9 or drawn[0].seeds == seeds
    assert "±" in texts_of(drawn[0]) or "95 %" in texts_of(drawn[0])


def texts_of(panels: Panels) -> str:
    return " ".join(text.get_text() for text in texts(panels))


def test_clashes_of_texts_are_found(tmp_path: Path) -> None:
    panels = Panels(1)
    axis = panels.axes[0]
    axis.plot([0, 1e6], [0, 1])
    axis.set_xticks(np.linspace(0, 1e6, 9), [f"{tick:,.0f} steps" for tick in np.linspace(0, 1e6, 9)])
    axis.text(0.9, 0.5, "a long text beside the panel", transform=axis.transAxes, in_layout=False)
    found = clashes(panels)
    assert any("leaves the canvas" in clash for clash in found) and any("steps' overlaps '" in clash for clash in found)


def test_no_two_lines_of_a_figure_look_alike() -> None:
    sparsities = {"a": 0.0, "b": 0.9, "c": 0.0, "d": 0.5, "e": 0.9, "f": None, "SparseInit": 0.0}
    looks = styles(sparsities)
    assert list(looks) == list(sparsities)
    assert len({look["color"] for look in looks.values()}) == len(looks) - 0
    assert len({str(look) for look in styles({i: 0.1 * i for i in range(9)}).values()}) == 9


def curves(panels: Panels, axis: int = 0) -> Mapping[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in panels.axes[axis].lines}


def test_figure_3_shows_final_returns_against_sparsity(tmp_path: Path, drawn: list[Panels]) -> None:
    grid = figure_grid(3, "smoke")
    draw_figure(made_up(grid, height), tmp_path, tmp_path / "figure")
    found = curves(drawn[0])
    assert list(found) == ["w = 0.125, about 68k parameters", "w = 0.25, about 270k parameters"]
    assert found["w = 0.25, about 270k parameters"] == (
        [0.0, 0.5, 0.8],
        pytest.approx([100.0, 150.0, 180.0]),
    )  # of the last tenth only


def test_final_returns_are_those_of_the_evaluation_at_the_end(tmp_path: Path, drawn: list[Panels]) -> None:
    grid = figure_grid(3, "smoke")
    final = {"final_return_mean": 700.0, "final_episodes": 100}
    table = [
        {key: str(item) for key, item in {**line, **final}.items()} for run in grid.runs for line in lines_of(run, height)
    ]
    results = GridResults.select(grid, table)
    assert {results.final(run) for run in grid.runs} == {700.0} and results.final(grid.runs[0], "critic_srank") == 0.5
    draw_figure(results, tmp_path, tmp_path / "figure")
    assert {y for _, values in curves(drawn[0]).values() for y in values} == {700.0}
    assert drawn[0].axes[0].get_ylabel() == "return, 100 episodes at the end"


def test_figure_9_averages_interference_of_both_networks_over_all_seeds(tmp_path: Path, drawn: list[Panels]) -> None:
    grid = figure_grid(9, "short")
    draw_figure(made_up(grid, height), with_matrices(grid, tmp_path / "runs"), tmp_path / "figure")
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert len(titles) == 2 * 2 * 2 and len({run.seed for run in grid.runs}) == 2
    assert [title.startswith("critic") for title in titles] == [True] * 4 + [False] * 4
    assert all("mean |cosine| 0.200 ± 0.100 (2 runs)" in title for title in titles[0:4:2])
    assert all("mean |cosine| 0.400 ± 0.100 (2 runs)" in title for title in titles[4:8:2])


def test_figures_2_and_16_begin_the_sparse_line_at_the_anchor(tmp_path: Path, drawn: list[Panels]) -> None:
    draw_figure(made_up(figure_grid(2, "smoke"), height), tmp_path, tmp_path / "figure")
    width, depth = curves(drawn[0], 0), curves(drawn[0], 1)
    assert width["dense"][0] == [0.0625, 0.125, 0.25] and width["sparse, equal parameters"][0] == [0.125, 0.25]
    assert depth["dense"][0] == [1.0, 2.0] and depth["sparse, equal parameters"][0] == [1.0, 2.0]
    assert width["sparse, equal parameters"][1][0] == pytest.approx(0.1)  # divided by 1000
    assert width["sparse, equal parameters"][1][1] == pytest.approx(0.1 * (1 + 0.747), abs=0.001)


def test_figure_8_shows_gains_over_the_dense_network(tmp_path: Path, drawn: list[Panels]) -> None:
    draw_figure(made_up(figure_grid(8, "smoke"), height), tmp_path, tmp_path / "figure")
    assert next(iter(curves(drawn[0], 0).values()))[1] == pytest.approx([6.0, 6.5, 6.8])
    assert next(iter(curves(drawn[0], 1).values()))[1] == pytest.approx([0.0, 50.0, 80.0])


def test_figure_18_shows_improvements_over_the_first_arm(tmp_path: Path, drawn: list[Panels]) -> None:
    draw_figure(made_up(figure_grid(18, "smoke"), height), tmp_path, tmp_path / "figure")
    bars = [round(patch.get_height()) for patch in drawn[0].axes[0].patches]
    assert bars == [0, 40, 80]


def test_figure_18_says_where_there_is_no_percentage(tmp_path: Path, drawn: list[Panels]) -> None:
    draw_figure(made_up(figure_grid(18, "smoke"), lambda run, step: run.sparsity), tmp_path, tmp_path / "figure")
    axis = drawn[0].axes[0]
    assert not axis.patches and axis.get_title().replace("\n", " ").endswith(
        "which scores 0, so that there is no percentage, in Breakout"
    )
    assert drawn[0].figure.legends == []


def test_published_results_are_drawn_behind_ours_where_they_overlap(tmp_path: Path, drawn: list[Panels]) -> None:
    runs = tuple(GridRun("sac", "dm_control/dog-walk-v0", seed=seed, agent_steps=500) for seed in (0, 1))
    for scale in (1, 200):
        grid = Grid("own", None, "Own", runs)
        results = made_up(grid, height)
        for lines in results.lines.values():
            for line in lines:
                line["env_steps"] = str(int(line["env_steps"]) * scale)
        draw_figure(results, tmp_path, tmp_path / "figure")
    labels = [" ".join(curves(panels)) for panels in drawn]
    assert "SimBa's own" not in labels[0] and "published: SimBa's own SAC, dense, w = 1, 15 seeds, to " in labels[1]


def test_problems_are_reported_and_not_hidden(tmp_path: Path) -> None:
    grid = figure_grid(13, "short")
    results = made_up(grid, lambda run, step: math.nan if run.seed == 1 and run.sparsity else height(run, step))
    kept = {run.id: results.lines[run.id] for run in grid.runs[:-1]}
    problems = GridResults(grid, kept).problems()
    assert [problem.partition(":")[0] for problem in problems[:2]] == [
        "1 of 18 runs are missing",
        "2 runs end in a return that is no number",
    ]
    assert problems[2].startswith("Numbers of seeds are unequal") and "1 with 2, 5 with 3" in problems[2]
    assert grid.runs[-1].id in problems[0]
    scores = GridResults(grid, kept).scores(run for run in grid.runs if run.label == "width = 512, S = 0.9")
    assert set(scores["Walker2d-v4"]) == {0, 2}
    draw_figure(GridResults(grid, kept), tmp_path, tmp_path / "figure")
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_figure(GridResults(grid, {}), tmp_path, tmp_path / "figure")


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    results = made_up(figure_grid(13, "smoke"), height)
    first, second = (draw_figure(results, tmp_path, tmp_path / name) for name in ("first", "second"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def write_results(folder: Path, number: int) -> ResultsFolder:
    grid, results = figure_grid(number, "smoke"), ResultsFolder(folder)
    results.make("0.1.0")
    command = ["/home/me/.venv/bin/python", "-m", "sb3_sparse", "figure", str(number), "--budget", "smoke"]
    results.note_grid(grid.name, {"stem": grid.stem, "budget": grid.budget, "command": command, "source": grid.source})
    for run in grid.runs:
        made = {
            "seconds": 60.0,
            "cpu_seconds": 30.0,
            "versions": {"torch": "2.13.0"},
            "host": "",
            **dict.fromkeys(PROVENANCE[:4], "<b>1</b>"),
        }
        results.write_record(run, {"settings": run.settings(), **made}, lines_of(run, height))
    return results


def test_the_report_holds_figures_tables_commands_and_provenance(tmp_path: Path) -> None:
    for number in (3, 13):
        write_results(tmp_path / "results", number)
    page = write_report(tmp_path / "results", tmp_path / "page.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "python -m sb3_sparse figure 13 --budget smoke" in page and "/home/me" not in page
    assert "4 of 4 runs are finished, in 4 min of wall time and 2 min of CPU time, summed over runs." in page
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page
    assert page.count('href="#') == 3 and 'href="results/table.csv"' in page
    (claim,) = re.findall(r'<td class="number">13</td>.*', page)
    assert "Streaming: static sparsity ends above dense networks" in claim and "nothing yet" in claim
    assert "reproduced at a smaller scale: Ant, final return: width = 128, S = 0.9: 837.4" in claim
    assert "&lt;b&gt;1&lt;/b&gt;" in page and "<b>1</b>" not in page  # what comes from elsewhere is no markup
    assert "http" not in page.replace("https://arxiv.org", "")  # nothing is fetched
    assert "2.13.0" in page and "P(better than dense)" in page


def test_scores_of_every_task_stand_beside_published_ones(tmp_path: Path) -> None:
    write_results(tmp_path / "results", 18)
    page = write_report(tmp_path / "results", tmp_path / "page.html").read_text()
    # 1000 * (1 + S) / 10 points in Breakout, where random play has 1.7, a human 30.5, and DER 9.2.
    normalized = (100 - 1.7) / (30.5 - 1.7)
    cells = ["Breakout", "w = 0.125, dense", "1", "100", f"{normalized:.3f}", f"{atari_scores()['Breakout']['der']:g}"]
    assert "".join(f'<td class="number">{cell}</td>' for cell in cells) in page
    assert "optimality gap" in page and "published DER" in page


def test_returns_stand_beside_published_curves_that_go_as_far(tmp_path: Path) -> None:
    grid = Grid("own", None, "Own", (GridRun("stream_ac", "Walker2d-v4", agent_steps=250_000),))
    results = made_up(grid, height)
    for length, shown in ((250_000, "364.1 (the authors' code, width 128, 2 seeds)"), (10**9, "")):
        for line in results.lines[grid.runs[0].id]:
            line["total_env_steps"] = str(length)
        assert _published(results, "stream_ac", "Walker2d-v4") == shown


def test_own_grids_show_what_was_measured(tmp_path: Path, drawn: list[Panels]) -> None:
    runs = tuple(GridRun("sac", "Pendulum-v1", {"sparsity": sparsity}, agent_steps=500) for sparsity in (0.0, 0.5))
    results = made_up(Grid("own", None, "Own", runs), height)
    for lines in results.lines.values():
        for line in lines:
            line["critic_interference"] = ""
    draw_figure(results, tmp_path, tmp_path / "figure")
    labels = [axis.get_ylabel() for axis in drawn[0].axes]
    assert labels == ["return", "critic: dormant ratio (tau = 0.1)", "critic: Srank", "critic: gradient norm"]


def test_figures_and_reports_are_made_where_unpickling_is_blocked(tmp_path: Path) -> None:
    """Of a folder of results with a model, a checkpoint and a replay buffer that would run code."""
    pytest.importorskip("rl_zoo3")
    output = tmp_path / "results"
    for number in (9, 13):
        write_results(output, number)
    with_matrices(figure_grid(9, "smoke"), output / "runs")
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    for file in [*output.glob("runs/*/*/*/plasticity.csv")]:
        for name in ("best_model.zip", "replay_buffer.pkl", "../../checkpoint/state-000001.pkl"):
            (file.parent / name).resolve().parent.mkdir(exist_ok=True)
            (file.parent / name).write_bytes(bomb)
    code = f"""
import sys
from sb3_sparse.cli.command_line import main

def guard(event, arguments):
    if event == "pickle.find_class":
        raise PermissionError(arguments)

sys.addaudithook(guard)
for words in (["figure", "9", "13", "--budget", "smoke", "--local"], ["report", {str(output)!r}]):
    assert main([*words, "--output", {str(output)!r} + ("/page.html" if words[0] == "report" else "")]) == 0
import pickle
try:
    pickle.loads({bomb!r})
except PermissionError:
    print("blocked")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("blocked\n"), done.stderr
    assert (output / "figures" / "figure-9-smoke.png").exists() and (output / "page.html").exists()
    assert not (tmp_path / "ran").exists()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.slow
def test_the_report_in_a_browser(tmp_path: Path) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("there is no Chromium")
    write_results(tmp_path / "results", 13)
    page = write_report(tmp_path / "results", tmp_path / "page.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,900"]
    script = "document.title = [...document.images].every(i => i.complete && i.naturalWidth > 100) && document.images.length"
    probe = tmp_path / "probe.html"
    probe.write_text(page.read_text().replace("</body>", f"<script>onload = () => {{ {script} }}</script></body>"))
    shown = subprocess.run([*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "<title>1</title>" in shown.stdout  # all images are decoded, and there is one
    subprocess.run(
        [*command, f"--screenshot={tmp_path / 'page.png'}", page.as_uri()], capture_output=True, timeout=120, check=True
    )
    assert image.imread(tmp_path / "page.png")[..., :3].std() > 0.05


def test_figures_know_all_numbers() -> None:
    assert set(FIGURES) == set(figures())
