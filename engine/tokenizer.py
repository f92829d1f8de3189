"""Text to token ids and back, and back again one token at a time without ever splitting a character.

Owns the tokenizer files of a Hugging Face directory; knows nothing of models or prompts. Streaming does not
use tokenizers' DecodeStream: over byte-fallback vocabularies it raises "Invalid prefix encountered" or
contradicts decode() when an invalid byte follows a valid one (1257 of 2000 random sequences of 12 ids,
tokenizers 0.23.3), and it holds text back while it ends in U+FFFD, as that of random weights always may.
"""

import builtins
import codecs
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from engine.config import read_json
from engine.errors import TokenjouleError

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_REPLACEMENT = "\ufffd"
# Character -> byte of byte-level vocabularies: printable bytes stand for themselves, the rest from U+0100 up.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTABLE]
_ALPHABET = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}


class TextStream(Protocol):
    """The text of a row's tokens as it grows. One per row; made by `Tokenizer.stream`."""

    @property
    def pending(self) -> str:
        """What is held back, as it would read if nothing followed. Match stop sequences on pieces + this."""
        ...

    def push(self, token_id: int) -> str:
        """The text that this token makes certain: whole characters, often one word, sometimes nothing."""
        ...

    def finish(self) -> str:
        """The held-back rest; an unfinished character reads U+FFFD."""
        ...


