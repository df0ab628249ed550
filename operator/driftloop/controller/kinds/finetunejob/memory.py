"""The estimated memory of a worker, by what it is for and at the moment when the training needs the most. Pure.

tests/unit/trainer/test_memory_plan.py compares each part, and the most at one time, with what torch's memory tracker
counts for models of 1B to 70B parameters. bench/gpu_plan.py compares the sum with a GPU: on an H200 it was 1.00 to 1.01
of the allocated memory.
"""

import math
from dataclasses import dataclass, replace

from driftloop.api.finetunejob import GradientReduction, Parallelism, TrainingSpec
from driftloop.contract.course import trained_examples_per_sequence
from driftloop.contract.interleaving import in_equal_rounds, rounds
from driftloop.contract.loss import LOGITS_BYTES, chunk_tokens
from driftloop.contract.names import WEIGHT_FILE_BYTES
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.vocabulary.quantity import quantity

FLOAT, HALF = 4, 2  # bytes
NF4 = 0.5 + HALF / 64  # bytes of a number in 4 bits, of which 64 have a scale: see driftloop_trainer/nf4.py
# Linear layers of a dense decoder layer: q, k, v and o of the attention, and gate, up and down of the MLP.
LINEAR_LAYERS = 7
ADAM_STATES = 2  # AdamW keeps two moments per weight, in float32 like the weights
# Memory of a worker for Python, torch and Ray (measured: 0.4 GiB), and memory of a GPU for CUDA, cuBLAS and NCCL
# (measured: 1.9 GiB beside a model of 1.2B parameters on an H200).
RUNTIME_BYTES, GPU_RUNTIME_BYTES = 512 << 20, 2048 << 20
# Gradients of up to this size are kept unsharded until the last micro-batch of a step: adding them up once is faster.
# Those of a larger model are added up and sharded after every micro-batch.
UNSHARDED_GRADIENTS = 1 << 30
# Types that normalise the queries and the keys, of each head or of all.
QK_NORM_TYPES = (
    *("apertus", "exaone4", "gemma3_text", "hunyuan_v1_dense", "nanochat", "olmo2", "olmo3", "qwen3", "qwen3_moe"),
)
# Types that normalise the input and the output of both attention and MLP.
FOUR_NORMS_TYPES = ("gemma2", "gemma3_text", "glm4")
# Types whose norms multiply with their weights in float32, so that the normalised input is kept in float32, too.
FLOAT_NORM_TYPES = ("gemma", "gemma2", "gemma3_text", "helium", "olmo2", "olmo3", "vaultgemma")
# Types whose norms have no weights.
UNWEIGHTED_NORM_TYPES = ("nanochat", "olmo")
# Types that cap the scores of their attention, which torch has no kernel for.
CAPPED_TYPES = ("gemma2", "vaultgemma")
# Types that cap their logits.
CAPPED_LOGITS_TYPES = (*CAPPED_TYPES, "nanochat")
# Numbers of the MLP's inner size that are kept: gate, its activation, up, and their product. The others have no gate;
# the activation of apertus has weights and keeps several factors, and a mask.
INNER_NUMBERS, UNGATED_INNER_NUMBERS = 4, {"apertus": 5.5, "nanochat": 2}
# Types with one matrix for gate and up: their gradients are joined before it, and sent between workers that share it.
JOINED_TYPES = ("glm", "glm4", "phi3")
# Tensors in float32 of the input's size that the backward pass of a norm computes.
NORM_BACKWARD = 5
# Copies of the vocabulary's gradient while the loss of some tokens at a time adds up to it: the sum, the next addend,
# and the next sum (autograd does not add in place).
VOCABULARY_GRADIENTS = 3
# torch gathers the next layer while a layer is computed.
GATHERED_LAYERS = 2
VARYING = ("gathered", "gradients", "activations", "logits")  # the parts that change during a step


