"""The JSON of answers, in the format of OpenAI's API. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from driftloop_server.engine.sampling import TokenLogprob
from driftloop_server.engine.sequence import Output
from driftloop_server.engine.thoughts import Thoughts

TokenString = Callable[[int], str]


@dataclass(frozen=True)
class Reply:
    """Builds all pieces of one answer. `string` turns a token into text, for log-probabilities."""

    id: str
    model: str
    created: int
    prompt_tokens: int
    is_chat: bool
    string: TokenString
    thoughts: Thoughts | None = None  # separates them from the answer; None: there are none

    def whole(self, output: Output) -> dict[str, Any]:
        """The answer in one piece."""
        if self.is_chat:
            parts = self._parts(output, last=True)
            content = {"content": None if parts else ""}  # without an answer behind the thoughts null, as in vLLM
            text: dict[str, Any] = {"message": {"role": "assistant", "refusal": None} | content | parts}
        else:
            text = {"text": output.text}
        name = "chat.completion" if self.is_chat else "text_completion"
        scores = {"prompt_logprobs": self._prompt_logprobs(output)} if output.prompt_logprobs else {}
        choice = self._choice(text, output) | ({} if self.is_chat else scores)  # where vLLM has them
        return self._envelope(name, [choice]) | {"usage": self.usage(output)} | (scores if self.is_chat else {})

    def opening(self) -> dict[str, Any]:
        """The first chunk of a chat, with the role."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}, Output())

    def chunk(self, output: Output) -> dict[str, Any]:
        """A piece of the answer."""
        if self.is_chat:
            return self._chunk({"delta": self._parts(output, output.last)}, output)
        return self._chunk({"text": output.text}, output)

    def _parts(self, output: Output, last: bool) -> dict[str, str]:
        """Thoughts and answer as fields of a message: vLLM's name for thoughts, and the one it had before."""
        if self.thoughts is None:
            return {"content": output.text} if output.text else {}
        thoughts, answer = self.thoughts.push(output.text, last)
        fields = {"reasoning": thoughts, "reasoning_content": thoughts, "content": answer}
        return {name: text for name, text in fields.items() if text}

    def closing(self, output: Output) -> dict[str, Any]:
        """The final chunk with the usage, if the request asked for it."""
        return self._envelope(self._chunk_name, []) | {"usage": self.usage(output)}

    def usage(self, output: Output) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output.tokens,
            "total_tokens": self.prompt_tokens + output.tokens,
        }

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(self, text: dict[str, Any], output: Output) -> dict[str, Any]:
        return self._envelope(self._chunk_name, [self._choice(text, output)])

    def _envelope(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices}

    def _choice(self, text: dict[str, Any], output: Output) -> dict[str, Any]:
        scores = output.logprobs
        logprobs = None if not scores else self._chat_logprobs(scores) if self.is_chat else self._logprobs(scores)
        return {"index": 0, **text, "logprobs": logprobs, "finish_reason": output.finish_reason}

    def _prompt_logprobs(self, output: Output) -> list[dict[str, Any] | None]:
        """As vLLM: null for the first token, for which there is nothing to predict it from."""
        found = output.prompt_logprobs
        return [None, *({str(s.token): {"logprob": s.logprob, "decoded_token": self.string(s.token)}} for s in found)]

    def _chat_logprobs(self, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            text = self.string(token)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        return {
            "content": [
                entry(s.token, s.logprob) | {"top_logprobs": [entry(token, logprob) for token, logprob in s.top]}
                for s in scores
            ]
        }

    def _logprobs(self, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            "tokens": [self.string(s.token) for s in scores],
            "token_logprobs": [s.logprob for s in scores],
            "top_logprobs": [{self.string(token): logprob for token, logprob in s.top} for s in scores],
        }
