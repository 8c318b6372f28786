"""Tiny random models, prompts tokenised for them, and one Ray for the whole session. Nothing reaches the network."""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # else Ray's workers starve beside the other half of the tests
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: threads would only wait for one another

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.model import ModelSettings
from tests.endpoint import Endpoint, Line

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "soo"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ["SOO_CACHE"] = str(CACHE)  # the embedded models stay there, and tiny ones do not fill the user's own
Rows = dict[str, dict[str, Any]]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYERS = 4


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tiny models of earlier sessions are gone, and their kept weights of no use."""
    for folder in CACHE.glob("nf4-*"):
        shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if "gpu" in item.keywords]
    if marked:
        import torch

        for item in marked if not torch.cuda.is_available() else ():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    for item in items:
        if "browser" in item.keywords and not shutil.which("chromium"):
            item.add_marker(pytest.mark.skip(reason="needs Chromium: apt-get install chromium"))


def save_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer with a few hundred merges of our own prompts' words; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from stages.scenarios import SCENARIOS
    from stages.templates import FRIENDS, PUBLISHED, SCENES

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [t.text for t in (*PUBLISHED, *SCENES, *FRIENDS)] + [s.template for s in SCENARIOS.values()]
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return len(wrapped)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Saves a tiny random causal model of an architecture of transformers, and gives its directory."""

    def make(architecture: str = "Llama", **changes: Any) -> str:
        import torch
        import transformers

        folder = tmp_path_factory.mktemp(architecture.lower())
        size = save_tokenizer(folder)
        values = {
            "vocab_size": size, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024,
            "initializer_range": 0.2, "tie_word_embeddings": False,
            "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2,
        }  # fmt: skip
        kind = getattr(transformers, f"{architecture}TextConfig", None) or getattr(
            transformers, f"{architecture}Config"
        )
        config = kind(**values | changes)
        torch.manual_seed(0)
        getattr(transformers, f"{architecture}ForCausalLM")(config).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def tiny(make_model: Callable[..., str]) -> ModelSettings:
    """A random Llama of four layers in fp32: small enough that tolerances can be tight."""
    return ModelSettings(name=make_model(), attention="eager", quantisation="none", compute_dtype="float32")


@pytest.fixture(scope="session")
def tiny_nf4(tiny: ModelSettings) -> ModelSettings:
    """The same in real 4 bit, computing in fp32."""
    return tiny.model_copy(update={"quantisation": "nf4"})


@pytest.fixture(params=["none", "nf4"])
def either(request: pytest.FixtureRequest, tiny: ModelSettings, tiny_nf4: ModelSettings) -> ModelSettings:
    """Once unquantised and once in NF4."""
    return tiny if request.param == "none" else tiny_nf4


@pytest.fixture(scope="session")
def rows(tiny: ModelSettings) -> Rows:
    """Tokenised rows of every kind, by pair_id: 16 overlap pairs, 8 name controls, 6 retain prompts."""
    from stages.pairs import PairsSettings, make_rows
    from stages.templates import SCENES
    from stages.tokenise import tokenise

    settings = PairsSettings(
        templates=("published", "scenes"), fills=4, control_fills=2, retain=("self", "friends"), retain_fills=2
    )
    kept = {"published_1", "published_2", SCENES[0].name, SCENES[3].name, "friend_house"}
    made = [r for r in make_rows(settings, seed=0) if r.template in kept]
    return {r["pair_id"]: r for r in tokenise([vars(r) for r in made], tiny, chat=True)}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One private Ray with two CPUs for every test that asks for it."""
    from pipeline.cluster import connected

    with connected(cpus=2):
        yield


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database to be copied: to make one takes seconds."""
    from pipeline import tracking
    from pipeline.config import TrackingSettings

    folder = tmp_path_factory.mktemp("mlflow")
    tracking.check(TrackingSettings(), folder)
    return folder / "mlflow.db"


@pytest.fixture
def seeded() -> None:
    """Torch's random numbers from their beginning, on one thread."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def start(*script: Line) -> Endpoint:
        made.append(Endpoint(script))
        return made[-1]

    yield start
    for endpoint in made:
        endpoint.server.shutdown()
        endpoint.server.server_close()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs, training and answers by the same code without Ray, whose start-up would be all that a tiny run takes."""
    from benchmarks import direct
    from stages import generate, pairs, train

    monkeypatch.setattr(pairs, "build", direct.build)
    monkeypatch.setattr(train, "fit", direct.fit)
    monkeypatch.setattr(generate, "ask", direct.ask)
