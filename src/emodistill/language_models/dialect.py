"""How one request is put to a server: all speak of one protocol, and each leaves out or renames something."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from emodistill.errors import UserError
from emodistill.language_models.completion import CompletionRequest

Structure = Literal["auto", "json_schema", "json_object", "off"]
STRUCTURES = ("json_schema", "json_object", "off")  # each a fallback of the one before


@dataclass(frozen=True)
class Dialect:
    """What this server understands.

    Attributes:
        structure: how a JSON schema is asked for. `auto` begins with `json_schema`, and where the server refuses that
            by name asks for any JSON object, and then for nothing.
        max_tokens_field: some call it `max_completion_tokens`.
        omit: fields that the server refuses, such as `seed` or `temperature`.
        extra: fields to add to every request.
    """

    structure: Structure = "auto"
    max_tokens_field: str = "max_tokens"
    omit: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.structure not in ("auto", *STRUCTURES):
            raise UserError(f"dialect.structure={self.structure}: use auto, {', '.join(STRUCTURES)}")

    def body(self, model: str, request: CompletionRequest, structure: str) -> dict[str, Any]:
        """The fields of one call."""
        fields: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            self.max_tokens_field: request.max_tokens,
            "temperature": request.temperature,
        }
        if request.seed is not None:
            fields["seed"] = request.seed
        if request.schema is not None and structure == "json_schema":
            schema = {"name": "reply", "strict": True, "schema": request.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None and structure == "json_object":
            fields["response_format"] = {"type": "json_object"}
        return {name: value for name, value in (fields | dict(self.extra)).items() if name not in self.omit}


def most_tokens(request: CompletionRequest) -> int:
    """An upper bound of what a request can take: no tokenizer makes more tokens than bytes, and templates add a few."""
    prompt = sum(len(message.content.encode("utf-8", "replace")) + 16 for message in request.messages) + 64
    return prompt + len(json.dumps(request.schema or {})) + request.max_tokens


def likely_tokens(request: CompletionRequest) -> int:
    """An estimate of the same, for the rate limits: about four bytes a token."""
    return sum(len(message.content) for message in request.messages) // 4 + request.max_tokens
