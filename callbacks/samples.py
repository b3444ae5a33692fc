"""What the policy says, while it learns: sample utterances and how faithful they are."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from emodistill.data.chats import ChatContext
from emodistill.evaluation.expression import Spoken, expression_metrics, judged, replies_of
from emodistill.learners.async_judge import AsyncJudge, Scorer


class SampleUtterances(L.Callback):
    """At each validation the policy speaks in the dataset's fixed contexts; metrics as curves, words as text.

    The judge and the perceiver only look: neither changes what is learned. The seed is fixed, so that a change of words
    is a change of the policy.

    A learner that has spoken in these contexts itself (JPO) lends its replies. For another one (SFT) a merged copy of
    the model is made at each validation and given back: the policy itself would need no copy, but its arithmetic in 4
    bits would give other words than the merged weights.
    """

    def __init__(
        self,
        sampler: Any,
        judge: Scorer,
        perceiver: Any,
        vocabulary: Any,
        shown: int,
        judge_timeout_s: float | None = None,
    ) -> None:
        """
        Args:
            sampler: a `RolloutSampler`, for a learner that does not speak.
            judge: the same.
            shown: utterances printed a time.
            judge_timeout_s: scores that have not come by then are not shown; None waits for ever.
        """
        self.sampler, self.perceiver, self.vocabulary, self.shown = sampler, perceiver, vocabulary, shown
        self.judge = AsyncJudge(judge, judge_timeout_s)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        contexts = trainer.datamodule.dataset.contexts
        if trainer.sanity_checking or not contexts or not trainer.is_global_zero:
            return
        spoken = [Spoken(*reply) for reply in getattr(pl_module, "replies", [])]
        if not spoken and pl_module.policy.sharded:
            return  # a merged copy would be the whole base on one device
        spoken = spoken or self._speak(pl_module, contexts)
        found = {
            f"val/{name}": value for name, value in expression_metrics(spoken, self.perceiver, self.vocabulary).items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", table(spoken[: self.shown]), trainer.global_step)

    def _speak(self, learner: Any, contexts: Sequence[ChatContext]) -> list[Spoken]:
        self.sampler.refresh(learner.policy)
        texts = replies_of(self.sampler, contexts, seed=0)
        self.sampler.release()  # before the judge, which may need as much memory
        return judged(contexts, texts, self.judge)


def table(spoken: list[Spoken]) -> str:
    """A Markdown table of contexts and replies."""
    head = ["| they said | asked for | the policy says | judge |", "|---|---|---|---|"]
    rows = [
        (
            row.context.words or "(opening)",
            row.context.emotion or "–",
            row.text,
            "–" if row.score is None else f"{row.score:.1f}",
        )
        for row in spoken
    ]
    return "\n".join(
        [*head, *(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |" for row in rows)]
    )
