"""What can be done with a base model on this machine, before a run:

    python -m emodistill.models.check MODEL [--size demo] [--rank 16] [--quick] [--json]

MODEL is a folder, a Hugging Face id or `embedded`. Its files are looked at first; a model that cannot be used is
refused in one sentence, with exit status 2. Then come the form of its chats, which of its layers are trained, by which
way it is trained and speaks, and memory and time, computed from its shapes (see `estimates`). Its weights are neither
loaded nor, from the hub, fetched. `--quick` looks at the files alone, without PyTorch, as `train.py` does by itself.
"""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emodistill.errors import UserError
from emodistill.language_models.model_files import quick_check
from emodistill.models.estimates import GIB, REFERENCE_SPEED, Shape, Work, matrix_speed, memory, seconds

SIZES = Path("configs", "size")
SYSTEM = "You sell a bicycle."
ROUNDS = (("I offer 80.", "Make it 90, please."), ("85.", "Good, 85 it is."))  # what is asked and answered
SPEAKING = {
    "fast": "fast: our own forward pass over packed weights, chats of different lengths in one batch",
    "rows": "the library's forward pass, chats of different lengths in one batch",
    "one by one": "slow: the library's forward pass and caches, one chat after the other",
}
TRAINING = {
    "fast": "fast: chats end to end without padding",
    "library": "the library's attention over padded chats",
}


@dataclass(frozen=True)
class Report:
    """What is known of a model; memory in GiB, time in seconds, both estimated.

    Attributes:
        chat: the tokens of an example chat as text, message by message.
        chat_note: how it differs from what the model's own template writes; empty where it does not.
        lora: how many layers of each name are trained.
        adapter: weights of LoRA on them.
        speaking, training: see `SPEAKING` and `TRAINING`.
        shares_rows: whether replies to one context share it.
        memory, available: at the peak of SFT, JPO and play, and what this machine has.
        seconds: of SFT, of JPO and of an episode of play; None on a GPU, where nothing was measured.
        how: how memory and time were found.
    """

    model: str
    architecture: str
    parameters: int
    layers: int
    context: int
    device: str
    dtype: str
    chat: list[str]
    chat_tokens: int
    chat_end: str
    chat_note: str
    lora: dict[str, int]
    adapter: int
    speaking: str
    training: str
    shares_rows: bool
    memory: dict[str, float]
    available: float
    seconds: dict[str, float] | None
    how: str


def check(model: str, work: Work, rank: int) -> Report:
    """Look at a model without loading its weights.

    Raises:
        UserError: if it cannot be used.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from emodistill.language_models.attention_masks import takes_masks
    from emodistill.language_models.local import context_limit, device_of, dtype_of, known_kind, model_folder

    quick_check(model)
    folder = model_folder(model, weights=False)
    known_kind(model, folder)
    device = device_of("auto")
    dtype = dtype_of("auto", device)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    chat, tokens, end, note = _example(model)
    linears = _linears(empty)
    shape = _shape(empty, linears)
    speaking, training = paths(empty, device.type == "cpu")
    width = torch.tensor([], dtype=dtype).element_size()
    work = Work(**(asdict(work) | {"max_tokens": min(work.max_tokens, context_limit(empty.config))}))
    on_gpu = device.type == "cuda"
    speed = None if on_gpu else matrix_speed()
    return Report(
        model=model,
        architecture=type(empty).__name__,
        parameters=sum(weight.numel() for weight in empty.parameters()),
        layers=shape.layers,
        context=context_limit(empty.config),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        chat=chat,
        chat_tokens=tokens,
        chat_end=end,
        chat_note=note,
        lora=dict(Counter(name.rsplit(".", 1)[-1] for name in linears)),
        adapter=shape.adapter(rank),
        speaking=speaking,
        training=training,
        shares_rows=takes_masks(empty),
        memory={name: size / GIB for name, size in memory(shape, work, rank, width, on_gpu).items()},
        available=_available(on_gpu) / GIB,
        seconds=None if speed is None else seconds(shape, work, rank, speed),
        how=_how(speed, speaking != "fast" or training != "fast"),
    )


def _how(speed: float | None, slower: bool) -> str:
    if speed is None:
        return "computed from the shapes; nothing was measured on a GPU, so no time is given"
    more = "; the library's ways take longer, by how much was not measured" if slower else ""
    return (
        f"memory from the shapes, within an eighth of what was measured with three models of up to 1B; time is the "
        f"embedded model's, times operations a token and {REFERENCE_SPEED / speed:.1f} for this machine as busy as it "
        f"is now{more}"
    )


def paths(model: Any, on_cpu: bool) -> tuple[str, str]:
    """How a transformers model speaks and is trained: keys of `SPEAKING` and `TRAINING`."""
    from emodistill.language_models.attention_masks import takes_masks
    from emodistill.policy.attention import use_grouped_attention
    from emodistill.policy.row_forward import RowForward

    config = model.config.get_text_config()
    uneven = any(getattr(config, name, None) for name in ("v_head_dim", "global_head_dim"))  # DeepSeek; Gemma 4
    speaking = "rows" if takes_masks(model) and not uneven else "one by one"
    training = "fast" if on_cpu and use_grouped_attention(model) else "library"
    return "fast" if RowForward.serves(model) else speaking, training


def _example(model: str) -> tuple[list[str], int, str, str]:
    """A chat of two rounds message by message, its tokens, what ends a reply, and what differs from the template."""
    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.language_models.local import load_tokenizer
    from emodistill.policy.chat_format import ChatFormat

    tokenizer = load_tokenizer(model)
    form = ChatFormat(tokenizer, load_vocabulary())
    parts = [form.system(SYSTEM)]
    for number, (asked, answered) in enumerate(ROUNDS):
        parts += [form.user(asked, first=number == 0), form.reply(answered)]
    texts = [str(tokenizer.decode(part, skip_special_tokens=False)) for part in parts]
    end = str(tokenizer.decode(form.end_of_turn, skip_special_tokens=False))
    return texts, sum(map(len, parts)), end, form.note or ""


def _linears(model: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers that PEFT's `all-linear` takes: all but the output layer."""
    from torch import nn

    head = model.get_output_embeddings()
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _shape(model: Any, linears: dict[str, tuple[int, int]]) -> Shape:
    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    layers = config.num_hidden_layers
    return Shape(
        layers=layers,
        hidden=config.hidden_size,
        linears=tuple(linears.values()),
        attended=layers * heads * width,
        cached=layers * 2 * groups * width,
        embedding=embedding.numel(),
        head=head.numel(),
        tied=bool(config.tie_word_embeddings),
    )


