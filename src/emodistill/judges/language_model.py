"""A language model behind a chat interface as the judge.

One request, one call, one verdict: nothing that an utterance says can reach the verdict on another. The reply has a
JSON schema where the server can enforce one, and is read strictly in any case (`verdict`): what is not exactly a score
is missing, with its reason and the reply as it came. Nothing is imputed, and no call is made twice here; that is the
business of the endpoint and the ledger.
"""

import hashlib
import json
from collections.abc import Sequence

from emodistill.errors import UserError
from emodistill.judges import prompt, screening
from emodistill.judges.cleaning import LONGEST
from emodistill.judges.examples import examples
from emodistill.judges.request import LOWEST, Judgement, JudgeRequest, OnJudgement
from emodistill.judges.verdict import SCHEMA, Malformed, read_verdict
from emodistill.language_models.completion import Completer, CompletionRequest, Failure, Reply
from emodistill.negotiation.domains import domain_names

NOTHING = Judgement(LOWEST)  # of an utterance without a word; nobody is asked


class LanguageModelJudge:
    """Asks a `Completer` for a score from 1 to 10.

    Args:
        completer: the model; several judgements are asked for at once, as many as it takes.
        shown: how many scored examples of the domain come before the case; 0 to 8.
        temperature, seed: of the sampling; greedy by default.
        max_tokens: of a reply. The form needs about 10; give a model that thinks first what it needs.
        structured: ask the server to enforce the form.
        defended: quote, clean, screen and cap what speakers said (docs/judges.md). Off only to measure the difference.

    Raises:
        UserError: if a setting has no meaning.
    """

    name = "lm"

    def __init__(
        self,
        completer: Completer,
        shown: int = 4,
        temperature: float = 0.0,
        seed: int | None = 0,
        max_tokens: int = 32,
        structured: bool = True,
        defended: bool = True,
    ) -> None:
        if shown < 0 or max_tokens < 1 or temperature < 0:
            raise UserError(f"judge: shown={shown}, max_tokens={max_tokens} or temperature={temperature} is too small")
        self.completer, self.shown, self.temperature, self.seed = completer, shown, temperature, seed
        self.max_tokens, self.schema, self.defended = max_tokens, SCHEMA if structured else None, defended
        shown_texts = [repr(examples(name)[:shown]) for name in domain_names()]
        sampling = (temperature, seed, max_tokens, structured)
        recipe = [prompt.LOGIC, screening.LOGIC, LONGEST, prompt.TURNS, completer.name, shown_texts, sampling, defended]
        self.version = f"{completer.name} {hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement a request, in order; missing where the model did not answer, or not in the form."""
        judgements = [NOTHING] * len(requests)
        asked = [i for i, request in enumerate(requests) if not self._settled(request)]

        def arrived(place: int, answer: Reply | Failure) -> None:
            judgements[asked[place]] = self._judgement(requests[asked[place]], answer)
            if on_judgement is not None:
                on_judgement(asked[place], judgements[asked[place]])

        if on_judgement is not None:
            for place in sorted(set(range(len(requests))) - set(asked)):
                on_judgement(place, NOTHING)
        if asked:
            self.completer.complete([self.request(requests[i]) for i in asked], arrived)
        return judgements

    def request(self, request: JudgeRequest) -> CompletionRequest:
        """What the model is asked."""
        chat = prompt.messages(request, examples(request.scenario.domain)[: self.shown], self.defended)
        return CompletionRequest(chat, self.max_tokens, self.temperature, self.seed, self.schema)

    def _settled(self, request: JudgeRequest) -> bool:
        return self.defended and screening.says_nothing(request.utterance)

    def _judgement(self, request: JudgeRequest, answer: Reply | Failure) -> Judgement:
        if isinstance(answer, Failure):
            return Judgement(None, f"{answer.kind}: {answer.reason}", usage=answer.usage)
        if answer.cut:
            reason = f"malformed: the reply was cut at {self.max_tokens} tokens; raise max_tokens"
            return Judgement(None, reason, answer.text, answer.usage)
        try:
            score = read_verdict(answer.text)
        except Malformed as error:
            return Judgement(None, f"malformed: {error}", answer.text, answer.usage)
        return Judgement(self._capped(request, score), None, answer.text, answer.usage)

    def _capped(self, request: JudgeRequest, score: float) -> float:
        return screening.capped(request.utterance, score) if self.defended else score
