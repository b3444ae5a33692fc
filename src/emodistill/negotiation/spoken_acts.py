"""What a turn does, read off its words, where no rule has decided it: accept, walk away, or propose.

It settles who gets a deal, so it is deterministic, the same for every speaker, and strict: a whole sentence must say so
and nothing else. "I accept your offer." accepts; "I accept that you are angry", "I would accept 60 days" and "I accept
if you wait" do not. Words that name a number of their own are an offer, whatever else they say. A model is told the two
sentences that always count; the rest of the list is what people say in their place.

Accepted forms (after an optional yes, okay, fine, all right, very well, good, thank you):

- I/we (can, will) accept / agree / take it / agree to / accept your, this, that, the, these, those offer, terms,
  proposal, deal, plan, date, time, conditions; accepted; agreed; deal; it is / that is / you have / we have a deal
- I/we am/are walking away / leaving / done negotiating / done talking / ending this, the, our negotiation, talk,
  conversation; I/we (will, must, have to) walk away; this negotiation is over; no deal
"""

import re

from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import Act

_LEAD = r"(?:(?:yes|okay|ok|fine|all right|alright|very well|good|thank you|thanks|then|so|well)\b[ ,]*)*"
_NOUNS = "offer|terms|proposal|deal|plan|date|time|conditions"
_WHAT = rf"(?:your|the|this|that|these|those)(?: new| latest| last| final)? (?:{_NOUNS})"
_ACCEPTS = re.compile(
    rf"{_LEAD}(?:(?:i|we)(?: can| will|'ll| do| gladly)? "
    rf"(?:(?:accept|agree|take it)|(?:accept|agree to|take)(?: {_WHAT}))"
    r"|(?:offer )?accepted|agreed|deal|(?:it is|it's|that is|that's|you have|you've got|we have|we've got) a deal)"
)
_LEAVES = re.compile(
    rf"{_LEAD}(?:(?:i am|i'm|we are|we're) (?:walking away|leaving|done (?:negotiating|talking)"
    r"|ending (?:this|the|our) (?:negotiation|talk|conversation))"
    r"|(?:i|we)(?: will|'ll| must| have to) walk away|this negotiation is over|no deal)"
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def spoken_act(text: str, domain: str, standing: float | None) -> Act:
    """What the words do.

    Args:
        standing: the other side's standing offer; without one there is nothing to accept.
    """
    offer = parse_offer(text, domain)
    if offer is not None and offer != standing:
        return "propose"
    sentences = [match[0] for match in _SENTENCE.finditer(text.casefold().replace("’", "'"))]
    stated = [" ".join(s.strip(" \t\"'.!*").split()) for s in sentences if not s.rstrip("\"' ").endswith("?")]
    leaves = any(_LEAVES.fullmatch(sentence) for sentence in stated)
    accepts = standing is not None and any(_ACCEPTS.fullmatch(sentence) for sentence in stated)
    if leaves == accepts:  # neither, or both
        return "propose"
    return "accept" if accepts else "walk_away"
