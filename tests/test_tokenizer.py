"""Text ↔ ids against llama.cpp's vectors and transformers, and the promise of streaming on any ids at all."""

import functools
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from engine.errors import TokenjouleError
from engine.tokenizer import Tokenizer

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    " two leading  spaces",
    "  indent\n\n\ttab \r\n",
    "naïve café, 東京タワー 🦙🚀 ½ — “quoted”",
    "I don't know . Do you ?",
    "",
]
ON_DISK = {
    "llama3": "models/llama3-tokenizer",
    "minimind": "data/tokenizers/minimind",
    "phi": "data/tokenizers/phi_tiny_moe",
    "stories": "models/stories260K",
}


def byte_fallback_tokenizer() -> Tokenizer:
    """A Llama-2-style vocabulary in small: <unk> <s> </s>, 256 byte tokens, some pieces."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", "a", "b", "é", "▁a", "▁▁", "\ufffd", "東"]
    vocab = {name: token_id for token_id, name in enumerate(names)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, [("▁", "a"), ("▁", "▁")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(["<think>", "</think>"])
    return Tokenizer(backend, bos_id=1, eos_id=2)


def byte_level_tokenizer() -> Tokenizer:
    """Bytes, tokens that end or begin inside a character, and added tokens outside the byte alphabet."""
    backend = tokenizers.Tokenizer.from_str(Tokenizer.bytes(256).backend.to_str())
    document = json.loads(backend.to_str())
    for pair in (("Ġ", "ð"), ("ð", "Ł"), ("¦", "Ļ"), ("Ł", "¦"), ("Ġ", "a")):
        document["model"]["vocab"]["".join(pair)] = len(document["model"]["vocab"])
        document["model"]["merges"].append(list(pair))
    backend = tokenizers.Tokenizer.from_str(json.dumps(document))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.add_tokens(["<think>", "<｜é▁", " x"])
    return Tokenizer(backend, bos_id=backend.token_to_id("<s>"), eos_id=backend.token_to_id("</s>"))


load = functools.cache(Tokenizer.load)  # 0.5 s for Llama 3's
BUILT = {
    "byte-fallback": byte_fallback_tokenizer,
    "byte-level": byte_level_tokenizer,
    "bytes": lambda: Tokenizer.bytes(1000),
}


@pytest.fixture(scope="module", params=[*BUILT, "minimind", "phi", "stories"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param in BUILT:
        return BUILT[request.param]()
    return load(request.getfixturevalue("shared_data") / ON_DISK[request.param])


@functools.cache
def partial_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that are not whole characters: where streaming goes wrong, and rare among all ids."""
    found = []
    for token_id in range(tokenizer.vocab_size):
        text = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        if "\ufffd" in text or tokenizer.is_byte_fallback(token_id):
            found.append(token_id)
    return found


def id_lists(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    anything = st.integers(0, tokenizer.vocab_size + 3)  # the last few are unknown to it
    return st.lists(st.sampled_from(partial_ids(tokenizer)) | anything, max_size=24)


def test_stream_equals_decode_after_every_token(tokenizer: Tokenizer) -> None:
    prompt = [] if tokenizer.bos_id is None else [tokenizer.bos_id, tokenizer.bos_id]

    @settings(max_examples=100, deadline=None)
    @given(id_lists(tokenizer))
    def check(ids: list[int]) -> None:
        stream = tokenizer.stream(prompt)
        shown = ""
        for count, token_id in enumerate(ids, start=1):
            shown += stream.push(token_id)
            assert shown + stream.pending == tokenizer.decode(ids[:count])
        assert shown + stream.finish() == tokenizer.decode(ids) == tokenizer.continuation(prompt, ids)

    check()


def test_stream_continues_a_prompt_cut_anywhere(tokenizer: Tokenizer) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.text(st.sampled_from("ab éé東🦙\n."), min_size=1, max_size=12), st.integers(0, 40))
    def check(text: str, cut: int) -> None:
        ids = tokenizer.encode(text)
        prompt, rest = ids[:cut], ids[cut:]
        added = tokenizer.continuation(prompt, rest)
        assert "\ufffd" not in added
        before = tokenizer.decode(prompt)
        # Cut inside a character, the continuation gives it as a whole. Byte-level, the last token may also
        # end the text before it; with byte fallback the whole run reads U+FFFD, also what was complete.
        while "\ufffd" in before:
            prompt = prompt[:-1]
            before = before.rstrip("\ufffd") if tokenizer.byte_level else tokenizer.decode(prompt)
        assert before + added == text

    check()


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.stream([])
    shown = ""
    for token_id in ids:
        shown += stream.push(token_id)
        assert text.startswith(shown)
    assert shown + stream.finish() == text


