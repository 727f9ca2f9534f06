"""Conversations through the model's chat template, and where in its text the answers stand.

An answer begins where the template's prompt for it ends (all turns before it, with the generation prompt), or later at
the template's own `{% generation %}` mark; it ends with the token that ends its turn, marked or not.

Guarantees: each answer is learned after exactly the text that the model is asked with. Where a template shows earlier
turns otherwise once more turns follow (drops thoughts, moves the system turn), no single text can have that for all
answers: the conversation is then unrolled into one row an answer. So it is where the template ends no turn: the end
token is put behind each answer, which only a row's end can have.
Limits: turns after the last answer are left out, and an answer that opens the conversation is shown, not learned:
nothing asks for it. What a template silently leaves out is not noticed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from meshtune.data.rows import Conversation
from meshtune.data.tokens import Rendered
from meshtune.errors import Fault, InputError, nearest, refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainOn = Literal["all", "last", "everything"]
Turns = Sequence[Mapping[str, Any]]

_MARK = "qzwx7031"
_QUESTION = {"role": "user", "content": _MARK}
_ANSWER = {"role": "assistant", "content": _MARK * 2}
_THOUGHT = {"role": "assistant", "content": f"<think>\n{_MARK}\n</think>\n\n{_MARK}"}
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Arguments of `apply_chat_template` that are no template's: they are set here.
_OWN = {
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
    "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens",
    "tokenize", "tokenizer_kwargs", "tools", "truncation",
}  # fmt: skip


class Refused(ValueError):
    """The template cannot show a conversation; the message says why."""


@dataclass(frozen=True)
class Chat:
    """The chat template of one model.

    Attributes:
        arguments: given to the template. train_on: which answers are learned, or every token.
        tail: what the template puts behind the last answer. unread: how many characters of it come after the end of
            the turn: white space, or an end of the whole text, which nobody reads.
        closing: the end token, where the template itself ends no turn; else "".
        marked: whether the template marks what the assistant says.
    """

    tokenizer: PreTrainedTokenizerBase
    arguments: Mapping[str, Any]
    train_on: TrainOn
    tail: str = ""
    unread: int = 0
    closing: str = ""
    marked: bool = False

    def render(self, conversation: Conversation) -> list[Rendered]:
        """One row, or several where the conversation is unrolled. Raises Refused."""
        turns, tools = conversation.turns, conversation.tools
        answers = [number for number, turn in enumerate(turns) if number and turn["role"] == "assistant"]
        learned = [number for number in answers if number not in conversation.unlearned]
        if not learned:
            raise Refused("no answer that is learned comes after a question: remove the row")
        if self.train_on == "everything":
            text, start = self._answer(turns, answers[-1], tools)
            empty = all(_is_empty(turns[number]) for number in learned)
            shown = answers[-1] + 1
            return [
                Rendered(text + self.closing, (), start, brings_first=True, everything=True, empty=empty, shown=shown)
            ]
        if self.train_on == "last":
            learned = learned[-1:]
        found = {number: self._answer(turns, number, tools) for number in learned}
        whole, _ = found[learned[-1]]
        if not self.closing and all(whole.startswith(text) for text, _ in found.values()):
            return [self._row(turns, found)]
        return [self._row(turns, {number: answer}) for number, answer in found.items()]

    def _row(self, turns: Turns, found: Mapping[int, tuple[str, int]]) -> Rendered:
        """A row that ends with the last of these answers, each as text and start, and learns all that are not empty."""
        last = max(found)
        text, start = found[last][0] + self.closing, found[last][1]
        spans = {
            number: (begin, len(text) if number == last else len(shown)) for number, (shown, begin) in found.items()
        }
        filled = tuple(span for number, span in spans.items() if not _is_empty(turns[number]))
        return Rendered(text, filled, start, brings_first=True, empty=not filled, shown=last + 1)

    def _answer(self, turns: Turns, number: int, tools: list[Any] | None) -> tuple[str, int]:
        """The text through the end of that assistant turn, and where the answer begins in it."""
        shown = turns[: number + 1]
        whole = self.text(shown, tools)
        text = whole[: len(whole) - self.unread] if whole.endswith(self.tail) else whole
        prompt = self.text(turns[:number], tools, generation_prompt=True)
        start = len(prompt) if whole.startswith(prompt) else None
        if self.marked:
            marks = self._marks(shown, tools)
            if len(marks) == sum(turn["role"] == "assistant" for turn in shown):
                start = max(marks[-1], start or 0)  # some marks begin inside the prompt: that is never learned
        if start is None:
            raise Refused(
                f"the chat template does not go on from its prompt with the answer of turn {number + 1} as it stands "
                "(thoughts in the answer, say, and `enable_thinking: false`): change the answer, or "
                "`data.template_arguments`"
            )
        return text, start

    def text(self, turns: Turns, tools: list[Any] | None = None, *, generation_prompt: bool = False) -> str:
        """The template's text, with the generation prompt where wanted. Raises Refused with the template's words."""
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(turn) for turn in turns],
                tools,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **self.arguments,
            )
        # A template is a program of its own: it raises what it likes.
        except Exception as error:
            raise Refused(f"the model's chat template refuses it: {_words(error)}{_repeated(turns)}") from error
        return str(text)

    def _marks(self, turns: Turns, tools: list[Any] | None) -> list[int]:
        """Where the template's `{% generation %}` blocks begin in its text; blocks that touch count as one."""
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self.tokenizer.get_chat_template(None, tools)
        names = {**self.tokenizer.special_tokens_map, **self.arguments}
        _, spans = render_jinja_template(
            [[dict(turn) for turn in turns]],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **names,
        )
        ends = {end for _, end in spans[0]}
        return [start for start, _ in spans[0] if start not in ends]


