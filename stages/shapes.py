"""How large a model is, from a few published numbers, without its weights: what sizing multiplies.

Numbers from the models' own config.json on Hugging Face: mistralai/Mistral-7B-Instruct-v0.2, google/gemma-2-27b-it,
dfurman/CalmeRys-78B-Orpo-v0.1.
"""

from dataclasses import dataclass

from stages.adapter import LoraSettings
from stages.errors import UserError
from stages.model import ModelSettings
from stages.split import SHORTENED


@dataclass(frozen=True)
class Shape:
    """A decoder of equal layers with grouped attention and a gated MLP. Sizes in features."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    shortens: bool = True
    """Whether a training can leave out the layers above its site (stages/split.py)."""

    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer: name -> features in and out."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, q), "k_proj": (self.hidden, kv), "v_proj": (self.hidden, kv),
            "o_proj": (q, self.hidden), "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate), "down_proj": (self.intermediate, self.hidden),
        }  # fmt: skip

    @property
    def per_layer(self) -> int:
        """Weights of one layer's linear modules."""
        return sum(a * b for a, b in self.linears().values())

    @property
    def embeddings(self) -> int:
        """Weights of input embeddings and output head, which are never quantised."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        """All weights but the norms'."""
        return self.layers * self.per_layer + self.embeddings


PUBLISHED = {
    "mistralai/Mistral-7B-Instruct-v0.2": Shape(32, 4096, 14336, 32, 8, 128, 32000, False),
    "google/gemma-2-27b-it": Shape(46, 4608, 36864, 32, 16, 128, 256000, True),
    "dfurman/CalmeRys-78B-Orpo-v0.1": Shape(86, 8192, 29568, 64, 8, 128, 151646, False),
}


def shape_of(settings: ModelSettings) -> Shape:
    """A model's shape: published, or from its config. Raises UserError if the config lacks a number that is needed."""
    if settings.name in PUBLISHED:
        return PUBLISHED[settings.name]
    from transformers import AutoConfig

    from stages.model import locate

    config = AutoConfig.from_pretrained(
        locate(settings), revision=settings.revision, trust_remote_code=settings.trust_remote_code
    ).get_text_config()
    wanted = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [name for name in wanted if not isinstance(getattr(config, name, None), int)]
    if missing:
        raise UserError(f"{settings.name} cannot be sized: its config has no number {', '.join(missing)}")
    layers, hidden, intermediate, heads, vocab = (getattr(config, name) for name in wanted)
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    tied, shortens = bool(config.tie_word_embeddings), config.model_type in SHORTENED
    return Shape(layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, tied, shortens)


def lora_weights(shape: Shape, lora: LoraSettings, last_layer: int) -> int:
    """Trainable weights: r (in + out) for each target and layer. Raises UserError for a target it does not know."""
    linears = shape.linears()
    unknown = [t for t in lora.targets if t not in linears]
    if unknown:
        raise UserError(f"train.lora.targets: {unknown[0]} cannot be sized; known are {', '.join(linears)}")
    top = last_layer if lora.last_layer is None else lora.last_layer
    return (top + 1 - lora.first_layer) * sum(lora.r * sum(linears[t]) for t in lora.targets)
