"""Whether words accept, walk away or do neither, read off phrases.

Acceptance is the last word on the matter, and without a condition. A sentence accepts if each of its clauses is one of
the phrases of `ACCEPTS`, or a kind word beside it; "I accept if you wait" and "I accept that you are angry" are not. A
later sentence that refuses, sets a condition or asks for something else takes the acceptance back. Leaving is read
the same way, and a later condition or demand takes it back: "No deal. You have to do better." Who accepts and leaves in
one breath has done neither.

Phrases are data, each with an example. They read plain words: lower case, no contractions, no quotation marks.
"""

import re
from typing import NamedTuple

from emodistill.negotiation.protocol import Act


class Phrases(NamedTuple):
    """Phrases of one kind: `rows` holds a regular expression by example, `pattern` matches any of them."""

    rows: dict[str, str]
    pattern: re.Pattern[str]


def _phrases(rows: dict[str, str]) -> Phrases:
    return Phrases(rows, re.compile("|".join(f"(?:{pattern})" for pattern in rows.values())))


# Said before anything else, these say nothing: "yes, okay then, i accept".
_YES = r"yes|yeah|yep|yup|sure|okay|ok|fine|all right|alright|very well|of course|certainly|absolutely|definitely"
OPENER = re.compile(
    rf"(?:(?:{_YES}|right|well|good(?! (?:luck|day|night|bye))|great|perfect|excellent|wonderful|fantastic"
    rf"|(?:thank you|thanks)(?! (?:for|so"
    rf"|very|to|a)\b)"
    r"|copy(?: that)?|roger(?: that)?|then|so|oh|and|but|you know what|no problem|no worries|why not|enough"
    r"|even so|still|anyway|either way|after"
    r" all"
    r"|finally|now|therefore|haha|noted|that is it|look|listen|honestly|i (?:think|guess|suppose|believe)|in that"
    r" case|on that basis|i"
    r" understand)\b[ ,]*)+"
)

_I, _AM = r"(?:i|we)", r"(?:i am|we are)"
_NOUN = (
    r"(?:offer|terms?|proposal|deal|plan|date|time|bedtime|conditions|number|timeline|arrangement|agreement"
    r"|suggestion)"
)
_LATEST = r"(?: (?:proposed|new|latest|last|final|revised|current|kind|generous|fair))?"
_STATED = r"(?: of yours)?(?: (?:(?:of|for|at|with) )?that)?(?: as (?:stated|proposed|is|it stands))?"
_NAMED = rf"(?:your|the|this|that|these|those){_LATEST} {_NOUN}{_STATED}"  # "your last offer of that"
_IT = rf"(?:{_NAMED}|that|this|it|those)"
_GLADLY = r"(?: (?:can|will|do|gladly|happily|hereby|would gladly|would happily|fully|both|all))*"
_GLAD = r"(?:very )?(?:happy|glad|pleased|delighted|prepared|ready|willing)"
_VERY = r"(?:(?:very|quite|perfectly|totally|absolutely|completely|just|pretty|more than|entirely|really) )?"
_CHEER = (
    r"(?:good|great|perfect|excellent|wonderful)"  # "that is great" is said of anything, "that is fine" of an offer
)
_GOOD = (
    rf"{_VERY}(?:{_CHEER}|fine|fair|reasonable|acceptable|okay|ok|alright|all right|agreeable|doable|fair enough"
    r"|good enough|like a deal|like a plan)"
)
_FOR_ME = r"(?: (?:to|for|with|by) (?:me|us|both of us|everyone|my side|our side))?"

_WHOLLY = r"(?: (?:unconditionally|gladly|in full|without (?:reservations?|conditions?)|with (?:pleasure|thanks)))?"

