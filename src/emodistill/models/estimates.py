"""Memory and time of training and playing with a model, computed from the shapes of its layers.

Memory follows what was measured with three sizes of Llama-like models on a CPU (docs/performance.md: SFT at 256 to
4,096 tokens and up to 16 chats) within an eighth of each point, and within a tenth of the peaks of the demo. Time is
that of the embedded model, measured on a machine of `REFERENCE_SPEED`, times how many more operations a token takes,
and how much slower matrix products are here. Nothing was measured on a GPU: there, memory is computed alike and time is
not given.
"""

import time
from dataclasses import dataclass
from functools import cache

GIB = 2**30
MEASURING_S = 0.1  # how long `matrix_speed` multiplies
REFERENCE_SPEED = 360.0  # `matrix_speed` of the machine that the seconds of `configs/size/` were taken on
REFERENCE_OPERATIONS = 0.572e9  # of one training token of the embedded model in a chat of 768
REFERENCE_WEIGHTS = 134.5e6  # of the embedded model
NF4_BITS = 4.127  # a weight, with double quantisation
PROCESS = 0.5 * GIB  # Python with its libraries
BESIDE = 1.0 * GIB  # a training run's corpus, judge of sense and observers
LEARNT = 3  # one token in so many bears loss
ROWS = 32  # chats or replies in one batch of speaking
REPLIES = 4  # to each of four contexts of an episode, in JPO


@dataclass(frozen=True)
class Shape:
    """What the estimates need of a model.

    Attributes:
        layers: blocks.
        hidden: numbers a token between them.
        linears: inputs and outputs of every linear layer of the blocks.
        attended: query heads times their width, of all blocks.
        cached: numbers that one token leaves in the attention cache, in all blocks.
        embedding: weights of the embedding.
        head: weights of the output layer.
        tied: whether the two are one.
    """

    layers: int
    hidden: int
    linears: tuple[tuple[int, int], ...]
    attended: int
    cached: int
    embedding: int
    head: int
    tied: bool

    @property
    def weights(self) -> int:
        """In the linear layers of the blocks."""
        return sum(inputs * outputs for inputs, outputs in self.linears)

    def adapter(self, rank: int) -> int:
        """Weights of LoRA on all of them."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.linears)

    def kept(self, rank: int) -> int:
        """Numbers that one token leaves for the backward pass: outputs, inputs that are nobody's output, norms."""
        inputs = sum(own for own, _ in self.linears if own != self.hidden)
        outputs = sum(own for _, own in self.linears)
        return outputs + inputs + 2 * self.layers * self.hidden + rank * len(self.linears)

    def operations(self, tokens: int, rank: int) -> float:
        """Of one training token in a chat of so many: forward, and backward to activations and adapter."""
        attention = 3 * 2 * 2 * self.attended * tokens / 2
        return 4 * self.weights + 6 * self.adapter(rank) + attention + 4 * self.head / LEARNT


@dataclass(frozen=True)
class Work:
    """How much a run does; names as in `configs/size/`."""

    max_tokens: int
    batch: int
    accumulate: int
    sft_steps: int
    jpo_batch: int
    jpo_accumulate: int
    jpo_steps: int


@dataclass(frozen=True)
class Seconds:
    """Measured with the embedded model at the size `demo`: a step of SFT and of JPO, an episode of play."""

    sft: float = 7.5
    jpo: float = 20.0
    episode: float = 1.6
    sft_tokens: int = 4 * 768
    jpo_replies: int = 32


MEASURED = Seconds()


def memory(shape: Shape, work: Work, rank: int, bytes_a_number: int, on_gpu: bool) -> dict[str, float]:
    """Bytes at the peak of SFT, JPO and play.

    Args:
        bytes_a_number: of the dtype that is computed in: 2 or 4.
    """
    embeddings = bytes_a_number * (shape.embedding + (0 if shape.tied else shape.head))
    at_once = max(inputs * outputs for inputs, outputs in shape.linears) if on_gpu else 2 * shape.weights
    unpacked = bytes_a_number * at_once  # on a GPU one layer; on a CPU all, and once more while they are unpacked
    base = shape.weights * NF4_BITS / 8 + embeddings + unpacked + 16 * shape.adapter(rank)
    token = bytes_a_number * shape.kept(rank) * (1.0 if on_gpu else 1.5)
    speaker = bytes_a_number * (shape.weights + shape.embedding + shape.head)  # a packed output layer is a copy
    cache = bytes_a_number * shape.cached * ROWS * work.max_tokens
    packed = work.max_tokens + 4 * REPLIES * 40  # a dialogue with the replies to four of its contexts
    around = 0.0 if on_gpu else PROCESS
    return {
        "sft": around + BESIDE + base + speaker + token * work.batch * work.max_tokens,
        "jpo": around + BESIDE + base + speaker + cache + token * work.jpo_batch * packed,
        "play": around + speaker + cache,
    }


def seconds(shape: Shape, work: Work, rank: int, speed: float) -> dict[str, float]:
    """Seconds of SFT, of JPO, and of an episode of play whose words this model writes, on a CPU.

    Args:
        speed: see `matrix_speed`.
    """
    slower = REFERENCE_SPEED / speed
    trained = slower * shape.operations(work.max_tokens, rank) / REFERENCE_OPERATIONS
    spoken = slower * (shape.weights + shape.head) / REFERENCE_WEIGHTS
    tokens = work.batch * work.accumulate * work.max_tokens
    replies = work.jpo_batch * work.jpo_accumulate * 4 * REPLIES
    return {
        "sft": work.sft_steps * MEASURED.sft * trained * tokens / MEASURED.sft_tokens,
        "jpo": work.jpo_steps * MEASURED.jpo * trained * replies / MEASURED.jpo_replies,
        "episode": MEASURED.episode * spoken,
    }


@cache
def matrix_speed() -> float:
    """Matrix products of the language model's shapes in 10^9 operations a second, in the dtype that `auto` takes.

    Measured once a process, in about a tenth of a second.
    """
    import torch

    from emodistill.language_models.local import dtype_of

    dtype = dtype_of("auto", torch.device("cpu"))
    rows, inner, columns = 1792, 576, 1536
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    left @ right  # the first product sets the kernel up
    began, products, seconds = time.perf_counter(), 0, 0.0
    while seconds < MEASURING_S:
        left @ right
        products, seconds = products + 1, time.perf_counter() - began
    return 2e-9 * rows * inner * columns * products / seconds
