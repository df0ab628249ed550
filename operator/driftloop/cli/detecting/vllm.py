"""Requests in vLLM's log, which has prompts with --enable-log-requests and VLLM_LOGGING_LEVEL=DEBUG. Pure.

vLLM logs the rendered prompt of a chat. The last turn of the user is cut out of it by the markers of common chat
templates, because earlier turns and the system prompt are not new. A prompt without markers is taken whole.
"""

import ast
import re
from datetime import datetime

from driftloop.cli.detecting.moments import moment, nearest_past
from driftloop.cli.detecting.requests import BadLine, Line, Other, one

# Start and end of a user's turn.
TURNS = (
    ("<|im_start|>user\n", ("<|im_end|>",)),  # ChatML: Qwen
    ("<|start_header_id|>user<|end_header_id|>\n\n", ("<|eot_id|>",)),  # Llama 3
    ("<|header_start|>user<|header_end|>\n\n", ("<|eot|>",)),  # Llama 4
    ("<start_of_turn>user\n", ("<end_of_turn>",)),  # Gemma
    ("<|start|>user<|message|>", ("<|end|>",)),  # gpt-oss
    ("<\uff5cUser\uff5c>", ("<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>")),  # DeepSeek
    ("<|user|>", ("<|end|>", "</s>", "<|assistant|>")),  # Phi, Zephyr, Driftloop's own
    ("[INST]", ("[/INST]",)),  # Mistral, Llama 2
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# kubectl logs --timestamps and container runtimes write a time with a year before each line.
_LINE = re.compile(
    r"(?P<full>\d{4}-\d\d-\d\dT\S+ )?(?:std(?:out|err) [FP] )?(?:\([\w ]+ pid=\d+\) )?"
    r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):? +(?:(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d) )?"
    r"(?P<rest>.*)",
    re.DOTALL,
)
# The first form is that of newer releases, the second of those up to 0.9.
_REQUEST = re.compile(r"\[[^\]]*\] (?:Request (?P<new>\S+) details|Received request (?P<old>\S+)): prompt: ")
_LITERAL = re.compile(r"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"")


def parse(line: str, today: datetime) -> Line | None:
    """What a line of the log means; None if it is not one of vLLM's. Raises BadLine."""
    found = _LINE.match(_COLOUR.sub("", line))
    if found is None:
        return None
    request = _REQUEST.match(found["rest"])
    if request is None:
        return Other()
    return one(
        _time(found, today), last_turn(_prompt(found["rest"], request.end())), None, request["new"] or request["old"]
    )


def last_turn(prompt: str) -> str:
    """The last turn of the user in a rendered prompt; the whole prompt if it has no known markers.

    >>> last_turn("<|im_start|>system\\nBe nice<|im_end|>\\n<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n")
    'Hi'
    """
    for start, ends in TURNS:
        _, marker, turn = prompt.rpartition(start)
        if marker:
            stop = min((at for end in ends if (at := turn.find(end)) >= 0), default=len(turn))
            return turn[:stop].strip()
    return prompt


def _prompt(text: str, begin: int) -> str:
    """The prompt, which is logged as a Python literal. Raises BadLine."""
    literal = _LITERAL.match(text, begin)
    if literal is None:
        raise BadLine("the request has no prompt, or its end is cut off")
    try:
        return str(ast.literal_eval(literal[0]))
    except (SyntaxError, ValueError, MemoryError) as error:
        raise BadLine("the prompt is not a Python literal") from error


def _time(found: re.Match[str], today: datetime) -> datetime | None:
    if found["full"]:
        return moment(found["full"].strip())
    if found["month"]:
        return nearest_past(int(found["month"]), int(found["day"]), found["clock"], today)
    return None
