"""Who showed which emotion in CaSiNo, and what came of it; `studies.human` compares them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from emodistill.data.casino.dialogues import Dialogue
from emodistill.data.casino.episodes import shown, turns_of

OUTCOMES = ("own satisfaction", "liked by the other", "own points")  # 1 to 5, 1 to 5, 5 to 36


def people_of(
    dialogues: Sequence[Dialogue], emotions: Sequence[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Both sides of D dialogues: who showed which of E emotions, (D, 2, E), and the O `OUTCOMES`, (D, 2, O)."""
    showed, outcomes = [], []
    for dialogue in dialogues:
        seen = {name: set[str | None]() for name in dialogue.participants}
        for name, messages in turns_of(dialogue):
            seen[name].add(shown(messages))
        showed.append([[emotion in seen[name] for emotion in emotions] for name in seen])
        people = dialogue.participants
        outcomes.append([[p.satisfaction, people[dialogue.other(n)].liking, p.points] for n, p in people.items()])
    return np.array(showed), np.array(outcomes, dtype=np.float64)
