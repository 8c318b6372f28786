"""Shared storage against a real S3 server on loopback: what is complete there is not made again, and faults are survived."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifacts, storage
from pipeline.artifacts import MARK, stage
from pipeline.cli import main
from stages.carry import Packed, packed, unpacked
from stages.errors import UserError
from stages.model import ModelSettings
from tests.test_run import SETTINGS, comparable, environment


@pytest.fixture(scope="module")
def endpoint() -> Iterator[dict[str, str]]:
    """The variables that lead to an S3 server with an empty bucket `soo`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, "the S3 server did not start"
                time.sleep(0.5)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                from pyarrow import fs

                fs.FileSystem.from_uri("s3://soo?allow_bucket_creation=true")[0].create_dir("soo")
            yield variables
        finally:
            process.terminate()


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage, empty and told of by SOO_RUNS."""
    if request.param == "s3":
        for name, value in request.getfixturevalue("endpoint").items():
            monkeypatch.setenv(name, value)
        found = f"s3://soo/{tmp_path.name}"
    else:
        found = (tmp_path / "storage").as_uri()
    monkeypatch.setenv("SOO_RUNS", found)
    monkeypatch.setattr(storage, "PAUSE", 0.01)
    return found


def made(out: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.parquet

    (out / "adapter").mkdir()
    (out / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 100)
    (out / "pairs").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"ids": [[1, 2], [3]]}), out / "pairs" / "part.parquet")
    return {"n": 2}


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver with a disk of its own: the folder of a run on it."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return Path("runs") / "run"


def test_a_stage_that_another_driver_made_is_taken_from_storage(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage(driver(tmp_path / "one", monkeypatch) / "train", ["inputs"], made)
    other = driver(tmp_path / "two", monkeypatch)
    assert stage(other / "train", ["inputs"], lambda out: pytest.fail("made again")) == first
    for name in ("adapter/adapter_model.safetensors", "pairs/part.parquet", MARK):
        assert (other / "train" / name).read_bytes() == (tmp_path / "one/runs/run/train" / name).read_bytes()
    assert sorted(p.name for p in other.iterdir()) == ["train"]
    changed = stage(other / "train", ["other inputs"], made)  # replaces it there too
    third = driver(tmp_path / "three", monkeypatch)
    assert stage(third / "train", ["other inputs"], lambda out: pytest.fail("made again")) == changed
    assert artifacts.shared(third / "train") == f"{place}/run/train"
    assert artifacts.shared(tmp_path / "elsewhere") is None


def failing(times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the storage fail so many times at a file; what was sent."""
    send, seen = storage._send, list[str]()

    def flaky(file: Path, filesystem: Any, path: str) -> None:
        seen.append(file.name)
        if len(seen) <= times:
            raise OSError("connection reset")
        send(file, filesystem, path)

    monkeypatch.setattr(storage, "_send", flaky)
    return seen


