"""What is exported of a run: an arm whose words are trained, and everything that it plays with.

Selector and adapter are one agent, so every form has the parts of both beside its weights:

    agent.json          arm, base model, sampling, offers, temperature of the selector: plain values that name no code
    selector.*          the trained selector, see `learners.selector_file`
    vocabulary.yaml     the emotions with their directives
    domains/            the rules of each domain that the run knows
    checksums.json      SHA-256 of every file but the card

`Negotiator.load` plays a folder that has them.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

import emodistill
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import BASE, UNTRAINED, Arm, is_imported, parse_arm
from emodistill.files import file_hash
from emodistill.language_models.local import HUB_ID, fingerprint, load_tokenizer, model_folder, public_name
from emodistill.language_models.model_files import EMBEDDED
from emodistill.learners.selector import IQLSelector
from emodistill.learners.selector_file import write_selector
from emodistill.negotiation.domains import domain_text
from emodistill.negotiation.prompts import Emotions
from emodistill.negotiator import AGENT, SUMS, RunSettings
from emodistill.policy.adapter_files import emotions_of, read_identity
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.reporting.model_card import CARD

GENERATED, PLAYED = "GeneratedScenarios", "PlayedCorpus"
SCHEDULE, OPEN_OFFERS = "ConcessionSchedule", "OpenOffers"


@dataclass(frozen=True)
class TrainedAgent:
    """An arm of a run, to be exported.

    Attributes:
        run: its folder.
        licence: of the base model, as the hub writes it; None is what is known of it.
    """

    run: Path
    arm: Arm
    settings: RunSettings
    vocabulary: Vocabulary
    licence: str | None = None

    @classmethod
    def of(cls, run: Path, arm: str, licence: str | None = None) -> "TrainedAgent":
        """
        Raises:
            UserError: if there is no such run or arm, or nothing of the arm is trained.
        """
        settings = RunSettings(run)
        vocabulary = load_vocabulary(settings.config["vocabulary"])
        found = parse_arm(arm, vocabulary)
        if found.generator in UNTRAINED:
            raise UserError(f"arm={arm}: its words are not trained, so there is nothing to export; take emodistill")
        needs_more = found.emotion in ("mean_return", "best_constant") or is_imported(found, vocabulary)
        if needs_more or found.repetition > 1:
            raise UserError(
                f"arm={arm}: its emotions come from a corpus, a class of yours or a repetition; take emodistill or a "
                "label"
            )
        settings.check(found)
        return cls(run, found, settings, vocabulary, licence)

    @property
    def adapter(self) -> Path:
        return self.run / self.arm.generator / "adapter"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the adapter was trained for, without any path of this machine."""
        noted = read_identity(self.adapter)
        return noted | {"base_model": self.base_name}

    @property
    def base(self) -> str:
        """The base model as the run names it: `embedded`, a folder or a hub id."""
        return str(self.settings.config["policy"]["base_model"])

    @cached_property
    def base_name(self) -> str:
        """What the base is loaded by on another machine; of a folder the name alone."""
        return EMBEDDED if self.base == EMBEDDED else public_name(self.base)

    @cached_property
    def hub_id(self) -> str | None:
        """The base on the hub, or the one that it was made from."""
        name = public_name(self.base)
        return name if HUB_ID.fullmatch(name) else None

    @property
    def base_is_on_hub(self) -> bool:
        """Whether the hub has the very bytes: the embedded model was rounded to 4 bits once before (Q4_1)."""
        return not Path(self.base).expanduser().is_dir() and self.base != EMBEDDED

    @cached_property
    def emotions(self) -> Emotions:
        return emotions_of(read_identity(self.adapter), str(self.adapter))

    @cached_property
    def policy(self) -> ExpressionPolicy:
        """The policy as the run has it, computed in float32: what an export has to equal on any machine."""
        given = self.settings.config["policy"]
        return ExpressionPolicy(
            given["base_model"],
            given["lora"],
            given["four_bit"],
            "float32",
            given["vocabulary"],
            init_adapter=str(self.adapter),
            emotions=self.emotions,
            device="cpu",
        )

    @cached_property
    def speaking(self) -> Any:
        """The language model that speaks: base and adapter in one, float32, on the CPU."""
        return self.policy.merged(torch.float32, torch.device("cpu")).eval()

    @cached_property
    def chat_format(self) -> ChatFormat:
        return ChatFormat(load_tokenizer(self.base), self.vocabulary, self.emotions)

    @cached_property
    def selector(self) -> IQLSelector | None:
        """The trained selector; None where the arm has none."""
        if self.arm.emotion != "iql":
            return None
        return self.settings.trained(self.vocabulary, self.settings.config.get("temperature", 0.0))

    @property
    def domains(self) -> list[str]:
        return list(self.settings.config["domains"])


