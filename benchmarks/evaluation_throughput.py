"""Episodes a minute of an evaluation: many in lockstep with cached rounds, against one by one without a cache.

    python benchmarks/evaluation_throughput.py [--episodes 32] [--sample 2] [--uncached 1] [--reply-tokens 32]

Real episodes: a language model speaks on the focal side, with random emotions and numbers by the schedule, against the
simulated counterparty. The same episodes are played in three ways:

- lockstep: what an evaluation does, one batched call a round, the attention cache kept from round to round;
- one by one, forgetting: one episode at a time, every reply from the whole chat; only within a reply there is a cache;
- one by one, without any cache: every token from a pass over the whole chat.

The slow ways play the first `--sample` episodes (the last one `--uncached`, which takes minutes an episode; 0 leaves it
out), and what they play is compared with what the lockstep played: in
float32 it has to be the same to the word, in bfloat16 rounding tips a choice now and then. Nothing else should run
meanwhile.
"""

import argparse
import time
from collections.abc import Sequence

import torch

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.schedule import ConcessionSchedule
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import LocalChatBackend
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import ChatGenerator, Session, pick, uniform_noise

SCHEDULE = ConcessionSchedule(start=1.0, reserve=0.3, rounds=10, exponent=1.0)


class Forgetting(ChatGenerator):
    """Feeds the whole chat for every reply."""

    def extend_and_sample(
        self, sessions: Sequence[Session], new_tokens: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> list[list[int]]:
        for session in sessions:
            session.cached, session.keys_values = [], None
        return super().extend_and_sample(sessions, new_tokens, seeds)


class Uncached(ChatGenerator):
    """Feeds the whole chat for every token."""

    @torch.inference_mode()
    def extend_and_sample(
        self, sessions: Sequence[Session], new_tokens: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> list[list[int]]:
        return [self._reply(*parts) for parts in zip(sessions, new_tokens, seeds, strict=True)]

    def _reply(self, session: Session, new: Sequence[int], seed: int) -> list[int]:
        settings, model = self.sampling, self._decoder.model
        session.tokens.extend(new)
        noise, reply = uniform_noise([seed], settings.max_new_tokens), list[int]()
        while len(reply) < settings.max_new_tokens and not settings.stop_ids & set(reply[-1:]):
            ids = torch.tensor([session.tokens + reply], device=model.device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            reply += pick(logits, noise[:, len(reply)].to(logits.device), settings.temperature, settings.top_k).tolist()
        session.tokens.extend(reply)
        return reply


class World:
    """Everything that the ways of playing share."""

    def __init__(self, model: str, dtype: str, reply_tokens: int) -> None:
        self.tokenizer, self.vocabulary = load_tokenizer(model), load_vocabulary()
        self.model = load_model(model, dtype, "auto")
        self.chat = ChatFormat(self.tokenizer, self.vocabulary)
        self.opponent = BehaviouralCounterparty(load_perceiver("counterparty"), "test:16")
        self.reply_tokens = reply_tokens

    def episodes_a_minute(self, way: type[ChatGenerator], count: int, at_once: int) -> tuple[float, list[Negotiation]]:
        """The rate at which the first `count` episodes are played, and the episodes."""
        stops = self.chat.end_of_turn[:1]
        generator = way(self.model, self.tokenizer, 0.7, 40, self.reply_tokens, max_batch=at_once, stop_ids=stops)
        speaker = ChatSpeaker(LocalChatBackend(generator, self.chat), self.vocabulary)
        focal = FocalAgent(UniformEmotion(self.vocabulary), SCHEDULE, speaker)
        games = [Negotiation(scenario, seed) for seed, scenario in enumerate(generate_scenarios("debt", count))]
        began = time.perf_counter()
        for first in range(0, count, at_once):
            play(games[first : first + at_once], focal, self.opponent)
        return 60 * count / (time.perf_counter() - began), games


def same(some: Sequence[Negotiation], others: Sequence[Negotiation]) -> int:
    """How many of the first episodes have the same words, numbers and end."""
    return sum((a.turns, a.end) == (b.turns, b.end) for a, b in zip(some, others, strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--sample", type=int, default=2)
    parser.add_argument("--uncached", type=int, default=1)
    parser.add_argument("--reply-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    world = World(given.model, given.dtype, given.reply_tokens)
    world.episodes_a_minute(ChatGenerator, 1, 1)  # warm-up
    for _ in range(given.repeats):
        fast, played = world.episodes_a_minute(ChatGenerator, given.episodes, given.episodes)
        turns = sum(len(game.turns) for game in played) / len(played)
        print(f"lockstep, cached rounds: {fast:.2f} episodes a minute ({len(played)} of {turns:.1f} turns)", flush=True)
        ways = (
            ("forgetting between rounds", Forgetting, given.sample),
            ("without any cache", Uncached, given.uncached),
        )
        for words, way, count in (each for each in ways if each[2]):
            slow, again = world.episodes_a_minute(way, count, 1)
            equal = f"{same(again, played)} of {count} episodes the same"
            print(f"one by one, {words}: {slow:.2f} a minute, ratio {fast / slow:.1f}; {equal}", flush=True)


if __name__ == "__main__":
    main()
