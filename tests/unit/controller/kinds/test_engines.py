"""Which engine runs, and what prevents it."""

from dataclasses import replace

import pytest

from driftloop.api.engine import Engine, EngineAdapters, EngineParallelism
from driftloop.contract.task import ServeTask
from driftloop.controller.kinds.engines import engine_hash, obstacle, readiness_path, resolved, task_fields, type_of
from driftloop.controller.vocabulary.plan import Settings

BARE = Settings(trainer_image="trainer:1", server_image="server:1")
WITH_VLLM = replace(BARE, vllm_image="vllm:1")


@pytest.mark.parametrize(
    ("engine", "settings", "expected"),
    [
        (Engine(), WITH_VLLM, ("transformers", None)),
        (Engine(gpus=1), BARE, ("transformers", None)),
        (Engine(gpus=1), WITH_VLLM, ("vllm", "vllm:1")),
        (Engine(gpus=1, image="my/server:2"), WITH_VLLM, ("transformers", "my/server:2")),
        (Engine(gpus=1, type="transformers"), WITH_VLLM, ("transformers", None)),
        (Engine(type="custom", image="sglang:1", gpus=2), WITH_VLLM, ("custom", "sglang:1")),
        (Engine(type="vllm"), WITH_VLLM, ("vllm", "vllm:1")),
        (Engine(type="vllm", image="vllm:2"), WITH_VLLM, ("vllm", "vllm:2")),
    ],
)
def test_auto_is_vllm_where_there_are_gpus_and_an_image_for_it(
    engine: Engine, settings: Settings, expected: tuple[str, str | None]
) -> None:
    found = resolved(engine, settings)
    assert (found.type, found.image) == expected
    assert resolved(found, settings) == found
    assert obstacle(engine, settings) is None


def test_an_engine_that_cannot_run_is_explained_with_what_to_set() -> None:
    assert "set engine.image, or images.vllm" in str(obstacle(Engine(type="vllm"), BARE))
    assert "engine.gpus: 2 needs vLLM" in str(obstacle(Engine(gpus=2), BARE))
    assert obstacle(Engine(gpus=2), WITH_VLLM) is None
    assert type_of(Engine(gpus=2), WITH_VLLM) == "vllm"


def test_a_divided_model_needs_vllm() -> None:
    divided = EngineParallelism(pipeline=2)
    assert "engine.parallelism needs vLLM, which auto runs only with GPUs" in str(
        obstacle(Engine(parallelism=divided), WITH_VLLM)
    )
    assert obstacle(Engine(gpus=2, parallelism=divided), WITH_VLLM) is None
    assert obstacle(Engine(type="vllm", parallelism=divided), WITH_VLLM) is None


def test_adapters_beside_their_base_need_vllm_and_are_part_of_the_evidence() -> None:
    engine = Engine(adapters=EngineAdapters(max_rank=32))
    assert "engine.adapters needs vLLM, which auto runs only with GPUs" in str(obstacle(engine, WITH_VLLM))
    on_gpus = Engine(gpus=1, adapters=EngineAdapters(max_rank=32))
    assert obstacle(on_gpus, WITH_VLLM) is None
    assert task_fields(on_gpus, WITH_VLLM)["adapters"] == EngineAdapters(max_rank=32)
    assert task_fields(Engine(gpus=1), WITH_VLLM)["adapters"] is None
    hashes = {engine_hash(each) for each in (on_gpus, Engine(gpus=1), Engine(gpus=1, adapters=EngineAdapters()))}
    assert len(hashes) == 3


def test_several_nodes_need_vllm() -> None:
    assert "engine.nodes needs vLLM, which auto runs only with GPUs" in str(obstacle(Engine(nodes=2), WITH_VLLM))
    assert obstacle(Engine(nodes=2, gpus=1), WITH_VLLM) is None
    assert obstacle(Engine(nodes=2, type="vllm"), WITH_VLLM) is None


def test_the_number_of_nodes_is_part_of_the_evidence_and_one_is_what_it_was_without_the_field() -> None:
    assert engine_hash(Engine(nodes=1)) == engine_hash(Engine())
    assert engine_hash(Engine(gpus=1, gpu_claim_template="h100s")) == engine_hash(Engine(gpus=1))
    assert engine_hash(Engine(nodes=2)) != engine_hash(Engine())


def test_a_template_that_no_task_holds_is_explained_with_what_to_shorten() -> None:
    assert obstacle(Engine(chat_template="x" * 32_768), BARE) is None
    problem = str(obstacle(Engine(chat_template="\u554f" * 20_000), BARE))  # three bytes each
    assert "engine.chatTemplate has 60010 bytes" in problem
    assert "shorten them" in problem
    assert obstacle(Engine(chat_template="$" * 20_000), BARE)  # six bytes each in a task
    assert obstacle(Engine(chat_template_kwargs={f"value_{n}": "\u554f" * 1000 for n in range(16)}), BARE)


def test_only_a_custom_engine_is_asked_by_a_path() -> None:
    assert readiness_path(Engine(type="custom", image="x:1")) == "/health"
    assert readiness_path(Engine(type="custom", image="x:1", readiness_path="/up")) == "/up"
    assert readiness_path(Engine()) is None


def test_a_task_gets_every_setting_of_the_engine_that_it_has_room_for() -> None:
    shared = set(ServeTask.model_fields) & set(Engine.model_fields)
    assert set(task_fields(Engine(), BARE)) == shared | {"engine_type"}


def test_evidence_from_before_auto_still_holds() -> None:
    assert engine_hash(resolved(Engine(), BARE)) == "f0c47a1e"
    assert engine_hash(resolved(Engine(type="vllm", image="vllm:1", gpus=1), BARE)) == "6a79da10"


def test_another_template_makes_new_evidence() -> None:
    found = {engine_hash(Engine(chat_template_kwargs=kwargs)) for kwargs in (None, {"think": True}, {"think": False})}
    assert len(found | {engine_hash(Engine(chat_template="{{ messages }}"))}) == 4


def test_another_image_of_vllm_makes_new_evidence() -> None:
    newer = replace(BARE, vllm_image="vllm:2")
    assert engine_hash(resolved(Engine(gpus=1), WITH_VLLM)) != engine_hash(resolved(Engine(gpus=1), newer))
