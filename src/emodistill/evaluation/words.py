"""Speakers by the source of their words: the base model, the SFT adapter, the JPO adapter, or the phrasebook."""

from typing import Any

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.arms import Words
from emodistill.negotiation.agents import Speaker
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.rollout_sampler import RolloutSampler
from emodistill.policy.speaker import LanguageModelSpeaker


class Speakers:
    """Makes the speaker of an arm.

    Every language-model arm speaks through the same 4-bit base, dequantised, with or without an adapter merged in: an
    arm without an adapter then differs from one with it by the adapter alone.

    Args:
        policy: arguments of `ExpressionPolicy`.
        adapters: adapter folder for each trained source of words.
        sampler: how replies are sampled; it holds one merged copy, so only the latest speaker can be used.
    """

    def __init__(
        self, policy: dict[str, Any], adapters: dict[str, str], sampler: RolloutSampler, vocabulary: Vocabulary
    ) -> None:
        self.policy, self.adapters, self.sampler, self.vocabulary = policy, adapters, sampler, vocabulary

    def __call__(self, words: Words) -> Speaker:
        if words == "phrasebook":
            return PhrasebookSpeaker(self.vocabulary)
        policy = ExpressionPolicy(**self.policy, init_adapter=self.adapters[words] if words != "base" else None)
        self.sampler.refresh(policy)
        return LanguageModelSpeaker(self.sampler.generator, self.sampler.chat_format, name=words)
