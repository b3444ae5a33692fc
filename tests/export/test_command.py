"""`export.py` as a user calls it: to a folder, to a hub that lies on this machine, or only to look."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, started
from omegaconf import OmegaConf
from tiny_runs import composed

from emodistill import Negotiator
from emodistill.data.schema import read_episodes
from emodistill.errors import UserError
from emodistill.export.hub import check_repo
from export import export

ROOT = Path(__file__).resolve().parents[2]
USES_HUB = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, ROOT)
from omegaconf import OmegaConf
from export import export
from emodistill import Negotiator
from emodistill.errors import UserError
from emodistill.export import publish
export(OmegaConf.create(json.loads(CONFIG)))
talk = Negotiator.load("me/my-agent", guard="off").open("debt", target=30)
said = [talk.reply().words, talk.reply("I need 90 days.").words]
os.environ["HF_TOKEN"] = "hf_wrong"
try:
    publish(Path(KEPT), "me/other", True)
except UserError as error:
    said.append(str(error))
print(json.dumps(said))
"""


@pytest.fixture
def hub():
    hub = started()
    yield hub
    hub.shutdown()
    hub.server_close()


def config(run, **keys):
    return composed("export", f"run_dir='{run}'", "arm=sft", *(f"{key}={value}" for key, value in keys.items()))


def with_hub(code, hub, tmp_path):
    """Run code in a process whose hub is this one; the address of a hub is read when its library is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_an_upload_is_the_folder_and_is_loaded_by_its_id(run, hub, tmp_path):
    keys = {"to": "hub", "repo": "me/my-agent", "folder": f"'{tmp_path / 'kept here'}'", "dataset": "me/episodes"}
    given = OmegaConf.to_container(config(run, **keys), resolve=True)
    code = USES_HUB.replace("ROOT", repr(str(ROOT))).replace("CONFIG", repr(json.dumps(given)))
    code = code.replace("KEPT", repr(str(tmp_path / "kept here")))
    done = with_hub(code, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    kept = {
        path.relative_to(tmp_path / "kept here").as_posix(): path.read_bytes()
        for path in (tmp_path / "kept here").rglob("*")
        if path.is_file()
    }
    uploaded = hub.repos["models/me/my-agent"]
    assert {name: content for name, content in uploaded.items() if name != ".gitattributes"} == kept
    assert hub.private == {"models/me/my-agent": True}
    card = kept["README.md"].decode()
    assert 'Negotiator.load("me/my-agent")' in card and "datasets:\n- me/episodes\n" in card and TOKEN not in card
    talk = Negotiator.load(run, "sft", guard="off").open("debt", target=30)
    *said, refused = json.loads(done.stdout.splitlines()[-1])
    assert said == [talk.reply().words, talk.reply("I need 90 days.").words]
    assert refused.startswith("repo=me/other: the hub did not take it (") and "models/me/other" not in hub.repos


def test_a_dry_run_shows_what_would_be_uploaded(run, tmp_path, capsys):
    keys = {"to": "hub", "repo": "me/my-agent", "form": "merged", "folder": f"'{tmp_path / 'none'}'", "dry_run": "true"}
    export(config(run, **keys))
    shown = capsys.readouterr().out
    assert "  model.safetensors\n" in shown and "  selector.safetensors\n" in shown
    assert "pipeline_tag: text-generation" in shown and 'from_pretrained("me/my-agent"' in shown
    assert shown.endswith("nothing was kept, nothing uploaded\n") and list(tmp_path.iterdir()) == []


def test_a_corpus_goes_with_its_card(run, tmp_path, capsys):
    export(config(run, what="corpus", folder=f"'{tmp_path / 'the corpus'}'"))
    folder = tmp_path / "the corpus"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntask_categories: [text-generation]\n") and card.count("license: apache-2.0") == 1
    assert "Both sides are **simulated**" in card
    episodes = read_episodes(folder / "episodes.parquet")
    assert f"{len(episodes)} episodes, equal to the run's" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"README.md", "episodes.parquet", "recipe.json"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: (run / "sft" / "corpus.json").write_text('{"episodes": "a", "scenarios": {}}'), "several corpora"),
        (lambda run: [shutil.rmtree(path) for path in run.iterdir()], "no stage is trained"),
        (
            lambda run: [
                (run / stage / "corpus.json").write_text('{"episodes": "gone", "scenarios": {}}')
                for stage in ("iql", "sft")
            ],
            "which is gone",
        ),
    ],
)
def test_a_corpus_that_is_not_there(run, tmp_path, change, reason):
    shutil.copytree(run, tmp_path / "run")
    change(tmp_path / "run")
    with pytest.raises(UserError, match=reason):
        export(config(tmp_path / "run", what="corpus", folder=f"'{tmp_path / 'out'}'"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"to": "peft"}, "folder= says where"),
        ({"to": "hub"}, "give owner/name"),
        ({"to": "hub", "repo": "alone"}, "give where it is published"),
        ({"to": "onnx", "folder": "out"}, "choose peft, merged, ollama"),
        ({"what": "all", "folder": "out"}, "choose agent or corpus"),
        ({"to": "peft", "folder": "."}, "exists; give another name"),
    ],
)
def test_mistakes_are_named_first(run, keys, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        export(config(run, **keys))


def test_a_hub_that_nobody_answers_for_is_named(hub, tmp_path):
    (tmp_path / "README.md").write_text("A card.", encoding="utf-8")
    hub.shutdown()
    hub.server_close()
    code = f"from emodistill.export import publish\npublish({str(tmp_path)!r}, 'me/it', True)"
    done = with_hub(code, hub, tmp_path)
    assert "UserError: repo=me/it: the hub did not take it (" in done.stderr


def test_ids_of_a_hub():
    assert check_repo("me/my-agent_2.1") == "me/my-agent_2.1"
    for wrong in (None, "", "a/b/c", "me/it--x", "../x"):
        with pytest.raises(UserError, match="repo="):
            check_repo(wrong)
