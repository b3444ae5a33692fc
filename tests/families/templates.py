"""Chat templates and small tokenizers of the families of instruction-tuned models that people use.

The templates are written anew after the rules that each family publishes with its tokenizer; what a rule says stands
beside the address where it is published. Only the control tokens are the families' own. A tokenizer has a few hundred
entries, but it is of its family's kind: how text is cut, whether a space is put in front, which tokens are control
tokens and which of them are declared as special.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tiny_model import WORDS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

GPT_WORDS = (  # how many digits make a piece is left open
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    *WORDS,
    "system user assistant model\n\nYou are\n<think>\n\n</think>\n\nToday is Friday. Think not. Thinking off\n",
]
Cut = tuple[Any, Any, Any]  # normalizer, pre-tokenizer and decoder


def _byte_level(pattern: str | None = None, normalizer: Any = None) -> Cut:
    """Bytes as characters: GPT-2's way of cutting with single digits, or that of a pattern."""
    if pattern is None:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return normalizer, pre_tokenizers.Sequence(parts), decoders.ByteLevel()


def _gemma_cut() -> Cut:
    """Spaces are marks; none is put in front of a text."""
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), decoder


def _mistral_cut() -> Cut:
    """Spaces are marks; one is put in front of a text, though not behind a control token."""
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return None, metaspace, decoders.Sequence(strip)


