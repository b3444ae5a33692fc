"""The patterns of the offer parser, as data: how numbers and times are written, and the phrases around a number.

`offers` says how they are applied. They read plain text (see `plain_text`): lower case, digits for number words, no
contractions, every quantity written in one way.
"""

import re

from emodistill.negotiation.plain_text import DIGITS, PLAIN_UNIT, QUALIFIER, UNIT_ALIASES


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


# Where a clause ends.

_SUBJECT = r"(?:i|we|let us|how about|what about|my|our|you|please|make)\b"
_VERB = r"(?:can|could|will|would|need|propose|offer|want|ask|suggest|accept|agree|settle|that|this|it)\b"
CLAUSE_BREAK = re.compile(
    r"(?P<mark>(?<!\d)\.|\.(?!\d)|[!?;\n]+|,(?! (?:or|nor|then|let alone|much less)\b))"
    r"|\b(?:but|however|though|although|because|so(?! (?:far|long|late|much))|while|whereas|which|yet(?= ))\b"
    r"| (?=(?:unless|provided|providing|as long as|so long as|assuming|on (?:the )?condition)\b)"
    r"|\binstead\b(?! of)"
    rf"|\band (?={_SUBJECT}|{_VERB}|not\b|never\b)"
)
# A new subject without a mark before it: "you want 90 days I can do 40".
RUN_ON = re.compile(
    r"(?<=\w) (?=(?:i|we) (?:can|could|will|would|need|want|propose|offer|am|have|must|say)\b|(?:let us"
    r"|how about)\b|if )"
)

# Quantities: lengths of time, and bare numbers after a cue that offers ("make it 45").

_UNIT = "|".join(f"(?P<{name}_>{alias})" for name, alias in UNIT_ALIASES.items())
_AMOUNT = rf"(?P<number>{DIGITS})|(?P<one>\b(?:a|an|another)\b)"
# "45 days", "2.5 weeks", "a week or 2", "1h30".
DURATION = re.compile(
    rf"(?:{_AMOUNT})[ -]?{QUALIFIER}(?:{_UNIT})(?:(?![a-z0-9])|(?<=h)(?=\d\d))"
    rf"(?P<or> or (?P<second>\d{{1,2}})\b(?![ -]?(?:{PLAIN_UNIT})\b))?"
    rf"(?P<tail>(?: ?(?:and )?|-)(?P<rest>[0-5]?\d)(?= ?m\b| ?min|(?! ?(?:{PLAIN_UNIT}|%|pm"
    rf"|am)\b)(?!\d))(?: ?(?:minutes?|mins?|m)\b)?)?"
)
JOINED_DURATIONS = re.compile(r",? (?:and )?|,? (?P<sign>plus|minus|\+) ")
_BARE_CUE = (
    r"(?:make (?:it|that)|(?:how|what) about|settle (?:on|for|at)|meet (?:me |you )?(?:at|on)|let us (?:say|do"
    r"|go with|try|call it)"
    r"|(?:can|could|will|would) (?:you |we )?(?:(?:only|just|maybe|also|even|still) )?(?:do|accept|take|offer"
    r"|live with|agree (?:to|on)|stretch to"
    r"|(?:go|come|move) (?:(?:up|down) )?(?:to|with))|(?:i|we) (?:(?:am|are) )?(?:offer(?:ing)?|propose|proposing"
    r"|say|saying|accept)|(?:offer|proposal"
    r"|limit|answer|maximum)(?: is|:)?|(?:my|our) number is"
    r"|(?:stay|stick|stand) (?:at|with|to)|(?:up|down|over) to|agree (?:on|to)|counter (?:with|at)|net|say"
    r"|why not|(?:go|deal) (?:with|at))"
)
# A wish that is too common to be a cue where nothing else in the utterance names a unit: "not 60 days, i need 45".
NUMBER_WISHED = re.compile(
    r"\b(?:i|we) (?:(?:only|just|really|do|would|will|can) )*(?:need|want|prefer|give|push for|ask for|aim for)"
    rf" (?:(?:about|only|just|maybe|at least|at most|up to) )*(?P<number>{DIGITS})"
    r"(?: ?$| (?:max|tops|final|please|at most)\b)"
)
# A number without a unit after a cue, and a clause that is a number alone.
BARE_NUMBER = re.compile(
    rf"\b{_BARE_CUE} (?:(?:about|around|just|only|maybe|say|at) )*(?P<number>{DIGITS})(?![.:]\d)"
    r"(?= ?$|,| (?:then|max|maximum|tops|final|flat|please|if|today|now|or|at most|at the most|right|and|not|from"
    r"|instead"
    r"|rather|down|up)\b)"
)
NUMBER_ALONE = re.compile(
    rf"^(?:to |at |then |now |maybe |say |only |for )*(?P<number>{DIGITS})(?: (?:max|tops|final|flat|then|please"
    rf"|at most|it is))?$"
)
MONEY = re.compile(r"[$£€¥%]|\b(?:usd|eur|gbp|dollars?|euros?|pounds?|bucks|percent|cents?)\b")

