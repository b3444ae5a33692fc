"""Self-play with scripted backends: what the tests of corpora have in common."""

from schedules import concession_schedule
from scripted_backends import ScriptedBackendSpec, obedient

from emodistill.counterparties.specs import LanguageModelCounterpartySpec
from emodistill.data.agent_specs import ChatAgentSpec
from emodistill.data.corpus import GeneratedScenarios, PlayedCorpus
from emodistill.negotiation.schedule import CounterpartySchedule


def seats(script=obedient, emotions="random", offers=None, retries=2, **counterparty):
    backend = ScriptedBackendSpec(script)
    given = {
        "backend": backend,
        "bargains": "schedule",
        "schedule": CounterpartySchedule(concession_schedule(), noise=0.03),
        "personas": [],
        "sentences": {},
        "retries": 2,
    }
    focal = ChatAgentSpec(backend, emotions, "goemotions28", offers or concession_schedule(), retries=retries)
    return focal, LanguageModelCounterpartySpec(**(given | counterparty))


def make(folder, focal=None, counterparty=None, **changes):
    ours = seats()
    given = {"domains": ["debt", "student"], "episodes_per_scenario": 3, "split_seed": 0, "batch": 5} | changes
    sides = {"focal": focal or ours[0], "counterparty": counterparty or ours[1]}
    return PlayedCorpus("selfplay", **given, **sides, scenarios=GeneratedScenarios(10, 0), folder=str(folder))
