"""Human negotiations: the campsite dialogues of CaSiNo (Chawla et al. 2021) as a corpus for every stage.

docs/casino.md says what is mapped how, what is lost on the way, and what was measured.
"""
