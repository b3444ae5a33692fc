"""An episode as one append-only chat: a new message never changes the tokens before it.

Training then scores every chosen turn of an episode in one forward pass, and play keeps the attention cache of earlier
rounds. Both need the same of a chat template: to render more messages only adds text at the end. This is checked when
the format is made, on the model's own template.

Templates that write a date get the same one always, so that a run does not depend on the day, and models that can think
aloud are asked not to.

Text that a template writes after its end-of-turn token (ChatML: a newline) is moved to the front of the next message.
A reply then ends exactly with the token at which generation stops, and no token is trained that is never sampled.
"""

import re
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.language_models.thoughts import without_thoughts
from emodistill.negotiation.prompts import Emotions, directive_words, opening_words, round_words, with_name
from emodistill.negotiation.protocol import Act
from emodistill.negotiation.scenarios import Scenario

DATE = datetime(2024, 7, 26)  # of templates that write one: the date that Llama 3.2's own template falls back to
_WORDS = ("sysword", "userword", "replyword", "lastword")  # stand for contents while a template is taken apart
_NOW = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")  # how a template asks for today
_ASKED = {"enable_thinking": False}  # of templates that know it: Qwen3, SmolLM3, Granite
_MARK = re.compile(r"<.+>|\[.+\]", re.DOTALL)  # the shape of a control token that nobody has declared as special


class ChatFormat:
    """Token lists of the parts of an episode: `opening`, then for every round a `prompt` and a `reply`.

    `opening` and `prompt` hold the focal side's words; `system` and `user` take any words, for other chats.

    Attributes:
        end_of_turn: ids that close every reply; sampling stops at the first of them.
        vocabulary: the emotions that a prompt may ask for.
        emotions: how they enter the chat: `prompted`, `none` at all, or `self_selected`: named in the replies.
    """

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, emotions: Emotions = "prompted") -> None:
        """
        Args:
            tokenizer: a transformers tokenizer with a chat template.

        Raises:
            UserError: if the tokenizer has no chat template, one that is not append-only, or one whose replies do not
                end with one control token; or if it cuts a chat elsewhere than between its parts.
        """
        self.tokenizer, self.vocabulary, self.emotions = tokenizer, vocabulary, emotions
        marks = sorted(_control_tokens(tokenizer), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._system, self._user, (before, after) = _template_parts(tokenizer)
        self._user = (self._user[0], self._user[1] + before)
        self.end_of_turn = self._encode(after)
        if len(self.end_of_turn) != 1 or not self._control.fullmatch(after):
            raise _unfit(tokenizer, f"ends a reply with {after!r}, which is not one control token of its tokenizer")
        self._check_tokens()

    def opening(self, scenario: Scenario) -> list[int]:
        """The system message: the scenario as the focal side knows it, its own target, and how to answer."""
        return self.system(opening_words(scenario, self.vocabulary, self.emotions))

    def prompt(
        self, counterparty_text: str | None, emotion: str | None, act: Act, offer_words: str | None
    ) -> list[int]:
        """The user message of one round and the header that opens the reply.

        Args:
            counterparty_text: what the counterparty just said, None where it has not spoken.
            emotion: label to show; with None, or with emotions `none`, the message says nothing about emotions.
            offer_words: the offer to state, as `Domain.say` puts it; None leaves the number to the model.

        Raises:
            UserError: if the emotion is not in the vocabulary.
        """
        return self.user(round_words(counterparty_text, self.directive(emotion, act, offer_words)))

    def directive(self, emotion: str | None, act: Act, offer_words: str | None) -> str:
        """What the next reply has to do, in words; see `prompt`."""
        return directive_words(self.vocabulary, emotion, act, offer_words, self.emotions)

    def system(self, words: str) -> list[int]:
        """A system message of any words."""
        return self._message(self._system, words)

    def user(self, words: str) -> list[int]:
        """A user message of any words, and the header that opens the reply."""
        return self._message(self._user, words)

    def reply(self, text: str) -> list[int]:
        """An utterance with the tokens that end the turn."""
        return self._encode(self._plain(text)) + self.end_of_turn

    def spoken(self, emotion: str | None, text: str) -> list[int]:
        """A turn as this side's own reply: where emotions are self-selected, its emotion stands before the words."""
        return self.reply(with_name(emotion, text) if self.emotions == "self_selected" else text)

    def text(self, reply: list[int]) -> str:
        """The words of a sampled reply, with or without its end, and without thoughts."""
        return self._plain(without_thoughts(str(self.tokenizer.decode(reply, skip_special_tokens=False))))

    def _message(self, part: tuple[str, str], words: str) -> list[int]:
        return self._encode(part[0] + self._plain(words) + part[1])

    def _plain(self, words: str) -> str:
        """Words without the template's own control tokens, so that nobody can speak as the system."""
        plain = self._control.sub("", words)
        while plain != words:  # removing one token may join the halves of another
            words, plain = plain, self._control.sub("", plain)
        return words.strip()

    def _check_tokens(self) -> None:
        """A chat in parts must have the tokens that the template's own text has as a whole."""
        system, user, reply, last = _WORDS
        parts = self.system(system) + self.user(user) + self.reply(reply) + self.user(last)
        messages = [("system", system), ("user", user), ("assistant", reply), ("user", last)]
        if parts != self._encode(_render(self.tokenizer, messages, header=True)):
            raise _unfit(self.tokenizer, "gives a reply other tokens than the model writes after its header")

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]


