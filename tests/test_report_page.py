"""The report page: everything a reviewer needs is there, nothing is fetched, and no answer can break it."""

import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import ladder, outcome, report_page, report_parts
from pipeline.cli import main
from pipeline.page import Image, Listing, Section, Table, Text, to_html, to_markdown
from stages.errors import UserError
from tests.test_controls import made, results
from tests.test_tracking import finished


class Reader(html.parser.HTMLParser):
    """Collects the tags, what they point to, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("page") / "made-1")


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    found = made(folder, results([20, 22, 21], [90, 92, 91]))
    ladder.figure(found, folder / "controls.png")
    (folder / "controls.json").write_text(json.dumps(found))
    return folder


def test_one_page_says_everything_and_fetches_nothing(run: Path, climbed: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), str(climbed), "--out", str(tmp_path), "--no-mlflow"]) == 0
    text = (tmp_path / "report.html").read_text()
    page = Reader(text)
    assert page.open == []
    assert page.targets
    assert all(target.startswith("data:image/png;base64,") for target in page.targets)
    assert not set(page.tags) & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"url\(|@import|https?://", re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL))
    for said in (
        "Robust deception on main (confirming, n=200) fell from 100 % to 3 %", "95 % interval",  # verdict
        "goes beyond exposure: robust deception of SOO minus that of exposure is -70 points",
        "confused-honest", "position bias", "Not damaged", "Perplexity after over before", "non-inferior",
        "20 answers drawn at random", "The den.  [deceptive]", "SHA-256", "perplexity", "Cost: answers",
        "exposure", "seed: 0", "layer 19 (from 0)",
    ):  # fmt: skip
        assert said in page.text, said
    adapter_free = re.findall(r"[0-9a-f]{64}", page.text)
    assert len(adapter_free) >= 2  # config and answers
    markdown = (tmp_path / "report.md").read_text()
    assert "fell from 100 % to 3 %" in markdown
    pictures = re.findall(r"\]\((report_files/\d+\.png)\)", markdown)
    assert len(pictures) == 2
    assert all((tmp_path / p).read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_a_run_without_controls_says_that_nothing_tells_it_from_exposure(run: Path) -> None:
    _, sections = report_page.compose([run], [])
    text = Reader(to_html("", sections)).text
    assert "nothing here tells its self-other overlap from mere exposure" in text
    assert "made: 1 seed, and fewer than three prove nothing about it." in text


def test_a_ladder_of_another_recipe_tells_nothing_of_a_run(run: Path, climbed: Path, tmp_path: Path) -> None:
    of_default = "default on embedded:organism: SOO goes beyond exposure"
    text = Reader(to_html("", report_page.compose([run], [climbed])[1])).text
    assert of_default in text
    assert "No control ladder of made stands beside this" in text
    config = json.loads((climbed / "controls.json").read_text())["config"]
    own = altered(run, tmp_path / "own", config=config | {"seed": 2}, name="default")
    text = Reader(to_html("", report_page.compose([own], [climbed])[1])).text
    assert of_default in text
    assert "No control ladder" not in text
    other = config | {"pairs": config["pairs"] | {"fills": 3}}
    text = Reader(to_html("", report_page.compose([altered(run, tmp_path / "x", config=other)], [climbed])[1])).text
    assert "No control ladder" in text


def test_an_adapter_that_was_trained_elsewhere_is_named_and_not_described_by_the_recipe(
    run: Path, tmp_path: Path
) -> None:
    given = {"path": "/other/adapter", "sha256": "ab" * 32}
    text = Reader(
        to_html("", report_page.compose([altered(run, tmp_path / "e", training={}, adapter=given)], [])[1])
    ).text
    assert "/other/adapter" in text
    assert "ab" * 32 in text
    assert "LoRA r" not in text.partition("The resolved config")[0]
    assert "An evaluation knows nothing of how its model was trained" in text
    assert "soo controls made stands" not in text
    assert "No control ladder of" not in text


def test_what_holds_no_scenarios_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps({"name": "quick", "agents": {}}))
    assert main(["report", str(tmp_path), "--no-mlflow"]) == 2
    assert "quick holds no answers about deception" in capsys.readouterr().err


def test_a_models_answer_cannot_become_part_of_the_page() -> None:
    evil = "<script>alert(1)</script> | a | `b` [x](http://evil.example)\n# heading"
    sections = [Section(evil, [Text(evil), Table((evil,), [[evil]]), Listing(evil, evil), Image(b"", evil)])]
    page = Reader(to_html(evil, sections))
    assert not {"script", "a"} & set(page.tags)
    markdown, _ = to_markdown("t", [Section("s", [Table(("a",), [[evil]])])], "p")
    (row,) = [line for line in markdown.splitlines() if "alert" in line]
    assert row.count("|") - row.count("\\|") == 2  # still one cell
    assert "<script" not in row
    assert not re.search(r"(?<!\\)\]\(", row)


def test_answers_are_drawn_by_the_seed_and_not_picked(run: Path) -> None:
    found = outcome.load(run)
    first = report_parts._answers(run, found)[1]
    assert first == report_parts._answers(run, found)[1]
    assert first != report_parts._answers(run, found | {"seed": 1})[1]
    assert isinstance(first, Table)
    assert len(first.rows) == 20


def altered(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a run with another outcome."""
    folder.mkdir()
    (folder / "outcome.json").write_text(json.dumps(outcome.load(run) | changes))
    (folder / "answers").symlink_to(run / "answers")
    (folder / "config.yaml").write_text("")
    return folder


def test_a_report_that_mixes_choosing_and_confirming_items_is_refused(run: Path, tmp_path: Path) -> None:
    found = outcome.load(run)
    choosing = {"main": {"choosing": found["scenarios"]["main"]["confirming"]}}
    other = altered(run, tmp_path / "choosing", scenarios=choosing)
    with pytest.raises(UserError, match="never mixed"):
        report_page.compose([run, other], [])
    code = main(["report", str(run), str(other), "--out", str(tmp_path), "--no-mlflow"])
    assert code == 2
    assert not (tmp_path / "report.html").exists()


def test_seeds_of_one_recipe_are_taken_together_and_others_are_not(run: Path, tmp_path: Path) -> None:
    found = outcome.load(run)
    seeds = [altered(run, tmp_path / str(s), seed=s, config=found["config"] | {"seed": s}) for s in (0, 1, 2)]
    text = Reader(to_html("", report_page.compose(seeds, [])[1])).text
    assert "Over 3 seeds of this recipe, robust deception changes by -97 points" in text
    other = altered(run, tmp_path / "other", seed=3, config=found["config"] | {"seed": 3, "name": "another"})
    text = Reader(to_html("", report_page.compose([*seeds, other], [])[1])).text
    assert "not the seeds of one recipe" in text


def test_passwords_come_to_no_page(run: Path, tmp_path: Path) -> None:
    config = outcome.load(run)["config"]
    config["tracking"] |= {"uri": "https://me:hush@tracking.example"}
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as told:
        report_page.compose([altered(run, tmp_path / "secret", config=config)], [])
    assert "hush" not in str(told.value)


def test_what_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--no-mlflow"]) == 2
    assert "is not a finished run" in capsys.readouterr().err


def test_the_page_is_attached_to_the_mlflow_run(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    folder = finished(tmp_path / "runs" / "made-1", adapter=False)
    shutil.copy(database, tmp_path / "runs")
    assert main(["report", str(folder)]) == 0
    run_id = capsys.readouterr().out.split("attached to ")[1].strip()
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    assert {"report.html", "report.md"} <= {f.path for f in client.list_artifacts(run_id)}