def test_a_storage_that_fails_once_is_asked_again_and_the_mark_comes_last(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = failing(1, monkeypatch)
    first = stage(driver(tmp_path / "one", monkeypatch) / "train", [1], made)
    assert seen == ["adapter_model.safetensors", "adapter_model.safetensors", "part.parquet", MARK]
    other = driver(tmp_path / "two", monkeypatch)
    assert stage(other / "train", [1], lambda out: pytest.fail("made again")) == first


def test_a_storage_that_stays_away_is_one_line_and_loses_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = driver(tmp_path / "one", monkeypatch)
    with monkeypatch.context() as away:
        failing(99, away)
        with pytest.raises(
            UserError, match=r"cannot use the storage .*/run/train \(SOO_RUNS\): connection reset"
        ) as error:
            stage(run / "train", [1], made)
    assert "\n" not in str(error.value)
    kept = stage(run / "train", [1], lambda out: pytest.fail("made again"))  # complete on disk; now it is shared too
    other = driver(tmp_path / "two", monkeypatch)
    assert stage(other / "train", [1], lambda out: pytest.fail("made again")) == kept


def test_keys_in_the_address_are_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import pipeline.run  # noqa: F401 - the folder for runs is then already settled, and no longer what refuses

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOO_RUNS", "s3://KEY:hush-hush@bucket/soo")
    with pytest.raises(UserError, match="leave keys out of SOO_RUNS") as error:
        storage.uri()
    assert "hush" not in str(error.value)
    with pytest.raises(SystemExit):  # that of --help, and no traceback
        main(["--help"])
    assert main(["run", "default"]) == 2
    seen = capsys.readouterr()
    assert seen.err.startswith("soo: leave keys out of SOO_RUNS")
    assert len(seen.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_half_copied_stage_does_not_count(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "file").write_text("x")
    storage.push_files([folder / "file"], f"{place}/run/train")
    marks = stage(driver(tmp_path / "one", monkeypatch) / "train", [1], made)
    assert marks.facts == {"n": 2}


def test_an_adapter_travels_in_memory(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    carried = packed(tmp_path)
    assert carried == Packed({"adapter_config.json": b"{}"})
    with unpacked(carried) as folder:
        assert folder is not None
        assert folder != tmp_path
        assert [p.name for p in folder.iterdir()] == ["adapter_config.json"]
    assert not folder.exists()
    with unpacked(tmp_path) as same:
        assert same == tmp_path
    assert packed(None) is None


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_another_machine_goes_on_from_s3(
    endpoint: dict[str, str], tiny: ModelSettings, tmp_path: Path
) -> None:
    """Pairs, checkpoints, adapter and answers through S3; the second driver has an empty disk."""
    settings = environment() | endpoint | {"SOO_RUNS": f"s3://soo/{tmp_path.name}"}
    command = [sys.executable, "-m", "pipeline", "run", "default", f"model.name={tiny.name}", *SETTINGS,
               "train.steps=4", "deception.scenarios=[main]", "latent.after=false", "--json"]  # fmt: skip
    outcomes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        done = subprocess.run(command, cwd=tmp_path / name, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "hush-hush" not in done.stderr + done.stdout
        assert ("train 4/4" in done.stderr) == (name == "one"), "trained again"
        outcomes.append(comparable(json.loads(done.stdout)))
    assert outcomes[0] == outcomes[1]
    (run,) = (tmp_path / "two" / "runs").glob("default-*")
    assert (run / "train/adapter/adapter_model.safetensors").is_file()
    with pytest.MonkeyPatch.context() as patch:
        for key in endpoint:
            patch.setenv(key, endpoint[key])
        from pyarrow import fs

        bucket, path = fs.FileSystem.from_uri(f"s3://soo/{tmp_path.name}")
        names = [i.path for i in bucket.get_file_info(fs.FileSelector(path, recursive=True))]
    assert not any("checkpoint" in n for n in names), "checkpoints have served"
    assert {n.rpartition("/")[2] for n in names} >= {"outcome.json", "config.yaml", "adapter_model.safetensors"}
    assert not any(b"hush-hush" in file.read_bytes() for file in run.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_sweep_on_another_machine_repeats_no_training(tiny: ModelSettings, tmp_path: Path) -> None:
    """Its trials run in Ray's processes, with a working directory of their own, and share their stages all the same."""
    (tmp_path / "rates.py").write_text('from ray import tune\nSPACE = {"train.lr": tune.choice([1e-4])}\n')
    settings = environment() | {"SOO_RUNS": (tmp_path / "shared").as_uri()}
    command = [sys.executable, "-m", "pipeline", "sweep", "default", f"model.name={tiny.name}", *SETTINGS,
               "train.steps=4", "deception.scenarios=[main]", "capability.overcorrection=0", "latent.after=false",
               "tracking.enabled=false", "--space", "../rates.py", "--search", "grid", "--seeds", "0", "--items", "2",
               "--no-confirm", "--json"]  # fmt: skip
    points = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        done = subprocess.run(command, cwd=tmp_path / name, env=settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("train 4/4" in done.stderr) == (name == "one"), "trained again"
        points += json.loads(done.stdout)["points"]
    one, two = ({k: v for k, v in seed.items() if k != "folder"} for p in points for seed in p["seeds"])
    assert one == two
    assert len(list((tmp_path / "shared").glob("sweep-*/points/*/seed-0/train/done.json"))) == 1