def _available(on_gpu: bool) -> float:
    """Bytes of memory of the device."""
    if on_gpu:
        import torch

        return float(torch.cuda.mem_get_info()[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def read_work(size: str) -> Work:
    """A size by its name in `configs/size/` of the folder at hand, or by its file.

    Raises:
        UserError: if there is no such file, or a key is missing.
    """
    import yaml

    path = Path(size) if Path(size).is_file() else SIZES / f"{size}.yaml"
    if not path.is_file():
        raise UserError(f"--size {size}: {path} does not exist; call from the project's folder, or give a file")
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = list(Work.__dataclass_fields__)
    lacking = [name for name in names if not isinstance(read, dict) or not isinstance(read.get(name), int)]
    if lacking:
        raise UserError(f"--size {size}: {path} has no number for {lacking[0]}; see configs/size/demo.yaml")
    return Work(**{name: read[name] for name in names})


def told(report: Report, size: str) -> str:
    """The report for people."""
    lora = ", ".join(f"{count} {name}" for name, count in report.lora.items())
    ends = "" if report.shares_rows else "; every reply is read with its whole context"
    lines = [
        f"{report.model}: {report.architecture}, {report.parameters / 1e6:,.0f} million weights in {report.layers} "
        f"layers, context {report.context:,} tokens; computes in {report.dtype} on {report.device}",
        "",
        f"Chat, {report.chat_tokens} tokens; {report.chat_end!r} ends a reply:",
        *(f"  {part!r}" for part in report.chat),
        *([f"  {report.chat_note}"] if report.chat_note else []),
        "",
        f"Trained   {TRAINING[report.training]}{ends}",
        f"Speaks    {SPEAKING[report.speaking]}",
        f"LoRA      {lora}: {report.adapter / 1e6:,.1f} million weights",
        "",
        f"At size {size}, about:",
    ]
    names = {"sft": "SFT", "jpo": "JPO", "play": "play"}
    for key, name in names.items():
        short = " (more than there is)" if report.memory[key] > report.available else ""
        lines.append(f"  {name:<5} {report.memory[key]:5.1f} of {report.available:.1f} GiB{short}{_time(report, key)}")
    return "\n".join([*lines, f"  ({report.how})"])


def _time(report: Report, key: str) -> str:
    if report.seconds is None:
        return ""
    if key == "play":
        return f", {report.seconds['episode']:.1f} s an episode"
    return f", {report.seconds[key] / 60:,.0f} min"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m emodistill.models.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a folder, a Hugging Face id, or embedded")
    parser.add_argument("--size", default="demo", help="a name in configs/size, or a file like those")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA")
    parser.add_argument("--quick", action="store_true", help="look at the files alone")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    given = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # 0.50 misses an optional kernel on every CPU
    try:
        if given.quick:
            quick_check(given.model)
            print(json.dumps({"model": given.model, "refused": None}) if given.json else f"{given.model}: fit")
            return
        report = check(given.model, read_work(given.size), given.rank)
    except UserError as error:
        if given.json:
            print(json.dumps({"model": given.model, "refused": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(asdict(report) | {"refused": None}, indent=2) if given.json else told(report, given.size))


if __name__ == "__main__":
    main()
