"""Sweeps: what a search makes of trials that end, fail, die and are interrupted; and one whole sweep on a tiny model."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from pipeline import outcome, ranking, run, search, spaces, sweep, sweep_report, trial
from pipeline.config import load
from pipeline.ranking import Point
from pipeline.trial import Job
from stages import deception
from stages.errors import UserError
from stages.model import ModelSettings
from stages.progress import STDERR, Board
from tests.pretend import BEST, COUNT, conclude, job_in, joint, layers, pretend, recipe
from tests.test_run import SETTINGS


def found(job: Job) -> dict[str, Point]:
    """The finished points by name."""
    made = [trial.read(p.parent) for p in (job.folder / "points").glob(f"*/{trial.DONE}")]
    return {p.name: p for p in made if p is not None}


@pytest.mark.slow
def test_a_grid_goes_on_past_trials_that_fail_and_die(cluster: None, tmp_path: Path) -> None:
    job = job_in(tmp_path, pause=1)
    search.run(job, layers(), "grid", 1, 0, 2, STDERR, pretend)
    by_layer = {p.values["train.overlap.layer"]: p for p in found(job).values()}
    assert sorted(by_layer) == list(range(6, 27, 2))
    assert {n: p.verdict for n, p in by_layer.items() if n >= 20} == {
        20: "works", 22: "damaged", 24: "failed", 26: "failed",
    }  # fmt: skip
    assert "the loss is not finite" in by_layer[26].reason
    assert by_layer[24].reason
    assert ranking.ranked(by_layer.values())[0].values == {"train.overlap.layer": BEST}
    tries = (tmp_path / "tries").read_text().split()
    assert {tries.count(p.name) for n, p in by_layer.items() if n < 24} == {1}
    assert {tries.count(by_layer[n].name) for n in (24, 26)} == {2}, "tried again once"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["optuna", "pareto"])
def test_optuna_finds_the_good_layers(how: search.How, cluster: None, tmp_path: Path) -> None:
    job = job_in(tmp_path)
    search.run(job, joint(), how, 24, 0, 1, STDERR, pretend)
    points = found(job).values()
    assert len(points) == 24
    tried = [(tmp_path / "tries").read_text().split().index(p.name) for p in points]
    off = {place: abs(p.values["train.overlap.layer"] - BEST) for place, p in zip(tried, points, strict=True)}
    early, late = ([off[i] for i in part] for part in (range(8), range(12, 24)))
    assert sum(late) / len(late) < sum(early) / len(early), "it did not learn where deception is low"


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_same_points_and_repeats_none(cluster: None, tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder in (alone, killed):
        folder.mkdir()
    code = f"from tests.pretend import drive\ndrive({str(killed)!r}, 6)"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(found(job_in(killed))) < 3:
            assert process.poll() is None, "the search ended before it could be killed"
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in killed.glob("points/*/point.json")}
    assert 3 <= len(before) < COUNT
    search.run(job_in(killed), joint(), "optuna", COUNT, 0, 1, STDERR, pretend)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    search.run(job_in(alone), joint(), "optuna", COUNT, 0, 1, STDERR, pretend)
    assert found(job_in(killed)) == found(job_in(alone))
    tries = (killed / "tries").read_text().split()
    assert all(tries.count(path.parent.name) == 1 for path in before)
    assert len(tries) <= COUNT + 1, "more than the running trial began anew"


@dataclass(frozen=True)
class Result:
    """As Ray Tune's: what a trial was given, if it said so, and what it died of."""

    config: dict[str, Any] | None
    error: Exception | None = None


def test_a_search_that_did_not_end_is_no_ground_to_choose_on(tmp_path: Path) -> None:
    job, points = job_in(tmp_path), spaces.grid(layers())[:3]
    ended = [Result({"point": p}) for p in points]
    for point in points[:2]:
        pretend(job, point, Board())
    with pytest.raises(KeyboardInterrupt):
        search._settle(job, ended, points, 0)
    assert len(found(job)) == 2, "an interrupted point is not a failed one"
    search._settle(job, [*ended[:2], Result(None, RuntimeError("node lost"))], points, 0)
    (failed,) = (p for p in found(job).values() if p.verdict == "failed")
    assert (failed.values, failed.reason) == (points[2], "RuntimeError: node lost")