# Times of day.

_AM_OR_PM = r" ?(?P<half>am|pm)\b| (?P<words>in the (?:morning|evening|afternoon)|at night|tonight)\b"
_NOT_A_TIME = r"(?![ -]*(?:minutes?|mins?|hours?|hrs?|h|days?|weeks?|pages?|points?|times?|more|of|%)\b|[\d%:/])"
# "10:30 pm", "22:30", "10 oclock", "midnight".
TIME = re.compile(
    r"(?<![\d:.$£€/])(?P<hour>\d{1,2})(?:[:h](?P<minute>[0-5]\d)|\.(?P<minute2>[0-5]\d)(?= ?[ap]m))?(?!\d)"
    rf"(?P<oclock> ?oclock\b)?(?:{_AM_OR_PM})?|\b(?P<midnight>midnight)\b"
)
_BEFORE_A_BARE_HOUR = (
    r"(?:at|by|until|before|around|about|past|after|make (?:it|that)|(?:how|what) about|(?:down|up|back|over) to"
    r"|let us (?:say|do)|settle (?:on|for)"
    r"|(?:can|could|will|would) (?:you |we )?(?:only )?(?:do|accept|take)|agree (?:on|to)|say|(?:than|bedtime"
    r"|offer|answer|out|is)(?: is)?|(?:go|bed|sleep) with|(?:i|we) (?:(?:only|just|would|do|really) )*(?:want|prefer)"
    r"|(?:okay|ok|fine|alright|all right|agreed|deal|yes|sure),?|to bed|from|between(?: \d{1,2} and)?|(?:am|pm"
    r"|\d{1,2}) ?(?:-|or|to)|why not"
    r"|not|never)"
)
# An hour alone after a cue: "by 10".
BARE_TIME = re.compile(
    rf"(?:^|\b{_BEFORE_A_BARE_HOUR} )(?:(?:about|around|exactly|like|maybe|say|at"
    rf"|by) )*(?P<hour>\d{{1,2}})(?:\.(?P<minute>[0-5]\d))?{_NOT_A_TIME}"
    r"(?= ?$|[,.!?;](?!\d)|-?ish\b| (?:it is$|instead of|rather than|at the earliest|sharp|tops|max|then|please"
    r"|at the latest|latest|exactly|or|if|and|on|every"
    r"|each|with|is|too|not|works?|for)\b)"
)
# Between a length of time and the time of day that it moves: "half an hour after midnight".
SHIFT = re.compile(r" (?P<way>after|past|before) $")

# Whose number it is. BEFORE and AFTER mean the words of the clause on either side of the quantity.

_COMPARED = (
    r"(?:more|longer|later|less|fewer|earlier|sooner|lower|higher|further|shorter|greater|faster|quicker|better)"
)
_FILL = r"(?: (?:about|around|roughly|the|maybe|even|than|like|say|a|those|these|that|another|for|some))*"

