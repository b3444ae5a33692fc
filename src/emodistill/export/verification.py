"""Whether an export speaks as the run's own agent: it is loaded anew from its folder, as its users load it.

Four checks, each of which refuses the export:

- **weights**: every tensor in the folder equals, bit for bit, what the run has (merged ones: rounded to 16 bits);
- **words**: to fixed prompts, made by the exported tokenizer's template, the likeliest token after every token of the
  run's own greedy reply is the next one of that reply, so the greedy replies are equal; and the log-probability of no
  token differs by more than a bound;
- **agent**: `Negotiator` on the folder shows the same emotions, values and offers as on the run, and where base and
  adapter are kept apart, the same words;
- **privacy**: no text in it names a folder of this machine, its user's home or a secret of the environment.

Log-probabilities are compared in float32, on whatever machine: in bfloat16 a batch alone changes them by more.
"""

import getpass
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.export.agent import TrainedAgent
from emodistill.export.gguf_file import same_tensors
from emodistill.export.ollama import GGUF
from emodistill.export.prompt_form import HEARD, Prompt, example_scenario, fixed_prompts
from emodistill.export.weights import half, rounded
from emodistill.files import cache_dir, file_hash
from emodistill.language_models.embedded import gguf_tokenizer
from emodistill.language_models.local import model_folder, without_bars
from emodistill.learners.selector_file import read_selector, same_selector
from emodistill.negotiator import Negotiator, Reply
from emodistill.policy.generation import ChatGenerator
from emodistill.runs import ADAPTER_WEIGHTS

BOUNDS = {"peft": 1e-4, "float16": 0.02, "bfloat16": 0.1}  # nats; docs/export.md has what was measured
SECRET = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")  # in names of variables of the environment
SHORTEST_SECRET = 8
WORDS_OF_TOKENIZERS = ("tokenizer.json", "vocab.json", "added_tokens.json")
AGAIN = "nothing was written; export it again, and if it happens twice, report it"


@dataclass(frozen=True)
class Measured:
    """What the comparison of words found.

    Attributes:
        prompts, tokens: how many fixed prompts, and tokens of replies to them.
        largest, mean: difference of a token's log-probability, in nats.
        bound: that none may exceed.
    """

    prompts: int
    tokens: int
    largest: float
    mean: float
    bound: float

    def __str__(self) -> str:
        return (
            f"{self.prompts} greedy replies of {self.tokens} tokens equal those of the run's own agent in float32; the "
            f"log-probability of a token differs by {self.mean:.1g} on average and {self.largest:.1g} at most "
            f"(allowed: {self.bound:g})"
        )


@dataclass(frozen=True)
class Spoken:
    """The run's own greedy replies to the fixed prompts, with the log-probability of every token."""

    prompts: list[Prompt]
    replies: list[list[int]]
    logprobs: list[Tensor]

    @classmethod
    def of(cls, agent: TrainedAgent) -> "Spoken":
        prompts, chat = fixed_prompts(agent), agent.chat_format
        longest = agent.settings.config["sampler"]["max_new_tokens"]
        generator = ChatGenerator(
            agent.speaking, chat.tokenizer, 0.0, None, longest, len(prompts), stop_ids=chat.end_of_turn[:1]
        )
        replies = [drawn[0] for drawn in generator.sample([prompt.ids for prompt in prompts], 1, 0)]
        rows = [_logprobs(agent.speaking, p.ids, reply) for p, reply in zip(prompts, replies, strict=True)]
        return cls(prompts, replies, [_of_reply(row, reply) for row, reply in zip(rows, replies, strict=True)])


def verify_peft(agent: TrainedAgent, folder: Path, own: Spoken) -> Measured:
    """Raises UserError unless PEFT on the folder speaks as the run's own agent."""
    included = folder / "base"
    source = included if included.is_dir() else model_folder(agent.base)
    _refuse_unless(_same_bytes(agent.adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS), folder, "its adapter")
    if included.is_dir():
        theirs = [path for path in model_folder(agent.base).glob("*.safetensors")]
        same = all(_same_bytes(path, included / path.name) for path in theirs)
        _refuse_unless(bool(theirs) and same, folder, "its base model")
    four_bit = agent.settings.config["policy"]["four_bit"]
    measured = compare(own, load_peft(folder, source, four_bit), AutoTokenizer.from_pretrained(folder), "peft", folder)
    _verify_agent(agent, folder, in_words=True)
    return measured


def verify_merged(agent: TrainedAgent, folder: Path, own: Spoken, dtype: str) -> Measured:
    """Raises UserError unless plain transformers on the folder speaks as the run's own agent."""
    found = {
        key: tensor for path in sorted(folder.glob("model*.safetensors")) for key, tensor in load_file(path).items()
    }
    expected = rounded(agent.speaking, half(dtype))
    tied = {key for key in expected.keys() - found.keys() if key == "lm_head.weight"}
    same = found.keys() | tied == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    _refuse_unless(same, folder, "its weights")
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    measured = compare(own, model, AutoTokenizer.from_pretrained(folder), dtype, folder)
    _verify_agent(agent, folder, in_words=False)
    return measured


