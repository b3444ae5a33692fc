"""Whether a base model can be trained and played with here: `python -m emodistill.models.check MODEL`."""
