"""The append-only form of a model's chat template, found by rendering it.

Training scores all turns of an episode in one forward pass, and play keeps the attention cache of earlier rounds. Both
need the same: what is prompted in round n, the reply with the end of its turn, and then more, make what is prompted in
round n + 1. Many templates do not write chats so. They take thoughts out of earlier replies, move the system message to
the last user message, or know no system message. Their form here is the one in which replies are generated: whatever
the model saw when it spoke stays as it was. What differs from the template's own text is said in the form's note.

A form is taken apart from chats of one to four rounds. What stands between two messages must be the same in each of
them, or there is no such form and the model is refused.

Templates that write a date get the same one always, so that a run does not depend on the day. Models that can think
aloud are asked not to: by the template's own switch, else by ending the thought that the template opens, before it
begins (Ma et al. 2025, arXiv 2504.09858).

Text that a template writes behind the token that ends a turn (ChatML: a newline) belongs to the next message. A reply
then ends exactly with the token at which generation stops, and no token is trained that is never sampled.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from emodistill.errors import UserError
from emodistill.language_models.thoughts import end_of_thought

DATE = datetime(2024, 7, 26)  # of templates that write one: the date that Llama 3.2's own template falls back to
ROUNDS = 4  # the fewest with two inner rounds, which are neither first nor last
JOIN = "\n\n"  # between system and user words in one message, as in the templates of Gemma 3 and Mistral
FAULTS = (TemplateError, TypeError, ValueError)  # what a template raises that does not take the messages it is given
_SYSTEM = "sysword"  # stands for the system message while a template is taken apart
_NOW = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")  # how a template asks for today
_SWITCHES = ("enable_thinking", "thinking")  # of templates that know them: Qwen3 and SmolLM3; Granite
_MARK = re.compile(r"<.+>|\[.+\]", re.DOTALL)  # the shape of a control token that nobody has declared as special
_WRITTEN_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # one that a template writes, though it is no token
_SWITCH = r"/(?:no_)?think\b"  # turns thinking on or off in the words of a message (Qwen3, SmolLM3)


@dataclass(frozen=True)
class ChatForm:
    """What stands around the words of a chat.

    Attributes:
        opening: text before and behind the system message.
        first: text before the words of the first user message; it is `lead`, except where the system message stands
            in the same message.
        lead: text before the words of a later user message, behind the end of the reply before it.
        header: text behind the words of a user message: it opens the reply.
        reply: text before the words of a reply that the model writes itself: nothing, or a space.
        end: the token that ends a reply.
        thought: of a form with thoughts, the text behind a user message at which a thought begins, and the token that
            ends it. `header` is then that of replies in the past, whose thoughts are gone.
        control: what people's words must not contain.
        note: what differs from the template's own text, in one line; empty where nothing does.
    """

    opening: tuple[str, str]
    first: str
    lead: str
    header: str
    reply: str
    end: str
    control: re.Pattern[str]
    note: str
    thought: tuple[str, str] | None = None

    def text(self, system: str, rounds: list[tuple[str, str]]) -> str:
        """A chat in words as text, with the header of the next reply where the last one is empty."""
        written = self.opening[0] + system + self.opening[1]
        for place, (user, reply) in enumerate(rounds):
            written += (self.lead if place else self.first) + user + self.header
            written += self.reply + reply + self.end if reply else ""
        return written


def find_form(tokenizer: Any, thinking: bool = False) -> ChatForm:
    """The append-only form of a tokenizer's chat template.

    Args:
        thinking: whether each reply follows a thought, which is forgotten when it was said.

    Raises:
        UserError: if there is no template or no such form, or a turn does not end with one control token.
    """
    kept: ChatForm | None = getattr(tokenizer, "form", None)
    if kept is not None:  # found before, see `kept_policy`
        return kept
    if not tokenizer.chat_template:
        raise UserError(f"the model '{tokenizer.name_or_path}' has no chat template; use an instruction-tuned model")
    template, notes = _Template(tokenizer, thinking), []
    if not template.has_system_role:
        notes.append("the system message stands before the first user message, for the template has no role for it")
    first, later = template.gaps(1), [template.gaps(rounds) for rounds in range(2, ROUNDS + 1)]
    beginning, opened = first[0], template.only([gaps[-1] for gaps in (first, *later)])
    replied = template.only([gap for gaps in later for gap in gaps[1:-1:2]])
    inner = template.only([gap for gaps in later for gap in gaps[2:-2:2]])
    if beginning.count(_SYSTEM) != 1 or any(_SYSTEM in text for text in (opened, replied, inner)):
        raise unfit(tokenizer, "does not show every message exactly once")
    if any(_SYSTEM in gaps[-2] for gaps in later):
        notes.append("the system message stays in the first user message; the template moves it to the last")
    elif any(gaps[0] != beginning or gaps[-2] != inner for gaps in later):
        notes.append(f"a chat keeps its beginning, {beginning!r}; the template rewrites it as the chat goes on")
    end = template.end_of_turn(inner)
    thought = template.thought(opened) if thinking else None
    header, own, said = (replied, "", []) if thought else template.header(opened, replied)
    before, _, behind = beginning.partition(_SYSTEM)
    lead = inner.removeprefix(end)
    apart = behind.endswith(lead)  # then the first user message is written as every other
    if template.dated:
        notes.append(f"today is always {DATE:%d %B %Y}")
    return ChatForm(
        opening=(before, behind.removesuffix(lead) if apart else behind),
        first=lead if apart else "",
        lead=lead,
        header=header,
        reply=own,
        end=end,
        control=template.control(before + behind + inner + header),
        note="; ".join([*notes, *said]),
        thought=thought,
    )


class _Template:
    """A chat template that is asked how it writes chats."""

    def __init__(self, tokenizer: Any, thinking: bool = False) -> None:
        self.tokenizer, self.asked = tokenizer, dict.fromkeys(_SWITCHES, thinking)
        try:
            self.source = str(tokenizer.get_chat_template())
        except ValueError as error:
            raise unfit(tokenizer, "is one of several, and none of them is for chats without tools") from error
        if "strftime_now(" in _NOW.sub("", self.source):
            raise unfit(tokenizer, "writes the date in a form that cannot be fixed")
        self.tokens = _any_of(control_tokens(tokenizer))
        try:
            self.has_system_role = _SYSTEM in self._render(1, system=True)
        except FAULTS:
            self.has_system_role = False
        try:
            plain = self._render(1)
            self.dated = plain != self._render(1, date=DATE.replace(year=DATE.year - 1))
            self.has_generation_prompt = plain != self._render(1, header=False)
        except FAULTS as error:
            raise unfit(tokenizer, f"does not render a user message ({error})") from error

    def gaps(self, rounds: int, replied: bool = False) -> list[str]:
        """What stands before, between and behind the messages of user and assistant; the system message is in it."""
        words = [word for pair in _messages(rounds) for word in pair][: None if replied else -1]
        try:
            rendered = self._render(rounds, replied=replied)
        except FAULTS as error:
            raise unfit(self.tokenizer, f"does not render {rounds} rounds ({error})") from error
        pieces = re.split("|".join(words), rendered)
        shown = rendered.count(_SYSTEM)
        if re.findall("|".join(words), rendered) != words or shown > 1 or (not shown and not replied):
            raise unfit(self.tokenizer, "does not show every message exactly once")
        return pieces

    def only(self, texts: list[str]) -> str:
        """The text that is the same in every round."""
        if len(set(texts)) > 1:
            raise unfit(self.tokenizer, "writes a round differently when a message is added")
        return texts[0]

    def end_of_turn(self, inner: str) -> str:
        """What a reply ends with, whether or not more comes: one token.

        A template that leaves the last reply open (GLM) ends the others with the token at which the model stops.
        """
        last = self.gaps(1, replied=True)[-1]
        own, others = ([part for part in re.split(f"({self.tokens.pattern})", text) if part] for text in (inner, last))
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(own, others, strict=False))
        end = "".join(part for part, _ in alike).rstrip() if last.strip() else "".join(own[:1])
        if not self.tokens.fullmatch(end) or len(self.tokenizer.encode(end, add_special_tokens=False)) != 1:
            shown = repr(end or last.rstrip())
            raise unfit(self.tokenizer, f"does not end every reply with one control token of its tokenizer ({shown})")
        return end

    def header(self, opened: str, replied: str) -> tuple[str, str, list[str]]:
        """The header of replies, what a model writes itself before its words, and what has to be said of it.

        Args:
            opened: what stands behind the last user message when a reply is asked for.
            replied: what stands between a user message and the reply that was given to it.
        """
        if thought := end_of_thought(opened):
            closed = f"{opened.rstrip()}\n\n{thought}\n\n"
            behind = _new(closed, replied)
            return closed, "", [f"a thought is ended before it begins: every reply stands behind {behind}"]
        rest = replied.removeprefix(opened)
        if rest != replied and not rest.strip():
            return opened, rest, []
        if not replied.startswith(opened):
            kept, lost = _new(opened, replied), _new(replied, opened)
            instead = f" where the template writes {lost}" if lost != "''" else ", which the template leaves out"
            return opened, "", [f"an earlier reply keeps {kept} before it, as when it was spoken{instead}"]
        if not self.has_generation_prompt:
            raise unfit(self.tokenizer, "has no generation prompt")
        return replied, "", [f"every reply stands behind {rest!r}, which the template leaves to the model"]

    def thought(self, opened: str) -> tuple[str, str]:
        """The text at which a thought begins, where a reply is asked for by `opened`, and the token that ends it."""
        end, begun = end_of_thought(opened), opened
        if end is None:  # the model writes the mark itself
            marks = sorted(control_tokens(self.tokenizer))
            begin = next((mark for mark in marks if end_of_thought(mark) in marks), "")
            end, begun = end_of_thought(begin), f"{opened}{begin}\n"
        if end is None or len(self.tokenizer.encode(end, add_special_tokens=False)) != 1:
            raise unfit(self.tokenizer, "has no token that ends a thought; speak without thinking")
        return begun, end

    def control(self, written: str) -> re.Pattern[str]:
        """What people's words must not contain."""
        switch = [_SWITCH] if "enable_thinking" in self.source else []
        marks = control_tokens(self.tokenizer) | set(_WRITTEN_MARK.findall(written))
        return re.compile("|".join([*switch, _any_of(marks).pattern]))

    def _render(
        self,
        rounds: int,
        system: bool | None = None,
        header: bool = True,
        replied: bool = False,
        date: datetime = DATE,
    ) -> str:
        """A chat of so many rounds as text.

        Args:
            system: whether the system message has its role; by default, if the template knows it.
            header: whether the next reply is asked for.
            replied: whether the last round has its reply.
        """
        chat = []
        for user, reply in _messages(rounds):
            chat += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
        chat = chat if replied else chat[:-1]
        if self.has_system_role if system is None else system:
            chat = [{"role": "system", "content": _SYSTEM}, *chat]
        else:
            chat[0] = {"role": "user", "content": _SYSTEM + JOIN + chat[0]["content"]}
        return str(
            self.tokenizer.apply_chat_template(
                chat,
                chat_template=_NOW.sub(lambda now: repr(date.strftime(now["form"])), self.source),
                tokenize=False,
                add_generation_prompt=header and not replied,
                date_string=date.strftime("%d %b %Y"),
                **self.asked,
            )
        )


def control_tokens(tokenizer: Any) -> set[str]:
    """Every token that people's words must not contain: those declared as special, and added ones that look like it."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marks = {token.content for token in added if token.special or _MARK.fullmatch(token.content)}
    return marks | set(map(str, tokenizer.all_special_tokens))


def _messages(rounds: int) -> list[tuple[str, str]]:
    """Words that stand for those of user and assistant while a template is taken apart."""
    return [(f"userword{place}", f"replyword{place}") for place in range(1, rounds + 1)]


def _any_of(marks: set[str]) -> re.Pattern[str]:
    """Any of these texts, the longest first; nothing where there is none."""
    return re.compile("|".join(map(re.escape, sorted(marks, key=lambda mark: (-len(mark), mark)))) or r"(?!)")


def _new(text: str, other: str) -> str:
    """What a text has behind the beginning that it shares with another, quoted."""
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))))
    return repr(text[shared:])


def unfit(tokenizer: Any, reason: str) -> UserError:
    """The error for a template that cannot be used."""
    return UserError(f"the chat template of '{tokenizer.name_or_path}' {reason}; choose another model")