# A clause that accepts.
ACCEPTS = _phrases(
    {
        "i accept your offer": rf"{_I}{_GLADLY} accept(?: {_IT})?{_WHOLLY}",
        "we agree to your terms": rf"{_I}{_GLADLY} agree(?: (?:to|on) {_IT}| with {_NAMED})?",
        "i will take it": rf"{_I}(?: can| will| would gladly)? take {_IT}",
        "i am happy to accept that": rf"(?:{_I} (?:am|are|would be) )?{_GLAD} to (?:accept|agree to|agree|take|go"
        rf" with)(?:"
        rf" {_IT})?",
        "i can live with that": rf"{_I} (?:can|will|could) (?:live|work|go along|go) with {_IT}",
        "i can do that": rf"{_I} (?:can|will|could) (?:do|manage) (?:that|it)",
        "i can wait that": rf"{_I} (?:can|will) (?:(?:wait|hold on|hold out|last|hang on)(?: for)? that"
        rf"|take the (?:slot|place|date|bed) (?:in|on|at) that)",
        "i will be in bed by that": rf"(?:{_I} will be )?(?:in bed|asleep|to bed|bed|lights out) (?:by|at) that",
        "see you in that": r"see you (?:in|at) that|(?:book|sign) (?:me|us) (?:in|up)(?: for that)?",
        "i am fine with your terms": rf"(?:{_AM} )?(?:{_GOOD}|happy|satisfied|content|on board|in agreement) with"
        rf" {_IT}",
        "i am in": rf"{_AM} (?:in|on board|agreed|in agreement|sold|convinced|settled)",
        "we both agree": r"(?:we|we both) (?:have )?(?:agree|agreed)",
        "agreed": r"(?:offer |terms |proposal )?(?:agreed|accepted)(?: (?:to|on) (?:that|it|all points)| with"
        r" thanks)?",
        "it is a deal": r"(?:it is |that is )?(?:a )?deal(?: then| accepted)?",
        "i have no objections": rf"{_I} (?:have|see) (?:no|not any) (?:further )?(?:objections?|complaints?)",
        "that is a deal i can live with": rf"{_IT} is an? {_NOUN} (?:that )?{_I} can (?:accept|live with|agree to)",
        "done": r"done(?: deal)?|consider it (?:done|a deal)|let us call it a deal|sold|count me in|we are good",
        "you have a deal": r"(?:you|we) (?:have|have got|got)(?: (?:yourself|ourselves))? (?:a deal|an agreement)",
        "it is settled": r"(?:it is|that is|everything is|the matter is|consider it) (?:settled|agreed|done)",
        "your terms are accepted": rf"{_IT} (?:is|are) (?:hereby )?(?:accepted|agreed)",
        "that is fine by me": rf"{_IT} (?:(?:is|are)(?! {_VERY}{_CHEER}$)|seems?|sounds?|looks?) {_GOOD}{_FOR_ME}",
        "sounds good": rf"(?:sounds|seems|looks) {_GOOD}{_FOR_ME}",
        "fine by me": rf"{_GOOD} (?:by|with|for) (?:me|us)",
        "that works for me": rf"(?:{_IT} )?(?:(?:will|would) )?works?(?: (?:very )?(?:well|fine|great"
        rf"|perfectly))?{_FOR_ME}",
        "that will do": rf"{_IT} will (?:do|work){_FOR_ME}",
        "that it is": r"(?:that|it) it is(?: then)?",
        "let us do it": rf"let us (?:do|go with|settle (?:on|at|for)|agree (?:on|to)|seal|sign|finali[sz]e|close) {_IT}"
        r"|let us make it (?:that|a deal|official)",
        "let us do it your way": r"let us do (?:it your way|as you (?:ask|say|suggest|propose))|i will do as you ask",
        "let us shake on it": r"let us shake(?: hands)?(?: on (?:it|that))?",
        "you win": r"you win|(?:i|we) give in|have it your way|you (?:have|got) my (?:word|agreement"
        r"|yes)(?: on (?:it|that))?",
        "i am glad we agree": rf"(?:{_AM} )?(?:glad|happy) (?:that )?we (?:agree|agreed|could agree|have a deal)",
    }
)
# Of these, a judgement of what was just said: after "how about this?" it is one's own proposal.
JUDGES = re.compile("|".join(ACCEPTS.rows[key] for key in ("that is fine by me", "sounds good", "that works for me")))
# A sentence that takes up the number that stands: "okay, 90 days", "90 days, fine".
TAKES_UP = re.compile(
    rf"(?:(?:{_YES}|oh|then|agreed|good|great|perfect|copy(?: that)?|roger|you win|i give in)[ ,]+)+that(?: then"
    rf"| please)?"
    rf"|that,? (?:then,? )?(?:{_YES}|agreed|good|great|perfect)(?: then)?"
)
# Words that accept only if they are all that is said: "yes", "sure, thank you".
ACCEPTS_ALONE = re.compile(
    rf"(?:(?:oh )?(?:{_YES})(?: (?:then|please|sir|thank you|thanks|that is fine|thing"
    rf"|why not))?(?:,? why not)?[ ,.!]*)+"
)