def test_trials_lost_before_they_told_their_point_are_told_at_the_end(tmp_path: Path) -> None:
    job, points = job_in(tmp_path), spaces.grid(layers())[:2]
    for point in points:
        pretend(job, point, Board())
    ended = [Result({"point": p}) for p in points]
    lost = search._settle(
        job, [*ended, Result(None, RuntimeError("node lost"))], [], 3
    )  # Optuna knows no points before
    assert lost == ["RuntimeError: node lost"]
    assert len(found(job)) == 2
    assert sweep_report.lost({"lost": lost}) == [
        "1 trials were lost before they told their point: RuntimeError: node lost"
    ]
    assert sweep_report.lost({"lost": []}) == sweep_report.lost({}) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["grid", "optuna"])
def test_failed_points_are_tried_again_and_no_others(how: search.How, cluster: None, tmp_path: Path) -> None:
    job = job_in(tmp_path)
    space = spaces.Space("few", "", {"train.overlap.layer": tune.choice([14, 16, 26])})
    search.run(job, space, how, 3, 0, 1, STDERR, conclude)
    (failed,) = (p for p in found(job).values() if p.verdict == "failed")
    assert failed.values["train.overlap.layer"] == 26
    before = (tmp_path / "tries").read_text().split()
    (tmp_path / "mended").touch()
    search.run(job, space, how, 3, 0, 1, STDERR, conclude)
    assert (tmp_path / "tries").read_text().split() == before, "without being asked to"
    sweep.withdraw(job)
    search.run(job, space, how, 3, 0, 1, STDERR, conclude, retry=True)
    assert (tmp_path / "tries").read_text().split() == [*before, failed.name]
    assert found(job)[failed.name].verdict != "failed"


@pytest.mark.slow
def test_a_failed_point_that_was_suggested_twice_is_tried_again_once(cluster: None, tmp_path: Path) -> None:
    job = job_in(tmp_path)
    space = spaces.Space("one", "", {"train.overlap.layer": tune.choice([26])})
    search.run(job, space, "optuna", 2, 0, 1, STDERR, conclude)
    (tmp_path / "mended").touch()
    sweep.withdraw(job)
    assert search.run(job, space, "optuna", 2, 0, 1, STDERR, conclude, retry=True) == []
    assert [p.verdict for p in found(job).values()] != ["failed"]
    assert len((tmp_path / "tries").read_text().split()) == 2


@pytest.mark.parametrize("search_by", ["random", "optuna"])
@pytest.mark.parametrize(
    ("sampler", "wrong"),
    [("tune.choice([4, 12, 99])", 99), ("tune.randint(4, 31)", 30), ("tune.randint(4, 4000)", 3999)],
)
def test_every_value_of_a_space_is_checked(sampler: str, wrong: int, search_by: str, tmp_path: Path) -> None:
    (space := tmp_path / "mine.py").write_text(f'from ray import tune\nSPACE = {{"train.overlap.layer": {sampler}}}\n')
    settings = sweep.SweepSettings.model_validate({"space": str(space), "search": search_by, "points": 1})
    expected = rf"train\.overlap\.layer={wrong}: train\.overlap\.layer={wrong} is beyond the model's 30 layers"
    with pytest.raises(UserError, match=expected):
        sweep.check(recipe(), settings, tmp_path / "sweep")


def test_ends_of_samplers() -> None:
    assert spaces.ends(tune.choice([3, 1])) == [3, 1]
    assert spaces.ends(tune.loguniform(1e-5, 1e-3)) == [1e-5, 1e-3]
    assert spaces.ends(tune.randint(0, 1000)) == [0, 999]
    assert spaces.ends(tune.randn()) == spaces.ends(tune.sample_from(lambda _: 1)) == []


def test_a_folder_keeps_one_sweep_and_its_space(tmp_path: Path) -> None:
    config, mine, folder = load("default"), tmp_path / "mine.py", tmp_path / "sweep"
    mine.write_text("SPACE = {}\n")
    settings = sweep.SweepSettings(space=str(mine), seeds=(3, 4), points=5)
    sweep.keep(config, settings, folder)
    sweep.keep(config, settings, folder)
    name = sweep.folder_of(config, settings)
    mine.write_text("SPACE = {1: 2}\n")
    assert sweep.folder_of(config, settings) != name, "an edited space is another sweep"
    again, found = sweep.kept(folder)
    assert (again, found.seeds, found.points) == (config, (3, 4), 5)
    assert Path(found.space).read_text() == "SPACE = {}\n"
    for other in (settings.model_copy(update={"points": 6}), settings.model_copy(update={"seeds": (3,)})):
        with pytest.raises(UserError, match="holds another sweep"):
            sweep.keep(config, other, folder)
    for changed in (settings, settings.model_copy(update={"space": "layers"})):  # mine.py is another than was kept
        with pytest.raises(UserError, match="holds another sweep"):
            sweep.keep(config, changed, folder)
    sweep.keep(config, found, folder)
    with pytest.raises(UserError, match="holds another sweep"):
        sweep.keep(config.model_copy(update={"seed": 9}), found, folder)
    kept = (folder / sweep.KEPT).read_text()
    (folder / sweep.KEPT).write_text(kept[: kept.index("config:")])
    with pytest.raises(UserError, match=r"no sweep.yaml that can be read"):
        sweep.kept(folder)


