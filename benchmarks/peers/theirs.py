"""Their side: TRL, torchrl and d3rlpy in an environment of their own, one step at a word from outside.

Run by `compare.py` with the interpreter of that environment; nothing of this project is imported here.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

Clocks = tuple[float, float]  # of the wall and of the processor


def clocks() -> Clocks:
    return time.perf_counter(), time.process_time()


def wait() -> Clocks:
    """Wait for a word; returns when it came."""
    print(json.dumps({"ready": "step"}), flush=True)
    sys.stdin.readline()
    return clocks()


def tell(began: Clocks, **counts: float) -> None:
    wall, processor = (now - then for now, then in zip(clocks(), began, strict=True))
    print(json.dumps({"seconds": wall, "cpu_seconds": processor, **counts}), flush=True)


def base_model(given: dict[str, Any]) -> Any:
    """The same base model in NF4, as TRL's own examples load it."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        given["model"], quantization_config=four_bit if given["four_bit"] else None, dtype=torch.bfloat16
    )


def by_step(count: Callable[[], dict[str, float]]) -> Any:
    """A callback that waits before every optimizer step and tells what it took."""
    from transformers import TrainerCallback

    class Meter(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            self.began = wait()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            tell(self.began, **count())

    return Meter()


def common(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of both trainers: nothing is written, nothing recomputed, batches in the order of the file."""
    return {
        "output_dir": str(folder / "theirs"),
        "max_steps": 100_000,
        "learning_rate": given["learning_rate"]["language_model"],
        "gradient_checkpointing": False,
        "bf16": True,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def sft(given: dict[str, Any], folder: Path) -> None:
    """`SFTTrainer`: one example a turn, for a completion is all that it learns of an example."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = json.loads((folder / "sft.json").read_text(encoding="utf-8"))
    settings = SFTConfig(
        per_device_train_batch_size=given["batch"],
        max_length=None,
        train_sampling_strategy="sequential",
        **common(given, folder),
    )
    trainer = SFTTrainer(
        base_model(given),
        settings,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **given["lora"]),
        callbacks=[by_step(lambda: {"turns": given["batch"]})],
    )
    trainer.train()


def jpo(given: dict[str, Any], folder: Path) -> None:
    """`GRPOTrainer` with a reward that costs nothing."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    rows = json.loads((folder / "jpo.json").read_text(encoding="utf-8"))
    replies = given["contexts"] * given["samples"]
    settings = GRPOConfig(
        per_device_train_batch_size=replies,
        num_generations=given["samples"],
        max_completion_length=given["max_new_tokens"],
        temperature=given["temperature"],
        top_k=given["top_k"],
        beta=given["kl_coef"],
        epsilon=given["clip_range"],
        shuffle_dataset=False,
        **common(given, folder),
    )

    def length(completions: list[str], **more: Any) -> list[float]:
        return [float(len(completion)) for completion in completions]

    trainer = GRPOTrainer(
        base_model(given),
        length,
        settings,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **given["lora"]),
        callbacks=[by_step(lambda: {"turns": replies})],
    )
    trainer.train()


def mlp(widths: list[int]) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def iql(given: dict[str, Any], folder: Path) -> None:
    """`DiscreteIQLLoss` with its replay buffer and target update, in the loop of its documentation."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.modules import OneHotCategorical, ProbabilisticActor
    from torchrl.objectives import DiscreteIQLLoss, SoftUpdate

    torch.set_num_threads(1)
    table = {name: torch.from_numpy(column) for name, column in np.load(folder / "transitions.npz").items()}
    size, actions, hidden = table["observation"].shape[1], given["emotions"], given["hidden"]
    row, done = [len(table["action"])], table["terminal"].bool().unsqueeze(1)
    data = TensorDict(
        {
            "observation": table["observation"],
            "action": torch.nn.functional.one_hot(table["action"], actions),
            "next": TensorDict(
                {
                    "observation": table["next_observation"],
                    "reward": table["reward"].unsqueeze(1),
                    "done": done,
                    "terminated": done,
                },
                row,
            ),
        },
        row,
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(row[0]), batch_size=given["batch_size"])
    buffer.extend(data)
    net = TensorDictModule(mlp([size, *hidden, actions]), ["observation"], ["logits"])
    actor = ProbabilisticActor(net, in_keys=["logits"], out_keys=["action"], distribution_class=OneHotCategorical)
    loss = DiscreteIQLLoss(
        actor,
        TensorDictModule(mlp([size, *hidden, actions]), ["observation"], ["state_action_value"]),
        TensorDictModule(mlp([size, *hidden, 1]), ["observation"], ["state_value"]),
        action_space="one-hot",
        loss_function="l2",
        temperature=given["inverse_temperature"],
        expectile=given["expectile"],
    )
    loss.make_value_estimator(gamma=given["discount"])
    target = SoftUpdate(loss, tau=given["polyak"])
    heads = [list(getattr(loss, f"{name}_network_params").values(True, True)) for name in ("actor", "qvalue", "value")]
    optimizer = torch.optim.Adam(
        [{"params": parameters} for parameters in heads], lr=given["learning_rate"]["iql"], fused=True
    )
    while True:
        began = wait()
        for _ in range(given["updates"]):
            losses = loss(buffer.sample())
            optimizer.zero_grad()
            (losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]).backward()
            for parameters in heads:
                torch.nn.utils.clip_grad_norm_(parameters, given["clip"])
            optimizer.step()
            target.step()
        tell(began, updates=given["updates"])


def cql(given: dict[str, Any], folder: Path) -> None:
    """d3rlpy has no discrete IQL. `DiscreteCQL` is another algorithm: two Q heads, no V, no policy."""
    import d3rlpy

    torch.set_num_threads(1)
    table = np.load(folder / "transitions.npz")
    data = d3rlpy.dataset.MDPDataset(
        table["observation"], table["action"], table["reward"], table["terminal"], action_size=given["emotions"]
    )
    learner = d3rlpy.algos.DiscreteCQLConfig(
        batch_size=given["batch_size"],
        gamma=given["discount"],
        learning_rate=given["learning_rate"]["iql"],
        encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=given["hidden"]),
        n_critics=2,
    ).create(device="cpu")
    began = wait()

    def each(algorithm: Any, epoch: int, step: int) -> None:
        nonlocal began
        if step % given["updates"] == 0:
            tell(began, updates=given["updates"])
            began = wait()

    learner.fit(
        data,
        n_steps=10_000_000,
        n_steps_per_epoch=10_000_000,
        callback=each,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )


WORK = {
    "sft": (sft, "trl"),
    "jpo": (jpo, "trl"),
    "iql": (iql, "torchrl"),
    "cql": (cql, "d3rlpy"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=list(WORK))
    parser.add_argument("folder", type=Path)
    parser.add_argument("given", type=json.loads, help="settings, as JSON")
    arguments = parser.parse_args()
    work, package = WORK[arguments.work]
    print(json.dumps({"version": f"{package} {version(package)}", "torch": torch.__version__}), flush=True)
    work(arguments.given, arguments.folder)


if __name__ == "__main__":
    main()