def write_parts(agent: TrainedAgent, folder: Path, base: str | None) -> None:
    """Write the parts that every form has.

    Args:
        base: where its weights are: `.` (this folder, with the adapter merged in), `base`, a name by which another
            machine finds them, or None where transformers cannot read them.
    """
    labels = {
        label: {"directive": directive, "perceived_as": list(perceived)}
        for label, directive, perceived in zip(
            agent.vocabulary.labels, agent.vocabulary.directives, agent.vocabulary.perceived_as, strict=True
        )
    }
    named = {"name": agent.vocabulary.name, "labels": labels}
    words = yaml.safe_dump(named, sort_keys=False, allow_unicode=True, width=120)
    (folder / "vocabulary.yaml").write_text(words, encoding="utf-8")
    (folder / "domains").mkdir()
    for name in agent.domains:
        (folder / "domains" / f"{name}.yaml").write_text(domain_text(name), encoding="utf-8")
    if agent.selector is not None:
        write_selector(agent.selector, folder)
    about = json.dumps(describe(agent, base), indent=2, ensure_ascii=False)
    (folder / AGENT).write_text(about + "\n", encoding="utf-8")


def describe(agent: TrainedAgent, base: str | None) -> dict[str, Any]:
    """How the arm plays, in plain values."""
    config = agent.settings.config
    apart = base not in (None, ".")  # base and adapter are two things
    arm = agent.arm if apart else replace(agent.arm, generator=BASE)
    sampler = {key: config["sampler"][key] for key in ("dtype", "temperature", "top_k", "max_new_tokens", "max_batch")}
    return {
        "version": emodistill.__version__,
        "run": agent.run.resolve().name,
        "arm": arm.name,
        "emotion": arm.emotion,
        "generator": arm.generator,
        "base": {
            "model": base,
            "hub_id": agent.hub_id,
            "fingerprint": fingerprint(agent.base),
            "same_bytes_on_hub": agent.base_is_on_hub,
            "four_bit": bool(config["policy"]["four_bit"]) and apart,
            "compute_dtype": config["policy"]["compute_dtype"],
        },
        "vocabulary": {"name": agent.vocabulary.name, "fingerprint": agent.vocabulary.fingerprint},
        "domains": agent.domains,
        "scenarios": _scenarios(config["data"]["corpus"]),
        "offers": _offers(config["offers"]["policy"]),
        "sampler": sampler,
        "selector_temperature": config.get("temperature", 0.0),
        "retries": config.get("retries", 2),
    }


def _offers(policy: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the offer policy."""
    kinds = {SCHEDULE: "schedule", OPEN_OFFERS: "model"}
    name = str(policy["_target_"]).rpartition(".")[2]
    if name not in kinds:
        raise UserError(f"the run's offers come from {policy['_target_']}, which no other machine has; export another")
    numbers = policy["acceptance"] if name == OPEN_OFFERS else policy
    return {"kind": kinds[name]} | {key: numbers[key] for key in ("start", "reserve", "rounds", "exponent")}


def _scenarios(corpus: dict[str, Any]) -> dict[str, int] | None:
    """How the run's scenarios are drawn again; None where they come from a file."""
    drawn = corpus.get("scenarios") or {}
    if not (str(corpus["_target_"]).endswith(PLAYED) and str(drawn.get("_target_", "")).endswith(GENERATED)):
        return None
    return {"per_domain": drawn["per_domain"], "seed": drawn["seed"], "split_seed": corpus["split_seed"]}


def write_base(agent: TrainedAgent, folder: Path) -> None:
    """Copy the base model into `folder`, weights and tokenizer byte for byte; its settings without its path here."""
    folder.mkdir()
    for path in sorted(model_folder(agent.base).iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model"):
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "_name_or_path" in config:
        config["_name_or_path"] = agent.hub_id or ""
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_sums(folder: Path) -> None:
    """Note the SHA-256 of every file but the card."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (CARD, SUMS))
    sums = {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}
    (folder / SUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
