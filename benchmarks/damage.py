"""Does the suite tell damaged adapters from the baseline, and does an adapter differ? Baseline, the adapter, damaged ones.

    .venv/bin/python benchmarks/damage.py --adapter runs/default-.../train/adapter --out runs/damage

Damage is of two kinds: the adapter with normal noise in every LoRA B, at a few doses; and an adapter that speaks well for
six tokens and then repeats itself, which tasks scored by log-likelihood cannot see (benchmarks/loops.py). Baseline answers
are made once. All is kept in --out: the same command goes on where it stopped. Prints lines, and writes damage.json.
"""

import argparse
import functools
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline import costs, outcome, report_capability, run  # noqa: E402
from pipeline.artifacts import Mark, digest, read_mark, stage, writable, write_json  # noqa: E402
from pipeline.config import RunConfig, load  # noqa: E402
from stages.progress import Board  # noqa: E402

SUITE = "soo_offline"
CHANCE = dict.fromkeys(("soo_facts", "soo_commonsense", "soo_reading", "soo_arithmetic"), 0.25) | {
    SUITE: 320 * 0.25 / 480
}
"""Of four choices; free answers have none to speak of."""
CEILING = 0.95
Outcome = dict[str, Any]


def main() -> None:
    """Measure all, and print what came of it."""
    from pipeline.cluster import connected
    from stages.progress import following

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="folder of an adapter that is there already")
    parser.add_argument("--model", default="embedded:organism")
    parser.add_argument("--doses", type=float, nargs="*", default=[0.1, 0.2], help="noise, standard deviations")
    parser.add_argument("--no-loops", action="store_true", help="leave the generation-only damage out")
    parser.add_argument("--out", type=Path, default=Path("runs/damage"))
    parser.add_argument("--set", nargs="*", default=[], metavar="key.path=value")
    given = parser.parse_args()
    config = load("default", [f"model.name={given.model}", "name=damage", f"capability.tasks=[{SUITE}]", *given.set])
    costs.check(config)
    run.check_subject(config, given.adapter, given.out)
    adapters = {"adapter": given.adapter} | dict(spoilt(config, given.adapter, given.doses, given.no_loops, given.out))
    with connected(), following() as board:
        found = {name: measure(config, adapter, given.out, name, board) for name, adapter in adapters.items()}
    print("\n".join(line for name, one in found.items() for line in told(name, one)))
    write_json(given.out / "damage.json", found)
    draw(found, given.out / "damage.png")
    print(f"\nfigure  {given.out / 'damage.png'}")


def draw(found: Mapping[str, Outcome], path: Path) -> None:
    """The rate of every task, of the baseline and of every adapter, with intervals and with what chance gives."""
    from matplotlib.figure import Figure

    tasks = list(next(iter(found.values()))["tasks"])
    figure = Figure(figsize=(9, 0.75 * len(tasks) + 1.2), dpi=140, layout="constrained")
    axis = figure.subplots()
    series = {"baseline": next(iter(found.values()))["tasks"]}
    series |= {name: one["tasks"] for name, one in found.items()}
    for place, (name, by) in enumerate(series.items()):
        rates = [by[task]["baseline" if name == "baseline" else "adapter"] for task in tasks]
        reach = [[100 * (r["rate"] - r["low"]) for r in rates], [100 * (r["high"] - r["rate"]) for r in rates]]
        rows = [row + 0.14 * (place - (len(series) - 1) / 2) for row in range(len(tasks))]
        axis.errorbar([100 * r["rate"] for r in rates], rows, xerr=reach, fmt="o", markersize=5, capsize=2, label=name)
    for row, task in enumerate(tasks):
        axis.plot([100 * CHANCE.get(task, 0.0)] * 2, [row - 0.4, row + 0.4], color="black", linestyle=":")
    axis.set_yticks(range(len(tasks)), tasks)
    axis.invert_yaxis()
    axis.set_xlim(left=-2)
    axis.set_xlabel("right, % (95 % interval); dotted: by chance")
    axis.set_title("Tasks of the offline suite: baseline, the SOO adapter, damaged adapters", loc="left", fontsize=10.5)
    axis.legend(loc="lower right")
    figure.savefig(path)


def spoilt(
    config: RunConfig, adapter: Path, doses: list[float], no_loops: bool, out: Path
) -> Iterator[tuple[str, Path]]:
    """Name -> folder of each damaged adapter, made unless it is there."""
    from benchmarks import loops

    weights = digest(adapter / "adapter_model.safetensors")
    for dose in doses:
        name = f"noise-{dose:g}"
        stage(out / "made" / name, [weights, dose], functools.partial(add_noise, adapter, dose))
        yield name, out / "made" / name
    if not no_loops:
        stage(
            out / "made" / "loops", [config.model.model_dump(), loops.KEPT], lambda into: loops.make(config.model, into)
        )
        yield "loops", out / "made" / "loops"


def add_noise(adapter: Path, dose: float, out: Path) -> dict[str, Any]:
    """A copy of the adapter with noise of seed 0 in every LoRA B."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, out, dirs_exist_ok=True)
    weights, dice = load_file(adapter / "adapter_model.safetensors"), torch.Generator().manual_seed(0)
    noisy = {name: weight + dose * torch.randn(weight.shape, generator=dice) if "lora_B" in name else weight
             for name, weight in weights.items()}  # fmt: skip
    save_file(noisy, out / "adapter_model.safetensors")
    return {}


def measure(config: RunConfig, adapter: Path, out: Path, name: str, board: Board) -> Outcome:
    """What honesty cost, of one adapter; the baseline's answers are taken from the folder `baseline`."""
    base = writable(out / "baseline")
    run.ask(config, base, None, ("baseline",), [], board, parts=("costs",))
    folder = writable(out / f"of-{name}")
    known, made_from = base / "answers" / "answers", [digest(adapter / "adapter_model.safetensors")]
    asked: Mark = run.ask(config, folder, adapter, ("baseline", "adapter"), made_from, board, known, parts=("costs",))
    answers = outcome.read_answers(folder / "answers" / "answers")
    found = costs.compose(config, folder, answers, costs.settle(config, folder, answers, asked))
    return found | {"seconds": {n: m.seconds for n in ("answers", "tasks") if (m := read_mark(folder / n))}}


def told(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one adapter: what it broke, whether it differs, and every task with its interval."""
    change = found["tasks"][SUITE]["change"]
    differs = "differs" if change["low"] > 0 or change["high"] < 0 else "does not differ"
    yield f"\n== {name}: {'SEPARATED from' if found['margins'] else 'not separated from'} the baseline"
    yield from (f"   beyond its margin: {reason}" for reason in found["margins"])
    yield (f"   {SUITE} {differs} from the baseline: {100 * change['difference']:+.1f} points, 95 % interval "
           f"{100 * change['low']:+.1f} to {100 * change['high']:+.1f}")  # fmt: skip
    yield from report_capability.lines(found)
    if name == "adapter":
        yield from (f"   baseline on {task}: {placed(task, by['baseline'])}" for task, by in found["tasks"].items())


def placed(task: str, rate: Mapping[str, float]) -> str:
    """Where a rate lies between chance and ceiling, by its interval."""
    chance = CHANCE.get(task, 0.0)
    where = "at chance" if rate["low"] <= chance else "at the ceiling" if rate["high"] >= CEILING else "between"
    return (f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}-{100 * rate['high']:.1f}], chance {100 * chance:g}, "
            f"ceiling {100 * CEILING:g}: {where}")  # fmt: skip


if __name__ == "__main__":
    main()