_FEELING = (
    rf"(?:{_AM} )?(?:(?:still|so|very|really|a bit|just) )*(?:happy|glad|relieved|pleased|grateful|satisfied|sorry"
    rf"|sad"
    r"|angry|mad|furious|tired|disappointed|upset|nervous|proud|calm|scared|afraid|exhausted)"
    r"(?: (?:about it|with it|now))?"
)
# A clause that may stand beside an acceptance: it takes nothing back and asks for nothing.
KIND = _phrases(
    {
        "thank you for your patience": r"(?:thank you|thanks|many thanks|i am grateful|(?:i|we) appreciate)(?: .*)?",
        "we look forward to working with you": rf"(?:{_I} |{_AM} )?(?:look|looking) forward(?: .*)?",
        "my friend": r"my friend|sir|madam|everyone|folks|mate|buddy|coach|doctor|then|now|today|here|man|please"
        r"|that|no conditions",
        "let us sign": r"let us (?:sign|move on|get started|get going|proceed|go ahead|get (?:this|it) done|begin"
        r"|start)(?:"
        r" .*)?",
        "fair enough": r"you win|fair enough|no (?:problem|worries|objections?|hard feelings)|why not|of course"
        r"|certainly",
        "against my better judgment": r"against my better judge?ment|reluctantly|no (?:objections?|complaints?)(?: from"
        r" (?:me|us|my side|our side))?",
        "we are done here": rf"{_AM} (?:all )?(?:done|finished)(?: here)?",
        "i can not say no to that": rf"i can not (?:say no to|argue with|refuse|complain about) {_IT}",
        "i will send the papers": rf"(?:{_I} )?will (?:send|sign|prepare|draw up|pay|transfer|set|schedule|write|get"
        rf"|be)\b.*",
        "that is a fair offer": rf"(?:that|this|it) (?:is|sounds like) an? (?:very )?(?:{_GOOD}|generous|kind)"
        rf" {_NOUN}",
        "that is kind of you": rf"{_IT} (?:is|sounds|seems) (?:{_GOOD}|(?:very )?(?:kind|generous))(?: of you)?",
        "you have been fair": r"you (?:have been|are|were) (?:very |so |really )?(?:fair|kind|patient|generous"
        r"|reasonable)",
        "i am still angry": _FEELING,
        "on your terms": r"on (?:your|these|those|the) terms",
        "goodbye": r"(?:good ?bye|bye|farewell|good luck|take care|see you)\b.*",
    }
)

