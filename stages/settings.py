"""The base of every stage's settings: immutable, and a key that does not exist is an error."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen pydantic model that forbids unknown keys and reads its field docstrings as descriptions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), validate_default=True
    )
