"""Selectors of emotions: the trained one in play and over a corpus, and a baseline by mean return.

`IQLSelector` chooses emotions with a trained policy head, `IQLAdvantages` gives every turn of a corpus its advantage,
`IQLChoices` the emotion that would be chosen there,
and `MeanReturnBaseline` is a table that knows the domain and nothing of the dialogue.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emodistill.data.observations import DialoguePrefix, Observer
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.learners.selector_networks import SelectorNetworks, check_temperature
from emodistill.negotiation.agents import Choice
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.runs import read_checkpoint, weights_hash

if TYPE_CHECKING:  # imports Arrow, which nobody needs who only plays
    from emodistill.data.schema import Episode

PERCEIVER = "judge"  # reads the other side's words for a selector
TRAIN_IT = "train it with: python train.py stage=iql (and the same run=...)"


class IQLSelector:
    """Chooses the emotion of a turn by the policy head: argmax, or sampling at a temperature above 0."""

    name = "iql"

    def __init__(
        self,
        learner: SelectorNetworks,
        observer: Observer,
        temperature: float = 0.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            settings: what it was trained with, see `IQLLearner`; for who publishes it.

        Raises:
            UserError: if the temperature is negative.
        """
        check_temperature(temperature)
        self.learner, self.observer, self.temperature = learner.eval(), observer, temperature
        self.settings = settings or {}

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return self.select_among(negotiations, [self.observer.vocabulary.labels] * len(negotiations))

    @torch.no_grad()
    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """Choose in each negotiation among its allowed labels alone, as if the others did not exist.

        One that the corpus never showed is chosen only where no other is allowed.
        """
        observation = self.observer([DialoguePrefix(n.scenario, n.turns) for n in negotiations])
        logits = self.learner.unmasked(torch.from_numpy(observation)).double()
        labels = self.observer.vocabulary.labels
        barred = torch.tensor([[label not in may for label in labels] for may in map(set, allowed)], dtype=torch.bool)
        barred = barred.reshape(logits.shape)
        seen = self.learner.stats.action_mask & ~barred
        logits = logits.masked_fill(torch.where(seen.any(-1, keepdim=True), ~seen, barred), -torch.inf)
        if self.temperature == 0:
            return [Choice(labels[best], 1.0) for best in logits.argmax(-1).tolist()]
        probabilities = (logits / self.temperature).softmax(-1).numpy()
        draws = [
            int(n.rng[FOCAL].choice(len(labels), p=row)) for n, row in zip(negotiations, probabilities, strict=True)
        ]
        return [Choice(labels[draw], float(row[draw])) for draw, row in zip(draws, probabilities, strict=True)]

    @torch.no_grad()
    def insights(self, negotiations: Sequence[Negotiation]) -> list[dict[str, dict[str, float]]]:
        """What it sees and thinks before the next turn of each negotiation; nothing is drawn.

        Returns:
            `perceived`: the shares of GoEmotions in the other side's last words, empty before there are any;
            `probabilities` of the policy head; `q_values`, min(Q1, Q2), in units of the scaled reward.
        """
        prefixes = [DialoguePrefix(n.scenario, n.turns) for n in negotiations]
        observation = torch.from_numpy(self.observer(prefixes))
        head, q = self.learner(observation).double().softmax(-1), self.learner.q_values(observation)
        labels = self.observer.vocabulary.labels
        return [
            {
                "perceived": self.observer.perceived(prefix),
                "probabilities": dict(zip(labels, chances, strict=True)),
                "q_values": dict(zip(labels, values, strict=True)),
            }
            for prefix, chances, values in zip(prefixes, head.tolist(), q.tolist(), strict=True)
        ]


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
        return {"selector": weights_hash(Path(self.checkpoint)), "temperature": self.temperature}

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
    def __call__(self, episodes: "Sequence[Episode]") -> list[np.ndarray]:
        """One array for each episode, (focal turns,) float32; nan where a turn shows no emotion."""
        selector = load_selector(self.checkpoint, self.vocabulary)
        shown = [(k, i) for k, i in focal_turns(episodes) if episodes[k].turns[i].emotion is not None]
        action = torch.tensor([self.vocabulary.index(episodes[k].turns[i].emotion or "") for k, i in shown])
        advantage = selector.learner.advantages(observed(selector, episodes, shown), action).numpy()
        by_turn = dict(zip(shown, advantage.tolist(), strict=True))
        found: list[list[float]] = [[] for _ in episodes]
        for k, i in focal_turns(episodes):
            found[k].append(by_turn.get((k, i), float("nan")))
        return [np.array(row, dtype=np.float32) for row in found]


