"""What tests of the judges share: an utterance with all that the rubric asks for, and a judge that counts its work."""

from emodistill.judges.request import Judgement, announced

ANGRY = "I am furious that this drags on, and I hate it."
GOOD = f"{ANGRY} I can move to 45 days, so please confirm it."


class CountingJudge:
    """Scores by length, has no score for "silence", and remembers what it was asked."""

    def __init__(self, name="counting", version="1"):
        self.name, self.version, self.asked, self.down = name, version, [], False

    def judge(self, requests, on_judgement=None):
        self.asked += [request.utterance for request in requests]
        return announced([self._one(request.utterance) for request in requests], on_judgement)

    def _one(self, text):
        if self.down or text == "silence":
            return Judgement(None, "no answer")
        return Judgement(1.0 + len(text) % 9)