def build(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], train_on: TrainOn, end: str) -> Chat:
    """The chat template of a tokenizer that has one. Raises InputError where it does not fit.

    Args:
        end: the tokenizer's end token, for templates that end no turn.
    """
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else str(tokenizer.chat_template)
    _check_arguments(arguments, template)
    chat = Chat(tokenizer, arguments, train_on, marked=bool(_GENERATION.search(template)))
    try:
        prompt, whole = chat.text([_QUESTION], generation_prompt=True), chat.text([_QUESTION, _ANSWER])
        # Some templates open a thought in the prompt, so that only an answer with thoughts goes on from it.
        fits = chat.marked or whole.startswith(prompt) or chat.text([_QUESTION, _THOUGHT]).startswith(prompt)
    except Refused as refused:
        raise InputError(Fault(f"`chat` cannot be had: {refused}: write `alpaca`", key="data.prompt")) from refused
    if whole.count(_MARK) != 3 or not fits:
        what = "the model's chat template does not go on from its prompt with the answer as it is: write `alpaca`"
        if "enable_thinking" in template:
            what += ", or `template_arguments: {enable_thinking: false}`"
        raise InputError(Fault(f"`chat` cannot be had: {what}", key="data.prompt"))
    tail = whole.rpartition(_MARK)[2]
    turn_end = _turn_end(chat, tail, end)
    return replace(chat, tail=tail, unread=len(tail) - len(turn_end), closing="" if turn_end else end)


def _turn_end(chat: Chat, tail: str, end: str) -> str:
    """What ends a turn, of the text behind the last answer: without the end token, where other answers have none (Phi 3
    ends a turn with one token, and then the text with another)."""
    whole = tail.rstrip()
    without = whole.removesuffix(end).rstrip()
    try:
        inside = chat.text([_QUESTION, _ANSWER, _QUESTION]).partition(_ANSWER["content"])[2]
    except Refused:
        return whole
    return without if without and inside.startswith(without) and not inside.startswith(whole) else whole


def _check_arguments(arguments: Mapping[str, Any], template: str) -> None:
    faults = list[Fault]()
    known = set(re.findall(r"[A-Za-z_]\w*", template))
    for name in arguments:
        key = f"data.template_arguments.{name}"
        if name in _OWN:
            faults.append(Fault("is set by meshtune: remove it", key=key))
        elif name not in known:
            what = f"the model's chat template reads no such argument: remove it.{nearest(name, known)}"
            faults.append(Fault(what, key=key))
    refuse(faults)


def _is_empty(turn: Mapping[str, Any]) -> bool:
    return not turn["content"].strip() and not turn.get("tool_calls")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _repeated(turns: Turns) -> str:
    """Which turns break the order that many templates ask for."""
    for number, (one, other) in enumerate(itertools.pairwise(turns), 1):
        if one["role"] == other["role"] != "tool":
            return f" (turns {number} and {number + 1} are both `{one['role']}`)"
    return ""