# A "not" that refuses nothing, taken out before anything is decided.
HARMLESS = _any(
    r"^(?:no|nope|never) (?=i |we |my |our |let |you )",
    r"\bwhy (?:can |do |does |could |would )?not(?= (?:we|you|i|it)\b)",
    r"(?<=why )not\b",
    r"(?<=^can )not (?=(?:we|you|i|it)\b)|(?<=^could )not (?=(?:we|you|i|it)\b)|(?<=^would )not (?=(?:we|you|i"
    r"|it)\b)",
    r"(?<=^will )not (?=(?:we|you|i|it)\b)|(?<=^do )not (?=(?:we|you|i)\b)|(?<=^is )not (?=\d|it\b)",
    r"\bnot (?=mind\b|object\b|against\b|opposed\b|unreasonable\b|impossible\b|unwilling\b|only\b|bad\b|refuse\b"
    r"|reject\b|a problem\b|just\b|too\b)",
    r"\b(?:no|not a) (?:problem|worries|doubt|objection|issue)s?\b",
    r"\b(?:do|does) not (?=worry|forget|get me wrong)",
    r"\bnothing but\b",
)
# A "not" under a condition refuses nothing: "if you do not pay in 30 days".
CONDITION = re.compile(r"^(?:and |or |then )?(?:if|unless|once|when) ")
# A clause that puts a condition to what was offered before it: "45 days if the deposit comes within 7 days".
PROVISO = re.compile(
    r"^(?:and |but |or )?(?:(?:only )?if|unless|once|provided|providing|as long as|so long as|assuming"
    r"|on (?:the )?condition)\b"
)
# Refuses whatever comes after it in its clause.
NOT = _any(r"\b(?:not|never|no|nor|neither|nothing|nobody|hardly|nowhere|cannot)\b")
# A refusal that sets a limit and so makes an offer: "not more than", "can not go beyond".
LIMIT = re.compile(
    rf"\b(?:not|never|no|nor|nothing|refus\w+|unable|impossible)\b.*(?:\b{_COMPARED} (?:\w+ )?than|\b(?:beyond"
    rf"|past|over|above|under|below"
    rf"|before|after|exceed)"
    rf"|\b(?:until))(?: (?:midnight|about|around|the|those|these|that|a total of|at|to))*$"
)
# Except that to keep something up until then is refused outright: "can not stay up until 2 am".
STAY = re.compile(r"\b(?:stay|wait|sit|keep|awake|up|allow|let|have|hold|hang)\b.*\buntil(?: \w+)?$")
# Said before a quantity, refuses it.
REFUSING = _any(
    r"\b(?:refus\w+|reject\w*|declin\w+|impossible|unable|unacceptable|ridiculous|absurd|insane|unfair|forget"
    r"|too (?:long|late|much|far|short|little|few|soon|early|slow|many|high|low))\b",
    rf"\b(?:instead of|rather than|(?:down|up|reduced|lowered|cut|shortened|raised|moved|changed) from|as opposed"
    rf" to|versus|vs|compared (?:with|to)|let alone|much"
    rf" less|far from"
    rf"|sick of|tired of){_FILL}(?: \w+)?$",
    r"\b(?:why|how) (?:on earth )?(?:should|would|must|do|does|am|are|can|could) (?:i|we|you expect|anyone|my)\b",
    r"\bwho (?:can|could|would|will)\b|\beven if\b",
    r"\brather (?:.* )?(?<!more )(?<!less )(?<!later )(?<!longer )(?<!sooner )(?<!earlier )than\b",
    rf"\b{_COMPARED} than{_FILL}$",
    r"\b(?:scrap|forget|drop|waive|cancel|ignore|lift|tear up) (?:the|that|this|your|any|my|our)(?: \w+)?$",
)
# "Less than 40 days" is kept by 40; "more than 40 days" says nothing one could hold anybody to.
WITHIN = re.compile(rf"\b(?:less|fewer) than{_FILL}$")
_IS = (
    r"(?:(?:is|are|was|would be|will be|seems|sounds|feels|looks|be|just|simply|way|far|much|really|absolutely"
    r"|completely|still|a bit|so|frankly|of waiting|for (?:me|us)|or (?:more|longer)) )*"
)
# Said after a quantity in its clause, refuses it.
REFUSED_AFTER = re.compile(
    rf"^{_IS}(?:too (?!bad\b)|impossible|unacceptable|unreasonable|unrealistic|ridiculous|absurd|insane|unfair"
    rf"|crazy|outrageous|nonsense|a joke|an? (?:insult|outrage|eternity)"
    r"|out of the question|off the table|no way|never\b|hopeless|unthinkable|beyond (?:me|us|my)"
    rf"|(?:(?:do|does|can|could|will|would|is|are) )?not (?!a day|a minute|{_COMPARED}|before|after|un|too"
    rf"|impossible|bad|negotiable|only|asking|a problem|much to ask|an? unreasonable|past|beyond|over)"
    r"|(?:would|will) (?:ruin|kill|destroy|bankrupt|break|never)|(?:with \w+ \w+ )?(?:ruins|kills|scares"
    r"|terrifies|frightens|worries|hurts) (?:me|us|my|our|him|her)\b)"
)
# The whole next clause refuses what was only named: "90 days? No."
REFUSED_NEXT = re.compile(
    rf"^(?:no\b(?! (?:\d|{_COMPARED}|exception|excuse|matter|question|problem|worries|doubt|penalt|interest|fee"
    rf"|wait)\w*\b)|nope|never|impossible|seriously|really|absolutely not|certainly not"
    rf"|of course not|definitely not|not\b(?! (?:(?:the )?\d|midnight|a (?:day|minute|second)|{_COMPARED}"
    rf"|negotiable|un|bad"
    rf"|before"
    rf"|after|past))|out of the question|are you (?:serious|kidding|joking|crazy|out|insane)|come on\b|you must be"
    rf"|what a joke|(?:that|this|it|which)\b(?: \w+){{0,2}} (?:not (?!{_COMPARED}|un|too|negotiable|an? )|too "
    rf"|impossible|ridiculous|absurd|insane|unacceptable|crazy|unreasonable|a joke|out of)"
    rf"|(?:i|we) (?:can|could|will|would|do) (?:not|never) (?:\w+ )?(?:accept|agree|do|wait|pay|think|believe|take"
    rf"|manage|survive|afford|live|last|allow|let|make|have)\b(?!.*\b(?:{_COMPARED}|beyond|past|go|move|budge)\b))"
)

