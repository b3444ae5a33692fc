"""Speakers by the source of their words: base model, SFT or JPO adapter, the phrasebook, or a model elsewhere."""

from collections.abc import Callable
from typing import Any

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import Words
from emodistill.negotiation.agents import Speaker
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.policy.expression import ExpressionPolicy
from emodistill.policy.role_play import RETRIES
from emodistill.policy.rollout_sampler import RolloutSampler
from emodistill.policy.speaker import LanguageModelSpeaker, VoiceSpeaker
from emodistill.policy.voices import Voice


class Speakers:
    """Makes the speaker of an arm.

    Every language-model arm speaks through the same 4-bit base, dequantised, with or without an adapter merged in: an
    arm without an adapter then differs from one with it by the adapter alone.

    Args:
        policy: arguments of `ExpressionPolicy`.
        adapters: adapter folder for each trained source of words.
        sampler: how replies are sampled; it holds one merged copy, so only the latest speaker can be used.
        endpoint: opens the model that the arms `endpoint_*` speak with.
        retries: how often a reply that slipped out of role is asked for again.
    """

    def __init__(
        self,
        policy: dict[str, Any],
        adapters: dict[str, str],
        sampler: RolloutSampler,
        vocabulary: Vocabulary,
        endpoint: Callable[[], Voice] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.policy, self.adapters, self.sampler, self.vocabulary = policy, adapters, sampler, vocabulary
        self.endpoint, self.retries = endpoint, retries

    def __call__(self, words: Words) -> Speaker:
        if words == "phrasebook":
            return PhrasebookSpeaker(self.vocabulary)
        if words == "endpoint":
            if self.endpoint is None:
                raise UserError("the arms endpoint_* need a model behind an endpoint; give one, or leave them out")
            return VoiceSpeaker(self.endpoint(), self.vocabulary, retries=self.retries)
        policy = ExpressionPolicy(**self.policy, init_adapter=self.adapters[words] if words != "base" else None)
        self.sampler.refresh(policy)
        return LanguageModelSpeaker(self.sampler.generator, self.sampler.chat_format, words, self.retries)