_TALKS = (
    r"(?:(?:this|the|our|these|those|all) )?(?:negotiations?|talks?|conversations?|discussions?|deal|meeting|call"
    r"|bargaining)"
)
_HAVE_TO = r"(?:will|must|have to|need to|am going to|would rather)"
# A clause that leaves.
WALKS_AWAY = _phrases(
    {
        "i am walking away": rf"{_AM} (?:walking(?: away| out| off)?|leaving(?: the table| this table)?"
        rf"|quitting)(?: now)?",
        "i am out": rf"{_AM} (?:out|through|off|gone)(?: now| then)?",
        "i am done negotiating": rf"{_AM} (?:done|finished)(?: here|(?: talking| negotiating| bargaining)?(?: (?:with"
        rf"|to) (?:this|you|{_TALKS}))?)?",
        "i will walk away": rf"{_I} {_HAVE_TO} (?:now )?(?:walk(?: away| out)?|leave|quit)(?: now| from (?:this"
        rf"|here))?",
        "i walk away": rf"{_I} (?:walk (?:away|out)|quit)(?: now| from (?:this|here))?",
        "i stop here": rf"{_I} (?:{_HAVE_TO} )?(?:stop(?: this)?|end it|end this|give up)(?: (?:here|now|there|on"
        rf" (?:{_TALKS}|it|you)))?",
        "i will leave it at that": rf"{_I} (?:{_HAVE_TO} )?leave (?:it|you)(?: (?:here|at that|there|to it))?",
        "i am ending this negotiation": rf"{_AM} (?:ending|terminating|breaking off|leaving|withdrawing from|stopping)"
        rf" (?:{_TALKS}|this)(?: (?:here|now))?",
        "i will end the talks": rf"{_I} (?:(?:{_HAVE_TO}|hereby) )?(?:end|break off|quit|withdraw from|leave)"
        rf" (?:{_TALKS})",
        "this negotiation is over": rf"(?:{_TALKS}|this|it|everything)(?:'s| is| are) (?:all )?(?:over|off|closed"
        rf"|finished|dead"
        r"|at an end)(?: now| between us)?",
        "no deal": r"(?:(?:there is|there will be|we have|then|so) )?no (?:deal|agreement)"
        r"(?: (?:today|then|here|between us))?",
        "i am calling it off": rf"{_AM} calling (?:it|this|everything) off|let us end (?:this|it|things)(?: here|"
        rf" now)?",
        "count me out": r"count (?:me|us) out|i quit|forget the whole thing|have a nice life",
        "i will take my business elsewhere": rf"{_I} {_HAVE_TO} (?:take (?:my|our) business|go|look) elsewhere",
        "there is no point": r"(?:there is|i see) no (?:point|sense|use)(?: in (?:this|continuing|going on|talking"
        r"|it))?",
        "there is nothing left to discuss": r"(?:there is )?nothing (?:left|more|else) to (?:discuss|talk about"
        r"|negotiate|say)",
        "goodbye": r"(?:good ?bye|bye(?: bye)?|farewell|so long)(?: then| and good luck)?",
        "see you in court": r"see you in court|(?:talk|speak) to (?:my|our) lawyers?|(?:my"
        r"|our) lawyers? will (?:contact|be in touch with|call) you",
    }
)
# A clause that may stand beside a leaving.
PARTING = _phrases(
    {
        "goodbye": r"(?:good ?bye|bye|farewell|so long|good luck|take care|good day|good night)(?: .*)?",
        "i am mad": _FEELING,
        "i am sorry for you": rf"(?:{_AM} )?(?:so |very )?sorry(?: .*)?|i wish you (?:well|luck|all the best)|have"
        rf" a good .*",
        "i have had enough": r"i have had enough(?: of (?:this|it))?|enough(?: of this| is enough)?",
        "that is final": r"forget it|that is (?:it|all|final|my last word)",
    }
)

