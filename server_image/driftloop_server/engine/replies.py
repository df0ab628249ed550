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
    """Builds all pieces of one answer. `string` turns a token into text, for log-probabilities.

    `thoughts` separates them from the answer, for each choice; empty: there are none.
    """

    id: str
    model: str
    created: int
    prompt_tokens: int
    is_chat: bool
    string: TokenString
    thoughts: Sequence[Thoughts] = ()

    def whole(self, outputs: Sequence[Output]) -> dict[str, Any]:
        """The answer in one piece, from the only output of each choice."""
        name = "chat.completion" if self.is_chat else "text_completion"
        choices = [self._whole_choice(output, index) for index, output in enumerate(outputs)]
        usage = {"usage": self.usage(sum(output.tokens for output in outputs))}
        return self._envelope(name, choices) | usage | (self._scores(outputs[0]) if self.is_chat else {})

    def _whole_choice(self, output: Output, index: int) -> dict[str, Any]:
        if self.is_chat:
            parts = self._parts(output, index, last=True)
            content = {"content": None if parts else ""}  # without an answer behind the thoughts null, as in vLLM
            text: dict[str, Any] = {"message": {"role": "assistant", "refusal": None} | content | parts}
        else:
            text = {"text": output.text}
        return self._choice(text, output, index) | ({} if self.is_chat else self._scores(output))

    def _scores(self, output: Output) -> dict[str, Any]:
        """The prompt's, where vLLM has them: beside the choices of a chat, and in the choice of a completion."""
        return {"prompt_logprobs": self._prompt_logprobs(output)} if output.prompt_logprobs else {}

    def opening(self, index: int = 0) -> dict[str, Any]:
        """The first chunk of a chat's choice, with the role."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}}, Output(), index)

    def chunk(self, output: Output, index: int = 0) -> dict[str, Any]:
        """A piece of a choice."""
        if self.is_chat:
            return self._chunk({"delta": self._parts(output, index, output.last)}, output, index)
        return self._chunk({"text": output.text}, output, index)

    def _parts(self, output: Output, index: int, last: bool) -> dict[str, str]:
        """Thoughts and answer as fields of a message: vLLM's name for thoughts, and the one it had before."""
        if not self.thoughts:
            return {"content": output.text} if output.text else {}
        thoughts, answer = self.thoughts[index].push(output.text, last)
        fields = {"reasoning": thoughts, "reasoning_content": thoughts, "content": answer}
        return {name: text for name, text in fields.items() if text}

    def closing(self, tokens: int) -> dict[str, Any]:
        """The final chunk with the usage, if the request asked for it. `tokens`: of all choices."""
        return self._envelope(self._chunk_name, []) | {"usage": self.usage(tokens)}

    def usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _chunk(self, text: dict[str, Any], output: Output, index: int) -> dict[str, Any]:
        return self._envelope(self._chunk_name, [self._choice(text, output, index)])

    def _envelope(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices}

    def _choice(self, text: dict[str, Any], output: Output, index: int) -> dict[str, Any]:
        scores = output.logprobs
        logprobs = None if not scores else self._chat_logprobs(scores) if self.is_chat else self._logprobs(scores)
        return {"index": index, **text, "logprobs": logprobs, "finish_reason": output.finish_reason}

    def _prompt_logprobs(self, output: Output) -> list[dict[str, Any] | None]:
        """As vLLM: null for the first token, for which there is nothing to predict it from."""
        scores = output.prompt_logprobs
        return [None, *({str(s.token): {"logprob": s.logprob, "decoded_token": self.string(s.token)}} for s in scores)]

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