class IQLChoices:
    """The emotion that a trained selector would choose at every focal turn of a corpus, after the turns before it.

    Args:
        checkpoint: `checkpoints/<run>/iql/best.ckpt`.
        vocabulary: the vocabulary in use; a selector of another one is refused.
    """

    def __init__(self, checkpoint: str, vocabulary: Vocabulary) -> None:
        self.checkpoint, self.vocabulary = checkpoint, vocabulary

    def __call__(self, episodes: "Sequence[Episode]") -> list[list[str]]:
        """One label for every focal turn of every episode."""
        return favourites(load_selector(self.checkpoint, self.vocabulary), episodes)


@torch.no_grad()
def favourites(selector: IQLSelector, episodes: "Sequence[Episode]") -> list[list[str]]:
    """What the policy head likes best at every focal turn of every episode."""
    turns = focal_turns(episodes)
    found: list[list[str]] = [[] for _ in episodes]
    best = selector.learner(observed(selector, episodes, turns)).double().argmax(-1).tolist()
    for (k, _), label in zip(turns, best, strict=True):
        found[k].append(selector.observer.vocabulary.labels[label])
    return found


def focal_turns(episodes: "Sequence[Episode]") -> list[tuple[int, int]]:
    """Places of all focal turns: episode, and turn within it."""
    return [(k, i) for k, e in enumerate(episodes) for i, turn in enumerate(e.turns) if turn.speaker == FOCAL]


def observed(selector: IQLSelector, episodes: "Sequence[Episode]", places: Sequence[tuple[int, int]]) -> torch.Tensor:
    """(N, D) observations before the turns at these places."""
    prefixes = [DialoguePrefix(episodes[k].scenario, episodes[k].turns[:i]) for k, i in places]
    return torch.from_numpy(selector.observer(prefixes))


def load_selector(checkpoint: str, vocabulary: Vocabulary, temperature: float = 0.0) -> IQLSelector:
    """Load a trained selector.

    Raises:
        UserError: if the checkpoint is missing, damaged, of another stage, or of another vocabulary.
    """
    saved = read_checkpoint(Path(checkpoint), "iql", TRAIN_IT)
    trained = saved["hyper_parameters"]["dataset_stats"]
    if trained["fingerprint"] != vocabulary.fingerprint:
        raise UserError(
            f"{checkpoint} was trained with the vocabulary '{trained['vocabulary']}', not '{vocabulary.name}'; "
            f"use vocabulary={trained['vocabulary']}, or another run=..."
        )
    return made_selector(saved["hyper_parameters"], saved["state_dict"], vocabulary, temperature)


def made_selector(
    settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor], vocabulary: Vocabulary, temperature: float
) -> IQLSelector:
    """The selector with these settings of `IQLLearner`, and this state dict of it."""
    trained = settings["dataset_stats"]
    learner = SelectorNetworks(settings["observation_dim"], settings["num_emotions"], settings["hidden_dims"], trained)
    learner.load_state_dict(weights)
    observer = Observer(vocabulary, load_perceiver(PERCEIVER), trained["observation"])
    return IQLSelector(learner.requires_grad_(False), observer, temperature, settings)


