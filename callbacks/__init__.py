"""Observers of a run. Removing any of them never changes the learned weights."""

from callbacks.adapter_export import AdapterExport
from callbacks.emotion_usage import EmotionUsage
from callbacks.hparams_tab import HParamsTab
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.progress import TrainingProgress
from callbacks.rng_state import RngState
from callbacks.samples import SampleUtterances
from callbacks.throughput import Throughput

__all__ = [
    "AdapterExport",
    "EmotionUsage",
    "HParamsTab",
    "LastCheckpoint",
    "RngState",
    "SampleUtterances",
    "Throughput",
    "TrainingProgress",
]