def verify_gguf(agent: TrainedAgent, folder: Path, own: Spoken, dtype: str) -> Measured:
    """Raises UserError unless the GGUF file, read by transformers, speaks as the run's own agent."""
    path = folder / GGUF
    _refuse_unless(same_tensors(path, agent.speaking, half(dtype)), folder, "its weights")
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
    tokenizer = gguf_tokenizer(gguf.GGUFReader(path), model.config.max_position_embeddings)
    measured = compare(own, model, tokenizer, dtype, folder)
    _verify_agent(agent, folder, in_words=False)
    return measured


def load_peft(folder: Path, base: Path, four_bit: bool) -> Any:
    """Base and adapter as the card tells people to load them, in float32.

    The base in 4 bits is dequantised for it: on some CPUs bitsandbytes multiplies 4-bit weights in bfloat16.
    """
    with without_bars():
        if four_bit:
            settings = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.float32,
            )
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=settings)
            model = model.dequantize()
        else:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, str(folder)).eval()


def compare(own: Spoken, model: Any, tokenizer: Any, kind: str, folder: Path) -> Measured:
    """The run's own replies under an exported model.

    Args:
        kind: a key of `BOUNDS`.

    Raises:
        UserError: if the exported template writes another prompt, a greedy reply differs, or a log-probability by more
            than the bound.
    """
    differences = []
    for prompt, reply, logprobs in zip(own.prompts, own.replies, own.logprobs, strict=True):
        ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=False)
        _refuse_unless(list(ids) == prompt.ids, folder, "its chat template")
        found = _logprobs(model, prompt.ids, reply)
        _refuse_unless(found.argmax(-1).tolist() == reply, folder, "a greedy reply")
        differences.append((_of_reply(found, reply) - logprobs).abs())
    every = torch.cat(differences)
    measured = Measured(len(own.replies), len(every), float(every.max()), float(every.mean()), BOUNDS[kind])
    _refuse_unless(measured.largest <= measured.bound, folder, f"a log-probability (by {measured.largest:.2g})")
    return measured


@torch.no_grad()
def _logprobs(model: Any, ids: list[int], reply: list[int]) -> Tensor:
    """Log-probabilities of every token where the reply has one, (T, V) float32."""
    tokens = torch.tensor([ids + reply], device=model.device)
    logits: Tensor = model(input_ids=tokens).logits[0, len(ids) - 1 : -1]
    return logits.float().log_softmax(-1).cpu()


def _of_reply(logprobs: Tensor, reply: list[int]) -> Tensor:
    """(T, V), T tokens -> (T,)."""
    return logprobs.gather(1, torch.tensor(reply).unsqueeze(1)).squeeze(1)


def _verify_agent(agent: TrainedAgent, folder: Path, in_words: bool) -> None:
    """Raises UserError unless a `Negotiator` on the folder is the one on the run.

    Args:
        in_words: with the model's words, which have to be equal; else the phrasebook speaks for both.
    """
    if agent.selector is not None:
        found = read_selector(folder, load_vocabulary(str(folder / "vocabulary.yaml")))
        _refuse_unless(same_selector(found, agent.selector), folder, "its selector")
    if not in_words and agent.arm.emotion == "self_selected":  # the phrasebook cannot choose
        return
    arm = None if in_words else f"{agent.arm.emotion}+phrasebook"
    mine = _talk(Negotiator.load(agent.run, arm or agent.arm.name, guard="off"), agent)
    theirs = _talk(Negotiator.load(folder, arm, guard="off"), agent)
    _refuse_unless(mine == theirs, folder, "what its agent shows, offers or says")


def _talk(negotiator: Negotiator, agent: TrainedAgent) -> list[Reply]:
    """Two turns in a scenario of each domain, side by side, against fixed words."""
    talks = [negotiator.open(example_scenario(domain), seed=7) for domain in agent.domains]
    return [*negotiator.reply(talks, [None] * len(talks)), *negotiator.reply(talks, [HEARD] * len(talks))]


def check_private(folder: Path) -> None:
    """Raises UserError if a text in the folder names a folder of this machine, its user's home or a secret.

    Texts are what is written here: not weights, and not the words of a tokenizer. A secret is the value of a variable
    of the environment whose name says so.
    """
    secrets = [value for name, value in os.environ.items() if any(word in name.upper() for word in SECRET)]
    places = [Path.home(), cache_dir().resolve(), Path.cwd(), Path(tempfile.gettempdir()), folder.parent.resolve()]
    private = [f"{place}/" for place in places if len(place.parts) > 1]
    private += [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    with suppress(KeyError, OSError):  # in a container the user may have no name
        user = getpass.getuser()
        windows = f"\\Users\\{user}\\"  # in JSON each stroke is two
        private += [*(f"/{homes}/{user}/" for homes in ("home", "Users")), windows, windows.replace("\\", "\\\\")]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".yaml", ".md", "") and path.name not in WORDS_OF_TOKENIZERS:
            text = path.read_text(encoding="utf-8")
            if any(word in text for word in private):
                raise UserError(
                    f"{path.name} would name a folder of this machine or a secret; nothing was written; rename the run "
                    "or what it was made from"
                )


def _same_bytes(one: Path, two: Path) -> bool:
    return two.is_file() and file_hash(one) == file_hash(two)


def _refuse_unless(same: bool, folder: Path, what: str) -> None:
    if not same:
        name = folder.name.removesuffix(".partial")
        raise UserError(f"the export {name} is not the run's own agent: {what} differs; {AGAIN}")
