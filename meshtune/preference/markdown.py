"""A model's answer as HTML that can do nothing: sanitised Markdown with code blocks and tables.

HTML in the answer is shown as text. There are no images and no other outside content; links lead to http and https
only, and do not say where they were followed from. Headings go below those of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

LONGEST = 20_000  # characters of Markdown; what is longer is shown as it was written, since nesting may cost much time


def render(text: str) -> str:
    """HTML of an answer, to stand inside a block that says `dir="auto"`."""
    if not text.strip():
        return '<p class="none">(This answer is empty.)</p>\n'
    if len(text) > LONGEST:
        return f'<div class="plain">{escapeHtml(text)}</div>\n'
    html: str = _PARSER.render(text)
    return html


def _safe_link(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


class _Renderer(RendererHTML):
    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<pre tabindex="0"><code>{escapeHtml(tokens[idx].content)}</code></pre>\n'

    code_block = fence

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<{_lower(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"</{_lower(tokens[idx])}>\n"

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        token.attrs = {"href": token.attrs["href"], "rel": "noopener noreferrer nofollow", "target": "_blank"}
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<div class="table" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "<th>"  # without the style of an aligned column, which the page's policy would refuse

    def td_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "<td>"


def _lower(token: Token) -> str:
    return f"h{min(int(token.tag[1]) + 2, 6)}"


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"]).disable(["image", "html_inline", "html_block", "reference"])
    parser.validateLink = _safe_link  # type: ignore[method-assign]  # the way that the library documents
    return parser


_PARSER = _parser()