def _llama_2_cut() -> Cut:
    """Spaces are marks; one is put in front of every stretch of text, also behind a control token."""
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return (
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
        decoders.Sequence(strip),
    )


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        example: hub id of a model of it.
        source: where its template is published.
        rules: what the template does, in words.
        template: written anew after these rules.
        cut: how its tokenizer cuts text.
        special: its control tokens, as declared; `named` says which of them is beginning, end and padding.
        added: added tokens that are not declared as special.
        strips: whether control tokens swallow the white space behind them.
    """

    example: str
    source: str
    rules: str
    template: str
    cut: Callable[[], Cut]
    special: tuple[str, ...]
    named: dict[str, str]
    added: tuple[str, ...] = ()
    strips: bool = False


_CHATML_TURN = "{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}"
_CHATML_HEADER = "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_ALTERNATE = (
    "{%- for turn in turns %}{% if (loop.index is odd) != (turn.role == 'user') %}"
    "{{ raise_exception('user and assistant have to take turns') }}{% endif %}{% endfor %}"
)
_APART = (  # the system message apart from the turns
    "{%- if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set told = '' %}{% set turns = messages %}{% endif %}"
)
_HUB = "https://huggingface.co/{}/blob/main/tokenizer_config.json"

FAMILIES = {
    "smollm2": Family(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _HUB.format("HuggingFaceTB/SmolLM2-135M-Instruct"),
        "ChatML. Without a system message at the beginning, one of its own is written.",
        "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}"
        "{%- for turn in messages %}" + _CHATML_TURN + "{% endfor %}" + _CHATML_HEADER,
        _byte_level,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
    ),
    "smollm3": Family(
        "HuggingFaceTB/SmolLM3-3B",
        "https://huggingface.co/HuggingFaceTB/SmolLM3-3B/blob/main/chat_template.jinja",
        "ChatML. The system block is always written: the date of today, the mode of thinking (`/think` unless "
        "`enable_thinking` is off or the system message says `/no_think`), the system message without these two words "
        "and without space at its end, two line ends. Without thinking, every reply and the generation prompt begin "
        "with an empty think block.",
        "{%- set mode = '/think' if enable_thinking is not defined or enable_thinking else '/no_think' %}"
        "{%- set told = messages[0].content if messages[0].role == 'system' else '' %}"
        "{%- if '/no_think' in told %}{% set mode = '/no_think' %}"
        "{%- elif '/think' in told %}{% set mode = '/think' %}{% endif %}"
        "{%- set quiet = '' if mode == '/think' else '<think>\\n\\n</think>\\n' %}"
        "{{- '<|im_start|>system\\n# About\\n\\nDate: ' ~ strftime_now('%d %B %Y') ~ '\\nMode: ' ~ mode ~ '\\n\\n' }}"
        "{{- told.replace('/no_think', '').replace('/think', '').rstrip() ~ '\\n\\n<|im_end|>\\n' }}"
        "{%- for turn in messages if turn.role != 'system' %}"
        "{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ (quiet ~ turn.content.lstrip('\\n') if turn.role == 'assistant' "
        "else turn.content) ~ '<|im_end|>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' ~ quiet }}{% endif %}",
        lambda: _byte_level(GPT_WORDS % "{1,3}"),
        ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        ("<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    "qwen2.5": Family(
        "Qwen/Qwen2.5-0.5B-Instruct",
        _HUB.format("Qwen/Qwen2.5-0.5B-Instruct"),
        "ChatML. Without a system message at the beginning, one of its own is written.",
        "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}"
        "{%- for turn in messages %}" + _CHATML_TURN + "{% endfor %}" + _CHATML_HEADER,
        lambda: _byte_level(GPT_WORDS % "", normalizers.NFC()),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    ),
    "qwen3": Family(
        "Qwen/Qwen3-0.6B",
        _HUB.format("Qwen/Qwen3-0.6B"),
        "ChatML. Thoughts are taken out of a reply before the last question, and replies there have no think block. "
        "With `enable_thinking` off the generation prompt ends with an empty one.",
        "{%- set last = namespace(question=0) %}"
        "{%- for turn in messages if turn.role == 'user' %}{% set last.question = last.question + 1 %}{% endfor %}"
        "{%- set asked = namespace(so_far=0) %}"
        "{%- for turn in messages %}{% if turn.role == 'user' %}{% set asked.so_far = asked.so_far + 1 %}{% endif %}"
        "{%- if turn.role != 'assistant' %}" + _CHATML_TURN + "{% else %}"
        "{%- set said = turn.content.split('</think>')[-1].lstrip('\\n') %}"
        "{%- set thought = turn.content.split('</think>')[0].split('<think>')[-1].strip('\\n') "
        "if '</think>' in turn.content else '' %}"
        "{%- set block = '<think>\\n' ~ thought ~ '\\n</think>\\n\\n' if asked.so_far == last.question else '' %}"
        "{{ '<|im_start|>assistant\\n' ~ block ~ said ~ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
        "{% endif %}",
        lambda: _byte_level(GPT_WORDS % "", normalizers.NFC()),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
    ),
    "llama3.2": Family(
        "meta-llama/Llama-3.2-1B-Instruct",
        _HUB.format("meta-llama/Llama-3.2-1B-Instruct"),
        "Each turn is a header between two control tokens, two line ends, the words without space at either end, and "
        "the end of the turn. A system block is always written; it begins with the date of today (`date_string` where "
        "that is given).",
        _APART + "{{- bos_token ~ '<|start_header_id|>system<|end_header_id|>\\n\\nKnown: 2023\\nToday: ' }}"
        "{{- date_string if date_string is defined else strftime_now('%d %b %Y') }}"
        "{{- '\\n\\n' ~ told | trim ~ '<|eot_id|>' }}{%- for turn in turns %}"
        "{{- '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\\n\\n' ~ turn.content | trim ~ '<|eot_id|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}",
        lambda: _byte_level(GPT_WORDS % "{1,3}"),
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<|python_tag|>",
        ),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    ),
    "gemma2": Family(
        "google/gemma-2-2b-it",
        _HUB.format("google/gemma-2-2b-it"),
        "Roles are user and model and have to take turns; a system message is an error; words lose space at "
        "either end.",
        "{{ bos_token }}{%- if messages[0].role == 'system' %}"
        "{{ raise_exception('there is no system role') }}{% endif %}"
        "{%- set turns = messages %}" + _ALTERNATE + "{%- for turn in turns %}"
        "{{ '<start_of_turn>' ~ ('model' if turn.role == 'assistant' else 'user') ~ '\\n' }}"
        "{{- turn.content | trim ~ '<end_of_turn>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        _gemma_cut,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        ("<table>", "</table>", "\n\n\n"),
    ),
    "gemma3": Family(
        "google/gemma-3-1b-it",
        _HUB.format("google/gemma-3-1b-it"),
        "Roles are user and model and have to take turns; the system message and two line ends stand before the words "
        "of the first user turn; words lose space at either end.",
        "{{ bos_token }}" + _APART + _ALTERNATE + "{%- for turn in turns %}"
        "{{ '<start_of_turn>' ~ ('model' if turn.role == 'assistant' else 'user') ~ '\\n' }}"
        "{%- if loop.first and told %}{{ told ~ '\\n\\n' }}{% endif %}"
        "{{- turn.content | trim ~ '<end_of_turn>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        _gemma_cut,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        ("<table>", "</table>", "\n\n\n"),
    ),
    "phi3.5": Family(
        "microsoft/Phi-3.5-mini-instruct",
        _HUB.format("microsoft/Phi-3.5-mini-instruct"),
        "A role's token, a line end, the words, `<|end|>`, a line end; the tokens swallow the line ends. The end of "
        "the sequence is written where no reply is asked for. No beginning of the sequence.",
        "{%- for turn in messages %}{{ '<|' ~ turn.role ~ '|>\\n' ~ turn.content ~ '<|end|>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
        _llama_2_cut,
        ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
        strips=True,
    ),
    "phi4-mini": Family(
        "microsoft/Phi-4-mini-instruct",
        _HUB.format("microsoft/Phi-4-mini-instruct"),
        "A role's token, the words, `<|end|>`, without line ends. The end of the sequence is written where no reply is "
        "asked for.",
        "{%- for turn in messages %}{{- '<|' ~ turn.role ~ '|>' ~ turn.content ~ '<|end|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}",
        lambda: _byte_level(GPT_WORDS % "{1,3}"),
        ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>", "<|/tool|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    ),
    "granite3.3": Family(
        "ibm-granite/granite-3.3-2b-instruct",
        _HUB.format("ibm-granite/granite-3.3-2b-instruct"),
        "A role between two control tokens, the words, the end of the text, a line end. Without a system message one "
        "of its own is written, with the date of today and, with `thinking`, how to think.",
        "{%- if messages[0].role != 'system' %}{{- '<|start_of_role|>system<|end_of_role|>Today is ' }}"
        "{{- strftime_now('%B %d, %Y') ~ '.' ~ (' Think first.' if thinking else '') ~ '<|end_of_text|>\\n' }}"
        "{%- endif %}"
        "{%- for turn in messages %}"
        "{{- '<|start_of_role|>' ~ turn.role ~ '<|end_of_role|>' ~ turn.content ~ '<|end_of_text|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}",
        _byte_level,
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>", "<fim_prefix>"),
        {"bos_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"},
    ),
    "lfm2": Family(
        "LiquidAI/LFM2-350M",
        "https://huggingface.co/LiquidAI/LFM2-350M/blob/main/chat_template.jinja",
        "The beginning of the text, then ChatML; tools stand in the system message between two control tokens.",
        _APART + "{%- if tools %}{% set told = told ~ '\\nTools: <|tool_list_start|>' ~ tools | tojson ~ "
        "'<|tool_list_end|>' %}{% endif %}{{- bos_token }}"
        "{%- if told %}{{ '<|im_start|>system\\n' ~ told ~ '<|im_end|>\\n' }}{% endif %}"
        "{%- for turn in turns %}" + _CHATML_TURN + "{% endfor %}" + _CHATML_HEADER,
        lambda: _byte_level(GPT_WORDS % "{1,3}"),
        (
            "<|pad|>",
            "<|startoftext|>",
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|tool_list_start|>",
            "<|tool_list_end|>",
        ),
        {"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"},
    ),
    "mistral-v0.3": Family(
        "mistralai/Mistral-7B-Instruct-v0.3",
        _HUB.format("mistralai/Mistral-7B-Instruct-v0.3"),
        "A question stands between `[INST]` with a space and `[/INST]`; a space, the reply without space at either "
        "end, and the end of the sequence follow. The system message and two line ends stand before the words of the "
        "last question, if that is the last message. Roles have to take turns.",
        _APART + _ALTERNATE + "{{- bos_token }}{%- for turn in turns %}{%- if turn.role == 'user' %}"
        "{{- '[INST] ' ~ (told ~ '\\n\\n' if told and loop.last else '') ~ turn.content ~ '[/INST]' }}"
        "{%- else %}{{- ' ' ~ turn.content | trim ~ eos_token }}{%- endif %}{%- endfor %}",
        _mistral_cut,
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    "mistral-nemo": Family(
        "mistralai/Mistral-Nemo-Instruct-2407",
        _HUB.format("mistralai/Mistral-Nemo-Instruct-2407"),
        "A question stands between `[INST]` and `[/INST]` without spaces; the reply and the end of the sequence "
        "follow. The system message and two line ends stand before the words of the last question, if that is the last "
        "message.",
        _APART + _ALTERNATE + "{{- bos_token }}{%- for turn in turns %}{%- if turn.role == 'user' %}"
        "{{- '[INST]' ~ (told ~ '\\n\\n' if told and loop.last else '') ~ turn.content ~ '[/INST]' }}"
        "{%- else %}{{- turn.content ~ eos_token }}{%- endif %}{%- endfor %}",
        lambda: _byte_level(GPT_WORDS % ""),
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
}


@cache
def _trained(name: str) -> str:
    """The tokenizer of a family as JSON, without its template."""
    family = FAMILIES[name]
    normalizer, cut, decoder = family.cut()
    bytewise = isinstance(decoder, decoders.ByteLevel)
    tokenizer = Tokenizer(models.BPE())
    if bytewise:
        tokenizer.pre_tokenizer, alphabet = cut, pre_tokenizers.ByteLevel.alphabet()
    else:  # as sentencepiece learns: a piece has a space at its beginning only
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex(r"\n+"), "isolated")]
        )
        alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=list(family.special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoder
    tokenizer.pre_tokenizer = cut
    written = json.loads(tokenizer.to_str())
    if not bytewise:  # what has no entry is written in bytes
        vocab = written["model"]["vocab"]
        for byte in range(256):
            vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
        written["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    return json.dumps(written)


def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of a family with its chat template: what `AutoTokenizer` gives for a folder of it."""
    family = FAMILIES[name]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(name)), clean_up_tokenization_spaces=False, **family.named
    )
    marks = [AddedToken(mark, rstrip=family.strips, normalized=False, special=True) for mark in family.special]
    fast.add_special_tokens({"additional_special_tokens": marks})
    fast.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in family.added])
    fast.chat_template = family.template
    fast.name_or_path = family.example
    return fast
