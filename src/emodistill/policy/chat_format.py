"""An episode as one append-only chat: a new message never changes the tokens before it.

Training then scores every chosen turn of an episode in one forward pass, and play keeps the attention cache of earlier
rounds. How a model's chat template is brought into this form says `chat_template`; here words become tokens.

Every part is encoded behind the text that it follows in a chat, back to a control token: tokenizers of the kind of
sentencepiece put a space before a text that stands alone. A prompt ends where its last token ends, so a reply begins
with a token of its own, in training as in play.
"""

import logging
from functools import cache
from typing import Any

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.language_models.thoughts import without_thoughts
from emodistill.negotiation.prompts import Emotions, directive_words, opening_words, round_words, with_name
from emodistill.negotiation.protocol import Act
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy.chat_template import control_tokens, find_form, unfit

logger = logging.getLogger(__name__)


class ChatFormat:
    """Token lists of the parts of an episode: `opening`, then for every round a `prompt` and a `reply`.

    `opening` and `prompt` hold the focal side's words; `system` and `user` take any words, for other chats. Where a
    model has no place for a system message of its own, the opening is the beginning of the first user message: the
    round that follows the opening is told so by `first`.

    Attributes:
        end_of_turn: the id that closes every reply, in a list; sampling stops there.
        vocabulary: the emotions that a prompt may ask for.
        emotions: how they enter the chat: `prompted`, `none` at all, or `self_selected`: named in the replies.
        opens_message: whether the opening is the beginning of the first user message.
        form: what stands around the words, see `ChatForm`.
        thought_mark, end_of_thought: of a form with thoughts, the id that ends one, and with it all that stands between
            a thought that is cut and the reply.
        note: what differs from what the model's own template writes, in one line.
    """

    def __init__(
        self, tokenizer: Any, vocabulary: Vocabulary, emotions: Emotions = "prompted", thinking: bool = False
    ) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer with a chat template.
            thinking: whether each reply follows a thought, see `find_form`.

        Raises:
            UserError: if the chat template has no append-only form (see `find_form`), or the tokenizer cuts a chat
                elsewhere than between its parts.
        """
        self.tokenizer, self.vocabulary, self.emotions = tokenizer, vocabulary, emotions
        self.form = form = find_form(tokenizer, thinking)
        unknown = {tokenizer.unk_token_id} if form.end != tokenizer.unk_token else set()
        self._control_ids = set(map(tokenizer.convert_tokens_to_ids, control_tokens(tokenizer))) - unknown
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._respells = backend is None or backend.normalizer is not None
        self.end_of_turn = self._encode(form.end)
        self._before_first = self._from_last_control(form.end + form.opening[1])
        self._before_reply = self._from_last_control(form.end + form.header)
        self._heads: dict[str, list[int]] = {}
        self.end_of_thought = self._behind(form.end, f"\n{form.thought[1]}\n\n") if form.thought else []
        self.thought_mark = self._encode(form.thought[1])[0] if form.thought else None
        self.note = form.note
        self.opens_message = form.first != form.lead
        self._check_tokens()
        if self.note:
            _say_once(str(tokenizer.name_or_path), self.note)

    def opening(self, scenario: Scenario) -> list[int]:
        """The system message: the scenario as the focal side knows it, its own target, and how to answer."""
        return self.system(opening_words(scenario, self.vocabulary, self.emotions))

    def prompt(
        self,
        counterparty_text: str | None,
        emotion: str | None,
        act: Act,
        offer_words: str | None,
        first: bool = False,
    ) -> list[int]:
        """The user message of one round and the header that opens the reply.

        Args:
            counterparty_text: what the counterparty just said, None where it has not spoken.
            emotion: label to show; with None, or with emotions `none`, the message says nothing about emotions.
            offer_words: the offer to state, as `Domain.say` puts it; None leaves the number to the model.
            first: whether it follows the opening, and not a reply.

        Raises:
            UserError: if the emotion is not in the vocabulary.
        """
        return self.user(round_words(counterparty_text, self.directive(emotion, act, offer_words)), first)

    def directive(self, emotion: str | None, act: Act, offer_words: str | None) -> str:
        """What the next reply has to do, in words; see `prompt`."""
        return directive_words(self.vocabulary, emotion, act, offer_words, self.emotions)

    def system(self, words: str) -> list[int]:
        """A system message of any words."""
        return self._encode(self.form.opening[0] + self._plain(words) + self.form.opening[1])

    def user(self, words: str, first: bool = False, thought: bool = False) -> list[int]:
        """A user message of any words, and the header that opens the reply.

        Args:
            first: whether it follows the opening.
            thought: whether a thought comes before the reply, in a form with thoughts.
        """
        before, lead = (self._before_first, self.form.first) if first else (self.form.end, self.form.lead)
        header = self.form.thought[0] if thought and self.form.thought else self.form.header
        return self._behind(before, lead + self._plain(words) + header)

    def reply(self, text: str) -> list[int]:
        """An utterance with the tokens that end the turn."""
        return self._behind(self._before_reply, self.form.reply + self._plain(text)) + self.end_of_turn

    def spoken(self, emotion: str | None, text: str) -> list[int]:
        """A turn as this side's own reply: where emotions are self-selected, its emotion stands before the words."""
        return self.reply(with_name(emotion, text) if self.emotions == "self_selected" else text)

    def text(self, reply: list[int]) -> str:
        """The words of a sampled reply, with or without its end, and without thoughts."""
        return self._plain(without_thoughts(str(self.tokenizer.decode(reply, skip_special_tokens=False))))

    def _plain(self, words: str) -> str:
        """Words without control tokens, so that nobody can speak as the system or end somebody's turn."""
        plain = self.form.control.sub("", words)
        while plain != words:  # removing one token may join the halves of another
            words, plain = plain, self.form.control.sub("", plain)
        tokens = self._encode(plain) if self._respells else []
        if not self._control_ids.isdisjoint(tokens):  # another spelling that the tokenizer reads as the same
            plain = str(self.tokenizer.decode([token for token in tokens if token not in self._control_ids]))
        return plain.strip()

    def _behind(self, before: str, text: str) -> list[int]:
        """The tokens of a text that stands behind another one, whose tokens stay as they are."""
        if before not in self._heads:
            self._heads[before] = self._encode(before)
        head, whole = self._heads[before], self._encode(before + text)
        if whole[: len(head)] == head:
            return whole[len(head) :]
        return self._encode(self.form.end + text)[1:]  # the two would share a token

    def _from_last_control(self, text: str) -> str:
        """The end of a text from its last control token on: what can change the tokens of what follows."""
        last = [found.start() for found in self.form.control.finditer(text)][-1]
        return text[last:]

    def _check_tokens(self) -> None:
        """What is prompted first must have the tokens that it has as one text, as the model's library encodes it."""
        parts = self.system("sysword") + self.user("userword", first=True)
        if parts != self._encode(self.form.text("sysword", [("userword", "")])):
            raise unfit(self.tokenizer, "is cut by its tokenizer elsewhere than between its messages")

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]


@cache
def _say_once(model: str, note: str) -> None:
    logger.info("chats of %s: %s", model, note)
