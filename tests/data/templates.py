"""Chat templates that behave as those of five families of models do, written anew, and a tokenizer for them.

Llama 3: headers, <|eot_id|>. Qwen 2.5: a system turn of its own, tool answers as a user's. Qwen 3: as 2.5, but thoughts
before the last question are dropped, and the last answer has an empty thought. Gemma: no system turn, the role model.
Mistral: the system turn stands in the last question, roles alternate.
"""

from typing import Any

LLAMA_3 = r"""{{- bos_token }}
{%- if tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\n\nTools: ' + (tools | tojson) + '<|eot_id|>' }}
{%- endif %}
{%- for m in messages %}
    {%- set role = 'ipython' if m.role == 'tool' else m.role %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}
    {%- for call in m.tool_calls or [] %}
        {{- {'name': call.function.name, 'parameters': call.function.arguments} | tojson }}
    {%- endfor %}
    {{- m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""

_CHATML_TOOLS = r"""{%- macro tool_answer(i) %}
    {%- if i == 0 or messages[i - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
    {{- '\n<tool_response>\n' + messages[i].content + '\n</tool_response>' }}
    {%- if i + 1 == messages | length or messages[i + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}
{%- endmacro %}
{%- macro calls(m) %}
    {%- for call in m.tool_calls or [] %}
        {{- '\n<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}
    {%- endfor %}
{%- endmacro %}
"""

QWEN_2_5 = (
    _CHATML_TOOLS
    + r"""{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{- tool_answer(loop.index0) }}
    {%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + calls(m) + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
)

QWEN_3 = (
    _CHATML_TOOLS
    + r"""{%- set found = namespace(question=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set found.question = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{- tool_answer(loop.index0) }}
    {%- elif m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- else %}
        {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content %}
        {%- set answer = m.content.split('</think>')[-1].lstrip('\n') %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > found.question and (loop.last or thought) %}
            {{- '<think>\n' + (thought or '') + '\n</think>\n\n' }}
        {%- endif %}
        {{- answer + calls(m) + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
"""
)

GEMMA = r"""{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}
"""

MISTRAL = r"""{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if system else messages %}
{%- set found = namespace(last=-1, spoken=0) %}
{%- for m in turns %}
    {%- if m.role == 'user' %}{%- set found.last = loop.index0 %}{% endif %}
    {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {%- if (m.role == 'user') != (found.spoken % 2 == 0) %}
            {{- raise_exception('After the system message, roles must alternate user and assistant') }}
        {%- endif %}
        {%- set found.spoken = found.spoken + 1 %}
    {%- endif %}
{%- endfor %}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (system + '\n\n' if system and loop.index0 == found.last else '') + m.content + '[/INST]' }}
    {%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS] ' + (m.tool_calls | map(attribute='function') | list | tojson) + eos_token }}
    {%- else %}{{- ' ' + m.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

_SPECIAL = {
    "llama": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "qwen": ["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
}


def tokenizer(template: str) -> Any:
    """A tokenizer of bytes with the special tokens of the template's family; the first two begin and end texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    family = next(name for name, special in _SPECIAL.items() if special[-1] in template)
    special = _SPECIAL[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        additional_special_tokens=special[2:],
        chat_template=template,
    )
