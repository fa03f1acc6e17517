"""Chat templates as transformers renders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def render(
    template: str,
    special_tokens: Mapping[str, str],
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Returns the text of a conversation.

    Args:
        template: The template's text.
        special_tokens: `bos_token` and the like, visible to the template.
        messages: The conversation.
        tools: Tools with their JSON Schemas, or None.
        add_generation_prompt: Whether the assistant's next turn begins at the end.

    Raises:
        RenderingError: If the template is broken or refuses the conversation.
    """
    from jinja2 import TemplateError
    from transformers.utils import chat_template_utils

    # Its annotation says that it returns text; it returns texts and indices.
    render_jinja_template: Any = chat_template_utils.render_jinja_template
    try:
        rendered, _ = render_jinja_template(
            conversations=[list(messages)],
            tools=None if tools is None else list(tools),
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RenderingError(f"{type(error).__name__}: {error}") from None
    return str(rendered[0])


class RenderingError(ValueError):
    """A template did not render; the caller says which one and what to do."""
