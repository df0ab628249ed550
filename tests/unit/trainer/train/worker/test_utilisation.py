from pathlib import Path

import numpy as np
import pytest

from driftloop.api.finetunejob import Adapter
from driftloop_trainer.dataset import FILE, Dataset, write_dataset
from driftloop_trainer.models import config_for, model_facts
from driftloop_trainer.train.worker.utilisation import Flops, Utilisation, peak_of, utilisation
from unit.trainer.prepare.test_folder import LLAMA

H100, LORA = "NVIDIA H100 80GB HBM3", Adapter(type="lora", r=4, target_modules=["all-linear"])
SIZES = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("product", "peak"),
    [
        (H100, 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", None),
        ("NVIDIA H20", None),
        ("NVIDIA GeForce RTX 4090", None),
        (f"{H100} MIG 1g.10gb", None),
    ],
)
def test_a_peak_is_that_of_the_product_and_never_that_of_a_similar_one(product: str, peak: float | None) -> None:
    assert peak_of(product) == peak


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_weight_takes_six_flops_per_token_and_a_frozen_one_four(tied: bool) -> None:
    config = config_for(LLAMA | SIZES | {"tie_word_embeddings": tied})
    facts, adapted = (model_facts(config, adapter) for adapter in (Adapter(), LORA))
    multiplied = facts.parameters - (0 if tied else facts.embedding_parameters)
    attention = 6 * facts.num_layers * facts.hidden_size
    assert Flops.of(facts).step(1, 1, 64) == 6 * multiplied + 64 * attention
    added = adapted.parameters - facts.parameters
    assert Flops.of(adapted).step(1, 1, 64) == 4 * multiplied + 6 * added + 64 * attention


def test_tokens_that_do_not_count_have_no_logits_and_documents_attend_within_themselves(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[5, 6, 7], [8, 9]], [[-100, 6, 7], [8, 9]], [[2, 1], [2]])
    measured = Utilisation(Flops(token=100, logits=10, pair=1), peak=1)
    flops = measured.flops_of(Dataset(tmp_path / FILE), np.array([0, 1]))
    assert flops == 100 * 5 + 10 * 4 + (4 + 1 + 4)


def test_what_is_not_known_is_not_guessed() -> None:
    facts = model_facts(config_for(LLAMA | SIZES), Adapter())
    known = utilisation(facts, [H100], 8, in_bfloat16=True)
    assert known is not None
    assert known.peak == 8 * 989e12
    for other, products, in_bfloat16 in (
        (facts, [H100, "NVIDIA A100-SXM4-80GB"], True),
        (facts, ["NVIDIA A10G"], True),
        (facts, [H100], False),
        (facts.model_copy(update={"model_type": "mixtral"}), [H100], True),
    ):
        assert utilisation(other, products, 8, in_bfloat16=in_bfloat16) is None