_SAYING = (
    r"(?:ask|want|say|said|propos|offer|demand|insist|suggest|mention|request|claim|promis|expect|need(?! to\b)"
    r"|prefer|talk|quot|told|push|keep"
    r"|kept|stuck|were\b|was\b|are at\b|started|came|gave|hope|hoping|(?<!payment )plan"
    r"|agreed|signed|chose|stayed|slept|went|took|waited|missed|named"
    r"|had\b|been\b|have (?:been|had|asked|said)|set\b|put\b|call(?:ed|ing)|like to|would like|intend|wish"
    r"|threaten)\w*"
)
_NOUNS = (
    r"(?:offer|proposal|request|demand|idea|suggestion|ask|number|figure|target|position|claim|promise"
    r"|preference|counteroffer|counter)"
)
_ADJECTIVES = (
    r"(?:first|last|original|initial|previous|earlier|latest|old|current|own|proposed|requested"
    r"|so called|silly|full|ridiculous|preferred)"
)
# The other side's number, or a third party's.
OTHERS = _any(
    r"(?<!can )(?<!could )(?<!would )(?<!will )(?<!should )(?<!must )(?<!if )(?<!unless )(?<!once )"
    rf"\byou (?:(?!to\b|must\b|can\b|could\b|will\b)\w+ ){{0,2}}?{_SAYING}\b",
    r"\bif you (?:want|need(?! to)|insist|demand|(?<!what if you )say|ask|expect|keep)\w*\b",
    r"\byou (?:would|will) have me\b|\b(?:thank you|thanks|grateful) for \w+ing\b",
    r"\b(?:do|did) you (?:really |honestly |seriously )?(?:want|need|expect|mean|say|ask)\b",
    rf"\byours?(?: {_ADJECTIVES})?(?: {_NOUNS})?(?: (?:of|for|was|is|at|to \w+))?{_FILL}$",
    r"\b(?:he|she|they|(?:your|my|the|his|her|their) (?:\w+ )?(?:bank|boss|suppliers?|doctors?|parents|mom|mum"
    r"|mother|dad|father|friends?|brother|sister|roommate|"
    r"coach|teacher|lawyer|accountant|client|clients|customers?|contract|invoice|terms|agreement|law|policy"
    r"|insurance|guidelines?|teammates|classmates)"
    r"|(?:other|most|some|many|all) (?!i\b|we\b|you\b)\w+|everyone|everybody|nobody|people|others|experts|studies"
    r"|research)"
    r" (?:\w+ ){0,2}?(?:say|said|tell|told|want|give|gave|ask|demand|need|get|go\b|goes|sleep|stay|wait|pay|paid"
    r"|require|allow|let|offer|promis|recommend|state|insist|suggest|mention|expect|was|were)\w*\b",
)
# The same, said after the quantity: "the 90 days you asked for".
OTHERS_AFTER = re.compile(
    rf"^(?:that |which |is what |was |is )*(?:you (?!can\b|could\b|have to\b|must\b|will\b){_SAYING}|(?:he|she"
    rf"|they|your \w+) \w+|your (?:idea|number|offer|proposal|demand|request))\b"
)
# The same, where the whole next clause says so: "60 days, you say?"; the second even after "I can do 60 days".
OTHERS_NEXT = re.compile(
    rf"^(?:as |like |so )?you (?!can\b|could\b|will\b){_SAYING}(?: (?:me|it|so|now|then|earlier|before))*$"
    r"|^(?:was|is) (?:it|that)$"
)
QUOTED_NEXT = re.compile(
    rf"^(?:that|this|it|which) (?:is|was) what (?:you|he|she|they) {_SAYING}(?: (?:me|us"
    rf"|before))*$"
)
# Taking over the other side's number makes it one's own.
ACCEPTING = re.compile(
    r"\b(?:accept|agree (?:to|with|on)|agreed|take|live with|go with|meet|match|fine|ok|okay|deal|work with|yes"
    r"|happy with|good with|settle for|honou?r|grant)\b"
)
# What the speaker said before.
FORMER = _any(
    r"\b(?:i|we) (?:\w+ )?(?:said|offered|proposed|asked|suggested|wanted (?!to (?:offer|propose|ask|suggest))"
    r"|gave|started|agreed|told|mentioned|requested|hoped|planned|had)\b",
    r"\b(?:i|we) (?:was|were) (?!thinking|hoping|wondering|going|asking)",
    r"\b(?:my|our) (?:previous|earlier|original|first|initial|old)\b|\b(?:was|were)\b(?! (?:thinking|hoping"
    r"|wondering))|\bused to\b",
)

