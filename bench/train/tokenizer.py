"""The test bed's tokenizer.json: characters, options' ends, closer and answer prefix.

Knows the vocabulary of the test bed and the `tokenizers` library, nothing of the model.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from bench.testbed.vocabulary import BOS, CONTROL_TOKENS, EOS, OPTION_ENDS, PAD, PHASE_TOKENS, TOKEN_ID, UNK


def build_tokenizer() -> Tokenizer:
    """Splits as `bench.testbed.vocabulary.tokens` does, `<bos>` in front; decoding gives the text back.

    Spaces are dropped; an unknown character is `<unk>`.
    `<bos>`, `<eos>`, `<pad>`, `<unk>` are special and vanish from decoded text on request; the closer
    and the answer prefix are not, because a reader must see where thinking ends.
    """
    tokenizer = Tokenizer(
        models.BPE(vocab=dict(TOKEN_ID), merges=[(end[0], end[1]) for end in OPTION_ENDS], unk_token=UNK)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "")
    # Without a decoder the library joins tokens with a space.
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PHASE_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, TOKEN_ID[BOS])]
    )
    return tokenizer


def write_tokenizer(directory: Path, *, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json. `max_length`: the model's context in tokens."""
    build_tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