def test_a_prompt_keeps_the_leading_space_of_what_follows() -> None:
    tokenizer = byte_fallback_tokenizer()
    word = tokenizer.encode("a", add_special_tokens=False)
    assert [tokenizer.backend.id_to_token(token_id) for token_id in word] == ["▁a"]
    assert tokenizer.continuation(tokenizer.encode("b"), word) == " a"
    assert tokenizer.continuation([1], word) == "a"  # after <s> alone the space is the tokenizer's own


def test_an_unfinished_character_of_the_prompt_is_completed() -> None:
    for tokenizer in (byte_fallback_tokenizer(), Tokenizer.bytes(256)):
        ids = tokenizer.encode("a🦙")
        assert tokenizer.continuation(ids[:-2], ids[-2:]) == "🦙"
        assert tokenizer.continuation(ids[-4:-2], ids[-2:]) == "🦙"


def test_byte_runs_are_held_back_and_pending_shows_them() -> None:
    tokenizer = byte_fallback_tokenizer()
    stream = tokenizer.stream(tokenizer.encode("a"))
    newline, invalid = 3 + 0x0A, 3 + 0xFF
    assert (stream.push(newline), stream.pending) == ("", "\n")
    assert (stream.push(invalid), stream.pending) == ("", "\ufffd\ufffd")  # as decode() has it: both
    assert stream.push(tokenizer.encode("b")[-1]) == "\ufffd\ufffdb"
    assert stream.finish() == ""


def test_byte_level_text_is_shown_at_once() -> None:
    stream = Tokenizer.bytes(300).stream([])
    assert [stream.push(token_id) for token_id in (0xFF, 0xC3, 0xA9, 299, 0xE2)] == [
        "\ufffd",
        "",
        "é",
        "\ufffd",
        "",
    ]
    assert stream.finish() == "\ufffd"


def test_the_start_of_a_surrogate_is_two_invalid_bytes() -> None:
    # Python's decoder waits for a third byte after ED A0, as some codecs allow surrogates; UTF-8 never does.
    tokenizer = Tokenizer.bytes(256)
    stream = tokenizer.stream([])
    assert (
        stream.push(0xED) + stream.push(0xA0) + stream.pending
        == "\ufffd\ufffd"
        == tokenizer.decode([0xED, 0xA0])
    )


def test_special_tokens_have_no_text_and_do_not_break_a_character() -> None:
    tokenizer = byte_fallback_tokenizer()
    first, second = tokenizer.encode("ü")[-2:]
    assert tokenizer.continuation([1], [first, 2, second]) == "ü"
    think = tokenizer.token_id("<think>")
    assert think is not None
    assert tokenizer.continuation([1], [think, 2]) == "<think>"  # added, but not special


def test_byte_tokenizer() -> None:
    tokenizer = Tokenizer.bytes(128256)
    assert tokenizer.encode("né\ufffd") == list("né\ufffd".encode())
    assert tokenizer.decode([0x41, 256, 128255, 0x42]) == "A\ufffd\ufffdB"
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (128256, None, None)
    with pytest.raises(ValueError, match="at least 256, not 255"):
        Tokenizer.bytes(255)


@pytest.mark.parametrize("text", ["\n\n", " So", "So", "</think>\n\n", "The answer is", "é"])
def test_encode_inside_adds_exactly_the_text(tokenizer: Tokenizer, text: str) -> None:
    prompt = tokenizer.encode("a")
    ids = tokenizer.encode_inside(text)
    assert tokenizer.decode([*prompt, *ids]) == "a" + text


