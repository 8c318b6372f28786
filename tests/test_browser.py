"""MLflow's own pages, in a real browser where there is one: a sweep's points compare without any hand work."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.config import TrackingSettings
from pipeline.sweep_tracking import KIND, Record
from tests.test_ranking import DAMAGED, UNCHANGED, sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with one sweep of two points; their seeds are left out."""
    folder = tmp_path_factory.mktemp("runs")
    found = sweep(UNCHANGED, DAMAGED)
    for made in found["points"]:
        made["seeds"] = [{**s, "folder": str(folder)} for s in made["seeds"]]
    uri = tracking.check(TrackingSettings(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "_seed", lambda *_arguments: "")
        Record(folder / "sweep", uri, "soo", "made").finish(found)
    return uri


@pytest.fixture(scope="module")
def server(uri: str) -> Iterator[str]:
    """MLflow's server on loopback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1",
               "--port", str(port), "--workers", "1"]  # fmt: skip
    settings = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                assert process.poll() is None, "mlflow server ended"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except (urllib.error.URLError, TimeoutError):
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def page(url: str, folder: Path) -> str:
    """What stands on a page once its scripts have run."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,2200",
               f"--user-data-dir={folder}", "--virtual-time-budget=60000", "--dump-dom", url]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=400).stdout


def test_points_compare_by_the_param_that_differs(uri: str, server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client: Any = MlflowClient(uri)
    experiment = client.get_experiment_by_name("soo").experiment_id
    points = client.search_runs([experiment], f"tags.`{KIND}` = 'point'")
    assert len(points) == 2
    query = {"runs": json.dumps([p.info.run_id for p in points]), "experiments": json.dumps([experiment])}
    text = page(f"{server}/#/compare-runs?{urllib.parse.urlencode(query)}", tmp_path)
    for shown in ("Parallel Coordinates Plot", "Contour Plot", "Scatter Plot", "Comparing 2 Runs"):
        assert shown in text, shown
    axes = text[text.index('class="parcoords') :] if 'class="parcoords' in text else ""
    assert "train.overlap.layer" in axes
    assert "point/deception" in axes
    for params_that_do_not_differ in ("train.lora.r", "model.name"):
        assert params_that_do_not_differ not in text
