"""What the check of a model says, against the models themselves and against what was measured."""

import json
import re
import sys
from pathlib import Path

import pytest
from families.models import FAMILIES, OTHERS, random_model, save_model
from peft import LoraConfig, get_peft_model
from tiny_model import build_tokenizer

from emodistill.errors import UserError
from emodistill.language_models.attention_masks import takes_masks
from emodistill.language_models.local import load_model
from emodistill.models.check import SPEAKING, TRAINING, check, main, paths, read_work
from emodistill.models.estimates import GIB, NF4_BITS, PROCESS, REFERENCE_SPEED, Shape, Work, memory, seconds
from emodistill.policy.generation import ChatGenerator

ROOT = Path(__file__).resolve().parents[2]
DEMO = Work(768, 2, 2, 40, 1, 2, 8)
WORDS = {"fast": "fast", "rows, library": "rows", "one by one, library": "one by one", "library": "library"}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_it_says_of_layers_and_weights_is_so(name, tmp_path):
    report = check(save_model(name, tmp_path), DEMO, rank=4)
    model = load_model(str(tmp_path), "float32")
    assert report.architecture == type(model).__name__ and report.layers == 2
    assert report.parameters == sum(weight.numel() for weight in model.parameters())
    assert (report.speaking, report.training) == paths(model, on_cpu=report.device == "cpu")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    layers = [place for place, module in adapted.named_modules() if place.endswith("lora_A")]
    assert sum(report.lora.values()) == len(layers) > 4
    assert report.adapter == sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert report.context == (1024 if name == "phi3" else 2048)
    whole = "".join(report.chat)
    assert "You sell a bicycle." in report.chat[0] and report.chat_tokens > 30
    assert whole.count(report.chat_end) >= 2 and whole.rstrip().endswith(report.chat_end)


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_models_speak_by_the_way_that_is_told(name):
    model = random_model(name)
    speaking, _ = paths(model, on_cpu=True)
    generator = ChatGenerator(model, build_tokenizer(), 0.0, None, 4)
    own = generator._library is None and generator._decoder._own_forward is not None
    assert speaking == ("fast" if own else "rows" if generator._library is None else "one by one")


def test_the_page_says_what_the_check_says():
    names = {
        "smollm2": "SmolLM2",
        "llama3": "Llama 3.x",
        "mistral": "Mistral",
        "qwen2": "Qwen2.5",
        "qwen3": "Qwen3",
        "smollm3": "SmolLM3",
        "granite": "Granite 3.x",
        "cohere": "Cohere",
        "gemma3": "Gemma 3",
        "phi3": "Phi-3",
        "gemma2": "Gemma 2",
        "lfm2": "LFM2",
        "mistral_window": "Mistral with a window",
        "olmo3": "Olmo 3",
        "cohere2": "Cohere 2",
        "gpt_oss": "GPT-OSS",
        "deepseek_v3": "DeepSeek V3",
        "gemma3n": "Gemma 3n",
        "falcon_h1": "Falcon-H1",
        "qwen3_next": "Qwen3-Next",
        "granite_hybrid": "hybrid Granite",
    }
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("## Attention")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in row.split("|")[1:5]] for row in page.splitlines() if row.startswith("| ")]
    rows = {family: row[1:] for row in cells for family in row[0].split(", ")}
    for name in [*FAMILIES, *OTHERS]:
        model = random_model(name)
        shares = takes_masks(model)
        speaking, training = paths(model, on_cpu=True)
        told = rows[names[name]]
        assert [WORDS[told[0]], told[1], WORDS[told[2]]] == [
            training,
            "share a row" if shares else "one row each",
            speaking,
        ], name


def llama_like(hidden, intermediate, layers, heads, groups, vocabulary, width):
    attention = [(hidden, heads * width), *[(hidden, groups * width)] * 2, (heads * width, hidden)]
    linears = [*attention, *[(hidden, intermediate)] * 2, (intermediate, hidden)]
    embedding = vocabulary * hidden
    kept = 2 * groups * width * layers
    return Shape(layers, hidden, tuple(linears * layers), heads * width * layers, kept, embedding, embedding, True)