_NO_NO = (
    r"(?:problem|worries|doubt|objections?|hard feelings|hurry|rush|matter|need|further|more|issues?|pressure"
    r"|questions?)"
)
_NOT_DONE = (
    r"(?:accept|agree|do (?:that|it|this)|take|sign|pay|go (?:along|with|for|that)|afford|commit|settle|approve"
    r"|live with"
    r"|shake|want (?:this|that|it|your)|consent|like (?:this|your|the|those|these) \w+|work with|manage|accepting"
    r"|agreeing|able to|willing to|ready to|prepared to|going to|buy|say yes)\b"
)
_NOT_SO = (
    r"(?:work|suit|help|do|fit|good|acceptable|enough|fair|fine|agreed|settled|okay|possible|happening|final|going to"
    r"|what i (?:want|need|asked))\b"
)
# What takes an acceptance back, wherever it stands in a later sentence: a refusal, a condition, another wish.
REFUSES = _phrases(
    {
        "no": rf"^(?:no|nope|nah|not|never)\b(?! {_NO_NO}\b)",
        "my answer is still no": r"\b(?:answer|it|that) (?:is|remains|stays|was) (?:still |a |always )*no\b|\bi"
        r" (?:say|said) no\b",
        "i can not accept your offer": rf"\b{_I} (?:(?:really|simply|just|still) )*(?:can|could|will|would|do"
        rf"|shall|am|are"
        rf"|must|may|did) (?:not|never)(?: (?:\w+ly|just|even|in good conscience))*(?:$|[,:]| {_NOT_DONE})",
        "that does not work": rf"\b(?:{_IT}|which|{_NOUN}) (?:do|does|will|would|can|could|is|are|was) (?:still )?not"
        rf"(?: (?:really|quite))?(?:$| {_NOT_SO})",
        "i must refuse": rf"\b{_I} (?:(?:must|have to|hereby|still|will|can only|would) )?(?:refuse|reject|decline"
        rf"|disagree"
        r"|object|protest)\b|\b(?:rejected|declined|refused|refusal)\b",
        "that is not good enough": r"\bnot (?:good |nearly |quite |fair )?enough\b",
        "not so fast": r"\bnot (?:yet|so fast|to that|like this|at all|really|for that|(?:on|under|with) these"
        r"|that)\b",
        "that is too long": r"\btoo (?:long|late|much|far|short|little|few|soon|early|slow|many|high|low"
        r"|expensive)\b",
        "that is unacceptable": r"\b(?:unacceptable|impossible|ridiculous|absurd|insulting|unfair)\b"
        r"|\b(?:out of the question|off the table)\b",
        "actually, no": r"\b(?:wait|actually|sorry|hmm|well|oh|so|reflection)\b,? no\b(?! problem)|, no$|\bsays no\b",
        "on second thought": r"\b(?:on second thoughts?|never mind|scratch that|forget (?:it|that)|wait a"
        r" (?:minute|second"
        r"|moment)|(?<!will )(?<!can )hold on)\b",
        "just kidding": r"\b(?:kidding|joking|changed (?:my|our) mind|take (?:it|that|this) back|withdraw)\b",
    }
)
CONDITIONS = _phrases(
    {
        "but there is one thing": r"^(?:but|however|although|yet|except|still|only)\b(?! thanks?\b)|\bthough$",
        "only if you sign": r"\bif (?!you (?:like|want|please|ask me|wish|agree|are ready|need anything|have"
        r" any)\b|that is"
        r"|it helps|there|anything|needed|possible|necessary|only\b|ever\b)",
        "unless you sign": r"\bunless\b|^(?:not )?without\b",
        "provided that you sign": r"\b(?:provided|providing|as long as|so long as|assuming|on (?:the )?conditions?"
        r"|subject to"
        r"|contingent|depending on|except|apart from)\b",
        "i have one condition": r"\bone (?:condition|caveat|catch|change|exception)\b",
        "agreed in principle": r"\bin (?:principle|exchange|return|theory)\b",
        "once you have paid": r"^(?:and |only )?(?:once|when|after|until) (?:i|we|you|the|my|your)\b",
    }
)
_CHANGE = (
    r"(?:do better|try|improve|move|come|offer|give|lower|raise|shorten|extend|change|reduce|drop|waive|add|meet|go"
    r"|reconsider|rethink|be (?:more )?(?:reasonable|flexible|serious|realistic))"
)
_OTHER = (
    r"(?:more|less|better|longer|shorter|lower|higher|sooner|earlier|later|different|another|extra|further|time"
    r"|extension|discount|reduction|concession|changes?|guarantee|deposit|improvement)"
)
PROPOSES = re.compile(r"\b(?:how|what) (?:a?bout|if)\b")
COUNTERS = _phrases(
    {
        "i need more time": rf"\b{_I} (?:(?:still|also|really|do|just|would|will|must|only|now|first|then|at"
        rf" least) )*"
        rf"(?:need|want|require|insist|demand|prefer|ask|expect|request|like|love|appreciate) (?:\w+"
        rf" ){{0,4}}?{_OTHER}\b",
        "i would love an apology as well": rf"\b{_I} (?:(?:also|still|really|just) )*(?:would (?:(?:also|really"
        rf"|just|still) )*"
        rf"(?:love|like|want|need|prefer|appreciate)|(?:also|still|only|first) (?:want|need|require|expect))"
        r"(?! (?:it|that|this)$| to (?:thank|say|sign|confirm|get|see|hear|work|finish|proceed|close|accept|agree"
        r"|start)\b)",
        "just add the fee": r"^(?:(?:just|please|also|and|now|then) )*(?:add|include|throw in|waive|drop|cut"
        r"|raise|lower"
        r"|reduce|remove|lift|cover|refund|shorten|extend)\b",
        "you have to do better": r"\byou (?:(?:really|still|simply|just|will|would) )*(?:have to|must|need to"
        r"|should|can"
        rf"|could|had better|got to) (?:\w+ ){{0,2}}?{_CHANGE}\b",
        "can you do better": rf"\b(?:can|could|will|would|how about|what about|what if|why not|can not|could not)"
        rf" (?:you|we|i) .*\b(?:{_OTHER}|{_CHANGE}|instead|wait)\b",
        "what else can you offer": r"\bwhat (?:else|more) (?:can|could|do|will|would) you\b",
        "come back with something better": r"\b(?:come back|try again|do better|try harder|think again)\b",
        "make me a better offer": r"\b(?:make (?:me |us )?an?(?:other)?|give me an?|offer me an?) (?:better |new "
        r"|real |serious"
        r" |fair )?(?:offer|proposal|deal|number)\b|\b(?:give|offer) (?:me|us) something\b",
        "let me ask my boss": rf"\b(?:let me|{_I} (?:have to|need to|must|will have to|want to)) (?:\w+ )?(?:check"
        rf"|ask|talk"
        r" to|talk with|consult|think|sleep|see if|run (?:it|this|that)|consider)\b",
        "let us keep talking": r"\blet us (?:keep|continue|go on|carry on|go back|talk (?:about|again|more)|discuss"
        r"|renegotiate|start over|try|negotiate|find|see)\b|\b(?:reconsider|think it over|sleep on it)\b",
        "how about this": rf"{PROPOSES.pattern}",
        "i want that as well": rf"\b{_I} (?:would )?(?:like|want|need) (?:\w+ )+(?:as well|too|also)\b",
        "my counteroffer is this": r"\b(?:counter ?-?offer|counter ?-?proposal|my (?:new )?(?:offer|number|proposal)"
        r"|instead)\b",
        "the date has to change": r"\b(?:has|have|needs?|must|ought) to (?:change|move|improve|go|come down|be"
        r" (?:\w+ )?"
        r"(?:better|changed|lower|higher|shorter|longer|sooner|earlier|later))\b",
    }
)

