"""Generators and the speakers made of them: the base model, an adapter, the phrasebook, a model behind an endpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import BASE, ENDPOINT, PHRASEBOOK, SELF_SELECTED, Arm, is_local
from emodistill.negotiation.agents import Speaker
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.prompts import Emotions
from emodistill.negotiation.protocol import FOCAL, Side
from emodistill.policy.adapter_files import emotions_of, read_identity
from emodistill.policy.agents import RETRIES, ChatSpeaker
from emodistill.policy.chat_backends import ChatBackend, LocalChatBackend
from emodistill.runs import adapter_folder

if TYPE_CHECKING:  # and imported where a policy is loaded
    from emodistill.policy.expression_policy import ExpressionPolicy
    from emodistill.policy.generation import RolloutSampler


class Speakers:
    """Makes the speaker of a generator.

    Every language-model arm speaks through the same 4-bit base, dequantised, with or without an adapter merged in: an
    arm without an adapter then differs from one with it by the adapter alone.

    Args:
        policy: arguments of `ExpressionPolicy`.
        run_dir: folder of the run; the generator `jpo` is the base model with the adapter `<run_dir>/jpo/adapter`. Or a
            published folder, which is itself the one adapter that there is.
        sampler: gives what samples replies; that holds one merged copy, so only the latest speaker can be used. None
            where no language model on this machine speaks.
        endpoint: opens the model that the arms `endpoint_*` speak with.
        retries: how often a reply that breaks the role is asked for again.
    """

    def __init__(
        self,
        policy: dict[str, Any],
        run_dir: Path | str,
        sampler: "Callable[[], RolloutSampler] | None",
        vocabulary: Vocabulary,
        endpoint: Callable[[], ChatBackend] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.policy, self.run_dir, self.sampler, self.vocabulary = policy, Path(run_dir), sampler, vocabulary
        self.endpoint, self.retries = endpoint, retries

    def adapter(self, generator: str) -> Path:
        return adapter_folder(self.run_dir, generator)

    def emotions(self, generator: str) -> Emotions:
        """How emotions entered the chats that the policy was trained on.

        Raises:
            UserError: if there is no such adapter.
        """
        if generator == BASE or not is_local(generator):
            return "prompted"
        return emotions_of(read_identity(self.adapter(generator)), str(self.adapter(generator)))

    def policy_of(self, generator: str) -> "ExpressionPolicy":
        """The base with the adapter of a generator.

        Raises:
            UserError: if the adapter is missing or foreign.
        """
        from emodistill.policy.expression_policy import ExpressionPolicy

        adapter = None if generator == BASE else str(self.adapter(generator))
        return ExpressionPolicy(**self.policy, init_adapter=adapter, emotions=self.emotions(generator))

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
        policy = self.policy_of(generator)
        assert self.sampler is not None  # whoever gave none asks for no such speaker
        sampler = self.sampler().another() if fresh else self.sampler()
        sampler.refresh(policy)
        return self.over(sampler, generator, side)

    def over(self, sampler: "RolloutSampler", generator: str, side: Side = FOCAL) -> ChatSpeaker:
        """The speaker over a sampler that holds the weights of a generator."""
        backend = LocalChatBackend(sampler.generator, sampler.chat_format)
        speaker = ChatSpeaker(backend, self.vocabulary, generator, self.retries, side)
        return speaker.naming() if self.emotions(generator) == SELF_SELECTED else speaker


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