def test_token_id_knows_added_tokens_only() -> None:
    tokenizer = byte_fallback_tokenizer()
    assert tokenizer.token_id("<s>") == 1
    assert tokenizer.token_id("</think>") == tokenizer.vocab_size - 1
    assert tokenizer.token_id("a") is None
    assert tokenizer.token_id("<tool>") is None


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(TokenjouleError, match=r"not valid Unicode: U\+DC80 at 1"):
        Tokenizer.bytes(256).encode("a\udc80")


@pytest.mark.parametrize(
    ("name", "vectors"), [("llama3", "llama-bpe"), ("phi", "phi-3"), ("phi", "llama-spm")]
)
def test_llama_cpp_vectors(shared_data: Path, name: str, vectors: str) -> None:
    base = shared_data / "data/tokenizers/vectors" / f"ggml-vocab-{vectors}.gguf"
    texts = Path(f"{base}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{base}.out").read_text().split("\n")
    assert len(texts) == len(lines) == 47
    tokenizer = load(shared_data / ON_DISK[name])
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == [int(word) for word in line.split()]
        assert tokenizer.decode(ids) == text


def test_llama3_special_tokens(shared_data: Path) -> None:
    tokenizer = load(shared_data / ON_DISK["llama3"])
    assert tokenizer.encode("This is a test sentence.") == [128000, 2028, 374, 264, 1296, 11914, 13]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (128256, 128000, 128009)
    assert tokenizer.encode("<|eot_id|>", add_special_tokens=False) == [tokenizer.token_id("<|eot_id|>")]


@pytest.mark.parametrize("name", ON_DISK)
def test_equals_transformers(shared_data: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    directory = shared_data / ON_DISK[name]
    # transformers 5 rebuilds the class LlamaTokenizer from the vocabulary, with another pre-tokenizer than
    # phi's tokenizer.json (" a" becomes ▁a, not ▁▁a); llama.cpp's vectors, above, side with the file.
    kind = transformers.PreTrainedTokenizerFast if name == "phi" else transformers.AutoTokenizer
    theirs = kind.from_pretrained(directory)
    ours = load(directory)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    for text in [*TEXTS, f"{theirs.eos_token}a {theirs.bos_token}"]:
        for special in (True, False):
            assert ours.encode(text, add_special_tokens=special) == theirs.encode(
                text, add_special_tokens=special
            )

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(0, ours.vocab_size - 1), max_size=30), st.booleans())
    def check(ids: list[int], skip: bool) -> None:
        expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert ours.decode(ids, skip_special_tokens=skip) == expected

    check()


def save(directory: Path, config: object | None = None) -> Path:
    byte_fallback_tokenizer().backend.save(str(directory / "tokenizer.json"))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_load_reads_both_spellings_of_special_tokens(tmp_path: Path) -> None:
    plain = Tokenizer.load(save(tmp_path))
    assert (plain.bos_id, plain.eos_id) == (None, None)
    named = Tokenizer.load(
        save(tmp_path, {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None})
    )
    assert (named.bos_id, named.eos_id) == (1, 2)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert Tokenizer.load(tmp_path).eos_id == 2


def test_load_drops_truncation_and_padding(tmp_path: Path) -> None:
    backend = byte_fallback_tokenizer().backend
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path).encode("abbb")) == 4


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TokenjouleError, match=r"has no tokenizer\.json$"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenjouleError, match=r"has no tokenizer\.json; .*tokenizer\.model is not read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TokenjouleError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenjouleError, match=r"eos_token '<\|im_end\|>' is not in tokenizer\.json"):
        Tokenizer.load(save(tmp_path, {"eos_token": "<|im_end|>"}))
    with pytest.raises(TokenjouleError, match=r"tokenizer_config\.json does not hold a JSON object"):
        Tokenizer.load(save(tmp_path, ["not", "an", "object"]))
