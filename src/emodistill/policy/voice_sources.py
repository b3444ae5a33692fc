"""Voices by configuration: said now, opened when somebody has to speak.

A corpus that is built already is read without a model in memory, and no run should hold one that it does not use.
"""

import weakref
from pathlib import Path
from typing import Any, Protocol

import torch

from emodistill.emotions.vocabulary import DEFAULT, load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.completion import Completer
from emodistill.language_models.local import dtype_of, fingerprint, load_model, load_tokenizer
from emodistill.policy.adapters import adapter_fingerprint
from emodistill.policy.chat import ChatFormat
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.generation import ChatGenerator
from emodistill.policy.voices import EndpointVoice, LocalVoice, Voice

_LOADED: weakref.WeakValueDictionary[tuple[str, ...], Any] = weakref.WeakValueDictionary()


class VoiceSource(Protocol):
    def recipe(self) -> dict[str, Any]:
        """What fixes the words, in plain values; part of a corpus's identity."""

    def describe(self) -> str:
        """The model in a few words, for people."""

    def open(self) -> Voice: ...


class LocalModel:
    """A model on this machine; two seats with the same weights share them.

    Args:
        model: `embedded`, a folder, or a Hugging Face id.
        dtype: of the weights, see `dtype_of`.
        adapter: folder of a trained adapter to merge in, or None.
        vocabulary: that the adapter was trained with.
        temperature, top_k, max_new_tokens, max_batch: see `ChatGenerator`.
        device: `auto` takes a GPU where there is one.
    """

    def __init__(
        self,
        model: str,
        dtype: str = "bfloat16",
        adapter: str | None = None,
        vocabulary: str = DEFAULT,
        temperature: float = 0.7,
        top_k: int | None = 40,
        max_new_tokens: int = 48,
        max_batch: int = 32,
        device: str = "auto",
    ) -> None:
        self.model, self.adapter, self.vocabulary = model, adapter, vocabulary
        self.dtype = str(dtype_of(dtype)).removeprefix("torch.")  # a recipe says what was computed with, not "auto"
        self.sampling = {"temperature": temperature, "top_k": top_k, "max_new_tokens": max_new_tokens}
        self.max_batch = max_batch
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device

    def recipe(self) -> dict[str, Any]:
        if self.adapter and not Path(self.adapter).is_dir():
            raise UserError(f"speaker.adapter={self.adapter}: there is no such folder; train it, or give null")
        adapter = adapter_fingerprint(Path(self.adapter)) if self.adapter else None
        return {"model": fingerprint(self.model), "adapter": adapter, "dtype": self.dtype, **self.sampling}

    def describe(self) -> str:
        return f"{self.model} with the adapter {self.adapter}" if self.adapter else self.model

    def open(self) -> Voice:
        tokenizer = load_tokenizer(self.model)
        chat = ChatFormat(tokenizer, load_vocabulary(self.vocabulary))
        stops = chat.end_of_turn[:1]
        generator = ChatGenerator(self._weights(), tokenizer, **self.sampling, max_batch=self.max_batch, stop_ids=stops)  # type: ignore[arg-type]  # by name
        return LocalVoice(generator, chat, Path(self.model).name)

    def _weights(self) -> Any:
        key = (fingerprint(self.model), self.dtype, str(self.adapter), self.device)
        weights = _LOADED.get(key)
        if weights is None:
            weights = self._merged() if self.adapter else load_model(self.model, self.dtype)
            weights = _LOADED[key] = weights.to(self.device).eval()
        return weights

    def _merged(self) -> Any:
        policy = ExpressionPolicy(self.model, {}, True, self.dtype, self.vocabulary, init_adapter=self.adapter)
        return policy.merged(getattr(torch, self.dtype))


class EndpointModel:
    """A model behind an endpoint.

    Args:
        completer: the client.
        name: of the model, without its address: what reports and a corpus's recipe call it.
        max_tokens: longest reply.
        temperature: of sampling.
    """

    def __init__(
        self, completer: Completer, name: str | None = None, max_tokens: int = 96, temperature: float = 0.7
    ) -> None:
        self.completer, self.name = completer, name or completer.name
        self.max_tokens, self.temperature = max_tokens, temperature

    def recipe(self) -> dict[str, Any]:
        return {"endpoint": self.name, "max_tokens": self.max_tokens, "temperature": self.temperature}

    def describe(self) -> str:
        return f"{self.name} behind an endpoint"

    def open(self) -> Voice:
        return EndpointVoice(self.completer, self.max_tokens, self.temperature, self.name)