@dataclass(frozen=True)
class _Worker:
    """What a worker has of the model, in elements, and what it computes at a time.

    `layer`: the largest layer. `outside`: embeddings, and the output layer if it is not tied to them; FSDP keeps them
    gathered from the first layer to the last. `trained_layer`, `trained_outside`: of these, with adapters.
    """

    model: ModelFacts
    training: TrainingSpec
    shards: int
    tensor: int
    tokens: int
    length: int
    waiting: int  # layers times micro-batches whose activations wait for the backward pass at the same time
    layer: int
    outside: int
    trained_layer: int
    trained_outside: int
    trained: int
    frozen: int
    in_4_bits: int  # of the frozen ones
    gradients_before: int  # bytes that the step's earlier micro-batches have left
    gradients_at_end: int  # bytes after the last one, without those of the embeddings and the output layer

    @property
    def workers(self) -> int:
        """Workers that share a stage, in a replica."""
        return self.shards * self.tensor

    @property
    def width(self) -> int:
        """Bytes of a number in the computation."""
        return HALF if self.training.bf16 else FLOAT

    @property
    def layer_bytes(self) -> int:
        """Bytes of the largest layer as it is gathered."""
        in_4_bits = math.ceil(self.in_4_bits / max(1, self.model.num_layers))
        return self.width * max(0, self.layer - in_4_bits) + math.ceil(NF4 * in_4_bits)

    @property
    def copied(self) -> bool:
        """Whether gathered weights come from a buffer: of other workers' shards, or in half precision."""
        return self.shards > 1 or (bool(self.training.bf16) and self.training.adapter.type in ("none", "osf"))

    @property
    def chunk(self) -> int:
        """Tokens whose logits exist at a time."""
        if not self.model.chunked_loss:
            return self.tokens
        return min(self.tokens, chunk_tokens(self.model.vocab_size, logits_bytes(self.training)))


def logits_bytes(training: TrainingSpec) -> int:
    """Bytes in float32 of the tokens whose logits are computed at a time."""
    return LOGITS_BYTES if training.logits_memory is None else quantity(training.logits_memory)


def memory_per_worker(
    training: TrainingSpec,
    data: PrepareResult,
    groups: int,
    micro: int,
    *,
    on_gpu: bool,
    parallelism: Parallelism | None = None,
) -> dict[str, int]:
    """The estimated memory of a worker in bytes: the most of each part at any time.

    `training` is the most at one time during the training: the parts are not at their largest at the same moment.
    `total` is the largest need of loading, training and export.

    `groups` of workers each read the same rows. With more than two groups no part grows with their number. With a
    pipeline each part is that of the worker which needs the most of it: the first has the activations of the most
    micro-batches (see `waiting`), the last one has the logits. With replicas the shards are those of one replica.
    Workers that share the tokens of rows have a part of activations, logits and scores; the others are shards for them.
    Gathered, gradients, activations, logits: see `_moments`. Weights, optimizer: see `_state`. Mask, scores, runtime:
    see `_fixed`.
    """
    worker = _worker(training, data, groups, micro, parallelism or Parallelism())
    state, fixed, moments = _state(worker), _fixed(worker, micro, on_gpu=on_gpu), _moments(worker)
    varying = {part: max(getattr(moment, part) for moment in moments) for part in VARYING}
    most = sum(state.values()) + sum(fixed.values()) + max(moment.total for moment in moments)
    others = {} if on_gpu else {"loading": _loading(worker), "export": _exporting(worker)}
    return state | varying | fixed | {"training": most} | others | {"total": max(most, *others.values(), 0)}


def _state(worker: _Worker) -> dict[str, int]:
    """Weights, in float32, and the moments of the trained ones.

    Frozen weights of LoRA are in half precision if the computation is, or with QLoRA in 4 bits. One of the two matrices
    of each adapter is whole on all workers of a group; the estimate takes both as whole.
    """
    adapter = worker.training.adapter.type
    shards = worker.shards * (worker.tensor if adapter == "none" else 1)  # of trained weights
    width = FLOAT if adapter == "osf" else worker.width
    frozen = width * (worker.frozen - worker.in_4_bits) + NF4 * worker.in_4_bits
    return {
        "weights": math.ceil(FLOAT * worker.trained / shards + frozen / worker.workers),
        "optimizer": math.ceil(FLOAT * ADAM_STATES * worker.trained / shards),
    }


def _fixed(worker: _Worker, micro: int, *, on_gpu: bool) -> dict[str, int]:
    """Mask and scores of the attention, and the runtime: they are the same in the whole training."""
    masked = worker.training.packing and not worker.model.document_attention
    return {
        "mask": _mask(worker, micro) if masked else 0,
        "scores": _scores(worker, on_gpu=on_gpu),
        "runtime": GPU_RUNTIME_BYTES if on_gpu else RUNTIME_BYTES,
    }


