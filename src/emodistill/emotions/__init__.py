"""Emotion vocabularies (data) and the classifiers that perceive emotion in text."""
