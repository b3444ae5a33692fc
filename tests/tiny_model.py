"""A random two-layer Llama with a real tokenizer and chat template, built in about a second.

Tests take it through the session fixture of their own conftest:

    @pytest.fixture(scope="session")
    def tiny_model(tmp_path_factory):
        return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "You are the creditor and bargain with the debtor over the time to full payment. Your target: 20 days.",
    "Let your words show anger: you are angry about how this goes. State your offer: 45 days.",
    "I can pay in 90 days, no sooner. That is not good enough! We need the money in two weeks.",
    "Answer the student as the sleep coach in one or two sentences, and do what the brackets ask. 10:30 PM",
]


def build_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred entries; any text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=448,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[2])
    fast.add_special_tokens({"additional_special_tokens": special[1:2]})
    fast.chat_template = template
    return fast


def random_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Random weights for that tokenizer; widths are multiples of the 64-wide NF4 block."""
    settings = {
        "vocab_size": 448,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = LlamaConfig(**(settings | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def build_tiny_model(folder: Path, seed: int = 0) -> str:
    """Save model and tokenizer to a folder and return its name."""
    tokenizer = build_tokenizer()
    model = random_llama(
        seed,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def random_ids(length: int, seed: int) -> list[int]:
    return torch.randint(3, 400, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
