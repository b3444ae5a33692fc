"""The bundled corpus: episodes of the phrasebook teacher, built here from scenarios and a seed.

Its behaviour policy draws the emotion of every focal turn uniformly and stores the probability, so importance sampling
is possible. Opposite sits the simulation, or any other counterparty.
"""

from collections.abc import Sequence

from emodistill.data.played_corpus import PlayedCorpus
from emodistill.data.scenario_sources import ScenarioSource
from emodistill.data.seats import Seat, TeacherSeat
from emodistill.negotiation.schedule import ConcessionSchedule


class BundledCorpus(PlayedCorpus):
    """The corpus out of the box: the phrasebook teacher with uniformly random emotions.

    Args:
        vocabulary: name of the emotion vocabulary.
        schedule: the focal side's concession schedule.
        domains, scenarios, episodes_per_scenario, counterparty, split_seed, folder: see `PlayedCorpus`.
    """

    kind = "bundled"

    def __init__(
        self,
        domains: Sequence[str],
        scenarios: ScenarioSource,
        episodes_per_scenario: int,
        counterparty: Seat,
        vocabulary: str,
        schedule: ConcessionSchedule,
        split_seed: int,
        folder: str | None = None,
    ) -> None:
        teacher = TeacherSeat(vocabulary, schedule)
        super().__init__(domains, scenarios, episodes_per_scenario, teacher, counterparty, split_seed, folder)
