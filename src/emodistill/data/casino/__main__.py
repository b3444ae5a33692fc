"""What the files of CaSiNo hold: `python -m emodistill.data.casino FILE [FILE ...]`.

The files are those of https://github.com/kushalchawla/CaSiNo, folder data/split, or of a hub (.parquet, .jsonl).
"""

import argparse
import sys
from collections.abc import Sequence

from emodistill.data.casino.episodes import shown_emotion, turns_of
from emodistill.data.casino.reading import Dialogue, read_dialogues
from emodistill.errors import UserError


def summary(dialogues: Sequence[Dialogue]) -> str:
    """What the files hold, in one line each."""
    deals = sum(dialogue.deal is not None for dialogue in dialogues)
    points = [person.points for dialogue in dialogues for person in dialogue.participants.values()]
    turns = [messages for dialogue in dialogues for _, messages in turns_of(dialogue)]
    spoken = [messages for messages in turns if any(message.move == "say" for message in messages)]
    marked = sum(shown_emotion(messages) is not None for messages in spoken)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="casino_train.json, casino_valid.json, ...")
    args = parser.parse_args()
    try:
        dialogues = read_dialogues(args.files)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(summary(dialogues))


if __name__ == "__main__":
    main()