def gradient_reduction(model: ModelFacts) -> GradientReduction:
    """When to add up the gradients of the workers."""
    return "step" if FLOAT * model.trainable_parameters <= UNSHARDED_GRADIENTS else "microBatch"


def largest_stage(model: ModelFacts, parallelism: Parallelism) -> ModelFacts:
    """The most that a worker of a pipeline has of the model: its layers, and the embeddings or the output layer."""
    if parallelism.pipeline == 1:
        return model
    layers = _most_layers(model.num_layers, parallelism)
    parameters = min(model.parameters, layers * model.largest_layer_parameters + model.embedding_parameters)
    trainable = math.ceil(model.trainable_parameters * parameters / model.parameters)
    return model.model_copy(update={"num_layers": layers, "parameters": parameters, "trainable_parameters": trainable})


def _most_layers(layers: int, parallelism: Parallelism) -> int:
    """The layers of the first worker: of each of its stages, and of the stages that have one more.

    >>> _most_layers(7, Parallelism(pipeline=2)), _most_layers(7, Parallelism(pipeline=2, stages_per_worker=2))
    (4, 4)
    """
    each, more = divmod(layers, parallelism.pipeline * parallelism.stages_per_worker)
    return each * parallelism.stages_per_worker + math.ceil(more / parallelism.pipeline)


