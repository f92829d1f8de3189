"""Where a checkpoint says how it thinks, and what is refused."""

import json
from pathlib import Path

import pytest

from engine.errors import TokenjouleError
from engine.thinking import ThinkingFormat
from engine.tokenizer import Tokenizer

OWN = {"opener": None, "closer": " #### ", "answer_prefix": "", "step_separator": "\n"}
PLAIN = Tokenizer.bytes(256)


def with_think_tokens(*tokens: str) -> Tokenizer:
    backend = Tokenizer.bytes(256).backend
    backend.add_tokens(list(tokens))
    return Tokenizer(backend)


def write(directory: Path, **config: object) -> Path:
    (directory / "generation_config.json").write_text(json.dumps(config))
    return directory


def test_the_extension_key_decides(tmp_path: Path) -> None:
    write(tmp_path, eos_token_id=2, thinking=OWN)
    expected = ThinkingFormat(None, " #### ", "", "\n")
    assert ThinkingFormat.discover(tmp_path, PLAIN) == expected
    assert ThinkingFormat.discover(tmp_path, with_think_tokens("<think>", "</think>")) == expected


def test_think_tokens_are_a_format(tmp_path: Path) -> None:
    tokenizer = with_think_tokens("<think>", "</think>")
    for directory in (tmp_path, write(tmp_path, eos_token_id=2)):
        found = ThinkingFormat.discover(directory, tokenizer)
        assert found == ThinkingFormat("<think>", "</think>", "\n\n", "\n\n")
        assert found is not None
        assert found.closer_ids(tokenizer) == [tokenizer.token_id("</think>")]
        assert found.answer_prefix_ids(tokenizer) == [10, 10]


@pytest.mark.parametrize("tokens", [(), ("<think>",), ("</think>",)])
def test_without_both_tokens_there_is_no_thinking(tmp_path: Path, tokens: tuple[str, ...]) -> None:
    assert ThinkingFormat.discover(tmp_path, with_think_tokens(*tokens) if tokens else PLAIN) is None


def test_words_in_the_ordinary_vocabulary_are_no_format(shared_data: Path) -> None:
    tokenizer = Tokenizer.load(shared_data / "models/stories260K")
    assert ThinkingFormat.discover(shared_data / "models/stories260K", tokenizer) is None


@pytest.mark.parametrize("directory", ["data/tokenizers/minimind", "data/tokenizers/phi_tiny_moe"])
def test_ids_are_for_the_middle_of_a_text(shared_data: Path, directory: str) -> None:
    tokenizer = Tokenizer.load(shared_data / directory)
    found = ThinkingFormat.discover(shared_data / directory, tokenizer)
    assert (found is None) == ("phi" in directory)
    own = ThinkingFormat(None, "</think>", "\n\n", "\n\n")
    ids = [*tokenizer.encode("So 4."), *own.closer_ids(tokenizer), *own.answer_prefix_ids(tokenizer)]
    assert tokenizer.decode(ids) == "So 4.</think>\n\n"


@pytest.mark.parametrize(
    ("thinking", "message"),
    [
        ({**OWN, "opner": None, "end": ""}, "thinking: unknown opner, end"),
        ({"opener": None, "closer": "x"}, "thinking: missing answer_prefix, step_separator"),
        ({**OWN, "closer": None, "step_separator": 3}, "thinking: wrong value for closer, step_separator"),
        ({**OWN, "closer": ""}, "thinking: wrong value for closer"),
        (["<think>"], "thinking must be an object with opener, closer, answer_prefix, step_separator"),
        (None, "thinking must be an object"),
    ],
)
def test_malformed_formats_are_refused_by_key(tmp_path: Path, thinking: object, message: str) -> None:
    with pytest.raises(TokenjouleError, match=rf"generation_config\.json: {message}"):
        ThinkingFormat.discover(write(tmp_path, thinking=thinking), PLAIN)
