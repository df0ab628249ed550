"""From a base model to what is served: the architectures that people fine-tune, and one that is trained for real."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from driftloop.api.finetunejob import Adapter
from driftloop.cli.gating.ports import free_ports
from driftloop.contract.manifest import Manifest
from driftloop.contract.task import ServeTask, TrainTask
from driftloop_server.engine.model import load
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.models import config_for, with_adapter
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.worker.export import Export, export, files_of, load_trained
from driftloop_trainer.train.worker.loading import load_sharded
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.methods.reference import without_gradient
from unit.server.processes import answers, start, wait_for
from unit.trainer import templates
from unit.trainer.prepare.test_folder import LLAMA, TINY, folder, prepared
from unit.trainer.templates import with_template

pytestmark = pytest.mark.usefixtures("one_rank")

ANSWERS = {"where is my card": "card_arrival", "a fee?": "fee", "refund me": "refund", "hello": "greeting"}
ROWS = [{"prompt": prompt, "completion": answer} for prompt, answer in ANSWERS.items()]
HEADS = TINY | {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": None, "num_key_value_heads": None},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "glm4": {},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "gpt_neo": {"num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    "gpt_neox": {},
    "gptj": {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4},
    "gpt_oss": {"num_local_experts": 4},
    "granite": {},
    "llama": {},
    "mistral": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {},
}


def task_document() -> dict[str, Any]:
    """A train task, but for the digest of its data."""
    return {
        "job": "job",
        "jobUid": "uid",
        "family": "family",
        "model": {"uri": "pvc://claim/base"},
        "dataUri": "pvc://claim/store/prepared/uid",
        "dataDigest": "sha256:" + "0" * 64,
        "training": {},
        "nodes": 1,
        "workersPerNode": 1,
        "gpusPerNode": 0,
        "gradientAccumulationSteps": 1,
        "perDeviceTrainBatchSize": 8,
        "totalSteps": 60,
        "head": "job-0.job",
        "startupTimeoutSeconds": 60,
        "backoffLimit": 3,
        "attempt": 0,
        "runs": "pvc://claim/runs/uid",
        "output": "pvc://claim/versions/uid",
        "lineage": {},
    }


def task(volume: Path, **training: Any) -> TrainTask:
    digest = Manifest.read(folder(volume)).digest
    return TrainTask.model_validate(task_document() | {"dataDigest": digest, "training": training})


def trained(volume: Path, scratch: Path, steps: int, **training: Any) -> Path:
    """The model folder after so many steps on what was prepared."""
    job = task(
        volume,
        trainBatchSize=4,
        learningRate=3e-3,
        lrSchedulerType="constant",
        warmupRatio=0,
        numTrainEpochs=steps,
        saveSteps=1000,
        **training,
    )
    base = volume / "base"
    sharded = load_sharded(base, "pvc://claim/base", job.training, Mesh.of("cpu"), torch.device("cpu"))
    loop = Loop(
        job.training, NextToken(Dataset(folder(volume) / FILE), 0), 8, steps, torch.device("cpu"), Mesh.of("cpu")
    )
    loop.run(
        sharded.model, build_optimizer(sharded.model, job.training), Run(job.runs, "token"), Position(), lambda _: None
    )
    export(sharded, Export(job, base, folder(volume), {}, job.output), scratch)
    return volume / "versions" / "uid"


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_architecture_is_prepared_exported_and_served(volume: Path, tmp_path: Path, model_type: str) -> None:
    fields = HEADS | ARCHITECTURES[model_type] | {"model_type": model_type}
    architecture = {name: value for name, value in fields.items() if value is not None}
    prepared(volume, ROWS, templates.CHATML, architecture=architecture)
    version = trained(volume, tmp_path, steps=1)
    tokenizer = with_template(templates.CHATML)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<eos>"])
    assert GenerationConfig.from_pretrained(version).eos_token_id[:2] == ends
    served = load(version)
    assert served.end_tokens >= set(ends)
    first = Dataset(folder(volume) / FILE)
    prompt = tokenizer("<|im_start|>user\nwhere is my card<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    assert first.ids(0)[: len(prompt)].tolist() == prompt


async def test_a_turn_that_its_template_ends_otherwise_than_texts_ends_when_served(
    volume: Path, tmp_path: Path
) -> None:
    """ChatML on a base model whose texts end with <eos>: without <|im_end|> as an end, answers run on to the limit."""
    prepared(volume, ROWS, templates.CHATML, architecture=LLAMA | {"hidden_size": 64, "intermediate_size": 128})
    version = trained(volume, tmp_path, steps=150)
    ends = with_template(templates.CHATML).convert_tokens_to_ids(["<|im_end|>", "<eos>"])
    assert json.loads((version / "generation_config.json").read_text())["eos_token_id"] == ends  # as vLLM reads it
    async with served(version, tmp_path) as client:
        for prompt, answer in ANSWERS.items():
            said = await client.chat.completions.create(
                model="desk", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=60
            )
            assert (said.choices[0].message.content, said.choices[0].finish_reason) == (answer, "stop")


@pytest.mark.parametrize("template", [templates.QWEN3, templates.THINKING], ids=["qwen3", "r1"])
async def test_a_trained_answer_is_served_without_its_thoughts(volume: Path, tmp_path: Path, template: str) -> None:
    rows: list[dict[str, Any]] = []
    for prompt, answer in ANSWERS.items():
        thought = {} if template == templates.QWEN3 else {"reasoning_content": f"so: {answer}"}
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": answer} | thought,
                ]
            }
        )
    prepared(volume, rows, template, architecture=LLAMA | {"hidden_size": 64, "intermediate_size": 128})
    version = trained(volume, tmp_path, steps=150)
    async with served(version, tmp_path) as client:
        for prompt, answer in ANSWERS.items():
            said = await client.chat.completions.create(
                model="desk", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=60
            )
            message = said.choices[0].message.model_dump()
            assert (message["content"], said.choices[0].finish_reason) == (answer, "stop")
            assert message.get("reasoning", "") == ("" if template == templates.QWEN3 else f"so: {answer}\n")


def test_the_template_and_its_values_that_a_job_names_are_what_its_version_is_served_with(
    volume: Path, tmp_path: Path
) -> None:
    """Qwen3's trained answers began with an empty thought, which no gate took for right."""
    training: dict[str, Any] = {
        "chatTemplate": templates.QWEN3_SWITCHED,
        "chatTemplateKwargs": {"enable_thinking": False},
    }
    prepared(volume, ROWS, templates.CHATML, architecture=LLAMA, **training)
    rows = Dataset(folder(volume) / FILE)
    version = trained(volume, tmp_path, steps=1, **training)
    loaded = load(version)
    rendered = loaded.render([{"role": "user", "content": "where is my card"}])
    assert loaded.decode(rendered).endswith("<think>\n\n</think>\n\n")
    assert rows.ids(0)[: len(rendered)].tolist() == rendered
    assert loaded.decode(rows.ids(0)[len(rendered) :].tolist()) == "card_arrival"
    again = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert again.endswith("assistant\n")  # a request can still ask for thoughts


