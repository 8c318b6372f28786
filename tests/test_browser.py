"""MLflow's comparison page in a real browser: what a sweep's points differ in, and what came of it, with no hand work."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline import ranking, tracking
from pipeline.config import TrackingSettings
from pipeline.sweep_tracking import Record
from tests.test_ranking import point, seed, sweep
from tests.test_sweep_tracking import of_kind
from tests.test_tracking import finished, mlflow_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.browser]
LAYERS = (8, 12, 16, 20)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    """The comparison of a sweep's four points, as the link on the sweep's own page leads to it."""
    from mlflow import MlflowClient
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("browser")
    uri = tracking.check(TrackingSettings(), folder)
    run = str(finished(folder / "run"))
    points = [point(f"p{n}", seed(50 - 2 * n, 2 * n, agreement=1 - n / 100, folder=run), layer=n) for n in LAYERS]
    found = sweep(points[0])
    found["points"] = [ranking.to_json(p) for p in points]
    record = Record(folder, uri, "soo", "made")
    record.finish(found)
    client = MlflowClient(uri)
    ids = [r.info.run_id for r in of_kind(client, record.key, "point")]
    experiment = client.get_run(ids[0]).info.experiment_id
    with mlflow_server(folder, uri) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1500, "height": 1000})
        opened.set_default_timeout(60_000)
        opened.goto(f"{url}/#/experiments/{experiment}/runs/{record.run_id}")
        link = opened.get_by_role("link", name="Compare the points")
        opened.goto(f"{url}/{link.get_attribute('href')}")
        opened.get_by_text("Parallel Coordinates Plot").wait_for()
        yield opened
        browser.close()


def test_parallel_coordinates_show_the_layer_and_what_came_of_it(page: "Page") -> None:
    axes = page.locator("svg text.axis-title")
    axes.first.wait_for()
    assert axes.all_text_contents() == ["train.overlap.layer", "point/deception"]


def test_the_table_shows_the_params_that_differ(page: "Page") -> None:
    row = page.get_by_role("row").filter(has_text="train.overlap.layer")
    assert sorted(map(int, row.first.inner_text().split()[1:])) == list(LAYERS)
    assert "model.name" not in page.inner_text("body"), "what all points share is not in the way"


@pytest.mark.parametrize("plot", ["Scatter Plot", "Contour Plot"])
def test_plots_are_drawn(page: "Page", plot: str, tmp_path: Path) -> None:
    page.get_by_role("tab", name=plot).click()
    drawn = page.locator(".js-plotly-plot").last
    titles = drawn.locator("text.xtitle, text.ytitle")
    titles.last.wait_for()
    assert titles.all_text_contents() == ["train.overlap.layer", "point/agreement"]
    picture = tmp_path / "plot.png"
    drawn.screenshot(path=picture)
    from matplotlib.image import imread

    assert imread(picture).std() > 0.01, "an empty picture"
