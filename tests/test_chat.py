"""Rendered chats against transformers', and what a template of others may not do."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from engine.chat import ChatTemplate
from engine.errors import TokenjouleError
from engine.tokenizer import Tokenizer

NOON = datetime(2025, 3, 1, 12, 0)
USER: dict[str, object] = {"role": "user", "content": "Is 5 < 7 & 'yes'? — 東京 🦙"}
CHATS: list[list[dict[str, object]]] = [
    [USER],
    [{"role": "system", "content": "Be brief.\n"}, USER],
    [
        USER,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": " And 8? "},
    ],
    [USER, {"role": "assistant", "content": "Yes.", "tool_calls": None}, {"role": "user", "content": "Why?"}],
]
TEMPLATES = [
    "HuggingFaceTB-SmolLM3-3B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
]
# What the environment has to offer: loop controls, tojson's options, dates, the generation tag, scopes.
FEATURES = """
{%- set shown = namespace(count=0) %}
  {% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% set shown.count = shown.count + 1 %}
{{ bos_token }}{{ message | tojson }}{{ message | tojson(indent=2, sort_keys=true) }}
    {% generation %}{% set inner = 1 %}{{ message['content'] }}{% endgeneration %}{{ inner is defined }}
    {% if loop.index > 1 %}{% break %}{% endif %}
  {% endfor %}
{{ shown.count }} {{ strftime_now('%d %b %Y') }} {{ tools }} {{ documents is none }}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}{{ eos_token }}"""


def write(directory: Path, **config: object) -> Path:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def fixed(directory: Path) -> ChatTemplate:
    return ChatTemplate.load(directory, now=lambda: NOON)


def assert_equals_transformers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same text and same ids as transformers for every chat, at the same (frozen) time."""
    transformers = pytest.importorskip("transformers")
    from transformers.utils import chat_template_utils

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Frozen":
            return cls(*NOON.timetuple()[:6])

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    ours, template = Tokenizer.load(directory), fixed(directory)
    for chat in CHATS:
        text = template.render(chat)
        assert text == theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ours.encode(text, add_special_tokens=False) == ids


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@pytest.mark.parametrize("where", ["config", "jinja"])
def test_templates_equal_transformers(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, where: str
) -> None:
    folder = shared_data / "data/tokenizers"
    source = (
        FEATURES if name is None else (folder / f"chat_templates/{name}.jinja").read_text(encoding="utf-8")
    )
    (tmp_path / "tokenizer.json").write_bytes((folder / "minimind/tokenizer.json").read_bytes())
    tokens = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"}}
    if where == "config":
        write(tmp_path, chat_template=source, tokenizer_class="PreTrainedTokenizerFast", **tokens)
    else:
        write(tmp_path, chat_template="overruled", tokenizer_class="PreTrainedTokenizerFast", **tokens)
        (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    assert_equals_transformers(tmp_path, monkeypatch)


@pytest.mark.parametrize("directory", ["data/tokenizers/minimind", "data/tokenizers/phi_tiny_moe"])
def test_checkpoints_equal_transformers(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    assert_equals_transformers(shared_data / directory, monkeypatch)


def test_llama3_chat_is_encoded_without_a_second_bos(shared_data: Path) -> None:
    directory = shared_data / "models/llama3-tokenizer"
    text = fixed(directory).render([{"role": "user", "content": "This is a test sentence."}])
    assert "Today Date: 01 Mar 2025" in text
    ids = Tokenizer.load(directory).encode(text, add_special_tokens=False)
    assert ids.count(128000) == 1
    assert ids[0] == 128000
    user = [128006, 882, 128007, 271, 2028, 374, 264, 1296, 11914, 13, 128009]  # from Meta's own tests
    assert ids[-15:] == [*user, 128006, 78191, 128007, 271]


def test_list_of_templates_means_the_default_one(tmp_path: Path) -> None:
    tools = {"name": "tool_use", "template": "tools"}
    write(tmp_path, chat_template=[tools, {"name": "default", "template": "{{ messages[0].content }}"}])
    assert fixed(tmp_path).render([USER]) == USER["content"]
    write(tmp_path, chat_template=[tools])
    with pytest.raises(TokenjouleError, match="has no chat template"):
        fixed(tmp_path)


def test_no_template(tmp_path: Path) -> None:
    with pytest.raises(TokenjouleError, match="has no chat template"):
        fixed(tmp_path)
    write(tmp_path, bos_token="<s>", chat_template=None)
    with pytest.raises(TokenjouleError, match="has no chat template"):
        fixed(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ strftime_now.__globals__.items() }}",
        "{{ raise_exception.__code__.co_consts }}",
        "{{ messages.__class__() }}",
        "{{ (''|attr('__class__'))() }}",
        "{{ dict.mro() }}",
        "{{ '{0.__class__.__base__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ range(10 ** 9) | length }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_sandbox_refuses(source: str) -> None:
    with pytest.raises(TokenjouleError, match=r"^chat template: "):
        ChatTemplate(source).render([USER])


def test_what_is_out_of_bounds_reads_as_nothing() -> None:
    assert ChatTemplate("[{{ messages.__class__ }}{{ strftime_now.__globals__ }}]").render([USER]) == "[]"


def test_messages_are_not_the_templates_to_change() -> None:
    message = dict(USER)
    with pytest.raises(TokenjouleError, match="refused by the sandbox"):
        ChatTemplate("{{ messages[0].clear() }}").render([message])
    assert message == USER


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("a\n{% if %}", r"^chat template, line 2: Expected an expression"),
        ("{{ raise_exception('Roles must\nalternate') }}", r"^chat template: Roles must alternate$"),
        ("{{ nothing.at_all }}", r"^chat template: 'nothing' is undefined$"),
        ("{{ 1 / 0 }}", r"^chat template: division by zero$"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"^chat template: maximum recursion depth"),
    ],
)
def test_errors_are_one_clear_line(source: str, line: str) -> None:
    with pytest.raises(TokenjouleError, match=line) as caught:
        ChatTemplate(source).render([USER])
    assert "\n" not in str(caught.value)