def test_trials_are_asked_choosing_items_and_the_confirmation_the_others(tmp_path: Path) -> None:
    config = load("default")
    settings = sweep.SweepSettings(space="layers", items=12)
    tried = deception.select(sweep.choosing(config, settings).deception)
    assert {i.split for i in tried} == {"choosing"}
    assert len(tried) == 2 * 12 * len(config.deception.scenarios)
    confirmed = deception.select(sweep.confirming(config).deception)
    assert {i.split for i in confirmed} == {"confirming"}
    assert len([i for i in confirmed if i.scenario == "main"]) == 2 * (config.deception.items - 50)
    too_few = load("default", ["deception.items=50", "deception.items_of={}"])
    with pytest.raises(UserError, match="nothing to confirm"):
        sweep.check(too_few, settings, tmp_path)
    assert sweep.check(too_few, settings.model_copy(update={"confirm": False}), tmp_path).name == "layers"


@pytest.mark.slow
def test_a_whole_sweep_on_a_tiny_model(cluster: None, tiny: ModelSettings, tmp_path: Path) -> None:
    space_file = tmp_path / "mine.py"
    space_file.write_text('from ray import tune\nSPACE = {"train.overlap.layer": tune.choice([1, 2])}\n')
    changes = (
        "deception.items=52",
        "deception.splits=[confirming]",
        "deception.scenarios=[main]",
        "capability.overcorrection=0",
        "train.steps=2",
        "train.lora.first_layer=0",
        "train.lora.last_layer=null",
    )
    config = load("default", [f"model.name={tiny.name}", *SETTINGS, *changes])
    settings = sweep.SweepSettings(space=str(space_file), search="grid", seeds=(1,), items=2)
    folder = tmp_path / "sweep"
    space = sweep.check(config, settings, folder)
    sweep.keep(config, settings, folder)
    finished: list[str] = []
    found = sweep.run(config, settings, space, folder, Board(), lambda p: finished.append(p.name))
    assert [p["differing"] for p in sorted(found["points"], key=lambda p: str(p["values"]))] == [
        {"train.overlap.layer": 1}, {"train.overlap.layer": 2},
    ]  # fmt: skip
    assert sorted(finished) == sorted(p["name"] for p in found["points"])
    assert [s["n"] for p in found["points"] for s in p["seeds"]] == [2, 2]
    assert found["best"] in finished

    # The confirmation asks the trained adapter of the best point other items, and trains nothing.
    (confirmed,) = found["confirmation"]
    trained = folder / "points" / found["best"] / "seed-1" / "train"
    again = Path(confirmed["folder"]) / "train"
    assert (again / "done.json").read_bytes() == (trained / "done.json").read_bytes()
    asked = {r["item_id"] for r in outcome.read_answers(Path(confirmed["folder"]) / "answers" / "answers")}
    assert {i for i in asked if i.startswith("main")} == {"main_0050", "main_0051"}

    # A trial is what `soo run` does of the same config, though it took the baseline's answers over.
    point = found["points"][0]
    alone = sweep.choosing(spaces.with_point(config, point["values"], seed=1), settings)
    plain = run.run(alone, tmp_path / "plain", Board())
    tried = outcome.load(Path(point["seeds"][0]["folder"]))
    for key in ("scenarios", "capability", "damage", "collapse", "conditions"):
        assert tried[key] == plain[key], key

    # Going on with a finished sweep repeats nothing, from what is in its folder alone.
    space_file.unlink()
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    config, settings = sweep.kept(folder)
    same = sweep.run(config, settings, sweep.check(config, settings, folder), folder, Board())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")} == made
    assert [same[k] for k in ("points", "best", "confirmation")] == [
        found[k] for k in ("points", "best", "confirmation")
    ]
