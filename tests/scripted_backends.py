"""Chat backends that say what a test wants: a script by seat, and a `Completer` that answers from a function."""

from emodistill.language_models.completion import Failure, Reply, Usage


class ScriptedBackend:
    """Says what `script(dialogue, prompt, seed)` returns, and writes down what it was asked."""

    repeats = False
    usage = Usage(cost=0.0)

    def __init__(self, script, name="scripted"):
        self.script, self.name, self.asked = script, name, []

    def reply(self, dialogues, prompts, seeds):
        self.asked.append(
            [(d.negotiation.scenario.id, p, s) for d, p, s in zip(dialogues, prompts, seeds, strict=True)]
        )
        return [self.script(*parts) for parts in zip(dialogues, prompts, seeds, strict=True)]


class ScriptedBackendSpec:
    """Opens such a backend, and counts how often."""

    is_local = False

    def __init__(self, script, name="scripted"):
        self.script, self.name, self.opened = script, name, 0

    def recipe(self):
        return {"script": self.name}

    def describe(self):
        return self.name

    def open(self):
        self.opened += 1
        return ScriptedBackend(self.script, self.name)


class ScriptedCompleter:
    """Answers a request with `script(request)`: words, or the kind of a failure as ("timeout", reason)."""

    name = "scripted at nowhere"

    def __init__(self, script, recipe=None):
        self.script, self.recipe, self.requests = script, recipe or {}, []

    def complete(self, requests, on_answer=None):
        self.requests += requests
        answers = [self._answer(self.script(request)) for request in requests]
        for i, answer in enumerate(answers):
            if on_answer:
                on_answer(i, answer)
        return answers

    @staticmethod
    def _answer(said):
        return Reply(said, Usage()) if isinstance(said, str) else Failure(*said, Usage())


def obedient(dialogue, prompt, seed):
    """States the offer of its directive, or accepts; its words differ by seed."""
    note = prompt.rsplit("[", 1)[-1].rstrip("]")
    task = note.rsplit("State your offer: ", 1)
    words = f"I say {task[1]}" if len(task) == 2 else "Very well, I accept."
    return f"{words} That is reason {seed % 97} of mine."
