"""What a JPO run remembers between steps: log-probabilities of the frozen reference, and judge scores by scenario.

Both go into the checkpoint. A log-probability computed in another batch differs in its last bits, so a resumed run that
computed them anew would not be the run it continues.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from emodistill.data.judged_chats import Group, JudgedBatch, JudgedChat
from emodistill.learners.live_judging import Scorer
from emodistill.policy.expression import ExpressionPolicy


class RunMemory:
    """Reference log-probabilities by chat, judge scores by group; computed at first use."""

    def __init__(self) -> None:
        self.ref_logprobs: dict[str, Tensor] = {}
        self.group_scores: dict[str, list[float | None]] = {}

    def reference(self, policy: ExpressionPolicy, batch: JudgedBatch) -> Tensor:
        """Log-probabilities of the batch's response tokens under the reference, (K,) float32.

        If any chat is new, the reference runs on the whole batch: the first step then compares the same arithmetic on
        the same tensors, and its ratio is exactly 1.
        """
        keys = [item.key for item in batch.items]
        if any(key not in self.ref_logprobs for key in keys):
            with policy.reference():
                found = policy(batch.chats).logprobs.cpu().split([_tokens(item) for item in batch.items])
            for key, logprobs in zip(keys, found, strict=True):
                self.ref_logprobs.setdefault(key, logprobs.clone())  # a slice would keep the whole batch alive
        return torch.cat([self.ref_logprobs[key] for key in keys]).to(batch.chats.input_ids.device)

    def scores(self, judge: Scorer | None, groups: Sequence[Group]) -> dict[str, list[float | None]]:
        """Scores of all turns of these groups, asked in one call; without a judge, the values that came with them.

        A group with a missing score is asked again: the usual reason is an outage, and the ledger answers the rest.
        """
        wanted = {group.name: group for group in groups if None in self.group_scores.get(group.name, [None])}
        if judge is None:
            self.group_scores.update({name: list(group.values) for name, group in wanted.items()})
        elif wanted:
            answers = iter(judge.scores([request for group in wanted.values() for request in group.requests]))
            self.group_scores.update({name: [next(answers) for _ in g.requests] for name, g in wanted.items()})
        return {group.name: self.group_scores[group.name] for group in groups}

    def state(self) -> dict[str, Any]:
        return {"ref_logprobs": dict(self.ref_logprobs), "group_scores": dict(self.group_scores)}

    def restore(self, state: dict[str, Any]) -> None:
        self.ref_logprobs, self.group_scores = dict(state["ref_logprobs"]), dict(state["group_scores"])


def _tokens(item: JudgedChat) -> int:
    return sum(owner >= 0 for owner in item.chat.utterance)
