"""How good a judge is: calibration against labelled utterances, and attacks that try to talk it into a score."""