def waiting(layers: int, batches: int, parallelism: Parallelism) -> int:
    """Layers with activations that wait for the backward pass, in the first worker, which has `layers` of them.

    As many micro-batches as there are workers wait there. With several stages per worker, these passes through a stage
    precede the first backward pass: those of a round through its other stages, and two per further worker (Narayanan et
    al. 2021, "Efficient large-scale language model training on GPU clusters", section 2.2).
    """
    workers, stages = parallelism.pipeline, parallelism.stages_per_worker
    if stages == 1:
        return min(batches, workers) * layers
    batches = in_equal_rounds(batches, workers)
    passes = (stages - 1) * (batches // rounds(batches, workers)) + 2 * (workers - 1)
    return math.ceil(min(batches * stages, passes + 1) * layers / stages)


def _worker(training: TrainingSpec, data: PrepareResult, groups: int, micro: int, parallelism: Parallelism) -> _Worker:
    tensor = parallelism.tensor
    model = largest_stage(data.model, parallelism)
    longest = training.max_length if training.packing else min(training.max_length, data.longest_row_tokens)
    batches = math.ceil(training.train_batch_size / (groups * micro))
    whole = training.adapter.type == "none"
    vocabularies = 1 if model.tied_embeddings or parallelism.pipeline > 1 else 2
    outside = min(model.parameters, vocabularies * model.embedding_parameters) // tensor
    adapters = math.ceil(model.trainable_parameters / max(1, model.num_layers))
    shards = groups * parallelism.context // parallelism.data_replicate
    split = tensor if whole else 1  # over how many workers of a group trained weights are
    sharded = math.ceil(FLOAT * model.trainable_parameters / (shards * split))
    kept = batches > 1 and groups * parallelism.context > 1 and gradient_reduction(model) == "step"
    trained = outside if whole else 0
    unsharded = math.ceil(FLOAT * model.trainable_parameters / split) if kept else 0
    layer = model.largest_layer_parameters // tensor
    in_4_bits = model.linear_parameters if training.adapter.type == "qlora" else 0
    return _Worker(
        model=model,
        training=training,
        shards=shards,
        tensor=tensor,
        tokens=micro * trained_examples_per_sequence(training) * math.ceil(longest / parallelism.context),
        length=longest,
        waiting=waiting(model.num_layers, batches, parallelism),
        layer=layer + adapters if training.adapter.type in ("lora", "qlora") else layer,
        outside=outside,
        trained_layer=layer if whole else adapters,
        trained_outside=trained,
        trained=model.trainable_parameters,
        frozen=model.parameters - model.trainable_parameters,
        in_4_bits=in_4_bits,
        gradients_before=unsharded or (sharded if batches > 1 else 0),
        gradients_at_end=unsharded + math.ceil(FLOAT * max(0, model.trainable_parameters / split - trained) / shards),
    )


@dataclass(frozen=True)
class _Moment:
    """What varies during a step, in bytes."""

    gathered: int
    gradients: int
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        return self.gathered + self.gradients + self.activations + self.logits


def _moments(worker: _Worker) -> tuple[_Moment, ...]:
    """The moments of a step at which the most can be needed."""
    return (
        _start(worker),
        *_loss(worker),
        _last_layer(worker),
        _last_norm(worker),
        *_end(worker),
    )


def _start(worker: _Worker) -> _Moment:
    """The embeddings are there twice if they are copied out of a buffer.

    It is freed after the first layer has arrived in a buffer of its own.
    """
    outside = worker.width * worker.outside
    return _Moment(outside + (outside if worker.copied else 0) + _arriving(worker), worker.gradients_before)


def _loss(worker: _Worker) -> tuple[_Moment, ...]:
    """The logits of some tokens; then their part of the output layer's gradient; then the final norm's gradient.

    The backward pass of that norm has NORM_BACKWARD tensors beside its input.
    """
    gathered = worker.width * worker.outside + _arriving(worker)
    before, several = worker.gradients_before, worker.chunk < worker.tokens
    kept = _kept_activations(worker)
    hidden = worker.tokens * worker.model.hidden_size
    states = kept + hidden * (FLOAT + 4 * worker.width)
    return (
        _Moment(gathered, before + _vocabulary(worker) * several, states, _logits(worker)),
        _Moment(gathered, before + _vocabulary(worker) * (VOCABULARY_GRADIENTS if several else 1), states),
        _Moment(
            gathered, before + _vocabulary(worker), kept + hidden * ((1 + NORM_BACKWARD) * FLOAT + 2 * worker.width)
        ),
    )


def _last_layer(worker: _Worker) -> _Moment:
    """The first layer of the backward pass, of whose MLP two tensors of its inner size are computed at a time.

    A layer's gradients arise in the computation's precision, and are copied into a float32 buffer to be added up over
    the workers. With checkpointing the layer's activations are computed again.
    """
    model, width = worker.model, worker.width
    inner = _inner_gradients(worker) * width * model.intermediate_size // worker.tensor + model.hidden_size * width
    again = _layer(worker) if worker.training.gradient_checkpointing else 0
    layers = (GATHERED_LAYERS if worker.copied else 1) * worker.layer_bytes
    return _Moment(
        width * worker.outside + layers + _dequantised(worker) + _in_float8(worker, model.hidden_size),
        worker.gradients_before + _vocabulary(worker) + (FLOAT + width) * worker.trained_layer,
        _kept_activations(worker) + worker.tokens * (inner + again) + _in_float8(worker, worker.tokens),
    )


def _inner_gradients(worker: _Worker) -> int:
    """Tensors of the MLP's inner size that its backward pass computes at a time."""
    joined = worker.model.model_type in JOINED_TYPES
    return 2 + joined * (1 if worker.tensor == 1 else 4)


def _last_norm(worker: _Worker) -> _Moment:
    """The norm before the MLP of that layer, whose own tensors are freed. Many workers that share matrices need it."""
    last, width, hidden = _last_layer(worker), worker.width, worker.model.hidden_size
    again = _layer(worker) if worker.training.gradient_checkpointing else 0
    changed = again - _mlp(worker) + hidden * (NORM_BACKWARD * FLOAT - width)
    return replace(last, activations=_kept_activations(worker) + math.ceil(worker.tokens * changed))


def _end(worker: _Worker) -> tuple[_Moment, ...]:
    """The gradient of the embeddings, which is added to that of tied weights; then both are added up over the workers.

    All other gradients are sharded by then. Where the workers share a matrix, the gradient of the embeddings arises
    whole in each of them.
    """
    outside, width = worker.trained_outside, worker.width
    gathered = width * worker.outside
    copies = VOCABULARY_GRADIENTS if worker.model.tied_embeddings else 2
    arising = copies * _vocabulary(worker) + (worker.tensor - 1) * _vocabulary(worker)
    others = worker.gradients_at_end
    added = max(outside * (FLOAT + width), math.ceil(outside * FLOAT * (1 + 1 / worker.shards)))
    return (
        _Moment(gathered, others + arising + FLOAT * worker.trained_layer),
        _Moment(0, others + added),  # the weights are not needed any more
    )


def _vocabulary(worker: _Worker) -> int:
    """Bytes of the output layer's gradient."""
    return worker.width * min(worker.trained_outside, worker.model.embedding_parameters // worker.tensor)


def _arriving(worker: _Worker) -> int:
    """Bytes of a layer that is gathered while another one is computed."""
    return worker.layer_bytes if worker.shards > 1 else 0


def _dequantised(worker: _Worker) -> int:
    """Bytes of the largest matrix of 4 bits when it is expanded to be multiplied with: it is there twice."""
    return 2 * worker.width * worker.model.hidden_size * _widest(worker.model) if worker.in_4_bits else 0


def _in_float8(worker: _Worker, rows: int) -> int:
    """Bytes of the largest matrix, or of so many tokens, in float8, in two layouts.

    The backward pass keeps what it keeps without float8 (tests/unit/trainer/train/worker/test_float8.py). How many of
    these copies a GPU has at a time is not measured, so this is more than one matrix product needs.
    """
    return 2 * rows * _widest(worker.model) if worker.training.float8 else 0


def _widest(model: ModelFacts) -> int:
    return max(model.hidden_size, model.intermediate_size)


def _logits(worker: _Worker) -> int:
    """Log-softmax and its gradient in float32, and the logits and their gradient in half precision.

    Every worker of a group has them whole. Logits that are capped are kept as they were after tanh, too.
    """
    capped = worker.width * (worker.model.model_type in CAPPED_LOGITS_TYPES)
    return worker.chunk * worker.model.vocab_size * (2 * FLOAT + (2 * HALF if worker.training.bf16 else 0) + capped)


def _kept_activations(worker: _Worker) -> int:
    """Bytes that the forward pass keeps for the backward pass: of each layer all, or with checkpointing its input."""
    checkpointing = worker.training.gradient_checkpointing
    layer = worker.model.hidden_size * worker.width if checkpointing else _layer(worker)
    return worker.tokens * worker.waiting * layer


def _layer(worker: _Worker) -> int:
    """Bytes per token that the forward pass of a layer keeps for the backward pass.

    For each norm: the input in float32, and the normalised one (for the gradient of weights that are trained). The
    inputs of attention and MLP. For the attention: q, k, v and its output. For the MLP: see INNER_NUMBERS.
    For osf: in each linear layer the input's components along the trained directions, before and after S.
    An adapter's dropout keeps its output and a mask for each matrix. The workers that share a matrix have a part of
    each of these, but the norms' input and outputs are whole.
    """
    model, adapter, width = worker.model, worker.training.adapter, worker.width
    hidden, inner, keys, norm = model.hidden_size, model.intermediate_size, _keys(model), _norm(worker)
    attention = width * (2 * hidden + 2 * keys)
    if model.model_type in QK_NORM_TYPES:
        attention += norm * (hidden + keys)
    whole = hidden * ((4 if model.model_type in FOUR_NORMS_TYPES else 2) * norm + 2 * width)
    if adapter.type == "osf":
        whole += math.ceil(2 * LINEAR_LAYERS * width * hidden * (1 - adapter.effective_rank))
    if adapter.type in ("lora", "qlora") and adapter.lora_dropout > 0:
        whole += (width + 1) * 5 * hidden
        attention += (width + 1) * (hidden + inner)
    return whole + math.ceil(attention / worker.tensor + _mlp(worker))


def _mlp(worker: _Worker) -> float:
    """Bytes per token that the forward pass of an MLP keeps, without its input."""
    numbers = UNGATED_INNER_NUMBERS.get(worker.model.model_type, INNER_NUMBERS)
    return worker.width * numbers * worker.model.intermediate_size / worker.tensor


def _norm(worker: _Worker) -> int:
    """Bytes that a norm keeps of each number of its input."""
    weights_trained = worker.training.adapter.type == "none" and worker.model.model_type not in UNWEIGHTED_NORM_TYPES
    normalised = FLOAT if worker.model.model_type in FLOAT_NORM_TYPES else worker.width
    return FLOAT + (normalised if weights_trained else 0)


def _keys(model: ModelFacts) -> int:
    """The size of the keys of a token."""
    heads = max(1, model.num_attention_heads)
    return math.ceil(model.hidden_size * (model.num_key_value_heads or heads) / heads)


def _mask(worker: _Worker, rows: int) -> int:
    """Bytes of the mask between packed rows: rows x length x length booleans, and as many numbers in every layer.

    144 MiB where `bench/packing.py` measured 147 to 157 MiB.
    """
    return rows * worker.training.max_length**2 * (1 + worker.width * _storing_layers(worker))


def _scores(worker: _Worker, *, on_gpu: bool) -> int:
    """Bytes that attention keeps where torch has no kernel for it that keeps less.

    That is float32 on a GPU, and scores that are capped. In numbers of float32 for each score: the softmax of each
    layer (and if they are capped as much again, the capped ones and what is multiplied with the values), and two more
    while one is computed. In float32 on a GPU also the keys and values of all heads, and the scaled queries and keys.
    """
    layers, heads, model = _storing_layers(worker), worker.model.num_attention_heads, worker.model
    score = FLOAT * heads * worker.tokens * worker.length
    if model.model_type in CAPPED_TYPES:
        return (2 * layers + 2) * score // worker.tensor
    if not on_gpu or worker.training.bf16:
        return 0
    states = layers * worker.tokens * (4 * model.hidden_size - 2 * _keys(model))
    return ((layers + 2) * score + FLOAT * states) // worker.tensor


def _storing_layers(worker: _Worker) -> int:
    return 1 if worker.training.gradient_checkpointing else worker.waiting


def _loading(worker: _Worker) -> int:
    """Bytes while the weights are read: the shards, and the whole model where rank 0 has to read it first.

    Then each worker receives a weight at a time, whole, and copies its part.
    """
    model = worker.model
    shards = math.ceil(FLOAT * model.parameters / worker.workers)
    whole = FLOAT * model.parameters + 2 * _gathered_weight(model) if model.loaded_whole else 0
    return RUNTIME_BYTES + shards + whole


def _exporting(worker: _Worker) -> int:
    """Bytes while the model is written: shards and moments, a gathered weight, and what is written."""
    model = worker.model
    shards = math.ceil(FLOAT * (model.parameters + ADAM_STATES * model.trainable_parameters) / worker.workers)
    return RUNTIME_BYTES + shards + _gathered_weight(model) + _written(worker)


def _gathered_weight(model: ModelFacts) -> int:
    """Bytes of a weight that is written: at most those of a layer, or of the embeddings."""
    return FLOAT * max(model.largest_layer_parameters, model.embedding_parameters)


def _written(worker: _Worker) -> int:
    """Bytes of what a worker writes: a weight file with its copy in /tmp.

    Of a model that rank 0 has to write whole: the trained weights and the model that they are loaded into, and then
    that model and its files in /tmp.
    """
    model = worker.model
    if model.loaded_whole:
        return 2 * FLOAT * model.parameters
    return 2 * _weight_file(worker)


def _weight_file(worker: _Worker) -> int:
    return min(WEIGHT_FILE_BYTES, math.ceil(FLOAT * worker.model.parameters / worker.workers))


def memory_per_pod(
    training: TrainingSpec,
    data: PrepareResult,
    groups: int,
    in_pod: int,
    copies: int,
    parallelism: Parallelism | None = None,
) -> dict[str, int]:
    """The estimated memory of a pod with GPUs, beside theirs, in bytes: that of its `in_pod` workers.

    Python, torch and Ray take what they take on CPUs; what CUDA takes of it was not measured, and is not counted.
    A worker reads its slice of a weight at a time. When the model is written, each worker has a file, and one of them
    at a time adds a weight to it. Rank 0 alone has the whole of a model that transformers can't load and save in parts.
    `copies`: of a weight file that a worker holds: with the one in /tmp two, one where it is written to a claim, and
    none if only an adapter is written. The copy for a checkpoint is added by the plan.
    """
    worker = _worker(training, data, groups, 1, parallelism or Parallelism())
    runtime, weight = in_pod * RUNTIME_BYTES, _gathered_weight(data.model)
    whole = FLOAT * data.model.parameters * data.model.loaded_whole
    loading = runtime + in_pod * math.ceil(weight / worker.workers) + whole
    files = 2 * whole or copies * in_pod * _weight_file(worker)
    export = runtime + (weight + files if copies else 0)
    return {"runtime": runtime, "loading": loading, "export": export, "total": max(loading, export)}
