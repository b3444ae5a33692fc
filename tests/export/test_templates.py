"""The template that goes along writes chats as the agent reads them, for every family of models."""

import re

import pytest
from families.templates import FAMILIES, family_tokenizer

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.export.ollama import go_template
from emodistill.export.weights import jinja_template
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.chat_template import find_form

SYSTEM = "You are the creditor.\n\nYour target: 20 days."
ROUNDS = [("[State your offer: 20 days.]", "I want 20 days!"), ("No: 90 days.\n[Accept their offer.]", "")]
MESSAGES = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": ROUNDS[0][0]},
    {"role": "assistant", "content": ROUNDS[0][1]},
    {"role": "user", "content": ROUNDS[1][0]},
]


@pytest.fixture(params=sorted(FAMILIES))
def chat(request):
    return ChatFormat(family_tokenizer(request.param), load_vocabulary())


def test_transformers_writes_the_form(chat):
    template = jinja_template(chat.form)
    for count, rounds in ((2, [(ROUNDS[0][0], "")]), (4, ROUNDS)):
        written = chat.tokenizer.apply_chat_template(
            MESSAGES[:count], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        assert written == chat.form.text(SYSTEM, rounds)


def test_a_form_is_found_again_in_its_template(chat):
    """So that a folder which has it can be played by this package too."""
    again = family_tokenizer_of(chat)
    found = find_form(again)
    assert found.text(SYSTEM, ROUNDS) == chat.form.text(SYSTEM, ROUNDS) and found.end == chat.form.end


def family_tokenizer_of(chat):
    """The tokenizer with the template of its form in the place of its own."""
    own = chat.tokenizer.chat_template
    chat.tokenizer.chat_template = jinja_template(chat.form)
    assert chat.tokenizer.chat_template != own
    return chat.tokenizer


def written_by_ollama(template, messages):
    """What Ollama makes of a template of ours: text, a loop over messages, choices by role and by place."""
    inner = re.fullmatch(r"\{\{- range \$i, \$_ := \.Messages \}\}(.*)\{\{ end \}\}", template, re.DOTALL)[1]
    written = ""
    for place, message in enumerate(messages):
        chosen = re.sub(
            r"\{\{ if le \$i 1 \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}",
            lambda found, place=place: found[1] if place <= 1 else found[2],
            inner,
            flags=re.DOTALL,
        )
        marks = ('{{ if eq .Role "system" }}', '{{ else if eq .Role "user" }}', "{{ else }}", "{{ end }}")
        pattern = "(.*?)".join(map(re.escape, marks))
        parts = re.fullmatch(pattern, chosen, re.DOTALL)
        part = parts[("system", "user", "assistant").index(message["role"]) + 1]
        written += part.replace("{{ .Content }}", message["content"])
    return written


def test_ollama_writes_the_form(chat):
    assert written_by_ollama(go_template(chat.form), MESSAGES) == chat.form.text(SYSTEM, ROUNDS)
