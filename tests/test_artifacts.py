"""Stages on disk: made once, made again for other inputs, and never taken for complete when they are not."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import MARK, digest, fingerprint, read_mark, runs_folder, stage, writable, write_json
from stages.errors import UserError


class Maker:
    """Writes a file and counts its calls; stops half-way the first `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.calls, self.failures, self.found = 0, failures, list[str]()

    def __call__(self, out: Path) -> dict[str, Any]:
        self.calls += 1
        self.found = sorted(p.name for p in out.iterdir())
        (out / "half").touch()
        if self.calls <= self.failures:
            raise KeyboardInterrupt
        (out / "whole").write_text(str(self.calls))
        return {"call": self.calls}


def test_a_stage_runs_once(tmp_path: Path) -> None:
    make, folder = Maker(), tmp_path / "train"
    first = stage(folder, ["inputs", 1], make)
    assert stage(folder, ["inputs", 1], make) == first == read_mark(folder)
    assert make.calls == 1
    assert first.facts == {"call": 1}
    assert first.seconds >= 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train"]
    assert sorted(p.name for p in folder.iterdir()) == [MARK, "half", "whole"]


def test_a_stage_runs_again_for_other_inputs(tmp_path: Path) -> None:
    make, folder = Maker(), tmp_path / "train"
    marks = [stage(folder, ["inputs", n], make) for n in (1, 2, 1)]
    assert make.calls == 3
    assert make.found == []
    assert (folder / "whole").read_text() == "3"
    assert marks[0].fingerprint == marks[2].fingerprint != marks[1].fingerprint


def test_an_interrupted_stage_leaves_no_mark_and_is_done_again(tmp_path: Path) -> None:
    make, folder = Maker(failures=1), tmp_path / "train"
    with pytest.raises(KeyboardInterrupt):
        stage(folder, [1], make)
    assert not folder.exists()
    assert not list(tmp_path.rglob(MARK))
    assert stage(folder, [1], make).facts == {"call": 2}
    assert make.found == []  # what the first call left behind was cleared


def test_an_interrupted_stage_leaves_the_complete_one_of_other_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    before = stage(folder, [1], Maker())
    with pytest.raises(KeyboardInterrupt):
        stage(folder, [2], Maker(failures=1))
    assert read_mark(folder) == before
    assert stage(folder, [1], Maker()) == before


def test_a_stage_that_keeps_its_partial_output_goes_on_from_it(tmp_path: Path) -> None:
    make, folder = Maker(failures=1), tmp_path / "train"
    with pytest.raises(KeyboardInterrupt):
        stage(folder, [1], make, keep_partial=True)
    other = Maker(failures=1)
    with pytest.raises(KeyboardInterrupt):  # of other inputs: it does not see the first one's
        stage(folder, [2], other, keep_partial=True)
    assert other.found == []
    stage(folder, [1], make, keep_partial=True)
    assert make.found == ["half"]
    assert (folder / "whole").read_text() == "2"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "x"}'])
def test_a_broken_mark_is_no_mark(tmp_path: Path, text: str) -> None:
    make, folder = Maker(), tmp_path / "train"
    stage(folder, [1], make)
    (folder / MARK).write_text(text)
    assert read_mark(folder) is None
    stage(folder, [1], make)
    assert make.calls == 2


def test_fingerprints_are_stable() -> None:
    """Written down: a change of it makes every finished stage run again."""
    assert fingerprint({"b": 1, "a": [1.5, None]}, "x") == fingerprint({"a": [1.5, None], "b": 1}, "x")
    assert fingerprint() == "4f53cda18c2baa0c"  # SHA-256 of "[]"
    assert fingerprint(1, 2) != fingerprint(12)
    assert fingerprint("1") != fingerprint(1)
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(iter([{"a": 1}, 2]), iter([])) == fingerprint([{"a": 1}, 2], [])


def test_write_json_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "outcome.json", {"a": 1})
    write_json(tmp_path / "outcome.json", {"a": 2, "path": Path("x")})
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"a": 2, "path": "x"}
    assert [p.name for p in tmp_path.iterdir()] == ["outcome.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write to {tmp_path}/file/run: Not a directory"):
        writable(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot write to /proc/soo: No such file or directory"):
        writable(Path("/proc/soo"))
    assert list(writable(tmp_path / "a" / "b").iterdir()) == []


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file"):
        digest(tmp_path / "nowhere")


def test_a_stage_killed_between_its_mark_and_the_rename_is_not_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    made = stage(folder, [1], lambda out: {"n": 1})
    folder.rename(tmp_path / f"stage.{made.fingerprint}.partial")
    assert stage(folder, [1], lambda out: pytest.fail("done again")) == made
    assert (folder / "done.json").is_file()


def test_runs_lie_here_or_where_they_outlive_a_ray_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOO_RUNS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    assert runs_folder() == Path("runs")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert runs_folder() == Path.home() / "soo-runs"
    monkeypatch.setenv("SOO_RUNS", "/shared/runs")
    assert runs_folder() == Path("/shared/runs")


def test_a_uri_is_not_taken_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="s3:/bucket/runs is a URI"):
        writable(Path("s3://bucket/runs"))
    assert not list(tmp_path.iterdir())
