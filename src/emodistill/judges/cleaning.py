"""Text of others, made safe to stand in a prompt: whatever it says, it cannot end its own quotation.

A prompt has structure: lines, tags, brackets, chat markup. A text that brings its own structure can pretend to be the
end of the material, a new example, or another voice. So characters that carry structure become harmless ones that look
alike, everything invisible goes, and a text is one line. No word is changed: what a speaker says, however brazen, is
what the judge has to judge.
"""

import unicodedata

LONGEST = 1500  # characters of one text that a judge is shown
_HARMLESS = str.maketrans(
    {"<": "‹", ">": "›", "[": "(", "]": ")", "{": "(", "}": ")", "|": "¦", "`": "'", "\\": "/", "#": "№"}
)
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn"}  # control, format (zero width, direction), half pairs, private, unassigned


def cleaned(text: str, longest: int = LONGEST) -> str:
    """One line without markup or invisible characters; the end of an over-long text is cut, and says so.

    Compatibility forms (full-width letters and the like) become the plain ones, so that no rule about words is dodged
    by a font.
    """
    shown = "".join(_plain(character) for character in unicodedata.normalize("NFKC", text))
    line = " ".join(shown.translate(_HARMLESS).split())
    for run in ("---", "===", "***", "___"):
        while run in line:
            line = line.replace(run, run[:2])
    return line if len(line) <= longest else f"{line[:longest].rstrip()} … (cut here, {len(text) - longest} more)"


def _plain(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in _INVISIBLE else character
