"""Tiny models that say one line whatever they are asked: weights make every token follow from the one before."""

import torch
from families.models import TEMPLATES, random_model
from families.templates import family_tokenizer
from tokenizers import AddedToken

THOUGHT = "Say little, ask for much."
ENDS = {"qwen3": ["<|im_end|>"], "gemma2": ["<eos>", "<end_of_turn>"], "gemma3": ["<eos>", "<end_of_turn>"]}


def save_speaking(family, folder, line):
    """A model that says a line, and thinks before where the prompt of its family has no thought yet.

    Line and thought are one token each. The layers add nothing to the embedding of a token, so what follows it depends
    on it alone, and the output layer is made to measure.
    """
    tokenizer = family_tokenizer(TEMPLATES[family])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (line, THOUGHT)])
    chain = [prompt_ids(tokenizer)[-1], line, ENDS[family][-1]]
    pairs = [*zip(chain, chain[1:], strict=False)]
    if family == "qwen3":
        unthinking = prompt_ids(tokenizer, enable_thinking=False)[-1]
        assert unthinking != chain[0]
        thinking = [chain[0], "<think>", THOUGHT, "</think>", unthinking]
        pairs = [*zip(thinking, thinking[1:], strict=False), (unthinking, line), (line, ENDS[family][-1])]
    ids = [
        [each if isinstance(each, int) else tokenizer.convert_tokens_to_ids(each) for each in pair] for pair in pairs
    ]
    changes = {"tie_word_embeddings": False, "final_logit_softcapping": None, "eos_token_id": ids[-1][1]}
    size = -(-len(tokenizer) // 64) * 64
    model = random_model(family, vocab_size=size, pad_token_id=tokenizer.pad_token_id, **changes)
    with torch.no_grad():
        for place, weight in model.named_parameters():
            if place.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
        states = model.model(torch.tensor([[first] for first, _ in ids])).last_hidden_state[:, 0]
        model.lm_head.weight.zero_()
        for state, (_, follower) in zip(states, ids, strict=True):
            model.lm_head.weight[follower] = 40 * state / state.norm() ** 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def prompt_ids(tokenizer, question="Hello!", system=None, **more):
    chat = [{"role": "system", "content": system}] if system else []
    chat.append({"role": "user", "content": question})
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, **more)["input_ids"]
