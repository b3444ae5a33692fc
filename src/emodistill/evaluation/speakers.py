"""Generators and the speakers made of them: the base model, an adapter, the phrasebook, a model behind an endpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import BASE, ENDPOINT, PHRASEBOOK, SELF_SELECTED, Arm
from emodistill.negotiation.agents import Speaker
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.prompts import Emotions
from emodistill.negotiation.protocol import FOCAL, Side
from emodistill.policy.agents import RETRIES, ChatSpeaker
from emodistill.policy.chat_backends import ChatBackend, LocalChatBackend
from emodistill.policy.expression_policy import ExpressionPolicy, emotions_of, read_identity
from emodistill.policy.generation import RolloutSampler
from emodistill.runs import ADAPTER_NOTE


def is_local(generator: str) -> bool:
    """Whether it is a policy on this machine, whose expression can be measured in fixed contexts."""
    return generator not in (PHRASEBOOK, ENDPOINT)


class Speakers:
    """Makes the speaker of a generator.

    Every language-model arm speaks through the same 4-bit base, dequantised, with or without an adapter merged in: an
    arm without an adapter then differs from one with it by the adapter alone.

    Args:
        policy: arguments of `ExpressionPolicy`.
        run_dir: folder of the run; the generator `jpo` is the base model with the adapter `<run_dir>/jpo/adapter`. Or a
            published folder, which is itself the one adapter that there is.
        sampler: how replies are sampled; it holds one merged copy, so only the latest speaker can be used.
        endpoint: opens the model that the arms `endpoint_*` speak with.
        retries: how often a reply that breaks the role is asked for again.
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

    def adapter(self, generator: str) -> Path:
        published = (self.run_dir / ADAPTER_NOTE).is_file()
        return self.run_dir if published else self.run_dir / generator / "adapter"

    def emotions(self, generator: str) -> Emotions:
        """How emotions entered the chats that the policy was trained on.

        Raises:
            UserError: if there is no such adapter.
        """
        if generator == BASE or not is_local(generator):
            return "prompted"
        return emotions_of(read_identity(self.adapter(generator)), str(self.adapter(generator)))

    def __call__(self, generator: str, fresh: bool = False, side: Side = FOCAL) -> Speaker:
        """The speaker of a generator.

        Args:
            fresh: with a sampler of its own, so that it stays usable beside others, at the price of another copy of
                the model in memory.
            side: whose part it speaks; the phrasebook has lines for the focal side only.

        Raises:
            UserError: if the adapter is missing or foreign, no endpoint is given, or nobody can speak that part.
        """
        if generator == PHRASEBOOK:
            if side != FOCAL:
                raise UserError("the phrasebook has no lines for the counterparty; give that side a language model")
            return PhrasebookSpeaker(self.vocabulary)
        if generator == ENDPOINT:
            if self.endpoint is None:
                raise UserError("the arms endpoint_* need a model behind an endpoint; give one, or leave them out")
            return ChatSpeaker(self.endpoint(), self.vocabulary, retries=self.retries, side=side)
        sampler, emotions = self.sampler.another() if fresh else self.sampler, self.emotions(generator)
        adapter = None if generator == BASE else str(self.adapter(generator))
        sampler.refresh(ExpressionPolicy(**self.policy, init_adapter=adapter, emotions=emotions))
        backend = LocalChatBackend(sampler.generator, sampler.chat_format)
        speaker = ChatSpeaker(backend, self.vocabulary, generator, self.retries, side)
        return speaker.naming() if emotions == SELF_SELECTED else speaker


def speaker_of(arm: Arm, speaker: Speaker) -> Speaker:
    """The speaker as the arm needs it: one that chooses its emotion itself or is prompted for one, with its drafts.

    Raises:
        UserError: if it cannot be that.
    """
    if arm.drafts > 1:
        assert isinstance(speaker, ChatSpeaker)  # `parse_arm` lets nobody else draft
        speaker = speaker.drafting(arm.drafts, load_perceiver("judge"))
    names = getattr(speaker, "emotions", None) == SELF_SELECTED
    if arm.emotion == SELF_SELECTED and not names:
        if not isinstance(speaker, ChatSpeaker):
            raise UserError(f"arm '{arm.name}': {speaker.name} is no language model that could name an emotion")
        return speaker.naming()
    if names and arm.emotion != SELF_SELECTED:
        raise UserError(
            f"arm '{arm.name}': '{arm.generator}' chooses its emotions itself; play self_selected+{arm.generator}"
        )
    return speaker
