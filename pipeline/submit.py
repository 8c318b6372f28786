"""Any `soo` command as a job on a Ray cluster: only the files it needs are sent, and its exit code comes back.

The same as `ray job submit --working-dir . -- python -m pipeline ...`, with the logs followed. The cluster's Python must
have the packages of requirements.lock.
"""

import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.storage import PASSWORD
from stages.errors import UserError, first_line

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages", "tune_spaces")
GIVEN = "given"
MAX_BYTES = 90 * 2**20
"""Ray refuses a working directory of more than 100 MiB."""
PATIENCE = 60.0
"""Seconds in which a cluster may be out of reach while its job is followed."""


@dataclass(frozen=True)
class Job:
    """What became of a job. `exit_code` is its driver's own."""

    job_id: str
    status: str
    exit_code: int


def pack(folder: Path, command: Sequence[str]) -> list[str]:
    """Put what the command needs into `folder`: our packages, and files it names. The command as it runs there."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    sent = [_send(folder, word) for word in command]
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    if size > MAX_BYTES:
        raise UserError(f"the job's files have {size / 2**20:.0f} MiB; Ray takes no more than 100")
    return sent


def _send(folder: Path, word: str) -> str:
    """A word of the command; a file that it names is copied, and named as it is there."""
    key, path = _named(word)
    if path is None:
        return word
    copy = folder / GIVEN / path.name
    copy.parent.mkdir(exist_ok=True)
    if copy.exists() and copy.read_bytes() != path.read_bytes():
        raise UserError(f"two files of the command are called {path.name}")
    shutil.copy(path, copy)
    return f"{key}{GIVEN}/{path.name}"


def _named(word: str) -> tuple[str, Path | None]:
    """The file that a word names (mine.py, --space=mine.py, key.path=questions.jsonl), and what stands before it."""
    key, equals, value = word.rpartition("=")
    path = Path(value).expanduser()
    # `default` is the recipe of that name, whatever lies here.
    return key + equals, path if path.suffix and path.is_file() else None


def environment(names: Sequence[str], storage: str | None) -> dict[str, str]:
    """Variables of this machine that the job gets; secrets go this way and never into the entrypoint's text."""
    absent = [name for name in names if name not in os.environ]
    if absent:
        raise UserError(f"--env {absent[0]}: no such variable is set here")
    if PASSWORD.search(storage or ""):
        raise UserError(
            "leave keys out of --storage, which everybody who can list jobs sees: add --env for their variables"
        )
    return {name: os.environ[name] for name in names} | ({"SOO_RUNS": storage} if storage else {})


def check(command: Sequence[str]) -> None:
    """Raise UserError for a command that is none, or that shows a password to everybody who can list jobs."""
    if not command:
        raise UserError("name the command to submit, such as: soo submit -- run default")
    advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD and add --env for both"
    if any(PASSWORD.search(word) for word in command):
        raise UserError(
            f"a job's command can be read by all users of the cluster: leave the password out of it, {advice}"
        )
    for path in (path for word in command if (path := _named(word)[1]) and path.suffix in (".yaml", ".yml")):
        if PASSWORD.search(path.read_text(errors="replace")):
            raise UserError(f"a recipe that is sent is kept with its run: leave the password out of {path}, {advice}")


def connect(address: str | None) -> Any:
    """The cluster's job API. Raises UserError if nobody answers there, or only with a token."""
    from ray.job_submission import JobSubmissionClient

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # it lets through whatever its HTTP library raises
        text = str(error)
        hint = (
            "; set RAY_AUTH_MODE and RAY_AUTH_TOKEN as on the cluster"
            if "auth" in text.lower() or "401" in text
            else ""
        )
        raise UserError(f"no Ray jobs at {address}: {first_line(error)[:200]}{hint}") from error


def submit(client: Any, folder: Path, command: Sequence[str], variables: dict[str, str]) -> str:
    """Start the job; its id."""
    try:
        job_id: str = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "pipeline", *command]),
            runtime_env={"working_dir": str(folder), "env_vars": {"PYTHONUNBUFFERED": "1", **variables}},
        )
    except Exception as error:  # it lets through whatever its HTTP library raises
        raise UserError(f"the cluster did not take the job: {first_line(error)[:200]}") from error
    return job_id


def follow(client: Any, job_id: str, tell: Callable[[str], None], interval: float = 1.0) -> Job:
    """Tell the job's log line by line until it ends. Raises UserError if the cluster is out of reach for a minute."""
    told, reached = 0, time.monotonic()
    while True:
        try:
            info = client.get_job_info(job_id)
            log = client.get_job_logs(job_id)
        except Exception as error:  # a port-forward that drops; the job does not mind
            if time.monotonic() - reached > PATIENCE:
                raise UserError(
                    f"lost sight of {job_id}, which may go on (ray job logs --follow {job_id}): {first_line(error)[:200]}"
                ) from error
            time.sleep(interval)
            continue
        reached = time.monotonic()
        ended = info.status.is_terminal()
        whole = log if ended else log[: log.rfind("\n") + 1]
        for line in whole[told:].splitlines():
            tell(line)
        told = len(whole)
        if ended:
            code = info.driver_exit_code
            failed = 0 if info.status.value == "SUCCEEDED" else 1
            return Job(job_id, info.status.value, failed if code is None else int(code))
        time.sleep(interval)
