"""Emotions and outcomes in CaSiNo: `python -m emodistill.data.casino FILE [FILE ...]` prints what docs/casino.md shows.

The files are those of https://github.com/kushalchawla/CaSiNo, folder data/split.
"""

import argparse
import sys
from collections.abc import Sequence

from emodistill.data.casino.dialogues import Dialogue
from emodistill.data.casino.episodes import shown, turns_of
from emodistill.data.casino.outcomes import OutcomeDifference, emotion_outcomes
from emodistill.data.casino.reading import read_dialogues
from emodistill.errors import UserError


def summary(dialogues: Sequence[Dialogue]) -> str:
    """What the files hold, in one line each."""
    deals = sum(dialogue.deal is not None for dialogue in dialogues)
    points = [person.points for dialogue in dialogues for person in dialogue.participants.values()]
    turns = [messages for dialogue in dialogues for _, messages in turns_of(dialogue)]
    spoken = [messages for messages in turns if any(message.move == "say" for message in messages)]
    marked = sum(shown(messages) is not None for messages in spoken)
    people = {person.profile for dialogue in dialogues for person in dialogue.participants.values()}
    pairs = {dialogue.pair for dialogue in dialogues}
    return "\n".join(
        [
            f"{len(dialogues)} dialogues, {deals} deals, {len(dialogues) - deals} walk-aways, "
            f"{sum(points) / len(points):.1f} points a person on average",
            f"{len(turns)} turns, {len(spoken)} of them with words, {marked} of these with an emoticon",
            f"{len(people)} different profiles of persons, {len(pairs)} different pairs",
        ]
    )


def table(rows: Sequence[OutcomeDifference]) -> str:
    """The differences as a Markdown table."""
    lines = ["| showed | people | outcome | difference | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        low, high = row.interval
        people = f"{row.showed} of {row.showed + row.others}"
        lines.append(
            f"| {row.emotion} | {people} | {row.outcome} | {row.difference:+.2f} | [{low:+.2f}, {high:+.2f}] |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="casino_train.json, casino_valid.json, ...")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args()
    try:
        dialogues = read_dialogues(args.files)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{summary(dialogues)}\n\n{table(emotion_outcomes(dialogues, args.seed))}")


if __name__ == "__main__":
    main()
