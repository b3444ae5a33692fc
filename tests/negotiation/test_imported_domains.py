"""Domains of imported dialogues: nothing is made up in them, and their numbers are read back."""

import pytest

from emodistill.errors import UserError
from emodistill.negotiation.domains import domain_names, imported_domain_names, load_domain
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.offers import parse_offer


def test_the_domain_is_imported_only():
    assert imported_domain_names() == ["campsite"] and "campsite" not in domain_names()
    with pytest.raises(UserError, match="'campsite' is for imported dialogues and has no scenarios of its own"):
        generate_scenarios("campsite", 10)


def test_points_are_read_back_as_they_are_said():
    say = load_domain("campsite").say
    assert [parse_offer(f"I would take {say(value)}.", "campsite") for value in (1.0, 19.0, 36.0)] == [1.0, 19.0, 36.0]
    assert parse_offer("I need 3 water and 2 firewood.", "campsite") is None
