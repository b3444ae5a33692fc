"""What a ledger file holds, in SQL; and how a file of an earlier format is brought up to the present one.

format 1  score or reason, what it is about, latency, time
format 2  also the reply as it came, tokens, cost, attempts
format 3  also a score that is held until the probe of its batch is there
"""

import sqlite3

APPLICATION_ID = 0x454D4F4A  # "EMOJ"; tells our files from other people's databases
FORMAT = 3
_FIRST = """CREATE TABLE judgements (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, judge_version TEXT NOT NULL, rubric_version TEXT NOT NULL,
    domain TEXT NOT NULL, scenario_id TEXT NOT NULL, emotion TEXT, utterance TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 1 AND 10), reason TEXT, latency_s REAL NOT NULL, judged_at REAL NOT NULL,
    CHECK ((score IS NULL) <> (reason IS NULL))
) WITHOUT ROWID"""
_STEPS = {
    0: (_FIRST, f"PRAGMA application_id = {APPLICATION_ID}"),
    1: (
        "ALTER TABLE judgements ADD COLUMN raw TEXT",
        "ALTER TABLE judgements ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE judgements ADD COLUMN completion_tokens INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE judgements ADD COLUMN cost REAL",
        "ALTER TABLE judgements ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    ),
    2: ("ALTER TABLE judgements ADD COLUMN held REAL CHECK (held BETWEEN 1 AND 10)",),
}
COLUMNS = (
    *("key", "judge", "judge_version", "rubric_version", "domain", "scenario_id", "emotion", "utterance"),
    *("score", "reason", "raw", "held"),
    *("prompt_tokens", "completion_tokens", "cost", "latency_s", "attempts", "judged_at"),
)
_IF_BETTER = "CASE WHEN judgements.score IS NULL THEN excluded.{0} ELSE judgements.{0} END"
_VERDICT = ", ".join(f"{name} = {_IF_BETTER.format(name)}" for name in ("score", "reason", "raw", "judged_at", "held"))
_BILL = ", ".join(
    f"{name} = coalesce(judgements.{name} + excluded.{name}, judgements.{name}, excluded.{name})"
    for name in ("prompt_tokens", "completion_tokens", "cost", "latency_s", "attempts")
)
# The first score stays; what was paid adds up, whether it brought a score or not.
STORE = (
    f"INSERT INTO judgements ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT (key) DO UPDATE SET {_VERDICT}, {_BILL}"
)


def bring_up(connection: sqlite3.Connection) -> None:
    """Make an empty file or one of an earlier format a ledger of the present one, within the open transaction."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in range(version if tables else 0, FORMAT):
        for statement in _STEPS[step]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
