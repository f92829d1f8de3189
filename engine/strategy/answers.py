"""Finding the answer in what a model wrote: a letter, a number, or the inside of a box.

Each function gives None where it finds none: a guess would look like an answer. Knows nothing of what is
right.
"""

import re
from fractions import Fraction

_PHRASE = r"\b(?:best|correct|final|right)?\s*(?:answer|choice|option)\b\s*(?:is|:|=)+\s*:?\s*"
_WRAP = r"[\s$*_`\"'(\[{]*"  # markup in front of a letter: (B), **B**, $\text{B}$
_LATEX = r"(?:\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\s*\{\s*\(?\s*)*"

_SPOKEN_OF = r"\s+(?:is|are|was|were|can|could|would|seems|may|might|says|refers|and|or)\b"  # "(A) is wrong"


def _letter(letters: str) -> str:
    """One of the letters, standing alone. "A" and "I" are words, too: not before another small word."""
    last = letters[-1]
    return rf"([A-{last}])(?![A-Za-z0-9'])(?!\s+(?!because|since|as\b|and\b|or\b|which\b|with\b)[a-z])"


def stated_choice(text: str, letters: str = "ABCD") -> str | None:
    """The letter that the text says is the answer: of `letters`, which are consecutive from "A".

    The last of "the best answer is B", "Answer: (B)"; else the inside of a box.
    """
    letter = _letter(letters)
    said = re.findall(rf"(?i:{_PHRASE}(?:(?:option|choice)\s+)?){_WRAP}{_LATEX}{_WRAP}{letter}", text)
    if said:
        return str(said[-1])
    inside = boxed(text)
    if inside is None:
        return None
    alone = re.fullmatch(rf"{_WRAP}{_LATEX}{_WRAP}{letter}(?:[^A-Za-z]*|[.:)].*)", inside, re.DOTALL)
    return alone[1] if alone else None


def choice(text: str, letters: str = "ABCD") -> str | None:
    """As `stated_choice`; else the letter that the first line is, or begins with: "B", "(B)", "B. 42"."""
    letter = _letter(letters)
    first = text.strip().partition("\n")[0].strip()
    begins = re.match(rf"{_WRAP}{letter}(?:[\s*_`\"')\]}}$]*$|[*_`\"')\]}}$]*[.:)](?!{_SPOKEN_OF}))", first)
    return stated_choice(text, letters) or (begins[1] if begins else None)


def boxed(text: str) -> str | None:
    """The inside of the last complete box of LaTeX, its braces balanced; None without one."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth = 1
        for place in range(match.end(), len(text)):
            escaped = text[place - 1] == "\\" and text[place - 2 : place] != "\\\\"
            if not escaped:
                depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[match.end() : place].strip() or None
    return None


def expression(text: str) -> str | None:
    """A final mathematical expression: boxed, else behind the last "the final answer is"; LaTeX or plain."""
    inside = boxed(text)
    if inside is not None:
        return inside
    said = re.findall(r"(?i:final\s+answer\s*(?:is|:)+)\s*:?\s*([^\n]+)", text)
    if not said:
        return None
    found = said[-1].partition("I hope it is correct")[0].strip().rstrip(".").strip().strip("$").strip()
    return found or None


_NUMBER = r"[-−]?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:\s?/\s?\d+)?"


def number(text: str) -> str | None:
    """The final number, plainly written ("1234.5", "3/4"): behind ####, boxed, said to be the answer, or
    last.

    Thousands' commas, currency and percent signs go. None for a text without a digit.
    """
    text = re.sub(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}", r"\1/\2", text)
    for part in (_behind(text, "####"), boxed(text), _said(text)):
        if part is not None:
            found = _numbers(part)
            if found:
                return found[0]
    found = _numbers(text)
    return found[-1] if found else None


def value(text: str) -> Fraction | None:
    """The exact value of one plainly written number; None for anything else."""
    found = _numbers(text)
    if len(found) != 1:
        return None
    try:
        return Fraction(found[0])
    except (ValueError, ZeroDivisionError):
        return None


def _behind(text: str, mark: str) -> str | None:
    _, found, rest = text.rpartition(mark)
    return rest if found else None


def _said(text: str) -> str | None:
    said = re.findall(rf"(?i:{_PHRASE})([^\n]*)", text)
    return said[-1] if said else None


def _numbers(text: str) -> list[str]:
    """Every number in a text, in its plain spelling. A hyphen between words or digits is no minus."""
    found = []
    for match in re.finditer(_NUMBER, text):
        raw = match[0]
        if not any(character.isdigit() for character in raw):
            continue
        plain = re.sub(r"[\s,$]", "", raw).replace("−", "-")
        before = text[match.start() - 1] if match.start() else " "
        if plain.startswith("-") and (before.isalnum() or before in ")]}"):
            plain = plain[1:]
        found.append(plain)
    return found
