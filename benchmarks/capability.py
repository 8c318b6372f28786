"""Items a second of `soo capability` against lm-eval's own command line: same model, tasks, numbers and batch size.

    .venv/bin/python benchmarks/capability.py --items 20 --repeats 3

Both are timed as whole processes, start-up and loading included, one after the other and the first in turn. Prints one
JSON object with seconds, items a second, their ratio, and whether both got the same scores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE = ROOT / "stages" / "data" / "capability"
TASKS = ("soo_facts", "soo_commonsense", "soo_reading", "soo_arithmetic", "soo_recall", "soo_sums", "soo_instructions")
BATCH = 32


def main() -> None:
    """Time both, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20, help="items of each of the seven tasks")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from stages import embedded

    model = str(embedded.prepare(embedded.ORGANISM))
    seconds: dict[str, list[float]] = {"soo": [], "lm_eval": []}
    scores: dict[str, dict[str, float]] = {}
    for turn in range(arguments.repeats):
        for name in sorted(seconds, reverse=bool(turn % 2)):
            with tempfile.TemporaryDirectory() as folder:
                run = ours if name == "soo" else theirs
                began = time.perf_counter()
                scores[name] = run(model, arguments.items, Path(folder))
                seconds[name].append(time.perf_counter() - began)
    items = arguments.items * len(TASKS)
    rates = {name: items / statistics.median(found) for name, found in seconds.items()}
    print(json.dumps({
        "items": items, "repeats": arguments.repeats, "cpus": os.cpu_count(), "seconds": seconds,
        "items_a_second": rates, "ratio": rates["soo"] / rates["lm_eval"], "scores": scores,
        "same_scores": scores["soo"] == scores["lm_eval"],
    }, indent=1))  # fmt: skip


def ours(model: str, items: int, folder: Path) -> dict[str, float]:
    """Task -> mean, by `soo capability`."""
    command = [
        sys.executable, "-m", "pipeline", "capability", "--model", model, "--out", str(folder), "--json",
        "model.quantisation=none", "model.compute_dtype=float32", f"generate.batch_size={BATCH}",
        f"capability.tasks=[{', '.join(TASKS)}]", f"capability.task_items={items}", "capability.prompts=0",
        "capability.overcorrection=0", "tracking.enabled=false",
    ]  # fmt: skip
    found = json.loads(_run(command))["tasks"]
    return {task: round(by["baseline"]["rate"], 6) for task, by in found.items()}


def theirs(model: str, items: int, folder: Path) -> dict[str, float]:
    """Task -> mean, by lm-eval's command line."""
    _run([
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
        "--tasks", ",".join(TASKS), "--include_path", str(SUITE), "--limit", str(items), "--apply_chat_template",
        "--batch_size", str(BATCH), "--device", "cpu", "--output_path", str(folder),
    ])  # fmt: skip
    [path] = folder.rglob("results*.json")
    found = json.loads(path.read_text())["results"]
    return {task: round(found[task]["acc,none"], 6) for task in TASKS}


def _run(command: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    main()
