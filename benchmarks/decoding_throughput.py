"""Tokens a second that a model on this machine says, by our forward pass over packed weights and by the library's.

    python benchmarks/decoding_throughput.py [--rows 4 32] [--context 300] [--reply-tokens 24] [--repeats 3]

Both ways sample the same number of tokens after the same prompts, with the same cache, and take turns. Only the token
loop is timed, not the prompt. The ratio is taken within a repeat; its median is printed. Processor time is printed
too: beside other work it is the fairer of the two.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.language_models.packed_linear import pack_linears
from emodistill.policy.generation import ChatGenerator, RowCache, Session


def timed(generator: ChatGenerator, prompts: list[list[int]]) -> tuple[float, float]:
    """Seconds, and seconds of processor time, of the token loop for one reply to each prompt."""
    decoder, seconds = generator._decoder, (0.0, 0.0)
    decode = type(decoder).decode

    def clocked(cache: RowCache, *arguments: Any) -> Any:
        nonlocal seconds
        began = time.perf_counter(), time.process_time()
        replies = decode(decoder, cache, *arguments)
        seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        return replies

    decoder.decode = clocked  # type: ignore[method-assign, assignment]
    generator.extend_and_sample([Session() for _ in prompts], prompts, range(len(prompts)))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--context", type=int, default=300)
    parser.add_argument("--reply-tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.model)
    tokenizer.eos_token = None  # nothing ends a reply before it has all its tokens
    ours, library = (
        ChatGenerator(load_model(given.model, given.dtype), tokenizer, 0.7, 40, given.reply_tokens, max(given.rows))
        for _ in range(2)
    )
    pack_linears(ours._decoder.model)
    library._decoder._own_forward = None
    draw = torch.Generator().manual_seed(0)
    for rows in given.rows:
        prompts = torch.randint(100, 40_000, (rows, given.context), generator=draw).tolist()
        prompts = [prompt[: given.context - 2 * row] for row, prompt in enumerate(prompts)]  # of different lengths
        pairs = [(timed(ours, prompts), timed(library, prompts)) for _ in range(given.repeats + 1)][1:]
        said = rows * given.reply_tokens
        wall, processor = (statistics.median(b[clock] / a[clock] for a, b in pairs) for clock in (0, 1))
        a, b = (statistics.median(said / pair[way][0] for pair in pairs) for way in (0, 1))
        print(
            f"{rows} rows: {a:.0f} against {b:.0f} tokens a second, ratio {wall:.2f}; of processor time {processor:.2f}"
        )


if __name__ == "__main__":
    main()
