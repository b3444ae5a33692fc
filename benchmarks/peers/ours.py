"""What both sides learn, and our side of it: the learners as `train.py` runs them, one step at a word from outside.

Run by `compare.py`. The work is four episodes of the bundled corpus, the first of each domain with `TURNS` focal turns,
written once as an episode file (ours) and once as texts (theirs); and the bundled corpus's table of transitions.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from training_throughput import peak  # noqa: E402  # the folder is on the path only now

from emodistill.data.chat_datasets import spread_mask  # noqa: E402
from emodistill.data.chats import ChatEncoder  # noqa: E402
from emodistill.data.schema import Episode, read_episodes, write_episodes  # noqa: E402

TURNS = 5  # focal turns of each episode: the median of the bundled corpus
MAX_TOKENS = 1024  # no chat loses a round
UPDATES = 200  # of IQL between two words from outside
NEVER = 100_000  # batches until a validation


class UpdateMeter(L.Callback):
    """Waits for a word before every `UPDATES` updates, and tells how long they took."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % UPDATES == 0:
            print(json.dumps({"ready": "step"}), flush=True)
            sys.stdin.readline()
            self.began, self.busy = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % UPDATES == 0:
            took = {"seconds": time.perf_counter() - self.began, "cpu_seconds": time.process_time() - self.busy}
            print(json.dumps(took | {"updates": UPDATES}), flush=True)


def configuration(stage: str, folder: Path) -> Any:
    """The configuration of `train.py stage=...` for the work in a folder."""
    from hydra import compose, initialize_config_dir

    from commands.building import register_variants

    register_variants()
    changes = {
        "stage": stage,
        "run_dir": folder / "run",
        "judge.ledger.path": folder / "ledger.sqlite",
        f"size.{stage}_steps": NEVER,
        f"size.{stage}_val_every": NEVER,
        "callbacks.progress_bar": "null",
        "+trainer.enable_progress_bar": "false",
        "+callbacks.meter._target_": "ours.UpdateMeter" if stage == "iql" else "training_throughput.Meter",
    }
    if stage != "iql":
        changes |= {"data": "file", "data.corpus.path": folder / "episodes.parquet", "size.max_tokens": MAX_TOKENS}
        changes |= {"size.validation_chats": 1, "size.validation_contexts": 0}
        changes |= {"selection": "all"}
    if stage == "jpo":
        changes |= {"learner.policy.init_adapter": "null", "data.dataset.choices": "null", "size.jpo_batch": 1}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", overrides=[f"{key}={value}" for key, value in changes.items()])


def bundled(folder: Path) -> Path:
    """The file of the bundled corpus, which is built where it is not in the cache yet."""
    from hydra.utils import instantiate

    return Path(instantiate(configuration("iql", folder).data.corpus, _convert_="all").build())


def encoder(config: Any) -> ChatEncoder:
    """The encoder of a stage's chats."""
    from hydra.utils import instantiate

    opened: ChatEncoder = instantiate(config.data.dataset.source, _convert_="all").open()[0]
    return opened


def of_each_domain(episodes: Sequence[Episode], turns: int) -> list[Episode]:
    """The first episode of each domain with so many focal turns."""
    found: dict[str, Episode] = {}
    for episode in episodes:
        if len(episode.focal_turns) == turns and episode.end != "invalid":
            found.setdefault(episode.scenario.domain, episode)
    return list(found.values())


def examples(episodes: Sequence[Episode], encode: ChatEncoder) -> list[dict[str, str]]:
    """One example a focal turn, as texts: the chat before the reply, and the reply; tokens as in our chats."""
    found = []
    for episode in episodes:
        for turn, spoken in enumerate(episode.focal_turns):
            (context,) = encode.contexts(episode, [i == turn for i in range(len(episode.focal_turns))], reserve=0)
            reply = encode.chat_format.spoken(spoken.emotion, spoken.text)
            found.append({"prompt": written(encode, context.input_ids), "completion": written(encode, reply)})
    return found