SHAPES = {
    "135M": llama_like(576, 1536, 30, 9, 3, 49152, 64),
    "360M": llama_like(960, 2560, 32, 15, 5, 49152, 64),
    "1B": llama_like(2048, 8192, 16, 32, 8, 128256, 64),
}
MEASURED = [  # docs/performance.md, scaling: model, tokens of a step, GiB
    ("135M", 512, 1.47),
    ("360M", 512, 2.75),
    ("1B", 512, 6.14),
    ("135M", 256, 1.30),
    ("135M", 1024, 1.59),
    ("135M", 2048, 2.35),
    ("135M", 4096, 3.67),
    ("135M", 8192, 6.51),
]


@pytest.mark.parametrize(("name", "tokens", "measured"), MEASURED)
def test_memory_is_near_what_was_measured(name, tokens, measured):
    """A step alone: what a training run holds beside it is the difference to a run without tokens."""
    shape = SHAPES[name]
    step = Work(tokens, 1, 1, 1, 1, 1, 1)
    nothing = Work(0, 1, 1, 1, 1, 1, 1)
    activations = memory(shape, step, 16, 2, False)["sft"] - memory(shape, nothing, 16, 2, False)["sft"]
    held = PROCESS + shape.weights * (NF4_BITS / 8 + 4) + 2 * shape.embedding + 16 * shape.adapter(16)
    assert (held + activations) / GIB == pytest.approx(measured, rel=1 / 8)


def test_the_demo_takes_what_it_was_measured_to_take():
    """docs/performance.md, the demo: 3.7 and 4.0 GiB; `configs/size/demo.yaml`: seconds a step and an episode."""
    found = memory(SHAPES["135M"], DEMO, 16, 2, on_gpu=False)
    assert found["sft"] / GIB == pytest.approx(3.7, rel=0.1) and found["jpo"] / GIB == pytest.approx(4.0, rel=0.1)
    took = seconds(SHAPES["135M"], DEMO, 16, REFERENCE_SPEED)
    assert [took["sft"], took["jpo"], took["episode"]] == pytest.approx([40 * 7.5, 8 * 20.0, 1.6], rel=0.01)
    slower = seconds(SHAPES["135M"], DEMO, 16, REFERENCE_SPEED / 3)
    assert {name: slower[name] / took[name] for name in took} == pytest.approx(dict.fromkeys(took, 3.0))
    assert seconds(SHAPES["1B"], DEMO, 16, REFERENCE_SPEED)["sft"] > 7 * took["sft"]


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["check", *words])
        main()
        return capsys.readouterr().out

    return call


def test_it_is_for_people_and_for_programs(run, tmp_path):
    folder = save_model("lfm2", tmp_path)
    said, read = run(folder), json.loads(run(folder, "--json"))
    assert (
        read["refused"] is None and read["speaking"] == "one by one" and set(read["memory"]) == {"sft", "jpo", "play"}
    )
    for words in (SPEAKING["one by one"], TRAINING["library"], "2 w1", "'<|im_end|>' ends a reply"):
        assert words in said
    assert re.search(r"SFT +\d+\.\d of \d+\.\d GiB, \d+ min", said) and "an episode" in said
    assert run(folder, "--quick") == f"{folder}: fit\n"


def test_a_model_that_cannot_be_used_is_one_sentence(run, capsys, tmp_path):
    folder = Path(save_model("smollm2", tmp_path))
    (folder / "tokenizer.json").unlink()
    capsys.readouterr()
    for words in ([], ["--quick"], ["--json"]):
        with pytest.raises(SystemExit) as end:
            run(str(folder), *words)
        told = capsys.readouterr()
        assert end.value.code == 2 and told.err.startswith(f"error: model={folder}: ")
        assert "holds no tokenizer" in (json.loads(told.out)["refused"] if words == ["--json"] else told.err)


def test_sizes_are_those_of_the_configurations(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert read_work("demo") == DEMO and read_work("full").max_tokens == 4096
    (tmp_path / "mine.yaml").write_text("max_tokens: 100\nbatch: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="no number for accumulate"):
        read_work(str(tmp_path / "mine.yaml"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--size demo: .*does not exist"):
        read_work("demo")
