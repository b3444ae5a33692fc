"""A stand-in for a chat server: answers by a rule, at once, and remembers what it was asked."""

from emodistill.language_models.completion import Failure, Reply, Usage

BILL = Usage(prompt_tokens=100, completion_tokens=5, cost=0.25, latency_s=0.5, attempts=1)


class Answering:
    """A `Completer` whose reply is a function of the last message; later requests are answered first."""

    def __init__(self, reply, name="model at http://127.0.0.1:1/v1", recipe=None):
        self.reply, self.name, self.recipe, self.asked = reply, name, recipe or {}, []

    def complete(self, requests, on_answer=None):
        self.asked += requests
        answers = [self._answer(request) for request in requests]
        for place in reversed(range(len(requests))):
            if on_answer is not None:
                on_answer(place, answers[place])
        return answers

    def _answer(self, request):
        said = self.reply(request.messages[-1].content)
        return said if isinstance(said, Reply | Failure) else Reply(said, BILL)
