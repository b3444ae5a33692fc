"""Decides whose number a quantity is: the speaker's own offer, somebody else's, a fact, or something refused.

The order of the questions is the grammar: is it refused, is it the other side's, is it a fact about the world? What is
left is the speaker's. A quantity that the speaker puts forward ("I can do 45 days", "how about 45 days?", "45 days,
final") outranks one that merely stands there, and that one outranks what the speaker said before ("I said 40 days").
"""

import re
from enum import IntEnum

from emodistill.negotiation.offer_quantities import Quantity
from emodistill.negotiation.offer_text import Clause


class Rank(IntEnum):
    """How much a quantity is the speaker's offer now."""

    NONE = 0
    FORMER = 1
    MENTIONED = 2
    PUT_FORWARD = 3


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_COMPARED = (
    r"(?:more|longer|later|less|fewer|earlier|sooner|lower|higher|further|shorter|greater|faster|quicker|better)"
)
_FILL = r"(?: (?:about|around|roughly|the|maybe|even|than|like|say|a|those|these|that|another|for|some))*"

# A "not" that refuses nothing, taken out before anything is decided.
_HARMLESS = _any(
    r"^(?:no|nope|never) (?=i |we |my |our |let |you )",
    r"\bwhy (?:can |do |does |could |would )?not(?= (?:we|you|i|it)\b)",
    r"(?<=why )not\b",
    r"(?<=^can )not (?=(?:we|you|i|it)\b)|(?<=^could )not (?=(?:we|you|i|it)\b)|(?<=^would )not (?=(?:we|you|i|it)\b)",
    r"(?<=^will )not (?=(?:we|you|i|it)\b)|(?<=^do )not (?=(?:we|you|i)\b)|(?<=^is )not (?=\d|it\b)",
    r"\bnot (?=mind\b|object\b|against\b|opposed\b|unreasonable\b|impossible\b|unwilling\b|only\b|bad\b|refuse\b|reject\b|a problem\b|just\b|too\b)",
    r"\b(?:no|not a) (?:problem|worries|doubt|objection|issue)s?\b",
    r"\b(?:do|does) not (?=worry|forget|get me wrong)",
    r"\bnothing but\b",
)
_CONDITION = re.compile(r"^(?:and |or |then )?(?:if|unless|once|when) ")
_NOT = _any(r"\b(?:not|never|no|nor|neither|nothing|nobody|hardly|nowhere|cannot)\b")
_LIMIT = re.compile(
    rf"\b(?:not|never|no|nor|nothing)\b.*(?:\b{_COMPARED} than|\b(?:beyond|past|over|above|under|below|before|after|exceed)"
    rf"|\b(?:until))(?: (?:midnight|about|around|the|those|these|that|a total of|at|to))*$"
)
_STAY = re.compile(r"\b(?:stay|wait|sit|keep|awake|up|allow|let|have|hold|hang)\b.*\buntil(?: \w+)?$")
_REFUSING = _any(
    r"\b(?:refus\w+|reject\w*|declin\w+|impossible|unable|unacceptable|ridiculous|absurd|insane|unfair|forget|too|afford to lose)\b",
    rf"\b(?:instead of|rather than|as opposed to|versus|vs|compared (?:with|to)|let alone|much less|far from|sick of|tired of){_FILL}(?: \w+)?$",
    r"\b(?:why|how) (?:on earth )?(?:should|would|must|do|does|am|are|can|could) (?:i|we|you expect|anyone|my)\b",
    r"\bwho (?:can|could|would|will)\b|\beven if\b",
    rf"\b{_COMPARED} than{_FILL}$",
)
_WITHIN = re.compile(rf"\b(?:less|fewer) than{_FILL}$")
_IS = r"(?:(?:is|are|was|would be|will be|seems|sounds|feels|looks|be|just|simply|way|far|much|really|absolutely|completely|still|a bit|so|frankly|of waiting|for (?:me|us)|or (?:more|longer)) )*"
_REFUSED_AFTER = re.compile(
    rf"^{_IS}(?:too (?!bad\b)|impossible|unacceptable|unreasonable|unrealistic|ridiculous|absurd|insane|unfair|crazy|outrageous|nonsense|a joke|an? (?:insult|outrage|eternity)"
    r"|out of the question|off the table|no way|never\b|hopeless|unthinkable|beyond (?:me|us|my)"
    rf"|(?:(?:do|does|can|could|will|would|is|are) )?not (?!a day|a minute|{_COMPARED}|before|after|un|too|impossible|bad|negotiable|only|asking|a problem|much to ask|an? unreasonable|past|beyond|over)"
    r"|(?:would|will) (?:ruin|kill|destroy|bankrupt|break|never)|(?:ruins|kills) )"
)
_REFUSED_NEXT = re.compile(
    rf"^(?:no\b(?! (?:\d|{_COMPARED}|exception|excuse|matter|question|problem|worries|doubt|penalt|interest|fee|wait)\w*\b)|nope|never|impossible|seriously|really|absolutely not|certainly not"
    rf"|of course not|definitely not|not\b(?! (?:\d|a (?:day|minute|second)|{_COMPARED}|negotiable|un|bad|before|after|past))|out of the question|are you (?:serious|kidding|joking|crazy|out|insane)|come on\b|you must be"
    rf"|what a joke|(?:that|this|it|which)\b(?: \w+){{0,2}} (?:not (?!{_COMPARED}|un|too|negotiable|an? )|too |impossible|ridiculous|absurd|insane|unacceptable|crazy|unreasonable|a joke|out of)"
    rf"|(?:i|we) (?:can|could|will|would|do) (?:not|never)\b(?!.*\b(?:{_COMPARED}|beyond|past|go|move|budge)\b))"
)

