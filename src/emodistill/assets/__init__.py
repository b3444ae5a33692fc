"""What is data, not code: vocabularies, phrasebook, perceiver weights."""
