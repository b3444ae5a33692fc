"""`train.py stage=jpo judge=outcome`: from the corpus of the run to scores in its ledger, on the tiny model."""

import sqlite3
from contextlib import closing

from tiny_runs import Workplace

# to a model of random weights all words are alike, and it states no offer; contexts keep the corpus's own emotions
JUDGED = ("judge=outcome", "judge.judge.sense=null", "judge.judge.doubt=0", "data.dataset.choices=null")


def test_jpo_learns_from_what_was_learnt_of_its_own_corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("EMODISTILL_CACHE", str(tmp_path / "cache"))
    place = Workplace(tmp_path)
    place.train("sft", "run", "selection=all", "size.sft_steps=2")
    place.train("jpo", "run", *JUDGED, "size.jpo_steps=2")
    (kept,) = (tmp_path / "cache" / "outcome").glob("*.npz")
    assert kept.suffix == ".npz"
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        rows = ledger.execute("SELECT score FROM judgements WHERE judge = 'outcome'").fetchall()
    assert len(set(rows)) > 3 and (None,) not in rows
    assert (tmp_path / "run" / "jpo" / "finished.json").is_file()
