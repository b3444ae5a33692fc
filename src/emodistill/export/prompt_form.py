"""The prompt of a round in the exact form that the model was trained on, as chat messages.

Messages are what every server takes. The system message has the situation, the user's messages have the other side's
words and, in square brackets, which emotion to show and what to offer. The model's own template makes tokens of them.
"""

from dataclasses import dataclass
from typing import Any

from emodistill.export.agent import TrainedAgent
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.prompts import opening_words, round_words
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiator import own_scenario

HEARD = "That is too soon for me. I am sorry, I cannot do that."
SAID = "We need this settled soon. Can you do it?"


@dataclass(frozen=True)
class Prompt:
    """A fixed prompt.

    Attributes:
        messages: as servers take them.
        ids: the tokens that the run's own agent reads.
    """

    messages: list[dict[str, str]]
    ids: list[int]


def fixed_prompts(agent: TrainedAgent) -> list[Prompt]:
    """Two prompts in each domain of the run, an opening and a second round, over emotions of the whole vocabulary."""
    labels = agent.vocabulary.labels
    count = 2 * len(agent.domains)
    emotions = [labels[place * len(labels) // count] for place in range(count)]
    prompts = []
    for place, domain in enumerate(agent.domains):
        prompts += _of_scenario(agent, example_scenario(domain), *emotions[2 * place : 2 * place + 2])
    return prompts


def example_scenario(domain: str) -> Scenario:
    """A scenario that shows nobody's data."""
    if domain in domain_names():
        return generate_scenarios(domain, 1)[0]
    low, high = load_domain(domain).bounds
    return own_scenario(domain, low, high)


def _of_scenario(agent: TrainedAgent, scenario: Scenario, first: str, second: str) -> list[Prompt]:
    chat, rules = agent.chat_format, scenario.rules
    told = agent.settings.config["offers"].get("told", True)
    shown: list[str | None] = [first, second] if agent.arm.emotion != "none" else [None, None]
    offers = [rules.say(rules.snap(scenario.value_at(share))) if told else None for share in (1.0, 0.9)]
    asked = [
        round_words(heard, chat.directive(emotion, "propose", offer))
        for heard, emotion, offer in zip((None, HEARD), shown, offers, strict=True)
    ]
    said = f"{first}: {SAID}" if agent.emotions == "self_selected" else SAID
    opening = [
        {"role": "system", "content": opening_words(scenario, agent.vocabulary, agent.emotions)},
        {"role": "user", "content": asked[0]},
    ]
    ids = chat.system(opening[0]["content"]) + chat.user(asked[0], first=True)
    later = [{"role": "assistant", "content": said}, {"role": "user", "content": asked[1]}]
    return [Prompt(opening, ids), Prompt(opening + later, ids + chat.reply(said) + chat.user(asked[1]))]


def template_text(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """What the template makes of messages, with the header that opens the reply."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
