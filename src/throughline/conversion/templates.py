"""Which chat template a converted checkpoint gets, and the refusal of one that loses what a conversation holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.errors import CheckpointError, ConfigError
from throughline.conversion.chatml import TURN_END, TURN_START, chatml
from throughline.conversion.rendering import RenderingError, render
from throughline.conversion.template_check import losses

CHATML, KEEP = "chatml", "keep"
FILE_NAME = "chat_template.jinja"
_SYSTEM_TURN = re.compile(rf"{re.escape(TURN_START)}system\n(.*?){re.escape(TURN_END)}", re.DOTALL)


@dataclass(frozen=True)
class TemplateSpec:
    """What the user asks for.

    Attributes:
        choice: `chatml` (ours), `keep` (the model's own) or the path of a template file.
        system_prompt: With `chatml`, the system message of conversations that have none; None takes the one
            that the model's own template writes.
    """

    choice: str = KEEP
    system_prompt: str | None = None


@dataclass(frozen=True)
class ModelSide:
    """What the model brings to the choice.

    Attributes:
        where: File or folder, for errors.
        template: Its own template; empty if it has none.
        special_tokens: `bos_token` and the like, visible to templates.
        has_turn_tokens: Whether ChatML's turn marks are tokens of its vocabulary.
        begin: Token that its texts start with; empty for none.
    """

    where: str
    template: str
    special_tokens: Mapping[str, str]
    has_turn_tokens: bool
    begin: str


@dataclass(frozen=True)
class Template:
    """The chosen template: its text, where it is from, and the system message it writes unasked."""

    text: str
    origin: str
    default_system: str


def choose(spec: TemplateSpec, model: ModelSide) -> Template:
    """Returns the template, once it is sure that it loses nothing.

    Raises:
        ConfigError: If `system_prompt` is given where it has no effect.
        CheckpointError: If the choice does not fit the model, or the template loses something; lists all of it.
    """
    if spec.choice == CHATML:
        return _checked(_chatml(spec, model), model)
    if spec.system_prompt is not None:
        raise ConfigError(
            "a system prompt can be set in our own template only",
            where="model.system_prompt",
            seen=f"model.chat_template={spec.choice}",
            fix="set model.chat_template=chatml, or leave model.system_prompt out",
        )
    if spec.choice == KEEP:
        if not model.template:
            raise CheckpointError("the model has no chat template", where=model.where, fix=_fix(model))
        text, origin = model.template, "the model's own"
    else:
        text, origin = _own_file(Path(spec.choice)), Path(spec.choice).name
    return _checked(Template(text, origin, default_system(text, model.special_tokens)), model)


def default_system(template: str, special_tokens: Mapping[str, str]) -> str:
    """Returns the system message that a ChatML template writes when a conversation has none; empty if it has none."""
    try:
        text = render(template, special_tokens, [{"role": "user", "content": "x"}])
    except RenderingError:
        return ""
    found = _SYSTEM_TURN.search(text)
    return found[1].strip() if found else ""


def _chatml(spec: TemplateSpec, model: ModelSide) -> Template:
    if not model.has_turn_tokens:
        raise CheckpointError(
            f"ChatML's turn marks {TURN_START} and {TURN_END} are no tokens of this model",
            where=model.where,
            seen="model.chat_template=chatml",
            fix="set model.chat_template=keep, or to the path of a template for its tokens",
        )
    system = spec.system_prompt
    if system is None:
        system = default_system(model.template, model.special_tokens) if model.template else ""
    begin = "" if model.begin == TURN_START else model.begin
    return Template(chatml(system, begin=begin), "ChatML with Hermes tool calls (Throughline)", system)


def _own_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "chat template cannot be read",
            where="model.chat_template",
            seen=f"{path} ({error})",
            fix="give chatml, keep, or the path of a Jinja file",
        ) from None


def _checked(template: Template, model: ModelSide) -> Template:
    lost = losses(template.text, model.special_tokens)
    if lost:
        raise CheckpointError(
            f"chat template loses {len(lost)} thing(s) that a conversation holds",
            where=f"{model.where}, template: {template.origin}",
            seen="; ".join(lost),
            fix=_fix(model),
        )
    return template


def _fix(model: ModelSide) -> str:
    if model.has_turn_tokens:
        return "set model.chat_template=chatml, or to the path of a template that keeps them"
    return "set model.chat_template to the path of a template that keeps them"
