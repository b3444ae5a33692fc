"""The model card beside an adapter: what it is and is not for, what it learnt from, how to load it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emodistill.data.provenance import NAME as CORPUS
from emodistill.errors import UserError
from emodistill.files import atomic_write
from emodistill.runs import flat

CARD = "README.md"
EMBEDDED = ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", "Allal et al. 2025, arXiv 2502.02737, Apache-2.0")
SHOWN = (
    "learner.",
    "trainer.max_steps",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "data.dataset.",
)
HIDDEN = ("_target_", "api_key_env", "path", "ledger")

_TEXT = """---
base_model: {base}
library_name: peft
license: {licence}
language: en
tags: [negotiation, emotion, lora, simulated]
---
# Expression policy: adapter of stage `{stage}`, run `{name}`

A LoRA adapter that puts a chosen emotion and a decided offer into the words of a negotiator. Made by `emodistill`
{version} in {steps} optimizer steps. {selected}

- **Base model:** {base_words}. Fingerprint `{fingerprint}`; an adapter is refused on any other.
- **Vocabulary of emotions:** `{vocabulary}`{trained}.
- **Licence:** the base model's governs what is built on it; the code is under Apache-2.0.

## What it is for, and what not

For research on emotion in negotiation, on simulated or consenting counterparties, and for comparing ways of training.

Not for talking to people who do not know that a machine chooses its emotions to gain from them, and not for debt
collection, medical, disaster or educational decisions about real persons, although its scenarios are named after
those. Emotional pressure works on people; read the ethics page (`docs/ethics.md` of the code) before any use, and play
it with `guard=` where words or emotions must be kept out.

## Training data

{data} Both sides of the bundled and self-played corpora are **simulated**; a corpus of your own or an imported one is
described by the card beside it. No test scenario is among the training data.

## Metrics at the end of training

After {steps} steps, whichever weights were selected:

{metrics}

A judge's score is what training raises. It is arithmetic or a model's opinion, and no measure of negotiating well; for
that play the arms: `python evaluate.py {run}`.

## How to load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{folder}")
```

It was trained on a base in 4 bits (NF4) where `four_bit` is true below. `evaluate.py` loads it by its place:
`python evaluate.py {run}`.

## Limits

- **Simulated counterparty: no claim about people follows from it.** Reactions to emotion were written by hand.
- English only. The wording of the simulated teacher shows through.
- Small models state wrong facts and lose the thread; the offers themselves come from a schedule, not from the model.
- Words are not filtered in training. The rates of threats and other flagged words are in the report of an evaluation.

## Hyperparameters

| key | value |
|---|---|
{settings}
"""


@dataclass(frozen=True)
class SelectedCheckpoint:
    """Which step's weights an adapter has.

    Attributes:
        step: optimizer steps behind them.
        metric, score: of the validation that made them the best; None where the last ones were taken.
        averaged: the steps whose weights were averaged, where they were.
    """

    step: int
    metric: str | None = None
    score: float | None = None
    averaged: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.averaged:
            return f"The weights are the mean of those after steps {', '.join(map(str, self.averaged))}."
        if self.metric is None:
            return "The weights are those of the last step."
        return f"The weights are those of step {self.step}, the best validation (`{self.metric}` {self.score:.4g})."


def write_model_card(
    adapter: Path, identity: Mapping[str, str], steps: int, metrics: Mapping[str, float], selected: SelectedCheckpoint
) -> None:
    """Write `README.md` into an adapter folder, from the stage's own records where they are there.

    Args:
        adapter: `checkpoints/<run>/<stage>/adapter`; `config.yaml` and `corpus.json` are beside it.
        identity: what the adapter belongs to, as in `emodistill.json`.
        steps: of the whole training.
        metrics: the last values by name; those of validation are shown.
        selected: whose weights the adapter has.
    """
    from emodistill import __version__

    stage, run = adapter.parent, _run(adapter.parent.parent)
    embedded = identity["base_model"] == "embedded"
    base, licence, words = (
        EMBEDDED if embedded else (identity["base_model"], "other", "see its own page for the licence")
    )
    emotions = identity.get("emotions", "prompted")
    trained = "" if emotions == "prompted" else f", emotions in training: {emotions}"
    text = _TEXT.format(
        base=base,
        base_words=f"{base} ({words})",
        licence=licence,
        stage=stage.name,
        name=run.partition("=")[2],
        run=shlex.quote(run),
        version=__version__,
        steps=steps,
        selected=selected,
        fingerprint=identity["fingerprint"],
        vocabulary=identity["vocabulary"],
        trained=trained,
        data=_data(stage / CORPUS),
        metrics=_metrics(metrics),
        folder=adapter,
        settings=_settings(stage / "config.yaml"),
    )
    atomic_write(adapter / CARD, text)


def _run(run_dir: Path) -> str:
    """The override that leads to a run: its name, or the folder of another seed, of a condition or of another place."""
    home, folder = Path("checkpoints").absolute(), run_dir.absolute()
    below = folder.relative_to(home).parts if folder.is_relative_to(home) else ()
    named = bool(below) and not {"seeds", "studies"} & set(below)
    return f"run={'/'.join(below)}" if named else f"run_dir={run_dir}"


def _data(file: Path) -> str:
    if not file.is_file():
        return "What it learnt from was not recorded."
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        episodes, count = Path(known["episodes"]), len(known["scenarios"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; train this stage again in another run=...") from error
    card = episodes.parent / CARD
    described = f"its dataset card is `{_shown(card)}`" if card.is_file() else "no dataset card lies beside it"
    return f"Episodes of {count} scenarios, from `{_shown(episodes)}`; {described}."


def _shown(path: Path) -> str:
    """The path without the name of the account it lies in: cards are published."""
    home = Path.home()
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def _metrics(metrics: Mapping[str, float]) -> str:
    shown = {name: value for name, value in sorted(metrics.items()) if name.startswith("val/")}
    if not shown:
        return "None were measured."
    return "\n".join(
        ["| metric | value |", "|---|---|", *(f"| {name} | {value:.4g} |" for name, value in shown.items())]
    )


def _settings(file: Path) -> str:
    if not file.is_file():
        return "| not recorded | |"
    settings: dict[str, Any] = flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    shown = {
        key: value
        for key, value in settings.items()
        if key.startswith(SHOWN) and not set(HIDDEN) & set(key.split(".")) and value is not None
    }
    return "\n".join(f"| `{key}` | {str(value).replace('|', '/')} |" for key, value in shown.items())