def _control_tokens(tokenizer: Any) -> set[str]:
    """Every token that people's words must not contain: those declared as special, and added ones that look like it."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marks = {token.content for token in added if token.special or _MARK.fullmatch(token.content)}
    return marks | set(map(str, tokenizer.all_special_tokens))


def _template_parts(tokenizer: Any) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str]]:
    """What the template writes before and after the words of a system message, a user message and a reply."""
    system, user, reply, last = _WORDS
    messages = [("system", system), ("user", user), ("assistant", reply), ("user", last), ("assistant", reply)]
    stages = [_render(tokenizer, messages[: i + 1], header=role == "user") for i, (role, _) in enumerate(messages)]
    for shorter, longer in zip(stages, stages[1:], strict=False):
        if not longer.startswith(shorter):
            raise _unfit(tokenizer, "changes earlier text when a message is added")
    pieces = [stages[0], *(longer[len(shorter) :] for shorter, longer in zip(stages, stages[1:], strict=False))]
    parts = [_around(tokenizer, piece, words) for piece, (_, words) in zip(pieces, messages, strict=True)]
    if parts[1:3] != parts[3:]:
        raise _unfit(tokenizer, "writes the first round differently from later ones")
    tail = parts[2][1][len(parts[2][1].rstrip()) :]
    if tail and parts[0][1].endswith(tail):
        parts[0] = (parts[0][0], parts[0][1].removesuffix(tail))
        parts[1] = (tail + parts[1][0], parts[1][1])
        parts[2] = (parts[2][0], parts[2][1].removesuffix(tail))
    return parts[0], parts[1], parts[2]


def _render(tokenizer: Any, messages: list[tuple[str, str]], header: bool) -> str:
    chat = [{"role": role, "content": words} for role, words in messages]
    try:
        template = _NOW.sub(lambda now: repr(DATE.strftime(now["form"])), tokenizer.get_chat_template())
        date = DATE.strftime("%d %b %Y")
        rendered = tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=header, date_string=date, **_ASKED
        )
    except (TemplateError, ValueError) as error:  # ValueError: there is no template
        raise _unfit(tokenizer, f"does not render a system, user and assistant message ({error})") from error
    return str(rendered)


def _around(tokenizer: Any, piece: str, words: str) -> tuple[str, str]:
    if piece.count(words) != 1:
        raise _unfit(tokenizer, "does not show every message exactly once")
    before, _, after = piece.partition(words)
    return before, after


def _unfit(tokenizer: Any, reason: str) -> UserError:
    return UserError(f"the chat template of '{tokenizer.name_or_path}' {reason}; choose another model")
