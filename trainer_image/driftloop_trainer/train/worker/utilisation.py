"""How much of its GPUs' arithmetic a training uses: model FLOPs utilisation (MFU). Pure.

The model's own multiplications are counted, without what is computed again for the backward pass: of each weight and
token 2 FLOPs in the forward pass, 2 for the gradient of the activations and, of a trained weight, 2 for its own (6 per
trained weight, 4 per frozen one), and the attention (Chowdhery et al. 2022, PaLM, appendix B). Causal attention sees
half of a row. The output layer computes only tokens that count in the loss.
"""

import re
from dataclasses import dataclass

import numpy as np

from driftloop.contract.result import ModelFacts
from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.worker.order import Indices

# Dense bfloat16 with float32 sums, in FLOP/s, by the words that a product's name must have, the first that fits.
# From NVIDIA's data sheets of H100, H200, GH200, DGX B200, GB200 NVL72, A100, A30, A40, A10, L40S, L40 and L4: half of
# what they give with sparsity. Only products whose peak is listed there: A10G and H20, for example, are others.
_PEAKS = (
    *((("H100", "PCIE"), 756e12), (("H100", "NVL"), 835e12), (("H100",), 989e12)),
    *((("H200", "NVL"), 835e12), (("H200",), 989e12), (("GH200",), 989e12)),
    *((("B200",), 2250e12), (("GB200",), 2500e12)),
    *((("A100",), 312e12), (("A30",), 165e12), (("A40",), 149.7e12), (("A10",), 125e12)),
    *((("L40S",), 362e12), (("L40",), 181e12), (("L4",), 121e12)),
)
# Types whose arithmetic is that of the formula: dense decoders in which each token attends to all before it in its row.
_DENSE = frozenset(
    (
        *("apertus", "arcee", "ernie4_5", "gemma", "glm", "glm4", "gpt2", "gpt_neox", "gptj", "granite", "helium"),
        *("hunyuan_v1_dense", "internlm3", "llama", "nemotron", "olmo", "olmo2", "phi", "qwen2", "qwen3"),
        *("seed_oss", "smollm3", "stablelm"),
    )
)


def peak_of(product: str) -> float | None:
    """The peak of a GPU in dense bfloat16, in FLOP/s; None if it is not known, as of a slice of a GPU.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA A10G"), peak_of("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    (989000000000000.0, None, None)
    """
    words = set(re.split(r"[^A-Z0-9]+", product.upper()))
    if "MIG" in words:
        return None
    return next((peak for name, peak in _PEAKS if words.issuperset(name)), None)


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of forward and backward pass: per token, per token whose logits are computed, and per pair of tokens."""

    token: float
    logits: float
    pair: float

    @classmethod
    def of(cls, facts: ModelFacts) -> "Flops":
        """Those of a model with these sizes. Looking up embeddings costs nothing."""
        head = facts.embedding_parameters
        layers = facts.parameters - (head if facts.tied_embeddings else 2 * head)
        per_head = 6 if facts.trainable_parameters >= layers + head else 4
        return cls(
            token=4 * layers + 2 * min(layers, facts.trainable_parameters),
            logits=per_head * head,
            pair=6 * facts.num_layers * facts.hidden_size,
        )

    def step(self, tokens: float, trained: float, pairs: float) -> float:
        """Of a step with so many tokens, of which `trained` count. `pairs`: the sum of the squares of all lengths."""
        return self.token * tokens + self.logits * trained + self.pair * pairs


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What a training is measured by. `peak`: of all its GPUs."""

    flops: Flops
    peak: float

    def flops_of(self, dataset: Dataset, rows: Indices) -> float:
        """Of a step with these sequences."""
        tokens, trained = dataset.lengths[rows], dataset.trained[rows]
        of_documents = np.concatenate([dataset.segments(int(row)) for row in rows]) if dataset.packed else tokens
        pairs = np.square(of_documents.astype(np.float64)).sum()
        return self.flops.step(float(tokens.sum()), float(trained.sum()), float(pairs))


def utilisation(facts: ModelFacts, products: list[str], workers: int, *, in_bfloat16: bool) -> Utilisation | None:
    """What a training on these GPUs is measured by. `products`: the different GPUs of its workers.

    None if it is not known: without a known peak of all GPUs, of other arithmetic, and of other kinds of models.
    """
    peak = peak_of(products[0]) if len(products) == 1 else None
    if peak is None or not in_bfloat16 or facts.model_type not in _DENSE:
        return None
    return Utilisation(Flops.of(facts), peak * workers)
