"""A folder for Ollama, llama.cpp and vLLM: the merged model, as GGUF where that is known, and a Modelfile.

Ollama samples with a repetition penalty and a nucleus of its own unless it is told otherwise, and llama.cpp likewise.
The Modelfile says how the run samples, and spells out the chat template, so that a round reads as it was trained.
"""

from pathlib import Path
from typing import Any

from emodistill.export.agent import TrainedAgent
from emodistill.export.gguf_file import can_be_gguf, write_gguf
from emodistill.export.weights import half, write_merged, write_tokenizer
from emodistill.policy.chat_format import ChatFormat, template_parts

MODELFILE, GGUF = "Modelfile", "model.gguf"


def write_ollama(agent: TrainedAgent, folder: Path, dtype: str) -> bool:
    """The merged model and its Modelfile. Returns whether it is one GGUF file; else it is safetensors.

    Raises:
        UserError: if the dtype has not 16 bits, or a weight does not fit it.
    """
    tokenizer = agent.chat_format.tokenizer
    as_gguf = can_be_gguf(agent.speaking, tokenizer)
    if as_gguf:
        name = f"{agent.run.resolve().name} {agent.arm.name}"
        write_gguf(agent.speaking, tokenizer, folder / GGUF, name, half(dtype))
        write_tokenizer(agent, folder)
    else:
        write_merged(agent, folder, dtype)
    context = int(agent.speaking.config.max_position_embeddings)
    text = modelfile(f"./{GGUF}" if as_gguf else ".", agent.chat_format, agent.settings.config["sampler"], context)
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return as_gguf


def modelfile(source: str, chat: ChatFormat, sampler: dict[str, Any], context: int) -> str:
    """What `ollama create NAME -f Modelfile` reads.

    Args:
        source: of the weights.
        sampler: how the run samples.
        context: most tokens of a chat.
    """
    settings = {
        "temperature": sampler["temperature"],
        "top_k": 0 if sampler["top_k"] is None else sampler["top_k"],
        "top_p": 1.0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "num_predict": sampler["max_new_tokens"],
        "num_ctx": context,
    }
    lines = [f"PARAMETER {key} {value}" for key, value in settings.items()]
    lines.append(f'PARAMETER stop "{chat.tokenizer.decode(chat.end_of_turn)}"')
    return "\n".join([f"FROM {source}", f'TEMPLATE """{go_template(chat.tokenizer)}"""', *lines, ""])


def go_template(tokenizer: Any) -> str:
    """The chat template in the language of Ollama: what stands around each message, in the order of messages."""
    system, (opens, asks), (begins, ends) = template_parts(tokenizer)
    words = "{{ .Content }}"
    asked = '{{ if eq .Role "system" }}' + words.join(system)
    answered = '{{ else if eq .Role "user" }}' + opens + words + asks + begins + "{{ else }}" + words + ends
    return "{{- range .Messages }}" + asked + answered + "{{ end }}{{ end }}"