@asynccontextmanager
async def served(version: Path, scratch: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the engine that serves the version."""
    (port,) = free_ports(1)
    pod = ServeTask(
        namespace="support",
        service="desk",
        service_uid="uid",
        family="family",
        version="version",
        revision="r1",
        artefact_uri="pvc://claim/versions/uid",
        artefact_digest=Manifest.read(version).digest,
        model_dir=str(version),
        engine_port=port,
    )
    process = start("engine", pod, scratch / "engine.log")
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") or process.popen.poll() is not None)
        assert process.popen.poll() is None, (scratch / "engine.log").read_text()
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
            yield client
    finally:
        process.stop()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3"])
def test_an_adapter_is_merged_into_the_weights_that_it_was_trained_beside(
    volume: Path, tmp_path: Path, model_type: str
) -> None:
    fields = {name: value for name, value in (HEADS | ARCHITECTURES[model_type]).items() if value is not None}
    prepared(volume, ROWS, templates.CHATML, architecture=fields | {"model_type": model_type})
    job = task(volume, adapter={"type": "lora", "r": 2, "loraAlpha": 8, "loraDropout": 0})
    base = volume / "base"
    sharded = load_sharded(base, "pvc://claim/base", job.training, Mesh.of("cpu"), torch.device("cpu"))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        for name, parameter in sharded.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
        adapted = sharded.model.eval()(ids).logits
    export(sharded, Export(job, base, folder(volume), {}, job.output), tmp_path)
    untrained, merged = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        for path in (base, volume / "versions" / "uid")
    )
    assert not torch.allclose(untrained, adapted, atol=1e-3)
    assert torch.allclose(merged, adapted, atol=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_trained_part_of_osf_is_added_to_the_part_that_is_kept(volume: Path, tmp_path: Path, bf16: bool) -> None:
    prepared(volume, ROWS, templates.CHATML)
    job = task(volume, adapter={"type": "osf", "effectiveRank": 0.3}, bf16=bf16)
    base, ids = volume / "base", torch.arange(10)[None]
    sharded = load_sharded(base, "pvc://claim/base", job.training, Mesh.of("cpu"), torch.device("cpu"))
    assert {weight.dtype for weight in sharded.model.parameters()} == {torch.float32}
    with without_gradient(sharded.model):
        started = sharded.model(ids).logits.float()
    with without_gradient(sharded.model):
        for name, parameter in sharded.model.named_parameters():
            if name.endswith(".osf_s"):
                parameter.mul_(3)
        adapted = sharded.model(ids).logits.float()
    export(sharded, Export(job, base, folder(volume), {}, job.output), tmp_path)
    untrained, merged = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        for path in (base, volume / "versions" / "uid")
    )
    accuracy = 0.03 if bf16 else 1e-5
    assert torch.allclose(started, untrained, atol=accuracy)
    assert torch.allclose(merged, adapted, atol=accuracy)
    assert not torch.allclose(merged, untrained, atol=0.1)
    assert "osf, 0.3 of the directions kept, merged" in (volume / "versions" / "uid" / "README.md").read_text()


def test_frozen_weights_are_in_half_precision_where_they_are_computed_in_it_and_exported_as_they_were(
    volume: Path, tmp_path: Path
) -> None:
    prepared(volume, ROWS, templates.CHATML)
    job = task(volume, adapter={"type": "lora", "r": 2}, bf16=True)
    base = volume / "base"
    sharded = load_sharded(base, "pvc://claim/base", job.training, Mesh.of("cpu"), torch.device("cpu"))
    types = {".lora_" in name: weight.dtype for name, weight in sharded.model.named_parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    loop = Loop(job.training, NextToken(Dataset(folder(volume) / FILE), 0), 8, 2, torch.device("cpu"), Mesh.of("cpu"))
    loop.run(
        sharded.model, build_optimizer(sharded.model, job.training), Run(job.runs, "token"), Position(), lambda _: None
    )
    export(sharded, Export(job, base, folder(volume), {}, job.output), tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (base, volume / "versions" / "uid"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert "model.embed_tokens.weight" in same
    assert "model.layers.0.mlp.up_proj.weight" not in same


SIZES = st.dictionaries(st.text(max_size=3), st.integers(0, 1000), min_size=1, max_size=30)


@given(SIZES, st.integers(1, 2000), st.integers(1, 9))
def test_weight_files_have_all_weights_once_in_order_and_no_more_than_fits(
    sizes: dict[str, int], most: int, ranks: int
) -> None:
    files = files_of(sizes, most, ranks)
    assert [name for file in files for name in file] == list(sizes)
    assert all(len(file) == 1 or sum(sizes[name] for name in file) <= most for file in files)


def base_with(adapter: str) -> Any:
    """A model with tied embeddings, as it is before a training."""
    torch.manual_seed(0)
    config = config_for(HEADS | {"model_type": "llama", "vocab_size": 64, "tie_word_embeddings": True})
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return with_adapter(model, Adapter(type=adapter, r=2))


@pytest.mark.parametrize(("adapter", "lost"), [("none", "layers.0.mlp.up_proj.weight"), ("lora", "q_proj.lora_B")])
def test_a_model_is_not_published_with_a_weight_as_it_was_before_the_training(adapter: str, lost: str) -> None:
    model = base_with(adapter)
    trained = {name: parameter + 1 for name, parameter in model.named_parameters() if parameter.requires_grad}
    load_trained(model, trained)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in trained.items())
    incomplete = {name: value for name, value in trained.items() if lost not in name}
    assert len(incomplete) == len(trained) - 1
    with pytest.raises(RuntimeError, match=f"the trained values of these weights are missing: .*{lost}"):
        load_trained(base_with(adapter), incomplete)
    with pytest.raises(RuntimeError, match=r"the base model does not have these trained weights: \['other'\]"):
        load_trained(base_with(adapter), trained | {"other": torch.zeros(1)})


def test_a_tied_weight_may_have_either_of_its_names() -> None:
    model = base_with("none")
    trained = {name: parameter.detach() for name, parameter in model.named_parameters()}
    trained["lm_head.weight"] = trained.pop("model.embed_tokens.weight") + 1
    load_trained(model, trained)
    assert torch.equal(model.get_input_embeddings().weight, trained["lm_head.weight"])
