"""The trained selector at work: choosing emotions in play, and weighing the turns of a corpus."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emodistill.data.observations import Observer, View
from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.learners.iql import IQLLearner
from emodistill.negotiation.agents import Choice
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.runs import read_checkpoint

TRAIN_IT = "train it with: python train.py stage=iql (and the same run=...)"


class IQLSelector:
    """Chooses the emotion of a turn by the policy head: argmax, or sampling at a temperature above 0."""

    name = "iql"

    def __init__(self, learner: IQLLearner, observer: Observer, temperature: float = 0.0) -> None:
        self.learner, self.observer, self.temperature = learner.eval(), observer, temperature

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return self.select_among(negotiations, [self.observer.vocabulary.labels] * len(negotiations))

    @torch.no_grad()
    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """Choose in each negotiation among its allowed labels alone, as if the others did not exist."""
        observation = self.observer([View(n.scenario, n.turns) for n in negotiations])
        logits = self.learner(torch.from_numpy(observation)).double()
        labels = self.observer.vocabulary.labels
        barred = torch.tensor([[label not in may for label in labels] for may in map(set, allowed)], dtype=torch.bool)
        logits = logits.masked_fill(barred.reshape(logits.shape), -torch.inf)
        if self.temperature == 0:
            return [Choice(labels[best], 1.0) for best in logits.argmax(-1).tolist()]
        probabilities = (logits / self.temperature).softmax(-1).numpy()
        draws = [
            int(n.rng[FOCAL].choice(len(labels), p=row)) for n, row in zip(negotiations, probabilities, strict=True)
        ]
        return [Choice(labels[draw], float(row[draw])) for draw, row in zip(draws, probabilities, strict=True)]


class TrainedSelector:
    """A trained selector by configuration, loaded when it has to choose.

    Args:
        checkpoint: `checkpoints/<run>/iql/best.ckpt`.
        vocabulary: the vocabulary in use; a selector of another one is refused.
        temperature: 0 takes its favourite emotion, above that it draws, and stores with which probability.
    """

    def __init__(self, checkpoint: str, vocabulary: Vocabulary, temperature: float = 1.0) -> None:
        self.checkpoint, self.vocabulary, self.temperature = checkpoint, vocabulary, temperature

    def recipe(self) -> dict[str, Any]:
        """The weights' hash and the temperature: what fixes the choices."""
        read_checkpoint(Path(self.checkpoint), "iql", TRAIN_IT)
        digest = hashlib.sha256(Path(self.checkpoint).read_bytes()).hexdigest()[:16]
        return {"selector": digest, "temperature": self.temperature}

    def open(self) -> IQLSelector:
        return load_selector(self.checkpoint, self.vocabulary, self.temperature)


class IQLAdvantages:
    """Advantage min Q'(s, a) - V(s) of every focal turn of a corpus, by a trained selector.

    Args:
        checkpoint: `checkpoints/<run>/iql/best.ckpt`.
        vocabulary: the vocabulary in use; a selector of another one is refused.
    """

    def __init__(self, checkpoint: str, vocabulary: Vocabulary) -> None:
        self.checkpoint, self.vocabulary = checkpoint, vocabulary

    @torch.no_grad()
    def __call__(self, episodes: Sequence[Episode]) -> list[np.ndarray]:
        """One array for each episode, (focal turns,) float32; nan where a turn shows no emotion."""
        selector = load_selector(self.checkpoint, self.vocabulary)
        turns = [(k, i) for k, e in enumerate(episodes) for i, turn in enumerate(e.turns) if turn.speaker == FOCAL]
        shown = [(k, i) for k, i in turns if episodes[k].turns[i].emotion is not None]
        observation = selector.observer([View(episodes[k].scenario, episodes[k].turns[:i]) for k, i in shown])
        action = torch.tensor([self.vocabulary.index(episodes[k].turns[i].emotion or "") for k, i in shown])
        advantage = selector.learner.advantages(torch.from_numpy(observation), action).numpy()
        of_turn = dict(zip(shown, advantage.tolist(), strict=True))
        found: list[list[float]] = [[] for _ in episodes]
        for k, i in turns:
            found[k].append(of_turn.get((k, i), float("nan")))
        return [np.array(row, dtype=np.float32) for row in found]


def load_selector(checkpoint: str, vocabulary: Vocabulary, temperature: float = 0.0) -> IQLSelector:
    """Load a trained selector.

    Raises:
        UserError: if the checkpoint is missing, damaged, of another stage, or of another vocabulary.
    """
    read_checkpoint(Path(checkpoint), "iql", TRAIN_IT)
    learner = IQLLearner.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    trained = learner.hparams["transition_facts"]
    if trained["fingerprint"] != vocabulary.fingerprint:
        raise UserError(
            f"{checkpoint} was trained with the vocabulary '{trained['vocabulary']}', not '{vocabulary.name}'; "
            f"use vocabulary={trained['vocabulary']}, or another run=..."
        )
    observer = Observer(vocabulary, load_perceiver("judge"), trained["observation"])
    return IQLSelector(learner, observer, temperature)