_SAYING = (
    r"(?:ask|want|say|said|propos|offer|demand|insist|suggest|mention|request|claim|promis|expect|need(?! to\b)|prefer|talk|quot|told|push|keep"
    r"|kept|stuck|were\b|was\b|are at\b|started|came|gave|hope|hoping|plan|agreed|signed|chose|stayed|slept|went|took|waited|missed|named"
    r"|had\b|been\b|have (?:been|had|asked|said)|set\b|put\b|call(?:ed|ing)|like to|would like|intend|wish|threaten)\w*"
)
_NOUNS = r"(?:offer|proposal|request|demand|idea|suggestion|ask|number|figure|target|position|claim|promise|preference|counteroffer|counter)"
_ADJECTIVES = r"(?:first|last|original|initial|previous|earlier|latest|old|current|own|proposed|requested|so called|silly|full|ridiculous|preferred)"
_OTHERS = _any(
    rf"(?<!can )(?<!could )(?<!would )(?<!will )(?<!should )(?<!must )(?<!if )(?<!unless )(?<!once )\byou (?:(?!to\b|must\b|can\b|could\b|will\b)\w+ ){{0,2}}?{_SAYING}\b",
    rf"\bif you (?:want|need(?! to)|insist|demand|say|ask|expect|keep|had|were)\w*\b",
    r"\b(?:do|did) you (?:really |honestly |seriously )?(?:want|need|expect|mean|say|ask)\b",
    rf"\byours?(?: {_ADJECTIVES})?(?: {_NOUNS})?(?: (?:of|for|was|is|at|to \w+))?{_FILL}$",
    r"\b(?:he|she|they|(?:your|my|the|his|her|their) (?:\w+ )?(?:bank|boss|suppliers?|doctors?|parents|mom|mum|mother|dad|father|friends?|brother|sister|roommate|"
    r"coach|teacher|lawyer|accountant|client|clients|customers?|contract|invoice|terms|agreement|law|policy|insurance|guidelines?|teammates|classmates)"
    r"|(?:other|most|some|many|all) \w+|everyone|everybody|nobody|people|others|experts|studies|research)"
    r" (?:\w+ ){0,2}?(?:say|said|tell|told|want|give|gave|ask|demand|need|get|go\b|goes|sleep|stay|wait|pay|paid|require|allow|let|offer|promis|recommend|state|insist|suggest|mention|expect|was|were)\w*\b",
)
_OTHERS_AFTER = re.compile(
    rf"^(?:that |which |is what |was |is )*(?:you (?!can\b|could\b|have to\b|must\b|will\b){_SAYING}|(?:he|she|they|your \w+) \w+|your (?:idea|number|offer|proposal|demand|request))\b"
)
_ACCEPTING = re.compile(
    r"\b(?:accept|agree (?:to|with|on)|agreed|take|live with|go with|meet|match|fine|ok|okay|deal|work with|yes|happy with|good with|settle for|honou?r|grant)\b"
)
_FORMER = _any(
    r"\b(?:i|we) (?:\w+ )?(?:said|offered|proposed|asked|suggested|wanted (?!to (?:offer|propose|ask|suggest))|gave|started|agreed|told|mentioned|requested|hoped|planned|had)\b",
    r"\b(?:i|we) (?:was|were) (?!thinking|hoping|wondering|going|asking)",
    r"\b(?:my|our) (?:previous|earlier|original|first|initial|old)\b|\b(?:was|were)\b(?! (?:thinking|hoping|wondering))|\bused to\b",
)

