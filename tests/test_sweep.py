"""Sweeps: what a search makes of trials that end, fail, die and are interrupted; and one whole sweep on a tiny model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import ranking, search, trial
from pipeline.ranking import Point
from pipeline.trial import Job
from tests.pretend import BEST, COUNT, job_in, joint, layers, pretend

pytestmark = pytest.mark.slow


def found(job: Job) -> dict[str, Point]:
    """The finished points by name."""
    made = [trial.read(p.parent) for p in (job.folder / "points").glob(f"*/{trial.DONE}")]
    return {p.name: p for p in made if p is not None}


def test_a_grid_goes_on_past_trials_that_fail_and_die(cluster: None, tmp_path: Path) -> None:
    job = job_in(tmp_path, pause=1)
    search.run(job, layers(), "grid", 1, 0, 2, None, pretend)
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


@pytest.mark.parametrize("how", ["optuna", "pareto"])
def test_optuna_finds_the_good_layers(how: search.How, cluster: None, tmp_path: Path) -> None:
    job = job_in(tmp_path)
    search.run(job, joint(), how, 24, 0, 1, None, pretend)
    points = found(job).values()
    assert len(points) == 24
    tried = [(tmp_path / "tries").read_text().split().index(p.name) for p in points]
    off = {place: abs(p.values["train.overlap.layer"] - BEST) for place, p in zip(tried, points, strict=True)}
    early, late = ([off[i] for i in part] for part in (range(8), range(12, 24)))
    assert sum(late) / len(late) < sum(early) / len(early), "it did not learn where deception is low"


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
    search.run(job_in(killed), joint(), "optuna", COUNT, 0, 1, None, pretend)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    search.run(job_in(alone), joint(), "optuna", COUNT, 0, 1, None, pretend)
    assert found(job_in(killed)) == found(job_in(alone))
    tries = (killed / "tries").read_text().split()
    assert all(tries.count(path.parent.name) == 1 for path in before)
    assert len(tries) <= COUNT + 1, "more than the running trial began anew"
