"""A folder for Ollama, llama.cpp and vLLM: the merged model, as GGUF where that is known, and a Modelfile.

Ollama samples with a repetition penalty and a nucleus of its own unless it is told otherwise, and llama.cpp likewise.
The Modelfile says how the run samples, and spells out the chat template, so that a round reads as it was trained.
"""

from pathlib import Path
from typing import Any

from emodistill.export.agent import TrainedAgent
from emodistill.export.gguf_file import can_be_gguf, write_gguf
from emodistill.export.weights import exported_tokenizer, half, write_merged
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.chat_template import ChatForm

MODELFILE, GGUF = "Modelfile", "model.gguf"


def write_ollama(agent: TrainedAgent, folder: Path, dtype: str) -> bool:
    """The merged model and its Modelfile. Returns whether it is one GGUF file; else it is safetensors.

    Raises:
        UserError: if the dtype has not 16 bits, or a weight does not fit it.
    """
    tokenizer = exported_tokenizer(agent)
    as_gguf = can_be_gguf(agent.speaking, tokenizer)
    if as_gguf:
        name = f"{agent.run.resolve().name} {agent.arm.name}"
        write_gguf(agent.speaking, tokenizer, folder / GGUF, name, half(dtype))
        tokenizer.save_pretrained(folder)
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
    lines.append(f'PARAMETER stop "{chat.form.end}"')
    return "\n".join([f"FROM {source}", f'TEMPLATE """{go_template(chat.form)}"""', *lines, ""])


def go_template(form: ChatForm) -> str:
    """The form of a chat in the language of Ollama: what stands around each message, in the order of messages."""
    before, behind = form.opening
    lead = (
        form.lead
        if form.first == form.lead
        else f"{{{{ if le $i 1 }}}}{form.first}{{{{ else }}}}{form.lead}{{{{ end }}}}"
    )
    of_role = (
        f'{{{{ if eq .Role "system" }}}}{before}{{{{ .Content }}}}{behind}',
        f'{{{{ else if eq .Role "user" }}}}{lead}{{{{ .Content }}}}{form.header}',
        f"{{{{ else }}}}{form.reply}{{{{ .Content }}}}{form.end}",
    )
    return "{{- range $i, $_ := .Messages }}" + "".join(of_role) + "{{ end }}{{ end }}"