_HAPPENED = _any(
    r"\b(?:have|has|had) (?:\w+ )?(?:been|waited|passed|gone|given|spent|slept|held|missed|lost|survived|lasted|had|paid|worked|lived|known)\b",
    r"\b(?:for|in|over|of|during|within|these|this|the) (?:the )?(?:last|past|previous)(?: \w+)?$|\balready\b|\bafter waiting\b|\bsince\b",
    r"\b(?:took|lasted|waited|ended|slept|happened|overdue|old|aged|warranty|experience|every|each|per|twice|once|times)\b(?! i\b)(?:(?! need\b| can\b).)*$",
    r"\b(?:would|could|should|might) have \w+(?:ed|en|ne)\b",
    r"\b(?:recovery|paperwork|battery|drone|exams?|tests?|training|class|lecture|shift|practice|game|movie|episode|bus|train|flight|school|homework|essay|"
    r"report|project|assignment|meeting|appointment|warranty|interest|invoice|delivery|shipment|contract|lease)\b(?: (?:of|for) \w+)?"
    r" (?:(?:will|would|can|may|usually|often|really|only|that) )*(?:takes?|lasts?|starts?|begins?|ends?|finish\w*|closes?|opens?|leaves?|arrives?|is|was|are|runs?|comes?|needs?|at|about)\b",
    r"\b(?:due|deadline is|late|behind|aftershocks?|spreads?|collapses?)$",
    r"\b(?:wake\w*|woke|alarm|get up|got up|be up at|be up by|up (?:at|by)|breakfast)\b",
    r"\b(?:it|time|clock) is (?:already|now|almost|nearly|just|only|past|about)(?: \w+)?$",
)
_FACT_AFTER = re.compile(
    r"^(?:ago\b|old\b|overdue|late\b|past due|behind\b|already\b|each\b|per\b|every\b|in a row|so far|(?:has|have) (?:already )?passed|left on the (?:clock|lease)|apart\b"
    r"|(?:a|an) (?:day|week|month|year|night|minute)\b|at a time|a time\b|(?:longer|later|earlier|sooner|shorter|less|faster|quicker)\b(?! or)|(?:more|better|worse) than (?!enough|fair|reasonable)"
    r"|of (?!waiting|wait\b|time|grace|patience|extension|extra|delay|my time|breathing)|experience|drive\b|walk\b|trip\b|nap\b|sleep\b|break\b|notice\b|away\b|from (?:here|home)|(?:you|we|soon|when|they) (?:will|all)\b)"
)
_IDIOM = _any(r"\b(?:call it|twice|once|times|such|what|just|at|day by|good|nice|end of|most of)$|^(?:please )?wait$")

