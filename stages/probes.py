"""The pairs of prompts that a look into the model compares: test words, and ordinary prompts that are held out."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stages import ordinary
from stages.pairs import PairsSettings
from stages.situations import SITUATIONS
from stages.templates import PROBE, PUBLISHED, SCENES, Template
from stages.vocabulary import TEST, TRAIN, Fill, Vocabulary, draw

Kind = Literal["self_other", "name_control", "neighbours", "unrelated", "published_probe"]
KINDS: tuple[Kind, ...] = ("self_other", "name_control", "neighbours", "unrelated")


@dataclass(frozen=True)
class Probe:
    """Two prompts that are compared, with how the replies begin."""

    kind: Kind
    first: str
    second: str
    first_prefix: str = ""
    second_prefix: str = ""
    chat: bool = True


def make_probes(count: int, pairs: PairsSettings, seed: int) -> list[Probe]:
    """`count` pairs of each kind, from the recipe's templates with test words, and the published probe."""
    rng = random.Random(f"{seed}/latent")
    templates = list(_groups(pairs)) or [(t, TEST) for t in PUBLISHED]
    made: list[Probe] = []
    for index in range(count):
        template, words = templates[index % len(templates)]
        fill, other, first = draw(words, rng, pairs.name), draw(words, rng, pairs.name), rng.random() < 0.5
        alex = Fill(fill.honest_room, fill.other_room, fill.cheap, fill.expensive, pairs.control_name)

        def text(side: Any, f: Fill, template: Template = template, first: bool = first) -> tuple[str, str]:
            prompt = template.render(side, f, first) + (f" {pairs.suffix}" if pairs.suffix else "")
            return prompt, template.answer_prefix(f) if pairs.response_prefix else ""

        ours, theirs, renamed, moved = text("self", fill), text("other", fill), text("other", alex), text("self", other)
        sides: dict[Kind, Any] = {
            "self_other": (ours, theirs), "name_control": (theirs, renamed), "neighbours": (ours, moved),
        }  # fmt: skip
        made += [Probe(kind, a[0], b[0], a[1], b[1], pairs.chat_template) for kind, (a, b) in sides.items()]
        a, b = (ordinary.HELD_OUT[(2 * index + side) % len(ordinary.HELD_OUT)] for side in (0, 1))
        made.append(Probe("unrelated", a, b, chat=pairs.chat_template))
    for item in TRAIN.expensive:
        fill = Fill(TRAIN.rooms[0], TRAIN.rooms[1], TRAIN.cheap[0], item, "Bob")
        made.append(Probe("published_probe", PROBE.render("self", fill), PROBE.render("other", fill), chat=False))
    return sorted(made, key=lambda p: p.kind)


def _groups(settings: PairsSettings) -> Iterator[tuple[Template, Vocabulary]]:
    if "published" in settings.templates:
        yield from ((t, TEST) for t in PUBLISHED)
    if "scenes" in settings.templates:
        yield from ((t, TEST) for t in SCENES)
    if "situations" in settings.templates:
        yield from ((s.pair, s.test) for s in SITUATIONS)
