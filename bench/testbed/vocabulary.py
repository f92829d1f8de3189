"""The tokens of the test bed: characters, an option's last character with its letter, ends and phases."""

import re

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
CLOSER, ANSWER_PREFIX, STEP_SEPARATOR = "</think>", "<answer>", "\n"
CONTROL_TOKENS = (PAD, BOS, EOS, UNK)
PHASE_TOKENS = (CLOSER, ANSWER_PREFIX)
LETTERS = "ABCD"
CHARACTERS = tuple("\n+-=~>?:.0123456789abcdefghijklmnopqrstuvwxyzABCDN")
# The letter of a value is found by one look-up where both are one token. Where they were two, a model had
# first to bring one to the other, and had not learned to in 3,300 steps that taught it everything else.
OPTION_ENDS = tuple(end + letter for end in "0123456789N" for letter in LETTERS)
VOCABULARY = (*CONTROL_TOKENS, *PHASE_TOKENS, *CHARACTERS, *OPTION_ENDS)
TOKEN_ID = {token: index for index, token in enumerate(VOCABULARY)}
_TOKEN = re.compile(f"[0-9N][{LETTERS}]|.", re.DOTALL)


def tokens(text: str) -> list[str]:
    """As the tokenizer splits a text, control and phase tokens apart. `8A` is one token, `8a` two."""
    return _TOKEN.findall(text)
