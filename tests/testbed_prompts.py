"""The test bed's prompts as a reader finds them: what is asked, and its options. Knows no generator."""

import re

# By mark: what is asked, a sign behind it, one value of the options, what ends them, and what stands behind.
_SPELLING = {
    "=": (r"(?:[a-h][+-][1-9]){1,8}>", r"", r"\d\d", r">", r"\d\d="),
    "~": (r"\d{4}", r"", r"\d", r"", r"~"),
    "?": (r"[1-9]{3,4}>\d", r"\+", r"[1-9]{2}|N", r"", r"\?"),
    ":": (r"[a-z]{3}", r"", r"\d", r"", r":"),
}


def taken_apart(prompt: str) -> tuple[str, dict[str, str]]:
    """The question without options and mark, and what each letter stands for; fails on any other spelling."""
    asked, sign, value, end, behind = _SPELLING[prompt[-1]]
    options = "".join(f"({value}){letter}" for letter in "ABCD")
    found = re.fullmatch(f"({asked}){sign}(?:{options}{end})?({behind})", prompt)
    assert found, prompt
    first, *values, last = found.groups()
    return first + last[:-1], dict(zip("ABCD", values, strict=True)) if values[0] else {}