# "It is hard, but I accept" is two sentences: what comes after a "but" is the last word.
_SENTENCE = re.compile(r"(?:(?!,? but\b|, (?:so|yet|however)\b)(?:[^.!?;\n]|\.(?=\d)))+[.!?;]*")
_CLAUSE = re.compile(r" ?[,:] | — | - ")
_EDGES = " ,'-—:"
_SYMBOLS = re.compile(r"\s*[^\s\w.,:;!?'()/$£€%+—–-]+\s*")  # emoji and other signs say nothing here


def read_act(words: str, may_accept: bool) -> Act:
    """Whether plain words accept, walk away, or neither ("propose").

    Args:
        words: see `plain_text.words`; the number that stands is written "that".
        may_accept: whether there is an offer to accept.
    """
    words = _SYMBOLS.sub(" ", words).strip()
    accepts, leaves, proposed = ACCEPTS_ALONE.fullmatch(words) is not None, False, False
    for match in _SENTENCE.finditer(words):
        sentence = match[0].rstrip(" .!?;").strip(_EDGES)
        clauses = [rest for clause in _CLAUSE.split(sentence) if (rest := _without_opener(clause))]
        reopened = _says(sentence, CONDITIONS) or _says(sentence, COUNTERS)
        proposed = proposed or PROPOSES.search(sentence) is not None
        if "?" in match[0]:
            accepts, leaves = accepts and not reopened, leaves and not reopened
        elif accepts and clauses and all(KIND.pattern.fullmatch(clause) for clause in clauses):
            pass  # what is kind beside an acceptance may be a farewell alone: "deal. goodbye!"
        elif proposed and all(map(JUDGES.fullmatch, clauses)):
            continue
        elif TAKES_UP.fullmatch(sentence) or _consists(clauses, ACCEPTS, KIND):
            accepts = True
        elif _consists(clauses, WALKS_AWAY, PARTING):
            leaves = True
        else:
            accepts = accepts and not reopened and not _says(sentence, REFUSES)
            leaves = leaves and not reopened
    if leaves == accepts or (accepts and not may_accept):
        return "propose"
    return "accept" if accepts else "walk_away"


def _says(sentence: str, kind: Phrases) -> bool:
    return kind.pattern.search(sentence) is not None


def _without_opener(clause: str) -> str:
    clause = clause.strip(_EDGES)
    opener = OPENER.match(clause)
    if opener and not ACCEPTS.pattern.fullmatch(clause):
        clause = clause[opener.end() :].strip()
    return clause.removesuffix(" then")


def _consists(clauses: list[str], decisive: Phrases, beside: Phrases) -> bool:
    """Whether each clause is one of these phrases and takes nothing back, and at least one is decisive."""
    decided = False
    for clause in clauses:
        known = decisive.pattern.fullmatch(clause) or beside.pattern.fullmatch(clause)
        for part in [clause] if known else map(_without_opener, clause.split(" and ")):
            if decisive.pattern.fullmatch(part):
                decided = True
            elif part and (not beside.pattern.fullmatch(part) or any(_says(part, k) for k in (CONDITIONS, COUNTERS))):
                return False
    return decided