_OWN = _any(
    r"\b(?:i|we) (?:(?:also|only|just|still|really|now|therefore|hereby|then|must|do|might|may|already) )*(?:can|could|will|would|propose|offer|suggest|accept|need|want|ask|request"
    r"|insist|require|agree|have|must|demand|say|prefer|settle|go|take|promise|commit|guarantee|pay|wait|hold|am|are|think|believe|expect|hope|got|mean|counter|give|was thinking|were hoping)\b",
    r"\b(?:my|our) (?:\w+ ){0,3}(?:offer|proposal|answer|limit|maximum|minimum|counter|counteroffer|bedtime|demand|request|word|number|ask|bid|position|target|line|suggestion|deadline|price)\b",
    r"\b(?:how about|what about|what if|what would you say|let us|make it|make that|give me|give us|grant|allow me|meet|settle|deal|agreed?|accept|offer|propose|proposal|counter|final"
    r"|compromise|extend|reduce|shorten|drop|lower|raise|push|cut|bring|move|come|go) ?\b",
    r"\b(?:can|could|would|will) (?:you|we)\b|\byou (?:can|could|will|must|should|need to|have|get|pay|would)\b|\bplease\b",
    r"\b(?:at most|at least|at the latest|at the most|up to|no later|within|minimum|maximum|max|tops|by then|or nothing|or sooner|or less|instead|down to)\b",
    r"\b(?:is|works?|work|would|sounds|seems|feels)\b(?: (?:\w+ )?)(?:fair|fine|good|ok|okay|possible|doable|reasonable|acceptable|work|great|perfect|best|enough|realistic)\b|\bworks?\b",
    r"\b(?:we|team|crew|rescuers?|surgeon|surgery|slot|operation|operate|reach|payment|repay\w*|settled?|in full|lights|asleep|sleep|bed|bedtime)\b",
)


def rank(quantity: Quantity, clause: Clause, following: Clause | None) -> Rank:
    """How much a quantity of a clause is the speaker's own offer, given the clause that follows."""
    before = _HARMLESS.sub("", clause.text[: quantity.start]).strip(" ,:-")
    after = clause.text[quantity.end :].strip(" ,:-")
    if _refused(before, after) or _others(before, after) or _fact(before, after):
        return Rank.NONE
    if quantity.vague and not _vague_counts(before):
        return Rank.NONE
    if _FORMER.search(before):
        return Rank.FORMER
    if _OWN.search(before) or _OWN.search(after):
        return Rank.PUT_FORWARD
    if following is not None and (_echo(before, after, clause) or _REFUSED_NEXT.search(following.text)):
        return Rank.NONE
    return Rank.PUT_FORWARD if len(f"{before} {after}".split()) <= 3 else Rank.MENTIONED


def _refused(before: str, after: str) -> bool:
    if _REFUSED_AFTER.search(after):
        return True
    if _LIMIT.search(before):  # "not more than 40 days" is an offer of 40, "can not stay up until 2 am" is none of 2
        return bool(_STAY.search(before))
    if _NOT.search(before) and not _CONDITION.search(before):
        return True
    return bool(_REFUSING.search(before)) and not _WITHIN.search(before)


def _others(before: str, after: str) -> bool:
    if _ACCEPTING.search(before):
        return False
    return bool(_OTHERS.search(before) or _OTHERS_AFTER.search(after))


def _fact(before: str, after: str) -> bool:
    return bool(_HAPPENED.search(before) or _FACT_AFTER.search(after))


def _vague_counts(before: str) -> bool:
    """Whether "a day" is a length of time and not a figure of speech: only where it is put forward."""
    if _IDIOM.search(before):
        return False
    return bool(_OWN.search(before) or re.search(r"\b(?:in|within|for|after)$|^$", before))


def _echo(before: str, after: str, clause: Clause) -> bool:
    """ "90 days? I can do 40." repeats the other side's number."""
    return clause.mark.startswith("?") and len(f"{before} {after}".split()) <= 2
