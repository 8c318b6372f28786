"""Which layers carry LoRA: every band of quarters below the recipe's site, from one quarter to all of it.

Below a band nothing changes, and above the site no gradient arrives. The site itself stays where the recipe has it.
"""

from typing import Any

from ray import tune


def space(layers: int, site: int) -> dict[str, Any]:
    """The space for a site at layer `site` (counted from 0); a value of `train.lora` changes the keys that it names."""
    edges = sorted({round((site + 1) * quarter / 4) for quarter in range(5)})
    bands = [(low, high - 1) for low in edges for high in edges if low < high]
    return {"train.lora": tune.choice([{"first_layer": low, "last_layer": high} for low, high in bands])}
