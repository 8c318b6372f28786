"""The judge of MT-Bench, behind an OpenAI-compatible endpoint (stages/endpoint.py)."""

from pydantic import NonNegativeFloat

from stages import endpoint
from stages.endpoint import Endpoint, EndpointSettings


class JudgeSettings(EndpointSettings):
    """Where the judge is, and how it is asked."""

    name: str = "gpt-4"
    """The judge's name there. Published scores are by gpt-4, and scores of different judges do not compare."""
    price_in: NonNegativeFloat | None = None
    """Price of a million tokens sent, for the estimate."""
    price_out: NonNegativeFloat | None = None
    """Price of a million tokens received, for the estimate."""


OPERATIONAL = frozenset(JudgeSettings.model_fields) - {"name", "max_tokens"}
"""Settings that change no judgment."""


def check(settings: JudgeSettings) -> None:
    """Raise UserError for a judge that cannot be used as it is given."""
    endpoint.check(settings, "judge")


def connect(settings: JudgeSettings) -> Endpoint:
    """The judge, ready to be asked."""
    return Endpoint(settings, "judge", "what was judged is kept: run the same command again to go on")
