"""Emotion vocabularies, which are data, and (in `perceiver`) the classifiers that perceive emotion in text."""

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Vocabulary", "load_vocabulary"]
