"""What a rehearsal stands on: a server that answers by rule, and a language model of random weights.

The server speaks OpenAI's chat-completions protocol on the loopback address, so client, ledger, budget and resume do
what they do with a provider. It is no language model: it bargains in days by arithmetic, and scores by a hash.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emodistill.errors import UserError
from emodistill.files import exclusive, replacing

LINES = (
    "We could settle this within {offer} days.",
    "I can put {offer} days in writing today.",
    "What I can work with is {offer} days.",
    "Let us say {offer} days and close this together.",
)
CLOSING_TURN = 4  # own turns after which the counterparty accepts
STEP = 0.15  # of the way to the other side, a turn
_DAYS = re.compile(r"(\d+) days")
_WANTED = re.compile(r"ideally (?:within )?(\d+) days")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ENTRIES = 1024  # of the tokenizer


def reply_to(body: dict[str, Any]) -> str:
    """The answer to a request: a score where a JSON schema is asked for, else the next turn of a negotiation."""
    messages = [(message["role"], message["content"]) for message in body["messages"]]
    if "response_format" in body:
        return json.dumps({"score": score_of(messages[-1][1])})
    return next_turn(messages, str(body.get("seed")))


def score_of(case: str) -> int:
    """2 for an utterance without a number of days, else 5 to 9 by a hash of the case."""
    utterance = case.rsplit("Judge this utterance", 1)[-1]
    return 5 + _hash(case) % 5 if _DAYS.search(utterance) else 2


def next_turn(messages: list[tuple[str, str]], seed: str) -> str:
    """The words of one side: an offer nearer to what was heard with each turn, then acceptance.

    The focal side has a note in brackets, which says when to accept.

    Args:
        messages: role and words; the first holds the situation and what this side wants.
    """
    wanted = _WANTED.search(messages[0][1])
    target = int(wanted[1]) if wanted else 30
    own_turns = sum(role == "assistant" for role, _ in messages)
    words, _, note = messages[-1][1].partition("[")
    heard = _DAYS.findall(words)
    if heard and ("Accept their offer" in note or (not note and own_turns >= CLOSING_TURN)):
        return "I accept your offer."
    offer = round(target + (int(heard[-1]) - target) * STEP * own_turns) if heard else target
    return LINES[_hash(f"{messages}{seed}") % len(LINES)].format(offer=offer)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps a connection for the next request

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = reply_to(body)
        read, written = (len(str(words).split()) for words in (body["messages"], text))
        content = {
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }
        raw = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the commands say what they do."""


class RuleServer:
    """A context manager; the server runs in a thread between enter and exit.

    Args:
        base_url: where it listens, http://127.0.0.1:PORT/v1.

    Raises:
        UserError: on entering, if that is another machine, or the port is taken.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def __enter__(self) -> "RuleServer":
        address = urlsplit(self.base_url)
        if address.hostname != "127.0.0.1" or address.port is None:
            raise UserError(f"endpoint.base_url={self.base_url}: a rehearsal listens on http://127.0.0.1:PORT/v1")
        try:
            self._server = ThreadingHTTPServer((address.hostname, address.port), _Handler)
        except OSError as error:
            raise UserError(
                f"{self.base_url} cannot be listened on ({error.strerror}); give another port with "
                "endpoint.base_url=http://127.0.0.1:PORT/v1 and another run=..."
            ) from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def make_tiny_model(folder: Path) -> None:
    """A Llama of two layers with random weights, and a tokenizer learnt from the prompts of a few scenarios.

    One that is there already stays.
    """
    if (folder / "config.json").is_file():
        return
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from emodistill.negotiation.generator import generate_scenarios
    from emodistill.negotiation.prompts import system_words

    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_ENTRIES,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = [system_words(scenario) for scenario in generate_scenarios("debt", 20, 0)]
    tokenizer.train_from_iterator([*prompts, *LINES], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[2])
    fast.add_special_tokens({"additional_special_tokens": special[1:2]})
    fast.chat_template = CHATML
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=_ENTRIES,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=fast.pad_token_id,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
        )
        model = LlamaForCausalLM(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent), replacing(folder) as partial:
        partial.mkdir()
        model.save_pretrained(partial)
        fast.save_pretrained(partial)
