"""The offline corpus: episodes on disk, and what each of the three stages learns from.

    from emodistill.data import Episode, read_episodes

A name is imported from its module when it is first asked for, so that importing this package loads no PyTorch.
"""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.data.batches import ResumableBatches, ResumableLoader
    from emodistill.data.chat_datasets import ChatSource, JPODataset, SFTDataset
    from emodistill.data.chats import ChatContext, ChatEncoder, EncodedChat
    from emodistill.data.corpus import Corpus, CorpusFile, CsvScenarios, GeneratedScenarios, PlayedCorpus
    from emodistill.data.module import NegotiationData, StageDataset
    from emodistill.data.observations import DialoguePrefix, Observer
    from emodistill.data.schema import Episode, read_episodes, write_episodes
    from emodistill.data.selection import AllTurns, PositiveAdvantage, Selection, TopAdvantage, TopJudged, TopReturn
    from emodistill.data.transitions import Reward, TransitionDataset, Transitions, build_transitions

_MODULES = {
    "batches": (
        "ResumableBatches",
        "ResumableLoader",
    ),
    "chat_datasets": (
        "ChatSource",
        "JPODataset",
        "SFTDataset",
    ),
    "chats": (
        "ChatContext",
        "ChatEncoder",
        "EncodedChat",
    ),
    "corpus": (
        "Corpus",
        "CorpusFile",
        "CsvScenarios",
        "GeneratedScenarios",
        "PlayedCorpus",
    ),
    "module": (
        "NegotiationData",
        "StageDataset",
    ),
    "observations": (
        "DialoguePrefix",
        "Observer",
    ),
    "schema": (
        "Episode",
        "read_episodes",
        "write_episodes",
    ),
    "selection": (
        "AllTurns",
        "PositiveAdvantage",
        "Selection",
        "TopAdvantage",
        "TopJudged",
        "TopReturn",
    ),
    "transitions": (
        "Reward",
        "TransitionDataset",
        "Transitions",
        "build_transitions",
    ),
}

__all__ = [
    "AllTurns",
    "ChatContext",
    "ChatEncoder",
    "ChatSource",
    "Corpus",
    "CorpusFile",
    "CsvScenarios",
    "DialoguePrefix",
    "EncodedChat",
    "Episode",
    "GeneratedScenarios",
    "JPODataset",
    "NegotiationData",
    "Observer",
    "PlayedCorpus",
    "PositiveAdvantage",
    "ResumableBatches",
    "ResumableLoader",
    "Reward",
    "SFTDataset",
    "Selection",
    "StageDataset",
    "TopAdvantage",
    "TopJudged",
    "TopReturn",
    "TransitionDataset",
    "Transitions",
    "build_transitions",
    "read_episodes",
    "write_episodes",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
