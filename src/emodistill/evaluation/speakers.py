"""Speakers by the source of their words: base model, an adapter of the run, the phrasebook, or a model elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import BASE, ENDPOINT, PHRASEBOOK, SELF_SELECTED, Arm
from emodistill.negotiation.agents import Speaker
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.prompts import Emotions
from emodistill.negotiation.protocol import FOCAL, Side
from emodistill.policy.agents import RETRIES, ChatSpeaker, LanguageModelSpeaker
from emodistill.policy.chat_backends import ChatBackend
from emodistill.policy.expression_policy import ExpressionPolicy, emotions_of, read_identity
from emodistill.policy.generation import RolloutSampler


def is_local(words: str) -> bool:
    """Whether these words come from a policy on this machine, which can be measured in fixed situations."""
    return words not in (PHRASEBOOK, ENDPOINT)


class Speakers:
    """Makes the speaker of an arm.

    Every language-model arm speaks through the same 4-bit base, dequantised, with or without an adapter merged in: an
    arm without an adapter then differs from one with it by the adapter alone.

    Args:
        policy: arguments of `ExpressionPolicy`.
        run_dir: folder of the run; the words `jpo` are those of the adapter `<run_dir>/jpo/adapter`.
        sampler: how replies are sampled; it holds one merged copy, so only the latest speaker can be used.
        endpoint: opens the model that the arms `endpoint_*` speak with.
        retries: how often a reply that slipped out of role is asked for again.
    """

    def __init__(
        self,
        policy: dict[str, Any],
        run_dir: Path | str,
        sampler: RolloutSampler,
        vocabulary: Vocabulary,
        endpoint: Callable[[], ChatBackend] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.policy, self.run_dir, self.sampler, self.vocabulary = policy, Path(run_dir), sampler, vocabulary
        self.endpoint, self.retries = endpoint, retries

    def adapter(self, words: str) -> Path:
        return self.run_dir / words / "adapter"

    def emotions(self, words: str) -> Emotions:
        """How the policy of these words was trained to meet emotions.

        Raises:
            UserError: if there is no such adapter.
        """
        if words == BASE or not is_local(words):
            return "prompted"
        return emotions_of(read_identity(self.adapter(words)), str(self.adapter(words)))

    def __call__(self, words: str, fresh: bool = False, side: Side = FOCAL) -> Speaker:
        """The speaker of a source of words.

        Args:
            fresh: with a sampler of its own, so that it stays usable beside others, at the price of another copy of
                the model in memory.
            side: whose part it speaks; the phrasebook has lines for the focal side only.

        Raises:
            UserError: if the adapter is missing or foreign, no endpoint is given, or nobody can speak that part.
        """
        if words == PHRASEBOOK:
            if side != FOCAL:
                raise UserError("the phrasebook has no lines for the counterparty; give that side a language model")
            return PhrasebookSpeaker(self.vocabulary)
        if words == ENDPOINT:
            if self.endpoint is None:
                raise UserError("the arms endpoint_* need a model behind an endpoint; give one, or leave them out")
            return ChatSpeaker(self.endpoint(), self.vocabulary, retries=self.retries, side=side)
        sampler, emotions = self.sampler.another() if fresh else self.sampler, self.emotions(words)
        adapter = None if words == BASE else str(self.adapter(words))
        sampler.refresh(ExpressionPolicy(**self.policy, init_adapter=adapter, emotions=emotions))
        speaker = LanguageModelSpeaker(sampler.generator, sampler.chat_format, words, self.retries, side)
        return speaker.naming() if emotions == SELF_SELECTED else speaker


def speaker_of(arm: Arm, speaker: Speaker) -> Speaker:
    """The speaker of its words as the arm needs it: one that names its emotion itself, or one that is told.

    Raises:
        UserError: if it cannot be that.
    """
    names = getattr(speaker, "emotions", None) == SELF_SELECTED
    if arm.emotion == SELF_SELECTED and not names:
        if not isinstance(speaker, ChatSpeaker):
            raise UserError(f"arm '{arm.name}': {speaker.name} is no language model that could name an emotion")
        return speaker.naming()
    if names and arm.emotion != SELF_SELECTED:
        raise UserError(f"arm '{arm.name}': '{arm.words}' names its emotions itself; play self_selected+{arm.words}")
    return speaker
