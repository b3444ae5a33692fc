"""Prints how often the two perceivers name the emotion that a phrasebook utterance was written for.

Every emotion is measured over its five dialogue acts, the four domains and all lines, which count alike however many
fillings their slots have. `named` is how often the intended emotion comes first among the 28; `share` its mean share.

    python scripts/phrasebook_legibility.py            # the table of docs/teacher.md
    python scripts/phrasebook_legibility.py anger      # and the ten least legible utterances of an emotion
"""

import argparse

import numpy as np

from emodistill.emotions.perceiver import load_perceiver
from emodistill.errors import UserError
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.phrasebook import ACTS, Phrasebook, bundled, renderings

FILLINGS = 4  # of each line: more change no figure by as much as a hundredth


def utterances(book: Phrasebook, emotion: str) -> list[str]:
    """Up to `FILLINGS` utterances of every line of an emotion, in all acts and domains, at an offer amid its range."""
    texts = []
    for act in ACTS:
        for domain in domain_names():
            rules = load_domain(domain)
            offer = rules.snap(sum(rules.bounds) / 8)
            for line in range(len(book.lines(emotion, act, domain))):
                texts += list(renderings(book, emotion, act, domain, offer, line))[:FILLINGS]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description="legibility of the phrasebook to the two perceivers")
    parser.add_argument("emotion", nargs="?", help="also print the ten least legible utterances of this emotion")
    asked = parser.parse_args().emotion
    book, perceivers = bundled(), [load_perceiver("counterparty"), load_perceiver("judge")]
    if asked is not None and asked not in book.emotions:
        raise SystemExit(str(UserError(f"unknown emotion '{asked}'; there are: {', '.join(book.emotions)}")))
    print("| emotion | named, counterparty's | share | named, judge's | share |\n|---|---|---|---|---|")
    rows = []
    for i, emotion in enumerate(book.emotions):
        texts = utterances(book, emotion)
        shares = [perceiver.probabilities(texts) for perceiver in perceivers]
        rows.append([figure for share in shares for figure in ((share.argmax(1) == i).mean(), share[:, i].mean())])
        print(f"| {emotion} | " + " | ".join(f"{figure:.2f}" for figure in rows[-1]) + " |")
        if emotion == asked:
            weakest = np.argsort(sum(share[:, i] for share in shares))[:10]
    print("| **mean** | " + " | ".join(f"**{figure:.2f}**" for figure in np.mean(rows, axis=0)) + " |")
    if asked is not None:
        print("\n".join(["", *(utterances(book, asked)[k] for k in weakest)]))


if __name__ == "__main__":
    main()
