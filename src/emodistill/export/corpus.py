"""The corpus of a run as a data set: its episodes as one Parquet file, with its card and its recipe."""

from pathlib import Path

from emodistill.data.provenance import of_run
from emodistill.data.schema import read_episodes
from emodistill.errors import UserError
from emodistill.export.forms import SAYS, new_folder
from emodistill.export.verification import check_private
from emodistill.files import file_hash
from emodistill.reporting.model_card import CARD

EPISODES, RECIPE = "episodes.parquet", "recipe.json"
_FRONT = "task_categories: [text-generation]\nconfigs:\n- config_name: default\n  data_files: episodes.parquet\n"


def write_corpus(run: Path, folder: Path, say: SAYS = lambda _: None) -> int:
    """Write the corpus that a run learnt from, and check it. Returns how many episodes it has.

    Args:
        folder: must not exist yet.

    Raises:
        UserError: if the run has no corpus or several, it has no card, or what was written differs.
    """
    source = episodes_of(run)
    card = source.parent / CARD
    if not card.is_file():
        raise UserError(f"{source} has no card (README.md) beside it; write one that says what it is and whose")
    with new_folder(folder) as partial:
        say(f"writing {source.parent.name}")
        (partial / EPISODES).write_bytes(source.read_bytes())
        if (source.parent / RECIPE).is_file():
            (partial / RECIPE).write_bytes((source.parent / RECIPE).read_bytes())
        text = card.read_text(encoding="utf-8")
        opens = "---\n"
        text = text.replace(opens, opens + _FRONT, 1) if text.startswith(opens) else f"---\n{_FRONT}---\n{text}"
        (partial / CARD).write_text(text, encoding="utf-8")
        say("checking it against the run's")
        found = read_episodes(partial / EPISODES)
        if file_hash(partial / EPISODES) != file_hash(source) or not found:
            raise UserError(f"what was written is not the run's corpus {source}; nothing is left; export it again")
        check_private(partial)
    return len(found)


def episodes_of(run: Path) -> Path:
    """The Parquet file that a run learnt from.

    Raises:
        UserError: if that was not recorded, it is gone, or stages learnt from different ones.
    """
    files = {Path(provenance.episodes) for provenance in of_run(run).values()}
    if len(files) != 1:
        raise UserError(f"{run}: {'no stage is trained' if not files else 'its stages learnt from several corpora'}")
    (file,) = files
    if not file.is_file():
        raise UserError(f"{run} learnt from {file}, which is gone; train again, or build the corpus with play.py")
    return file
