"""Judges score one utterance from 1 to 10; the ledger remembers every judgement."""
