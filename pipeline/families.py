"""MLflow runs that stand for several, and files that come later than the run; MLflow itself is tracking.py's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import fingerprint
from pipeline.tracking import FINGERPRINT, session

FAMILY, SEEDS, SUPERSEDED = "soo.family", "soo.seeds", "superseded_by"
"""Tags: of what a parent is the record, whatever its seeds; its seeds; and which one took its place."""


def record_parent(
    folder: Path,
    uri: str,
    experiment: str,
    found: Mapping[str, Any],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    texts: Mapping[str, str],
    files: Sequence[Path],
) -> str:
    """The id of a run with what several came to together. Found again, not doubled; a half-made one is made anew.

    `files` of the folder keep their place in it. Earlier records of the folder with none but these seeds are tagged as
    superseded.
    """
    key = fingerprint(folder.name, found)
    same = {name: value for name, value in found["config"].items() if name not in ("seed", "seeds", "tracking")}
    family, seeds = fingerprint(folder.name, same), set(found["seeds"])
    with session(uri, experiment) as (client, within):
        for run in client.search_runs([within], f"tags.`{FINGERPRINT}` = '{key}'", max_results=1):
            if run.info.status == "FINISHED":
                return str(run.info.run_id)
            client.delete_run(run.info.run_id)
        run_id = str(
            client.create_run(
                within,
                tags={FINGERPRINT: key, FAMILY: family, SEEDS: json.dumps(sorted(seeds)), **tags},
                run_name=folder.name,
            ).info.run_id
        )
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        for file in files:
            place = file.relative_to(folder)
            client.log_artifact(run_id, str(file), str(place.parent) if len(place.parts) > 1 else None)
        client.set_terminated(run_id)
        for run in client.search_runs([within], f"tags.`{FAMILY}` = '{family}'"):
            if run.info.run_id != run_id and set(json.loads(run.data.tags[SEEDS])) <= seeds:
                client.set_tag(run.info.run_id, SUPERSEDED, run_id)
    return run_id


def attach(run_id: str, uri: str, experiment: str, files: Sequence[Path]) -> None:
    """Add files to a run that is recorded."""
    with session(uri, experiment) as (client, _):
        for file in files:
            client.log_artifact(run_id, str(file))
