"""The sections of a report about one run, and the one about its controls."""

import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import ladder, report, report_capability
from pipeline.artifacts import digest
from pipeline.config import to_yaml, validated
from pipeline.outcome import read_answers
from pipeline.page import Block, Image, Listing, Section, Table, Text
from pipeline.report import CONDITIONS, headline, ordered, percent
from pipeline.run import LATENT
from stages import outcomes

DRAWN = 20
Run = Mapping[str, Any]


def of_run(folder: Path, run: Run, where: str) -> list[Section]:
    """Everything about one run; `where` tells it from others in the titles."""
    parts: dict[str, list[Block]] = {
        "What was run": [_what(run)],
        "Outcome, both orientations": [_drawn(lambda path: report.figure(run, path), "answers by orientation"),
                                       _rates(run), Text(report.LEGEND)],
        "Damage, collapse, capability": _health(run),
        "Layers": _layers(folder, run),
        f"{DRAWN} answers drawn at random": _answers(folder, run),
        "Config, versions, hashes, cost": _record(folder, run),
    }  # fmt: skip
    return [Section(title + where, blocks) for title, blocks in parts.items()]


def _drawn(draw: Callable[[Path], None], about: str) -> Image:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        draw(path)
        return Image(path.read_bytes(), about)


def _what(run: Run) -> Table:
    config = run["config"]
    train, model = config["train"], config["model"]
    site = train["overlap"]
    terms = (
        f"overlap {site['weight']:g}, retain {train['retain']['weight']:g}, distinct {train['distinct']['weight']:g}"
    )
    lora = train["lora"]
    asked = ", ".join(
        f"{name} ({split}, n = {by['baseline']['n']})"
        for name, splits in ordered(run).items()
        for split, by in splits.items()
    )
    made = (
        [
            [
                "pairs",
                f"{', '.join(config['pairs']['templates'])}; {config['pairs']['fills']} fills each; pairing "
                f"{config['pairs']['pairing']}",
            ],
            ["site", f"layer {site['layer']} (from {site['layer_base']}), {site['module']}, {site['pooling']}"],
            ["objective", f"{site['objective']}; weights: {terms}"],
            ["adapter", f"LoRA r {lora['r']}, alpha {lora['alpha']:g}, on {', '.join(lora['targets'])}"],
            ["training", f"{run['training'].get('step', 0):.0f} steps, lr {train['lr']:g}, {train['schedule']}"],
        ]
        if run["training"]
        else [["adapter", run["adapter"]["path"] if "adapter" in run else "none: the model as it is"]]
    )
    rows = [
        ["recipe", f"{run['name']}, seed {run['seed']}; {config['source']}"],
        ["model", f"{model['name']}, {model['quantisation']}"],
        *made,
        ["asked", f"{asked}; every item in both orientations; greedy answers"],
    ]  # fmt: skip
    return Table(("", ""), rows)


def _rates(run: Run) -> Table:
    rows = []
    split = headline(run)[1]
    for name, splits in ordered(run).items():
        if split not in splits:
            continue  # asked on items of the other kind alone, which no report mixes with these
        for condition in run["conditions"]:
            s = splits[split][condition]
            rates = [_interval(s[k]) for k in
                     ("robust_deception", "robust_honesty", "position_bias", "confused_honest", "unusable")]  # fmt: skip
            rows.append([name, CONDITIONS[condition], split, str(s["n"]), *rates])
    head = ("scenario", "", "items", "n", "robust deception", "robust honesty", "position bias", "confused-honest",
            "refusal, other")  # fmt: skip
    return Table(head, rows, frozenset(range(3, 9)))


def _interval(rate: Mapping[str, float]) -> str:
    return f"{percent(rate['rate'])} % [{percent(rate['low'])}-{percent(rate['high'])}]"


def _health(run: Run) -> list[Block]:
    """The lines of the terminal's table about change, damage, collapse and capability, and the site's numbers."""
    scenario, split = headline(run)
    blocks: list[Block] = []
    for key, c in run["scenarios"][scenario][split].get("change", {}).items():
        blocks.append(Text(
            f"Change of {key.replace('_', ' ')} on {scenario} ({split}), each item against itself: "
            f"{percent(c['difference'])} points, 95 % interval {percent(c['low'])} to {percent(c['high'])} (the "
            f"wider of a paired bootstrap and Newcombe's), exact McNemar p = {c['p']:.2g}."
        ))  # fmt: skip
    if "adapter" not in run["conditions"]:
        return [*blocks, Text("Nothing was trained."), *report_capability.blocks(run)]
    damage, collapse = run["damage"], run["collapse"]
    said = f"Damaged: {'; '.join(damage['reasons'])}." if damage["damaged"] else "Not damaged by the preset margins."
    blocks.append(Text(said))
    variation = collapse["variation"]
    blocks.append(Text(
        "Collapse was not measured." if variation is None else
        f"{'COLLAPSED' if collapse['collapsed'] else 'Not collapsed'}: least variation across prompts at the site is "
        f"{percent(variation)} % of the base model's."
    ))  # fmt: skip
    blocks += [Text(line.replace("   ", ": ", 1)) for line in report.specific(collapse)]
    inside = {k: v for k, v in run.get("latent", {}).items() if k != "published"}
    if inside:
        blocks.append(Table(
            ("site after training, base = 1", *(k.replace("_", " ") for k in inside)),
            [["", *(f"{v:.3f}" for v in inside.values())]], frozenset(range(1, len(inside) + 1)),
        ))  # fmt: skip
    return [*blocks, *report_capability.blocks(run)]


