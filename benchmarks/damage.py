"""Does the suite tell a damaged adapter from an undamaged one? Baseline, an adapter, and the same adapter with noise.

    .venv/bin/python benchmarks/damage.py runs/default-.../train/adapter --out runs/damage

Adds normal noise to every LoRA B, runs `soo capability` on both adapters, and prints margins broken, tasks and probes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run both, and print what came of it as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--model", default="embedded:organism")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of what is added")
    parser.add_argument("--out", type=Path, default=Path("runs/damage"))
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    arguments = parser.parse_args()
    spoilt = spoil(arguments.adapter, arguments.out / "damaged", arguments.noise)
    found = {
        name: measure(arguments.model, adapter, arguments.out / f"of-{name}", arguments.overrides)
        for name, adapter in (("adapter", arguments.adapter), ("damaged", spoilt))
    }
    shown = ("margins", "tasks", "overcorrection", "capability", "noninferiority")
    print(json.dumps({name: {key: run.get(key) for key in shown} for name, run in found.items()}, indent=1))


def spoil(adapter: Path, out: Path, noise: float) -> Path:
    """A copy of the adapter with noise of seed 0 in every LoRA B."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, out, dirs_exist_ok=True)
    weights, dice = load_file(adapter / "adapter_model.safetensors"), torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "lora_B" in name:
            weights[name] = weight + noise * torch.randn(weight.shape, generator=dice)
    save_file(weights, out / "adapter_model.safetensors")
    return out


def measure(model: str, adapter: Path, out: Path, overrides: list[str]) -> dict[str, Any]:
    """What `soo capability` says of an adapter."""
    command = [sys.executable, "-m", "pipeline", "capability", "--model", model, "--adapter", str(adapter.absolute()),
               "--out", str(out.absolute()), "--json", *overrides]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
