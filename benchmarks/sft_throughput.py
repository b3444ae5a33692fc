"""Supervised turns per second: whole episodes in one pass against one example a turn.

    python benchmarks/sft_throughput.py [--model embedded] [--episodes 4] [--repeats 3] [--four-bit 1]

Both sides learn the same turns of the same episodes (every focal turn of eight rounds) with the same 4-bit model, LoRA
and optimizer, in one process and in turns, so that whatever else the machine does falls on both. An example of a turn
is the chat up to it, which is what a per-turn data set holds; both get their logits on the response alone, and the
examples of one batch are of one episode, so nothing is lost to padding beyond what its growth brings.
"""

import argparse
import statistics
import time

import torch

from emodistill.data.chats import ChatEncoder, EncodedChat, collate_encoded
from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.local import load_tokenizer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.expression_policy import ExpressionPolicy

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
PART = 1024
CONTEXT = {
    "Credit Type": "Working capital loan",
    "Outstanding Balance (USD)": "18,400",
    "Days Overdue": "62",
    "Reason for Overdue": "Two large customers are late with their own payments",
    "Recovery Stage": "Early",
    "Collateral": "Delivery van",
}
FOCAL_WORDS = (
    "I hear you, and I am glad that you tell me how things stand, but our own suppliers are waiting for their money.",
    "This account has been open for a long time now, and every extra week costs us interest that nobody pays back.",
    "We can put a payment plan in writing today and lower the first instalment, if that helps you over the month.",
)
COUNTERPARTY_WORDS = (
    "Business has been slow since spring, and I simply do not have the cash to pay you any sooner than that.",
    "I want to settle this, believe me, but payroll comes first, and my customers pay me late as well.",
)


def episode(number: int, rounds: int) -> Episode:
    """A negotiation of the length and with the words that real ones have."""
    scenario = Scenario(f"debt-{number:03}", "debt", 20.0, 120.0, CONTEXT)
    labels, turns = load_vocabulary().labels, []
    for i in range(rounds):
        mine, theirs = 20.0 + 4 * i + number, 120.0 - 5 * i
        text = f"{FOCAL_WORDS[(i + number) % 3]} My offer is {mine:g} days."
        turns.append(Turn(i + 1, FOCAL, text, "propose", mine, labels[(7 * i + number) % len(labels)], 1 / 28))
        text = f"{COUNTERPARTY_WORDS[(i + number) % 2]} I need {theirs:g} days."
        turns.append(Turn(i + 1, COUNTERPARTY, text, "propose", theirs))
    agents = ("uniform", "phrasebook", "behavioural:vanilla")
    return Episode(f"debt/{scenario.id}", "train", scenario, *agents, number, tuple(turns), "deadline", None)


def parts(batch: list[EncodedChat]) -> list[list[EncodedChat]]:
    """A batch in parts that fit the memory of a small machine, padding included; a longer chat is a part of its own."""
    found: list[list[EncodedChat]] = [[]]
    for chat in batch:  # by length already
        if found[-1] and len(chat.input_ids) * (len(found[-1]) + 1) > PART:
            found.append([])
        found[-1].append(chat)
    return found


def seconds(policy: ExpressionPolicy, batches: list[list[EncodedChat]]) -> float:
    """Time of one optimizer step on each batch, whose gradient is gathered in parts of at most `PART` tokens."""
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-4)
    started = time.perf_counter()
    for batch in batches:
        total = sum(owner >= 0 for chat in batch for owner in chat.utterance)
        for part in parts(batch):
            loss = -policy(collate_encoded(part, pad_id=0).to(policy.device)).logprobs.sum() / total
            loss.backward()
            loss.item()  # waits for the device
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--four-bit", type=int, default=1)
    parser.add_argument("--compute-dtype", default="auto")
    arguments = parser.parse_args()

    encoder = ChatEncoder(ChatFormat(load_tokenizer(arguments.model), load_vocabulary()), max_tokens=1_000_000)
    rounds, episodes = arguments.rounds, [episode(i, arguments.rounds) for i in range(arguments.episodes)]
    whole = [[encoder.encode(one, [True] * rounds)] for one in episodes]
    single = [[encoder.encode(one, [j == i for j in range(rounds)]) for i in range(rounds)] for one in episodes]
    policy = ExpressionPolicy(
        arguments.model, LORA, bool(arguments.four_bit), arguments.compute_dtype, vocabulary="goemotions28"
    ).to("cuda" if torch.cuda.is_available() else "cpu")

    turns = rounds * len(episodes)
    for name, batches in (("whole episodes", whole), ("one example a turn", single)):
        print(f"{name}: {sum(len(chat.input_ids) for batch in batches for chat in batch)} tokens for {turns} turns")
        seconds(policy, batches[:1])  # warm-up
    ratios = []
    for _ in range(arguments.repeats):
        fast, slow = seconds(policy, whole), seconds(policy, single)
        ratios.append(slow / fast)
        print(
            f"turns per second: {turns / fast:.2f} whole, {turns / slow:.2f} single, ratio {ratios[-1]:.2f}", flush=True
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
