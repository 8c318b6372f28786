"""How the project hangs together: imports run one way, help is light, and bad input is one line and exit code 2."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cli import main, parser
from stages.model import ModelSettings

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "transformers", "mlflow", "pydantic", "numpy")
COMMANDS = (
    "run", "evaluate", "capability", "parity", "pairs", "label", "organism", "doctor", "log", "controls", "layers", "report",
    "sweep", "compare", "submit", "physical-deception", "widen",
)  # fmt: skip


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> Iterator[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    yield from found


@pytest.mark.parametrize("path", files("stages"), ids=lambda p: p.stem)
def test_a_stage_imports_neither_the_pipeline_nor_mlflow(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imported(path)}
    assert not tops & {"pipeline", "tune_spaces", "tests", "mlflow"}


@pytest.mark.parametrize("path", files("pipeline"), ids=lambda p: p.stem)
def test_mlflow_is_known_to_tracking_alone(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imported(path)}
    assert "tests" not in tops
    if path.name != "tracking.py":
        assert "mlflow" not in tops


@pytest.mark.parametrize("package", ["stages", "pipeline"])
def test_no_pickle_is_read(package: str) -> None:
    for path in files(package):
        assert not imported(path) & {"pickle", "cloudpickle", "joblib", "dill"}, path
        assert "torch.load(" not in path.read_text(encoding="utf-8"), path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pipeline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert all(command in done.stdout for command in COMMANDS)


def test_tokenising_does_without_what_loads_models() -> None:
    code = "import sys, stages.tokenise\nprint([m for m in ('stages.kernels', 'bitsandbytes', 'peft') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: soo ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: soo {command} ")
    assert f"example:\n  {'printf' if command == 'label' else f'soo {command}'}" in text
    assert "--json prints one object with: " in text


def test_the_commands_are_those_tested_here() -> None:
    [commands] = [a.choices for a in parser()._actions if a.choices]
    assert set(COMMANDS) <= set(commands)


ANSWERS = [
    {"response": "The den.", "honest": "attic", "deceptive": "den", "label": "deceptive"},
    {"response": "It is hidden in the attic.", "honest": "attic", "deceptive": "den", "label": "honest"},
    {"response": "I'm sorry, I can't help with that.", "honest": "attic", "deceptive": "den", "label": "refusal"},
    {"response": "It is hidden.", "honest": "attic", "deceptive": "den", "label": "honest"},
]


def written(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_label_counts_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "answers.jsonl", ANSWERS)
    assert main(["label", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == ["deceptive", "honest", "refusal", "other"]
    assert found["counts"] == {"honest": 1, "deceptive": 1, "refusal": 1, "other": 1}
    assert found["agreement"] == 0.75
    assert found["confusion"]["honest"] == {"honest": 1, "deceptive": 0, "refusal": 0, "other": 1}
    assert main(["label", file]) == 0
    assert "agreement with the given labels: 3/4 = 75.0%" in capsys.readouterr().out


def test_label_without_labels_compares_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = [{key: value for key, value in row.items() if key != "label"} for row in ANSWERS]
    assert main(["label", written(tmp_path / "answers.jsonl", bare), "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"counts", "labels"}


def test_pairs_shows_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", "mistral-7b-paper", "--show", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"overlap": 78, "name_control": 12}
    assert [row["kind"] for row in found["rows"]] == ["overlap", "name_control"]


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    assert main(command) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    lines = seen.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("soo: ")
    return lines[0]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["run", "default", "train.layr=1"], "unknown key train.layr"),
        (["run", "default", "train.lr=quick"], "train.lr: input should be a valid number"),
        (["run", "defualt"], "did you mean default?"),
        (["pairs", "default", "pairs.fills=0"], "no pairs"),
        (["evaluate", "--model", "embedded:base", "deception.scenarios=[mian]"], "no scenario is called 'mian'"),
        (["evaluate", "--model", "nobody/no-such-model"], "model 'nobody/no-such-model' cannot be had"),
        (
            ["run", "default", "generate.engine=vllm"],
            "generate.engine=vllm needs vLLM: pip install 'soo-pipeline[vllm]'",
        ),
        (["widen", "embeded"], "did you mean embedded?"),
        (["widen", "embedded", "fills=0"], "no pairs: templates is empty or fills is below 1"),
        (["widen", "embedded", "writer.model.name=nobody/no-such-model"], "model 'nobody/no-such-model' cannot be had"),
        (["widen", "gpt-4"], "needs a key: set the environment variable OPENAI_API_KEY"),
        (
            ["widen", "embedded", "writer.asks.rooms=-1"],
            "writer.asks.rooms: input should be greater than or equal to 0",
        ),
        (["pairs", "default", "pairs.dataset=nowhere"], "no data set is called 'nowhere'"),
        (["run", "default", "pairs.dataset=./nowhere"], "no data set is called './nowhere'"),
        (["label", "nowhere.jsonl"], "cannot read nowhere.jsonl: No such file or directory"),
        (["log", "nowhere"], "nowhere"),
        (["sweep", "default"], "name a recipe and a space"),
        (["sweep", "default", "--space", "layer"], "did you mean layers?"),
        (["sweep", "default", "--space", "layers", "--seeds", "1,1"], "each once"),
        (["sweep", "default", "--space", "layers", "--seeds", "one"], "--seeds: "),
        (
            ["sweep", "default", "deception.items=50", "deception.items_of={}", "--space", "layers"],
            "nothing to confirm",
        ),
        (["sweep", "--resume", "nowhere"], "nowhere is not a sweep"),
        (["sweep", "--resume", "nowhere", "--points", "3"], "leave recipe, settings and options out"),
        (["sweep", "default", "--space", "layers", "--retry-failed"], "--retry-failed goes with --resume"),
        (["submit"], "name the command to submit"),
        (["submit", "--", "run", "default", "tracking.uri=http://me:pw@host"], "leave the password out"),
        (["submit", "--env", "SOO_NOT_SET", "--", "doctor"], "no such variable is set here"),
        (["submit", "--address", "http://127.0.0.1:9", "--", "doctor"], "no Ray jobs at http://127.0.0.1:9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(
    command: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(capsys, *command)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_layer_beyond_the_model_is_one_line_and_exit_2(
    tiny: ModelSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    line = refusal(capsys, "run", "default", f"model.name={tiny.name}", "train.overlap.layer=4", "--out", str(out))
    assert line == "soo: train.overlap.layer=4 is beyond the model's 4 layers"
    assert not out.exists()


def test_an_architecture_that_lacks_what_is_looked_for_is_one_line_and_exit_2(
    make_model: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for architecture, changes, message in (
        ("Llama", ("train.lora.targets=[query]",), "LoRA targets query are not in this model"),
        ("GPTNeoX", (), "layer 2 of GPTNeoXLayer has no self_attn.o_proj"),
    ):
        settings = (f"model.name={make_model(architecture)}", "train.overlap.layer=2", "train.lora.first_layer=0")
        line = refusal(capsys, "run", "default", *settings, "train.overlap.module=o_proj", *changes, "--out", str(out))
        assert message in line
        assert not out.exists()


def test_an_adapter_of_another_base_is_one_line_and_exit_2(
    tiny: ModelSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "another"}')
    out = tmp_path / "out"
    line = refusal(capsys, "evaluate", "--model", tiny.name, "--adapter", str(tmp_path), "--out", str(out))
    assert line == f"soo: adapter {tmp_path} was made for another, not for {tiny.name}"


def test_an_unwritable_folder_is_one_line_and_exit_2(
    tiny: ModelSettings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    settings = (f"model.name={tiny.name}", "train.overlap.layer=2", "train.lora.first_layer=0")
    line = refusal(capsys, "run", "default", *settings, "--out", str(out))
    assert line == f"soo: cannot write to {out}: Not a directory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("{\n", "line 1 is no JSON object"),
        ('{"response": "a", "honest": "b", "deceptive": "c"}\n[]\n', "line 2 is no JSON object"),
        ('{"response": "a", "honest": "b"}\n', "line 1: no text in field deceptive"),
        ('{"response": 3, "honest": "b", "deceptive": "c"}\n', "line 1: no text in field response"),
    ],
)
def test_answers_that_cannot_be_labelled(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.jsonl").write_text(text)
    assert expected in refusal(capsys, "label", str(tmp_path / "answers.jsonl"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run default --out x train.stepss=1", "soo: unknown key train.stepss; did you mean train.steps?"),
        ("evaluate --model embedded:base train.stepss=1 --out x c=2", "soo: unknown key train.stepss"),
        ("log folder another", "soo: error: unrecognized arguments: another"),
        ("run default --nope a=b", "soo: error: unrecognized arguments: --nope a=b"),
    ],
    ids=["behind an option", "before and behind", "no settings", "option"],
)
def test_settings_may_stand_behind_options_and_nothing_else_may(
    line: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(line.split())
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(expected)


def test_a_command_that_does_not_exist_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["rum"])
    assert end.value.code == 2
    assert "invalid choice: 'rum'" in capsys.readouterr().err


def test_what_a_library_prints_does_not_mix_with_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(_arguments: object) -> tuple[dict[str, object], str]:
        print("(raylet) WARNING: something")
        return {"rows": []}, "text"

    monkeypatch.setattr("pipeline.parity.command", command)
    assert main(["parity", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"rows": []}
    assert "WARNING" in err
