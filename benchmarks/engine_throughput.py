"""Turns a second of the language-model speaker: many negotiations in lockstep against one after another.

    python benchmarks/engine_throughput.py [--negotiations 32] [--rounds 3] [--reply-tokens 32] [--sample 4]

Three ways to speak the same chats, with the same model, prompts and numbers of tokens:

- lockstep: what the engine does, one batched call a round, the attention cache kept from round to round;
- one by one, with the cache: the same generator with one chat at a time, so that the ratio is that of batching alone;
- one by one, from scratch: `model.generate` on the whole chat for every turn, the usual loop over an episode.

Every reply has exactly `--reply-tokens` tokens, or else a model that happens to say less would look faster. The slow
ways play the first `--sample` of the negotiations; a turn's cost there does not depend on how many follow. The ways
take turns within a repeat, and the ratio is taken within the repeat. Nothing else should run meanwhile.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.negotiation.generator import generate_scenarios
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import ChatGenerator, Session

Chat = list[list[int]]  # the new tokens of each round
HEARD = (
    "I understand that you want this settled. My situation has not changed since we last spoke, and 90 days is fair.",
    "That is far too soon for me. I could perhaps manage 85 days if you leave the fees out of it.",
    "You keep pressing me. I lost two clients this spring! 80 days, and not a day less.",
    "Fine, I hear you. Let us say 75 days, and I will confirm it in writing today.",
)


def chats(chat_format: ChatFormat, count: int, rounds: int) -> list[Chat]:
    """Openings of real scenarios, and rounds with the same lines for everybody and another emotion for each."""
    emotions = chat_format.vocabulary.labels
    result = []
    for i, scenario in enumerate(generate_scenarios("debt", count)):
        heard = (None, *HEARD * rounds)
        prompts = [
            chat_format.prompt(heard[r], emotions[(i + r) % len(emotions)], "propose", f"{60 - 2 * r} days", not r)
            for r in range(rounds)
        ]
        result.append([chat_format.opening(scenario) + prompts[0], *prompts[1:]])
    return result


def with_cache(generator: ChatGenerator, played: list[Chat]) -> None:
    """All these chats round by round, in batches of the generator's size."""
    sessions = [Session() for _ in played]
    for turn in range(len(played[0])):
        generator.extend_and_sample(sessions, [chat[turn] for chat in played], range(len(played)))


def from_scratch(model: Any, played: list[Chat], reply_tokens: int, top_k: int) -> None:
    """Every turn from the whole chat so far, one chat at a time."""
    for chat in played:
        history: list[int] = []
        for new in chat:
            ids = torch.tensor([history + new], device=model.device)
            with torch.inference_mode():
                said = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    top_k=top_k,
                    temperature=0.7,
                    min_new_tokens=reply_tokens,
                    max_new_tokens=reply_tokens,
                )
            history = said[0].tolist()


def rate(turns: int, speak: Callable[[], None]) -> float:
    """Turns a second."""
    started = time.perf_counter()
    speak()
    return turns / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--negotiations", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reply-tokens", type=int, default=32)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    tokenizer = load_tokenizer(arguments.model)
    model = load_model(arguments.model, arguments.dtype, "auto")
    played = chats(ChatFormat(tokenizer, load_vocabulary()), arguments.negotiations, arguments.rounds)
    few, tokens, rounds = played[: arguments.sample], arguments.reply_tokens, arguments.rounds
    tokenizer.eos_token = None  # nothing ends a reply before it has all its tokens
    batched = ChatGenerator(model, tokenizer, 0.7, 40, tokens, max_batch=arguments.negotiations)
    single = ChatGenerator(model, tokenizer, 0.7, 40, tokens, max_batch=1)
    prompt = sum(len(new) for chat in played for new in chat) / (rounds * len(played))
    print(f"{len(played)} negotiations, {rounds} rounds, {prompt:.0f} new and {tokens} sampled tokens a turn")

    with_cache(single, few[:1])  # warm-up of both shapes
    with_cache(batched, played)
    ratios = []
    for _ in range(arguments.repeats):
        lockstep = rate(rounds * len(played), lambda: with_cache(batched, played))
        cached = rate(rounds * len(few), lambda: [with_cache(single, [chat]) for chat in few][-1])
        scratch = rate(rounds * len(few), lambda: from_scratch(model, few, tokens, top_k=40))
        ratios.append((lockstep / cached, lockstep / scratch))
        print(
            f"turns per second: {lockstep:.2f} lockstep, {cached:.2f} one by one with the cache (ratio "
            f"{ratios[-1][0]:.1f}), {scratch:.2f} one by one from scratch (ratio {ratios[-1][1]:.1f})",
            flush=True,
        )
    by_cache, by_scratch = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {by_cache:.1f} to one by one with the cache, {by_scratch:.1f} to one by one from scratch")


if __name__ == "__main__":
    main()