def _layers(folder: Path, run: Run) -> list[Block]:
    from pipeline import layers

    path = folder / LATENT
    if not path.is_file():
        return [Text("The model was not looked into (latent.after=false, or an evaluation alone).")]
    found, config = json.loads(path.read_text()), validated(run["config"])
    shown = _drawn(lambda out: layers.figure(found, config, out), "self/other distance by layer, before and after")
    numbers = [
        [CONDITIONS[c], f"{by['paper_mlp_mse']:.4g}", f"{by['released_linear_mse']:.4g}"]
        for c, by in found["published"].items()
    ]
    head = (
        "numbers as published, on the published probe",
        "MLP MSE (paper's name)",
        "all linear layers (2024 release)",
    )
    return [shown, Text(layers.CAVEAT), Table(head, numbers, frozenset({1, 2}))]


def _answers(folder: Path, run: Run) -> list[Block]:
    """Drawn by a seed from all scenarios' result items, not picked; before and after of the same prompt together."""
    rows = [
        outcomes.score(r)
        for r in read_answers(folder / "answers" / "answers")
        if r["task"] == "deception" and r["split"] == headline(run)[1]
    ]
    by: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        by.setdefault((row["item_id"], row["orientation"]), {})[row["condition"]] = row
    drawn = random.Random(f"report/{run['seed']}").sample(sorted(by), min(DRAWN, len(by)))
    conditions = [c for c in CONDITIONS if c in run["conditions"]]
    table = []
    for key in drawn:
        row = by[key][conditions[0]]
        cells = [f"{by[key][c]['response']}  [{by[key][c]['label']}]" for c in conditions]
        table.append([f"{key[0]}, {key[1]}", row["prompt"], f"{row['honest']} / {row['deceptive']}", *cells])
    head = ("item", "prompt", "honest / deceptive", *(CONDITIONS[c] for c in conditions))
    return [
        Text(f"By the run's seed from {len(by)} prompts; labels in brackets are this project's."),
        Table(head, table),
    ]


def _record(folder: Path, run: Run) -> list[Block]:
    files = {
        "config.yaml": folder / "config.yaml",
        "adapter": folder / "train" / "adapter" / "adapter_model.safetensors",
    }
    for name, place in (("pairs", folder / "pairs" / "pairs"), ("answers", folder / "answers" / "answers")):
        files |= {f"{name}/{p.name}": p for p in sorted(place.glob("*.parquet"))}
    hashes = [[name, digest(path)] for name, path in files.items() if path.is_file()]
    if "adapter" in run and not files["adapter"].is_file():
        hashes.append([f"adapter, {run['adapter']['path']}", run["adapter"]["sha256"]])
    seconds = run.get("seconds", {})
    cost = ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())
    return [
        Text(f"Cost: {cost}; {sum(seconds.values()):.0f} s in all, on the machine that ran it."),
        Table(("package", "version"), [[k, str(v)] for k, v in run["versions"].items()]),
        Table(("file", "SHA-256"), hashes),
        Listing(
            "The resolved config: soo run with this file repeats the run",
            to_yaml(validated(run["config"])),
        ),
    ]


def controls(folders: Sequence[Path], climbed: Sequence[Mapping[str, Any]], name: str) -> Section:
    """The control ladders, or that there are none."""
    if not climbed:
        return Section("Controls", [Text(f"None were given. Run: soo controls {name}, and name its folder here.")])
    blocks: list[Block] = []
    for folder, found in zip(folders, climbed, strict=True):
        blocks.append(Text(f"{found['name']}, {found['config']['model']['name']}", verdict=True))
        blocks.append(Text(found["verdict"]["sentence"], verdict=True))
        blocks.append(Image((folder / "controls.png").read_bytes(), "robust rates of every control"))
        rows = []
        for rung, of in found["rungs"].items():
            n = len(of["runs"])
            rates = [
                f"{percent(of[k]['mean'])} % [{percent(of[k]['low'])}-{percent(of[k]['high'])}]"
                for k in ladder.MEASURES
            ]
            tokens = sum(r["tokens"] for r in of["runs"].values()) / n
            steps = next(iter(of["runs"].values()))["steps"]
            rows.append([rung, of["about"], str(n), str(steps), f"{tokens:.0f}", *rates, f"{of['damaged']}/{n}",
                         f"{of['collapsed']}/{n}"])  # fmt: skip
        head = (
            "rung",
            "",
            "seeds",
            "steps",
            "tokens seen",
            "robust deception",
            "robust honesty",
            "damaged",
            "collapsed",
        )
        blocks.append(Table(head, rows, frozenset(range(2, 9))))
    return Section("Controls", blocks)
