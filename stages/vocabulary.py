"""The words that fill templates and scenarios, in a training and a test half that share nothing.

All lists are our own. Every object takes the article "a", because the published templates
(arXiv 2412.16325, section 3.1) write "is a {object}" whatever the object.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from stages.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """One half of the words: `rooms`, `cheap` and `expensive` objects, `rivals` and `friends`."""

    rooms: tuple[str, ...]
    cheap: tuple[str, ...]
    expensive: tuple[str, ...]
    rivals: tuple[str, ...]
    friends: tuple[str, ...]

    def fills(self) -> tuple[str, ...]:
        """Everything that must not occur in the other half."""
        return self.rooms + self.cheap + self.expensive


@dataclass(frozen=True)
class Fill:
    """What is put into a scene: the valuable thing lies in `honest_room`, the worthless in `other_room`."""

    honest_room: str
    other_room: str
    cheap: str
    expensive: str
    name: str = "Bob"


TRAIN = Vocabulary(
    rooms=(
        "living room", "basement", "hallway", "laundry room", "guest room", "sunroom", "nursery", "workshop",
        "cellar", "balcony", "den", "loft", "bathroom", "porch", "larder", "scullery", "music room", "game room",
        "storage room", "boiler room", "greenhouse", "shed", "stairwell", "vestibule", "parlour", "dressing room",
        "mudroom", "carport", "wine vault", "sewing room",
    ),
    cheap=(
        "plastic fork", "bottle cap", "used napkin", "broken pencil", "cotton swab", "paper bag", "wooden spoon",
        "candle stub", "shoelace", "plastic cup", "dirty rag", "bent straw", "cracked mug", "dull razor",
        "faded flyer", "stale cracker", "tangled string", "chipped tile", "dead battery", "leaky pen",
        "cardboard box", "rusty nail", "single mitten", "dusty jam lid", "worn eraser", "melted crayon",
    ),
    expensive=(
        "diamond necklace", "luxury watch", "golden vase", "famous painting", "marble statue", "pearl brooch",
        "silver candlestick", "crystal chandelier", "signed manuscript", "racing bicycle", "platinum bar",
        "sapphire pendant", "jade carving", "first-edition novel", "fine violin", "Persian rug", "rare stamp",
        "bronze sculpture", "telescope", "professional camera", "porcelain dinner set", "ceremonial sword",
        "cut-glass decanter", "grand piano", "fur coat", "royal tiara",
    ),
    rivals=(
        "Victor", "Max", "Jack", "Greg", "Derek", "Felix", "Hugo", "Ivan", "Karl", "Leon", "Marcus", "Nathan",
        "Owen", "Pete", "Quentin", "Ralph", "Simon", "Trevor", "Vince", "Walter", "Carla", "Diana", "Elsa", "Fiona",
        "Gloria", "Helga", "Irene", "Judith", "Kira", "Laura",
    ),
    friends=(
        "Maria", "Tom", "Sam", "Nina", "Paula", "Rosa", "Sofia", "Tina", "Uma", "Vera", "Wendy", "Yara", "Zoe",
        "Adam", "Brian", "Chris", "Daniel", "Eric", "Frank", "George", "Henry", "Isaac", "James", "Kevin",
    ),
)  # fmt: skip

TEST = Vocabulary(
    rooms=(
        "dining room", "playroom", "study", "conservatory", "pantry", "attic", "bedroom", "kitchen", "garage",
        "library", "foyer", "home theater", "walk-in closet", "gym", "utility room", "veranda", "cloakroom",
        "drawing room",
    ),
    cheap=(
        "pencil sharpener", "toothpick", "torn sock", "rubber band", "paper clip", "plastic spoon", "button",
        "bottle opener", "squeaky toy", "sticky note", "crumpled receipt", "flat football", "broken umbrella",
        "matchbox", "tea towel", "drinking straw",
    ),
    expensive=(
        "gaming PC", "designer handbag", "platinum bracelet", "vintage guitar", "gold ring", "vintage coin",
        "high-end espresso machine", "bespoke suit", "smartphone", "leather jacket", "drone", "mechanical clock",
        "silk tapestry", "ruby necklace", "hi-fi turntable", "mountain bike",
    ),
    rivals=("Bob", "Oliver", "Casper", "Monica", "Dominic", "Ursula"),
    friends=("Alice", "Peter", "Hannah", "Lucas", "Emma", "Martin"),
)  # fmt: skip


def names_whole(phrase: str, text: str) -> bool:
    """Whether `phrase` stands in `text` as whole words, whatever the case: "den" is not in "hidden"."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def check_disjoint(train: Iterable[str], test: Iterable[str]) -> None:
    """Raise UserError if a training fill holds a test fill, or the other way round, as whole words."""
    if shared := overlapping(train, test):
        raise UserError(f"train and test fills overlap: {', '.join(shared[:5])}")


def overlapping(train: Iterable[str], test: Iterable[str]) -> list[str]:
    """`training fill / test fill` of all that overlap, sorted."""
    test = tuple(test)
    return sorted({f"{a} / {b}" for a in train for b in test if names_whole(a, b) or names_whole(b, a)})


def draw(vocabulary: Vocabulary, rng: random.Random, name: str = "Bob") -> Fill:
    """One fill, drawn evenly from `vocabulary`."""
    honest_room, other_room = rng.sample(vocabulary.rooms, 2)
    return Fill(honest_room, other_room, rng.choice(vocabulary.cheap), rng.choice(vocabulary.expensive), name)
