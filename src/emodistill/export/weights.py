"""The weights of an export: the adapter as PEFT has it, or base and adapter in one.

Merged weights are those of the *dequantised* 4-bit base plus the adapter: the adapter was trained on top of that base
and corrects its errors. They are kept in 16 bits. float16 has three more bits of precision than bfloat16, and the
weights of such models lie far within its range; the check after writing says what rounding has changed.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emodistill.errors import UserError
from emodistill.export.agent import TrainedAgent
from emodistill.language_models.local import load_tokenizer, without_bars
from emodistill.policy.chat_template import ChatForm
from emodistill.runs import ADAPTER_CONFIG, ADAPTER_NOTE, ADAPTER_WEIGHTS

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def write_peft(agent: TrainedAgent, folder: Path) -> None:
    """The adapter and its configuration, which names the base by its hub id; its note; and the tokenizer."""
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        (folder / name).write_bytes((agent.adapter / name).read_bytes())
    (folder / ADAPTER_NOTE).write_text(json.dumps(agent.identity, indent=2) + "\n", encoding="utf-8")
    exported_tokenizer(agent).save_pretrained(folder)


def write_merged(agent: TrainedAgent, folder: Path, dtype: str) -> None:
    """A model that plain transformers loads.

    Raises:
        UserError: if a weight is too large for the dtype.
    """
    model = halved(agent.speaking, half(dtype))
    model.config.name_or_path = model.name_or_path = agent.hub_id or ""
    with without_bars():
        model.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    exported_tokenizer(agent).save_pretrained(folder)


def half(dtype: str) -> torch.dtype:
    """The dtype of a name.

    Raises:
        UserError: if it has not 16 bits.
    """
    if dtype not in HALVES:
        raise UserError(f"dtype={dtype}: merged weights have 16 bits; choose {' or '.join(HALVES)}")
    return HALVES[dtype]


def halved(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a model in 16 bits.

    Raises:
        UserError: if a weight is too large for the dtype.
    """
    largest = max(float(parameter.detach().abs().max()) for parameter in model.parameters())
    if largest > torch.finfo(dtype).max:
        raise UserError(f"dtype={dtype}: a weight of {largest:.3g} does not fit; choose dtype=bfloat16")
    copy = type(model)(model.config).to(dtype)
    copy.load_state_dict(rounded(model, dtype))
    copy.tie_weights()
    return copy.eval()


def rounded(model: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a model in another dtype."""
    return {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}


def exported_tokenizer(agent: TrainedAgent) -> Any:
    """The tokenizer, with a template that writes chats exactly as the agent reads them.

    Where the model's own template does not (it writes today's date, or takes something out of earlier replies), it is
    replaced by the agent's form.
    """
    tokenizer: Any = load_tokenizer(agent.base)
    tokenizer.name_or_path = agent.hub_id or ""
    if agent.chat_format.note:
        tokenizer.chat_template = jinja_template(agent.chat_format.form)
    return tokenizer


def jinja_template(form: ChatForm) -> str:
    """The form of a chat as a template of transformers; the header of the next reply is always there."""
    before, behind = map(json.dumps, form.opening)
    first, lead, header, reply, end = map(json.dumps, (form.first, form.lead, form.header, form.reply, form.end))
    system = f"{{{{ {before} + message['content'] + {behind} }}}}"
    user = f"{{{{ ({first} if loop.index0 <= 1 else {lead}) + message['content'] + {header} }}}}"
    said = f"{{{{ {reply} + message['content'] + {end} }}}}"
    roles = f"{{%- if message['role'] == 'system' -%}}{system}{{%- elif message['role'] == 'user' -%}}{user}"
    return f"{{%- for message in messages -%}}{roles}{{%- else -%}}{said}{{%- endif -%}}{{%- endfor -%}}"
