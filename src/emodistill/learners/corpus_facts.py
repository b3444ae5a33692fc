"""What a selector must know of the corpus it learned from.

Four tensors: the mean and spread that standardise an observation, the constant that rewards are divided by, and the
emotions that occur at all. They are buffers, so a checkpoint is enough to play with; none is ever recomputed from other
data. The published code saved none of them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from emodistill.errors import UserError

TENSORS = ("observation_mean", "observation_std", "reward_scale", "seen")
NAMES = ("labels", "vocabulary", "fingerprint")
_FORM = f"transition facts have the keys {', '.join((*NAMES, *TENSORS))}"


class CorpusFacts(nn.Module):
    """Standardises observations, masks unseen emotions; changes nothing until it is told otherwise.

    D is the width of an observation, A the number of emotions.
    """

    observation_mean: Tensor  # (D,)
    observation_std: Tensor  # (D,)
    reward_scale: Tensor  # ()
    seen: Tensor  # (A,) bool

    def __init__(self, observation_dim: int, num_emotions: int) -> None:
        super().__init__()
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("seen", torch.ones(num_emotions, dtype=torch.bool))

    def take(self, facts: Mapping[str, Any]) -> None:
        """Adopt these facts: plain numbers and lists under the names of the buffers, and `labels`.

        Raises:
            UserError: naming the key that is missing, of the wrong length or out of range.
        """
        missing = [key for key in (*TENSORS, *NAMES) if key not in facts]
        if missing:
            raise UserError(f"the transition facts lack '{missing[0]}'; {_FORM}")
        for key in TENSORS:
            self._adopt(key, facts[key])
        if len(facts["labels"]) != len(self.seen):
            raise UserError(
                f"the vocabulary '{facts['vocabulary']}' has {len(facts['labels'])} labels but the learner "
                f"num_emotions={len(self.seen)}; set num_emotions to the size of the vocabulary"
            )
        self._check()

    def standardise(self, observation: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return (observation - self.observation_mean) / self.observation_std

    def mask(self, logits: Tensor) -> Tensor:
        """-inf where the corpus never showed the emotion: (B, A) -> (B, A)."""
        return logits.masked_fill(~self.seen, -torch.inf)

    def _adopt(self, key: str, value: Any) -> None:
        buffer: Tensor = getattr(self, key)
        tensor = torch.as_tensor(value, dtype=buffer.dtype)
        if tensor.shape != buffer.shape:
            raise UserError(
                f"the transition facts have '{key}' of shape {tuple(tensor.shape)} but the learner needs "
                f"{tuple(buffer.shape)}; set observation_dim and num_emotions to what the corpus has"
            )
        buffer.copy_(tensor)

    def _check(self) -> None:
        ranges = {
            "observation_mean": (torch.isfinite(self.observation_mean).all(), "finite"),
            "observation_std": ((torch.isfinite(self.observation_std) & (self.observation_std > 0)).all(), "above 0"),
            "reward_scale": (torch.isfinite(self.reward_scale) & (self.reward_scale > 0), "a number above 0"),
            "seen": (self.seen.any(), "true for at least one emotion"),
        }
        for key, (good, wanted) in ranges.items():
            if not bool(good):
                raise UserError(f"the transition facts have a '{key}' that is not {wanted}; check the corpus")


def same_vocabulary(learned: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to go on with another vocabulary than the one that was learned, even if it has as many labels.

    Raises:
        UserError: naming both.
    """
    if learned["fingerprint"] != given["fingerprint"]:
        raise UserError(
            f"the selector learned the vocabulary '{learned['vocabulary']}' ({learned['fingerprint']}) and is given "
            f"'{given['vocabulary']}' ({given['fingerprint']}); use the vocabulary it learned, or train it again"
        )
