"""The engine as a user of OpenAI's client sees it: a real process with a real model."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import torch
from openai import AsyncOpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from driftloop.contract.task import ServeTask
from unit.server.processes import Process, Start, wait_for

# AsyncOpenAI. Its types are unions of what any request may answer; these tests know what they asked.
Client = Any
PROMPTS = ["my card", "I want to top up", "refund, please! refund, please! refund", "東京", "c"]


@pytest.fixture
async def client(engine: Process) -> AsyncIterator[Client]:
    url = f"http://127.0.0.1:{engine.ports['engine']}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as found:
        yield found


async def greedy(client: Client, prompt: str, **more: Any) -> str:
    answer = await client.completions.create(model="desk", prompt=prompt, temperature=0, **({"max_tokens": 24} | more))
    return str(answer.choices[0].text)


async def metric(engine: Process, name: str) -> float:
    async with aiohttp.ClientSession() as session:
        text = await (await session.get(f"http://127.0.0.1:{engine.ports['engine']}/metrics")).text()
    (line,) = (line for line in text.splitlines() if line.startswith(name))
    return float(line.split()[-1])


async def test_lists_its_model_and_knows_no_other(client: Client) -> None:
    assert [model.id async for model in client.models.list()] == ["desk"]
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here"):
        await client.completions.create(model="gpt", prompt="x")


async def test_greedy_completion_is_what_transformers_generates(client: Client, model_folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        expected = tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
        assert await greedy(client, prompt) == expected


async def test_requests_in_one_batch_get_the_answers_they_get_alone(client: Client) -> None:
    alone = [await greedy(client, prompt, max_tokens=10 + 7 * i) for i, prompt in enumerate(PROMPTS)]
    together = await asyncio.gather(*(greedy(client, p, max_tokens=10 + 7 * i) for i, p in enumerate(PROMPTS)))
    assert together == alone
    # More than the batch holds, arriving one after another: rows join and leave all the time.
    crowd = await asyncio.gather(*(greedy(client, PROMPTS[i % 5], max_tokens=10 + 7 * (i % 5)) for i in range(40)))
    assert crowd == [alone[i % 5] for i in range(40)]


async def test_stream_gives_the_text_of_the_whole_answer(client: Client) -> None:
    whole = await greedy(client, "my card")
    pieces, usages = [], []
    stream = await client.completions.create(
        model="desk",
        prompt="my card",
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        pieces += [choice.text for choice in chunk.choices]
        usages.append(chunk.usage)
    assert "".join(pieces) == whole
    assert len(pieces) > 3
    assert usages[-1].completion_tokens == 24
    assert usages[-1].total_tokens == 24 + usages[-1].prompt_tokens


async def test_chat_answers_whole_and_streamed_alike(client: Client) -> None:
    messages = [{"role": "user", "content": "my card"}]
    whole = await client.chat.completions.create(model="desk", messages=messages, temperature=0, max_tokens=20)
    assert whole.choices[0].message.role == "assistant"
    assert whole.usage.completion_tokens == 20
    assert whole.choices[0].finish_reason == "length"
    stream = await client.chat.completions.create(
        model="desk", messages=messages, temperature=0, max_completion_tokens=20, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    parts = [{"role": "user", "content": [{"type": "text", "text": "my "}, {"type": "text", "text": "card"}]}]
    again = await client.chat.completions.create(model="desk", messages=parts, temperature=0, max_tokens=20)
    assert again.choices[0].message.content == whole.choices[0].message.content


async def test_several_choices_are_the_answers_of_as_many_seeds(client: Client) -> None:
    """Each with its own index, log-probabilities and end; the tokens of all are counted."""
    asked: Any = {"model": "desk", "messages": [{"role": "user", "content": "my card"}], "max_completion_tokens": 12}
    alone = [await client.chat.completions.create(**asked, seed=seed) for seed in (7, 8, 9)]
    texts = [answer.choices[0].message.content for answer in alone]
    assert len(set(texts)) == 3
    whole = await client.chat.completions.create(**asked, seed=7, n=3, logprobs=True)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert [choice.message.content for choice in whole.choices] == texts
    assert sum(len(choice.logprobs.content) for choice in whole.choices) == whole.usage.completion_tokens
    assert whole.usage.completion_tokens == sum(answer.usage.completion_tokens for answer in alone)
    assert whole.usage.prompt_tokens == alone[0].usage.prompt_tokens
    stream = await client.chat.completions.create(
        **asked, seed=7, n=3, stream=True, stream_options={"include_usage": True}
    )
    streamed, ends, usage = ["", "", ""], [None] * 3, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert streamed == texts
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


async def test_what_it_has_no_path_for_is_refused_by_name(client: Client) -> None:
    with pytest.raises(openai.NotFoundError, match=r"no /v1/responses, only /v1/chat/completions") as caught:
        await client.responses.create(model="desk", input="my card")
    assert caught.value.code == "unsupported_endpoint"
    with pytest.raises(openai.NotFoundError, match="no /v1/embeddings"):
        await client.embeddings.create(model="desk", input="my card")
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
    messages: Any = [{"role": "user", "content": "my card"}]
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    for more, param in (
        ({"messages": messages, "tools": [tool]}, "tools"),
        ({"messages": messages, "tool_choice": "required"}, "tool_choice"),
        ({"messages": messages, "response_format": form}, "response_format"),
        ({"messages": messages, "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": image}, "messages"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="desk", **more)
        assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_ends_the_text_before_it(client: Client, as_list: bool, stream: bool) -> None:
    whole = await greedy(client, "my card")
    stop = whole[6:9]
    arguments = {"stop": ["never there", stop] if as_list else stop}
    if not stream:
        answer = await client.completions.create(
            model="desk", prompt="my card", temperature=0, max_tokens=24, **arguments
        )
        assert answer.choices[0].text == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        return
    chunks = [
        chunk.choices[0]
        async for chunk in await client.completions.create(
            model="desk", prompt="my card", temperature=0, max_tokens=24, stream=True, **arguments
        )
    ]
    assert "".join(chunk.text for chunk in chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason == "stop"


async def test_a_seed_gives_the_same_text_in_any_company(client: Client) -> None:
    async def sampled(seed: int | None) -> str:
        answer = await client.completions.create(
            model="desk", prompt="my card", temperature=1.0, top_p=0.95, seed=seed, max_tokens=20
        )
        return str(answer.choices[0].text)

    first = await sampled(7)
    crowd = await asyncio.gather(sampled(7), *(greedy(client, prompt) for prompt in PROMPTS), sampled(8), sampled(7))
    assert crowd[0] == crowd[-1] == first
    assert crowd[-2] != first
    assert await sampled(None) != await sampled(None)


async def test_the_tokens_of_a_prompt_have_log_probabilities_as_vllm_gives_them(client: Client) -> None:
    extra = {"prompt_logprobs": 0}
    whole = await client.completions.create(model="desk", prompt="my card has", max_tokens=1, extra_body=extra)
    scores = whole.choices[0].model_dump()["prompt_logprobs"]
    assert scores[0] is None
    assert len(scores) == whole.usage.prompt_tokens
    assert "".join(value["decoded_token"] for score in scores[1:] for value in score.values()) in "my card has"
    assert all(value["logprob"] < 0 for score in scores[1:] for value in score.values())


async def test_an_answer_can_be_continued_and_scored_behind_its_question(client: Client) -> None:
    question, answer = {"role": "user", "content": "my card"}, {"role": "assistant", "content": "refund, please!"}
    extra = {"prompt_logprobs": 0, "continue_final_message": True, "add_generation_prompt": False}
    asked = await client.chat.completions.create(model="desk", messages=[question], max_tokens=1)
    said = await client.chat.completions.create(
        model="desk", messages=[question, answer], max_tokens=1, extra_body=extra
    )
    scores = said.model_dump()["prompt_logprobs"][asked.usage.prompt_tokens :]
    assert "".join(value["decoded_token"] for score in scores for value in score.values()) == "refund, please!"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_logprobs": 5}, "prompt_logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "isn't streamed"),
        ({"continue_final_message": True}, "add_generation_prompt: must be false"),
        ({"add_generation_prompt": False}, "add_generation_prompt: must be false"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "needs a last message with the role"),
    ],
)
async def test_what_cannot_be_scored_or_continued_is_refused(
    client: Client, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        await client.chat.completions.create(
            model="desk", messages=[{"role": "user", "content": "my card"}], extra_body=fields
        )


async def test_logprobs_are_of_the_tokens_chosen(client: Client) -> None:
    answer = await client.completions.create(model="desk", prompt="my card", temperature=0, max_tokens=5, logprobs=3)
    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == answer.choices[0].text
    for logprob, top in zip(found.token_logprobs, found.top_logprobs, strict=True):
        assert logprob == pytest.approx(max(top.values()))
    chat = await client.chat.completions.create(
        model="desk",
        messages=[{"role": "user", "content": "my card"}],
        temperature=0,
        max_tokens=5,
        logprobs=True,
        top_logprobs=2,
    )
    content = chat.choices[0].logprobs.content
    assert len(content) == 5
    assert all(entry.top_logprobs[0].token == entry.token for entry in content)


async def test_overflow_is_refused_with_the_numbers(client: Client) -> None:
    with pytest.raises(openai.BadRequestError, match=r"context is 256 tokens.* 300 for the answer") as caught:
        await client.completions.create(model="desk", prompt="my card", max_tokens=300)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError, match="shorten the text") as caught:
        await client.chat.completions.create(model="desk", messages=[{"role": "user", "content": "refund 東 " * 300}])
    assert caught.value.param == "messages"


async def test_a_chat_without_limit_may_fill_the_context(client: Client) -> None:
    answer = await client.chat.completions.create(
        model="desk", messages=[{"role": "user", "content": "c"}], temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage.total_tokens == 256
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("body", "param", "explains"),
    [
        ({"prompt": "x", "n": 9}, "n", "less than or equal to 8"),
        ({"prompt": "x", "n": 2, "prompt_logprobs": 0}, "prompt_logprobs", "single answer"),
        ({"prompt": "x", "temperature": "hot"}, "temperature", "valid number"),
        ({"prompt": "x", "temperature": 3}, "temperature", "less than or equal to 2"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"prompt": "x", "stop": [""]}, "stop", "at least 1 character"),
        ({"prompt": "x", "logit_bias": {"1": 2}}, "logit_bias", "doesn't support it"),
        ({"prompt": ["a", "b"]}, "prompt", "several prompts as several requests"),
        ({"prompt": [1, 100000]}, "prompt", "not in the vocabulary"),
        ({"prompt": ""}, "prompt", "nothing to continue"),
        ({}, "prompt", "required"),
    ],
)
async def test_a_malformed_field_is_named(engine: Process, body: dict[str, Any], param: str, explains: str) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{engine.ports['engine']}/v1/completions"
        response = await session.post(url, json={"model": "desk"} | body)
        error = (await response.json())["error"]
    assert response.status == 400
    assert error["param"] == param
    assert explains in error["message"]
    assert error["type"] == "invalid_request_error"


async def test_what_is_no_json_object_or_no_route_is_an_error_in_the_same_form(engine: Process) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{engine.ports['engine']}") as session:
        for path, body, status in [
            ("/v1/completions", b"{", 400),
            ("/v1/completions", b"[1]", 400),
            ("/v1/completions", b"[" * 100_000, 400),
            ("/v1/embeddings", b"{}", 404),
            ("/v1/models", b"{}", 405),
            ("/v1/completions", b"x" * (5 << 20), 413),
        ]:
            response = await session.post(path, data=body)
            assert response.status == status
            assert (await response.json())["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_place(engine: Process, client: Client, stream: bool) -> None:
    async def ask() -> None:
        answer = await client.completions.create(
            model="desk", prompt="c", max_tokens=250, stream=stream, extra_body={"ignore_eos": True}
        )
        if stream:
            assert [chunk async for chunk in answer]

    async def load() -> float:
        return await metric(engine, "vllm:num_requests_running") + await metric(engine, "vllm:num_requests_waiting")

    aborted = 'vllm:request_success_total{finished_reason="abort"'
    before = await metric(engine, aborted)
    tasks = [asyncio.create_task(ask()) for _ in range(20)]  # more than have a place at once
    deadline = time.monotonic() + 20
    while await load() < 10:
        assert time.monotonic() < deadline
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while await load():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await metric(engine, aborted) > before
    assert await greedy(client, "my card")


def test_it_leaves_at_once_when_its_pod_is_deleted_while_the_model_loads(
    launch: Start, serve_task: ServeTask, free_port: int
) -> None:
    process = launch("engine", serve_task.model_copy(update={"engine_port": free_port}))
    wait_for(lambda: catches_sigterm(process) or process.popen.poll() is not None)
    process.terminate()
    assert process.popen.wait(10) == 128 + signal.SIGTERM


def catches_sigterm(process: Process) -> bool:
    """As the kernel says of its handlers (proc(5), SigCgt)."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    (caught,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)