# Facts: what has passed, what recurs, what something else takes, when something else happens.
HAPPENED = _any(
    r"\b(?:have|has|had) (?:\w+ )?(?:been|waited|passed|gone|given|spent|slept|held|missed|lost|survived|lasted"
    r"|had|paid|worked|lived|known)\b",
    r"\b(?:for|in|over|of|during|within|these|this|the) (?:the )?(?:last|past|previous)(?: \w+)?$|\balready\b"
    r"|\bafter waiting\b|\bsince\b",
    r"\b(?:took|lasted|waited|ended|slept|happened"
    r"|overdue(?! (?:account|amount|balance|debt|invoice|loan|payment)\b)|old|aged|warranty|experience"
    r"|every|each|per|twice|once|times)\b(?! i\b)(?:(?! need\b| can\b).)*$",
    r"\b(?:would|could|should|might) have \w+(?:ed|en|ne)\b"
    r"|(?<!if )\b(?:i|we|he|she|they) (?!if )(?:\w+ )?(?:paid|repaid|survived)\b"
    r"|\blast (?:time|year|month|week|winter|summer|loan|visit|night)\b",
    r"\b(?:recovery|paperwork|battery|drone|exams?|tests?|training|class|lecture|shift|practice|game|movie"
    r"|episode|bus|train|flight|school|homework|essay|"
    r"report|project|assignment|meeting|appointment|warranty|interest|invoice|delivery|shipment|contract"
    r"|lease)\b(?: (?:of|for|with) \w+)?"
    r" (?:(?:will|would|can|may|usually|often|really|only|that) )*(?:takes?|lasts?|starts?|begins?|ends?"
    r"|finish\w*|closes?|opens?|leaves?|arrives?|reach\w*|is|was|are|runs?|comes?|needs?|at|about)\b",
    r"\b(?:due|deadline is|late|behind|aftershocks?|spreads?|collapses?)$|\b(?:rises?|grows?|increases?|worsens?"
    r"|doubles?|expires?)\b",
    r"\b(?:usually|normally|typically|always|often) (?:sleeps?|go(?:es)?|falls?|stays? up)\b"
    r"|\b(?:wake\w*|woke|alarm|(?:get|got|be|am|are|was|were) up (?:at|by)|get up|got up|breakfast)\b",
    r"\b(?:it|time|clock) is (?:already|now|almost|nearly|just|only|past|about)(?: \w+)?$",
)
# The same, said after the quantity: "ago", "per month", "of sleep".
FACT_AFTER = re.compile(
    r"^(?:ago\b|old\b|overdue|late\b|past due|behind\b|already\b|each\b|per\b|every\b|in a row|so far|(?:has"
    r"|have) (?:already )?passed|left on the (?:clock|lease)|apart\b"
    r"|(?:a|an) (?:day|week|month|year|night|minute)\b|at a time|a time\b|(?:longer|later|earlier|sooner|shorter"
    r"|less|faster|quicker)\b(?! or)|(?:more|better|worse) than (?!enough|fair|reasonable)"
    r"|to (?:think|decide|consider|reflect|consult|discuss|answer|reply|respond|get back to)\b"
    r"|of (?!waiting|wait\b|time|grace|patience|extension|extra|delay|my time|breathing)|experience|drive\b"
    r"|walk\b|trip\b|nap\b|sleep\b|break\b|notice\b|from (?:here|home)"
    r"|(?!you will (?:be paid\b|(?:have|get|receive) (?:your|the|it|every|all)\b))"
    r"(?:you|we|soon|when|they) (?:will|all)\b"
    r"|(?:clause|rule|penalty|penalties|notice|overdue|interest|invoice|warranty|guarantee|late fee|ban|trial)\b)"
)
# A distance, "45 minutes away", is a fact, except where it is those who come that are away.
AWAY = re.compile(r"^away\b")
COMING = re.compile(r"\b(?:i am|we are|(?:help|crew|team|rescuers?|boat|helicopter|ambulance)(?: is| are)?)\b[^,]*$")
# Figures of speech with "a day", "a minute"; and how often something happens: "5 days a week".
IDIOM = _any(
    r"\b(?:call it|twice|once|times|such|what|just|at|day by|good|nice|end of|most of)$|^(?:please )?wait$",
    r"\d [a-z]+s$",
)