def prompts(episodes: Sequence[Episode], encode: ChatEncoder, turns: int, reserve: int) -> list[dict[str, str]]:
    """The contexts in which both sides speak, as texts: of every episode as many turns as `JPODataset` takes."""
    masks = [spread_mask([True] * len(episode.focal_turns), turns) for episode in episodes]
    contexts = [c for e, mask in zip(episodes, masks, strict=True) for c in encode.contexts(e, mask, reserve)]
    return [{"prompt": written(encode, context.input_ids)} for context in contexts]


def written(encode: ChatEncoder, tokens: list[int]) -> str:
    """Tokens as text, control tokens included."""
    return str(encode.chat_format.tokenizer.decode(tokens, skip_special_tokens=False))


def prepare(folder: Path) -> dict[str, Any]:
    """Write the work to a folder; returns what theirs has to know besides."""
    from hydra.utils import instantiate

    from emodistill.language_models.local import model_folder

    episodes = read_episodes(bundled(folder))
    train, validation = (of_each_domain([e for e in episodes if e.split == split], TURNS) for split in ("train", "val"))
    write_episodes([*train, *validation], folder / "episodes.parquet")
    config = configuration("jpo", folder)
    encode, settings, turns = encoder(config), config.sampler, config.data.dataset.turns_per_chat
    ordered = [train[i] for i in np.random.default_rng((config.seed, 0)).permutation(len(train))]  # as our first epoch
    content = {
        "sft": examples(train, encode),
        "jpo": prompts(ordered, encode, turns, settings.max_new_tokens),
    }
    for name, rows in content.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    iql = configuration("iql", folder)
    data = instantiate(iql.data, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    table = data.dataset.train
    mean, std = (np.array(data.dataset_stats[f"observation_{name}"], np.float32) for name in ("mean", "std"))
    np.savez(
        folder / "transitions.npz",
        observation=(table.observation.numpy() - mean) / std,
        action=table.action.numpy(),
        reward=table.reward.numpy() / data.dataset_stats["reward_scale"],
        next_observation=(table.next_observation.numpy() - mean) / std,
        terminal=table.terminal.numpy(),
    )
    learner = iql.learner
    return {
        "model": str(model_folder(config.model.base_model)),
        "lora": dict(config.policy.lora),
        "batch": config.size.batch,
        "contexts": turns,
        "samples": config.learner.samples,
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "kl_coef": config.learner.kl_coef,
        "clip_range": config.learner.clip_range,
        "learning_rate": {"language_model": config.learner.optimizer.learning_rate, "iql": learner.learning_rates.q},
        "hidden": list(learner.hidden_dims),
        "emotions": len(data.dataset.vocabulary),
        "batch_size": iql.data.dataset.batch_size,
        "discount": learner.discount,
        "expectile": learner.expectile,
        "inverse_temperature": learner.inverse_temperature,
        "polyak": learner.polyak,
        "clip": iql.trainer.gradient_clip_val,
        "updates": UPDATES,
    }


def decoding(rows: int, tokens: int = 24) -> None:
    """Tell the tokens a second of our decoder after contexts of 300 tokens, the prompt not counted."""
    from decoding_throughput import timed

    from emodistill.language_models.local import load_model, load_tokenizer
    from emodistill.language_models.packed_linear import pack_linears
    from emodistill.policy.generation import ChatGenerator

    tokenizer = load_tokenizer("embedded")
    tokenizer.eos_token = None  # nothing ends a reply before it has all its tokens
    model = load_model("embedded", "auto")
    pack_linears(model)
    generator = ChatGenerator(model, tokenizer, 0.7, 40, tokens, rows)
    contexts = torch.randint(100, 40_000, (rows, 300), generator=torch.Generator().manual_seed(0)).tolist()
    while True:
        print(json.dumps({"ready": "step"}), flush=True)
        sys.stdin.readline()
        print(json.dumps({"seconds": timed(generator, contexts)[0], "tokens": rows * tokens}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=["prepare", "sft", "jpo", "iql", "decoding"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.work == "prepare":
        print(json.dumps(prepare(given.folder)))
        return
    print(json.dumps({"peak": peak(), "threads": 1 if given.work == "iql" else torch.get_num_threads()}), flush=True)
    if given.work == "decoding":
        decoding(rows=32)
    from train import train

    train(configuration(given.work, given.folder))


if __name__ == "__main__":
    main()
