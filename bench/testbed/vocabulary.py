"""The tokens of the test bed: one per character of its texts, and what marks phases and ends."""

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
CLOSER, ANSWER_PREFIX, STEP_SEPARATOR = "</think>", "<answer>", "\n"
CONTROL_TOKENS = (PAD, BOS, EOS, UNK)
PHASE_TOKENS = (CLOSER, ANSWER_PREFIX)
CHARACTERS = tuple("\n+-=~>?:.0123456789abcdefghijklmnopqrstuvwxyzABCDN")
VOCABULARY = (*CONTROL_TOKENS, *PHASE_TOKENS, *CHARACTERS)
TOKEN_ID = {token: index for index, token in enumerate(VOCABULARY)}