_Turn = tuple[str, str, float]  # domain, emotion, return


class MeanReturnBaseline:
    """Always shows the emotion that had the highest mean return in the domain: a baseline for the trained selector.

    For focal turn i of n in a valid episode of the training split, with the episode's utility u, the return is

        G = discount^(n - 1 - i) * u

    and the value of an emotion in a domain is the mean, over all turns that showed it there, of G minus the mean G of
    all turns of that domain. An emotion shown in fewer than `least` turns of the domain takes the mean over all domains
    instead; without the domain's mean the two can be compared. Of two emotions with the same value the first one of the
    vocabulary is shown. An emotion that the corpus never shows is never chosen.

    Attributes:
        values: domain -> emotion -> value; only what the corpus shows.
        pooled: emotion -> value over all domains; used as it is in a domain that the corpus does not have.
    """

    name = "mean_return"

    def __init__(
        self, episodes: "Sequence[Episode]", vocabulary: Vocabulary, discount: float = 0.99, least: int = 20
    ) -> None:
        """
        Args:
            episodes: of any split; those of `train` are used.
            least: turns that an emotion needs in a domain to have a value of its own there.

        Raises:
            UserError: if no turn of the training split shows an emotion, or one is not in the vocabulary.
        """
        turns = _centred(list(_returns(episodes, discount)))
        if not turns:
            raise UserError(
                "the baseline of mean returns needs episodes of the train split that show emotions; here are none"
            )
        self.pooled = _means([(emotion, value) for _, emotion, value in turns], vocabulary, 1)
        self.values = {
            domain: self.pooled | _means([(e, value) for d, e, value in turns if d == domain], vocabulary, least)
            for domain in sorted({domain for domain, _, _ in turns})
        }
        best = {domain: _best(values, vocabulary) for domain, values in self.values.items()}
        self._best, self._elsewhere = best, _best(self.pooled, vocabulary)

    def choice(self, domain: str) -> str:
        """The emotion that is shown in a domain."""
        return self._best.get(domain, self._elsewhere)

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice(self.choice(negotiation.scenario.domain), 1.0) for negotiation in negotiations]

    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """The best emotion among those that are allowed; one that the corpus never shows only where nothing else is."""
        found = []
        for negotiation, labels in zip(negotiations, allowed, strict=True):
            values = self.values.get(negotiation.scenario.domain, self.pooled)
            found.append(Choice(max(labels, key=lambda label: values.get(label, float("-inf"))), 1.0))
        return found


def _returns(episodes: "Sequence[Episode]", discount: float) -> Iterator[_Turn]:
    for episode in episodes:
        if episode.split == "train" and episode.end != "invalid":
            last = len(episode.focal_turns) - 1
            for i, turn in enumerate(episode.focal_turns):
                if turn.emotion is not None:
                    yield episode.scenario.domain, turn.emotion, discount ** (last - i) * episode.utility


def _centred(turns: list[_Turn]) -> list[_Turn]:
    """Returns minus the mean of their domain."""
    by_domain: dict[str, list[float]] = defaultdict(list)
    for domain, _, value in turns:
        by_domain[domain].append(value)
    means = {domain: fmean(values) for domain, values in by_domain.items()}
    return [(domain, emotion, value - means[domain]) for domain, emotion, value in turns]


def _means(shown: list[tuple[str, float]], vocabulary: Vocabulary, least: int) -> dict[str, float]:
    """Emotion -> mean value, of those shown at least so often."""
    found: dict[str, list[float]] = defaultdict(list)
    for emotion, value in shown:
        vocabulary.index(emotion)
        found[emotion].append(value)
    return {emotion: fmean(values) for emotion, values in found.items() if len(values) >= least}


def _best(values: dict[str, float], vocabulary: Vocabulary) -> str:
    return max(values, key=lambda emotion: (values[emotion], -vocabulary.index(emotion)))
