"""The chat template of a checkpoint: messages to the text that its model was trained on.

Templates come with the weights and are programs, so they run in jinja2's immutable sandbox: no attribute that
starts with an underscore, no changing of what they are given. Same environment as transformers', so that the
rendered text is the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import TokenjouleError
from engine.tokenizer import load_tokenizer_config, special_tokens


class ChatTemplate:
    """One compiled template with the special tokens it may name."""

    def __init__(
        self,
        source: str,
        *,
        tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`tokens`: variables such as bos_token; `now`: the clock behind strftime_now.

        Raises `TokenjouleError` when the source is not a template.
        """
        self.tokens = dict(tokens or {})
        try:
            self._template = _environment(now).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TokenjouleError(f"chat template, line {error.lineno}: {_one_line(error)}") from error

    @classmethod
    def load(cls, directory: Path, *, now: Callable[[], datetime] = datetime.now) -> "ChatTemplate":
        """From chat_template.jinja, else from `chat_template` in tokenizer_config.json.

        A list of named templates means the one named "default". Raises `TokenjouleError` when there is none.
        """
        config = load_tokenizer_config(directory)
        path = directory / "chat_template.jinja"
        try:
            source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenjouleError(f"cannot read {path}: {error}") from error
        if isinstance(source, list):
            entries = [entry for entry in source if isinstance(entry, dict)]
            source = {entry.get("name"): entry.get("template") for entry in entries}.get("default")
        if not isinstance(source, str):
            raise TokenjouleError(f"{directory} has no chat template")
        return cls(source, tokens=special_tokens(config), now=now)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Prompt text for `messages` ({"role": …, "content": …}), ending where the assistant is to speak.

        The template writes BOS itself: encode the result with `add_special_tokens=False`. Raises
        `TokenjouleError` with the template's own words when it refuses the messages, or when it fails.
        """
        try:
            return self._template.render(
                # A key without a value reads as absent: templates test `is defined`, and would print "None".
                messages=[{k: v for k, v in message.items() if v is not None} for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.tokens,
            )
        except jinja2.exceptions.SecurityError as error:
            raise TokenjouleError(f"chat template: refused by the sandbox: {_one_line(error)}") from error
        except Exception as error:  # the template is a program of others: it may fail with anything
            raise TokenjouleError(f"chat template: {_one_line(error)}") from error


class _GenerationTag(Extension):
    """{% generation %}…{% endgeneration %} marks what training learns from; here it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: now().strftime(layout)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """In place of jinja2's own filter, which escapes <, > and & for HTML and sorts the keys."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