class Tokenizer:
    """A `tokenizers.Tokenizer` with the special tokens of its directory. Immutable; share it between rows."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        replacement_id: int | None = None,
    ) -> None:
        """`replacement_id`: it and all above read U+FFFD; by default unknown ids have no text."""
        backend.no_truncation()  # some tokenizer.json carry a training-time limit
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        self.backend = backend
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.vocab_size = max(backend.get_vocab_size(), max(added, default=-1) + 1)
        self.byte_level = "ByteLevel" in repr(backend.decoder)
        self._replacement_id = replacement_id
        self._added_ids = {token.content: token_id for token_id, token in added.items()}
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.anchor_id = self._find_anchor()
        self.anchor_length = len(self.decode([self.anchor_id]))
        self._bytes_of: dict[int, builtins.bytes] = {}  # kept: every row asks at every token

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """From tokenizer.json and, where present, tokenizer_config.json.

        Whether encoding adds a BOS token is what tokenizer.json's post-processor says. Raises
        `TokenjouleError` when tokenizer.json is missing, unreadable, or lacks the configured BOS or EOS.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            only_spm = (directory / "tokenizer.model").is_file()
            hint = "; its sentencepiece tokenizer.model is not read, convert it first" if only_spm else ""
            raise TokenjouleError(f"{directory} has no tokenizer.json{hint}")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise TokenjouleError(f"{path} is not a tokenizer: {error}") from error
        named = special_tokens(load_tokenizer_config(directory))
        ids = {name: backend.token_to_id(named[name]) for name in ("bos_token", "eos_token") if name in named}
        for name, token_id in ids.items():
            if token_id is None:
                raise TokenjouleError(f"{directory}: {name} {named[name]!r} is not in tokenizer.json")
        return cls(backend, bos_id=ids.get("bos_token"), eos_id=ids.get("eos_token"))

    @classmethod
    def bytes(cls, vocab_size: int) -> "Tokenizer":
        """Token id = byte, for models that have no tokenizer of their own; ids from 256 up read U+FFFD.

        `vocab_size` is the model's: every id the model can give has a text. Raises `ValueError` below 256.
        """
        if vocab_size < 256:
            raise ValueError(f"a byte tokenizer needs a vocabulary of at least 256, not {vocab_size}")
        # Encoding never reaches the entry 256: its character is no part of the byte alphabet.
        backend = tokenizers.Tokenizer(models.BPE(vocab=_ALPHABET | {_REPLACEMENT: 256}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        tokenizer = cls(backend, replacement_id=256)
        tokenizer.vocab_size = vocab_size
        return tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`; special tokens written out in it are recognised.

        `add_special_tokens`: let the post-processor add BOS (and EOS) as the model expects; a rendered chat
        has them already. Raises `TokenjouleError` on a lone surrogate.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise TokenjouleError(f"the text is not valid Unicode: U+{code:04X} at {error.start}") from error
        try:
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
        except Exception as error:  # bare Exception, as for an unknown character without an unk_token
            raise TokenjouleError(f"the tokenizer cannot encode this text: {error}") from error

    def encode_inside(self, text: str) -> list[int]:
        """Ids of `text` for insertion after other tokens, without special tokens.

        Sentencepiece-style tokenizers put a space before every text they encode, which reads as a space too
        many in the middle of a text: `encode` gives two tokens for a newline, this gives one.
        """
        for mark in ("", "\n", "a"):  # more than one, as `text` may merge with a mark
            head = self.encode(mark, add_special_tokens=False)
            ids = self.encode(mark + text, add_special_tokens=False)
            if ids[: len(head)] == head and self.continuation([self.anchor_id], ids[len(head) :]) == text:
                return ids[len(head) :]
        return self.encode(text, add_special_tokens=False)  # a normalizer that changes the text itself

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 read U+FFFD. Nothing is cleaned up."""
        return self.backend.decode(self._known(ids), skip_special_tokens=skip_special_tokens)

    def token_id(self, text: str) -> int | None:
        """Id of one added or special token; None when `text` is ordinary vocabulary, or none at all."""
        return self._added_ids.get(text)

    def stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        """A stream for what follows the prompt; a character the prompt leaves unfinished belongs to it."""
        recent = list(islice(filter(self._has_text, reversed(prompt_ids)), 4))[::-1]
        return _ByteLevelStream(self, recent) if self.byte_level else _TokenStream(self, recent)

    def continuation(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add after the prompt: what a stream gives in total.

        `decode(prompt_ids) + continuation(prompt_ids, ids) == decode(prompt_ids + ids)` for prompts encoded
        from text; after special tokens alone it equals `decode(ids)`.
        """
        stream = self.stream(prompt_ids)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.finish()

    def token_bytes(self, token_id: int) -> "builtins.bytes":
        """What a token contributes, whole characters or a part of one; b"" for special and unknown tokens."""
        if token_id not in self._bytes_of:
            self._bytes_of[token_id] = self._find_bytes(token_id)
        return self._bytes_of[token_id]

    def _find_bytes(self, token_id: int) -> "builtins.bytes":
        if not self._has_text(token_id):
            return b""
        token = self._token(token_id)
        if self.byte_level:
            # The decoder takes a token with any character outside the alphabet (an added token) literally.
            if all(character in _ALPHABET for character in token):
                return b"".join([_ALPHABET[character].to_bytes() for character in token])
            return token.encode()
        fallback = _BYTE_FALLBACK.fullmatch(token)
        return bytes.fromhex(fallback[1]) if fallback else token.encode()

    def is_byte_fallback(self, token_id: int) -> bool:
        return not self.byte_level and _BYTE_FALLBACK.fullmatch(self._token(token_id)) is not None

    def _known(self, ids: Sequence[int]) -> list[int]:
        limit = self._replacement_id
        return list(ids) if limit is None else [min(token_id, limit) for token_id in ids]

    def _token(self, token_id: int) -> str:
        return self.backend.id_to_token(self._known([token_id])[0]) or ""

    def _has_text(self, token_id: int) -> bool:
        return token_id not in self._special_ids and self._token(token_id) != ""

    def _find_anchor(self) -> int:
        """Some token that reads as ordinary text: decoding after it shows how a text continues."""
        for token_id in range(self.vocab_size):
            if self._has_text(token_id) and not self.is_byte_fallback(token_id):
                text = self.decode([token_id])
                if text and _REPLACEMENT not in text:
                    return token_id
        raise TokenjouleError("the tokenizer has no token with text")


class _ByteLevelStream:
    """Tokens are pieces of one byte string: an incremental UTF-8 decoder is all there is to it.

    Python's "replace" and the library's lossy decoding agree: one U+FFFD per maximal part of a character.
    """

    def __init__(self, tokenizer: Tokenizer, recent_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._utf8.decode(b"".join(map(tokenizer.token_bytes, recent_ids)))

    @property
    def pending(self) -> str:
        return self._utf8.getstate()[0].decode("utf-8", "replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _TokenStream:
    """Every token is whole characters, except runs of byte-fallback tokens, which are decoded as one.

    One invalid byte turns a whole run into U+FFFDs, also the characters that were complete before it, so a
    run is held back until an ordinary token ends it. Only the very first token may lose its leading space.
    """

    def __init__(self, tokenizer: Tokenizer, recent_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        utf8.decode(b"".join(map(tokenizer.token_bytes, recent_ids)))
        whole = len(recent_ids) - len(utf8.getstate()[0])  # an unfinished character's tokens are a byte each
        self._before = [tokenizer.anchor_id] if whole else []
        self._skipped = len(tokenizer.decode(self._before))
        self._held = recent_ids[whole:]

    @property
    def pending(self) -> str:
        return self._tokenizer.decode(self._before + self._held)[self._skipped :]

    def push(self, token_id: int) -> str:
        if not self._tokenizer.token_bytes(token_id):
            return ""
        self._held.append(token_id)
        return "" if self._tokenizer.is_byte_fallback(token_id) else self.finish()

    def finish(self) -> str:
        text = self.pending
        if self._held:
            self._before, self._held = [self._tokenizer.anchor_id], []
            self._skipped = self._tokenizer.anchor_length
        return text


def load_tokenizer_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json (older checkpoints); {} without either."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            merged |= read_json(directory / name)
    return merged


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Name -> text of every `*_token` in a tokenizer config, both spellings: "<s>" and {"content": "<s>"}."""
    extra = config.get("extra_special_tokens")
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    texts: dict[str, str] = {}
    for name, value in (named | (extra if isinstance(extra, dict) else {})).items():
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[name] = text
    return texts