# Puts a quantity forward.
OWN = _any(
    r"\b(?:i|we) (?:(?:also|only|just|still|really|now|therefore|hereby|then|\w+ly|must|do|might|may"
    r"|already) )*(?:can|could|will|would|propose|offer|suggest|accept|need|want|ask|request"
    r"|insist|require|agree|have|must|demand|say|prefer|settle|go|take|promise|commit|guarantee|pay|wait|hold|am"
    r"|are|think|believe|expect|hope|got|mean|counter|give|(?:was|were) (?:thinking|hoping|wondering))\b",
    r"\b(?:my|our) (?:\w+ ){0,3}(?:offer|proposal|answer|limit|maximum|minimum|counter|counteroffer|bedtime"
    r"|demand|request|word|number|ask|bid|position|target|line|suggestion|deadline|price)\b",
    r"\b(?:how about|what about|what if|let me|take (?:me|us)|what it takes|as far as|would be|feels right"
    r"|what would you say|let us|make it|make that|give me|give us|grant|allow me|meet|settle|deal|agreed?|accept"
    r"|offer|propose|proposal|counter|final"
    r"|compromise|extend|reduce|shorten|drop|lower|raise|push|cut|bring|move|come|go) ?\b",
    r"\b(?:can|could|would|will) (?:you|we)\b|\byou (?:can|could|will|must|should|need to|have|get|pay|would)\b"
    r"|\bplease\b",
    r"\b(?:at most|at least|at the latest|at the most|up to|no later|within|minimum|maximum|max|tops|by then"
    r"|or nothing|or sooner|or less|instead|down to)\b",
    r"\b(?:is|works?|work|would|sounds|seems|feels)\b(?: (?:\w+ )?)(?:fair|fine|good|ok|okay|possible|doable"
    r"|reasonable|acceptable|work|great|perfect|best|enough|realistic)\b|\bworks?\b",
    r"\b(?:we|team|crew|rescuers?|surgeon|surgery|slot|operation|operate|reach|payment|repay\w*|settled?|in full"
    r"|lights|asleep|sleep|bed|bedtime)\b",
)
