"""The one DataModule: the same episodes for every stage, each stage through its own dataset.

A `StageDataset` turns episodes into what a stage learns from: transitions (IQL), episode chats (SFT), judged chats
(JPO). The order of batches is a function of (seed, epoch); a cursor in the checkpoint continues in the middle of an
epoch.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import lightning as L
import torch
from torch.utils.data import DataLoader

from emodistill.data.batches import ResumableLoader
from emodistill.data.corpus import Corpus
from emodistill.data.provenance import Provenance
from emodistill.data.schema import Episode
from emodistill.data.transitions import Transitions
from emodistill.errors import UserError


class StageDataset(Protocol):
    """What one stage sees of the corpus.

    Attributes:
        loader: kind of the loader of training batches.
    """

    loader: type[ResumableLoader]
    batch_size: int
    dataset_stats: dict[str, Any]

    def prepare(self, train: Sequence[Episode], validation: Sequence[Episode]) -> None:
        """Turn episodes into datasets; called once, before the loaders."""

    def finish(self) -> None:
        """Training is over: say what is to be said of what was served."""

    def train_batches(self, seed: int) -> ResumableLoader: ...

    def validation_batches(self) -> Iterable[Any]: ...


class NegotiationData(L.LightningDataModule):
    """Emotion-labelled trajectories for all three stages.

    Args:
        corpus: where the episodes come from; `prepare_data` builds what is missing of it.
        dataset: what the stage sees of them.
        seed: with the epoch, fixes the order of batches.
    """

    def __init__(self, corpus: Corpus, dataset: StageDataset, seed: int) -> None:
        super().__init__()
        self.corpus, self.dataset, self.seed = corpus, dataset, seed
        self.provenance: Provenance | None = None
        self._ready = False
        self._batches: ResumableLoader | None = None
        self._restored: dict[str, Any] | None = None

    @property
    def dataset_stats(self) -> dict[str, Any]:
        """What a selector must store of this corpus; empty for the stages that learn from chats."""
        return self.dataset.dataset_stats

    def prepare_data(self) -> None:
        self.corpus.build()

    def setup(self, stage: str) -> None:
        if self._ready:  # Lightning calls this hook once for each of fit and validate
            return
        episodes = self.corpus.episodes()
        splits = {split: [e for e in episodes if e.split == split] for split in ("train", "val")}
        for split, members in splits.items():
            if not any(episode.end != "invalid" for episode in members):
                raise UserError(f"the corpus has no valid episode in the split '{split}'; both train and val need some")
        self.provenance = Provenance.of(self.corpus.build(), [*splits["train"], *splits["val"]])
        self.dataset.prepare(splits["train"], splits["val"])
        self._ready = True

    def teardown(self, stage: str) -> None:
        if stage == "fit" and self._ready:
            self.dataset.finish()

    def train_dataloader(self) -> ResumableLoader:
        self._batches = self.dataset.train_batches(self.seed)
        if self.trainer is not None:
            self._batches.rank, self._batches.world_size = self.trainer.global_rank, self.trainer.world_size
        if self._restored is not None:
            self._batches.load_state_dict(self._restored)
            self._restored = None
        return self._batches

    def val_dataloader(self) -> DataLoader[Any]:
        # a list would count as many loaders; without a generator of its own the loader would draw from the global one
        own = torch.Generator().manual_seed(self.seed)
        batches = list(self.dataset.validation_batches())
        return DataLoader(batches, batch_size=None, collate_fn=_as_it_is, generator=own)  # type: ignore[arg-type]  # a list

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As Lightning does it; a batch that is there already is not walked through."""
        if isinstance(batch, Transitions) and batch.observation.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        return self._batches.state_dict() if self._batches else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None


def _as_it_is(batch: Any) -> Any:
    return batch
