"""Cut a model into the stages of a pipeline. A stage is the whole model without the modules of the other stages.

So a stage runs transformers' own forward pass, its parameters have the names that they have in the whole model, and
checkpoints and exported models do not depend on the number of stages. A worker with several stages has the modules of
all of them, and takes those of the others out while it computes one.

A model also computes without modules. What it does to embeddings before the first layer (granite multiplies them,
starcoder2 drops some) is only the first stage's, as other stages put what they received in the place of that layer.
What it does to logits (gemma2 caps them, cohere and granite scale them) is only the last stage's, as others run no more
than the decoder.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.models import decoder_layers

_LAYERS = "layers"  # the decoder layers in transformers' plan of a pipeline


class Elsewhere(nn.Module):
    """Stands for a module of another stage: it passes on what that module would change."""

    def forward(self, states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """`states` itself."""
        return states


class Received(nn.Module):
    """Stands for the first layer: it returns what the previous stage has computed of the same tokens.

    It stands for the embeddings, too, but what follows them never reaches a layer: it only shows the shape of states.
    """

    def __init__(self, states: torch.Tensor | None = None) -> None:
        super().__init__()
        self._states = states

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        """The states that were received."""
        assert self._states is not None
        return self._states


def layers_of(stage: int, stages: int, layers: int) -> range:
    """The decoder layers of a stage. Sizes differ by one at most; the first stages have the additional layers. Pure.

    >>> [list(layers_of(stage, 3, 5)) for stage in range(3)]
    [[0, 1], [2, 3], [4]]
    """
    least, more = divmod(layers, stages)
    first = stage * least + min(stage, more)
    return range(first, first + least + (stage < more))


def check_stages(model: Any, stages: int) -> None:
    """Refuse a whole model of which a stage would train nothing. Raises StageFailure, on every rank alike."""
    layers = decoder_layers(model)
    for stage in range(stages) if stages > 1 else ():
        parts = (layers[number] for number in layers_of(stage, stages, len(layers)))
        if not any(parameter.requires_grad for part in parts for parameter in part.parameters()):
            raise StageFailure(
                StageReason.UNKNOWN_MODULES,
                f"training.adapter.targetModules: no adapter is in the layers of stage {stage + 1} of {stages}: add "
                "modules that are in all layers, or set compute.parallelism.pipeline to 1",
            )


def own_layers(model: Any, own: Collection[int], stages: int) -> list[list[nn.Module]]:
    """The decoder layers of each stage in `own`."""
    layers = getattr(model.get_decoder(), _LAYERS)
    return [[layers[number] for number in layers_of(stage, stages, len(layers))] for stage in own]


def keep_stages(model: Any, own: Collection[int], stages: int) -> None:
    """Leave in `model` the modules of the stages in `own`, by the plan in transformers' configuration.

    The first stage has what is before the layers (the embeddings), the last one has what is after them (the final norm
    and the output layer). Tied embeddings are a parameter of the first stage and another one of the last stage.
    """
    _take_out(model, own, stages, None)


@contextmanager
def only(model: Any, stage: int, stages: int, states: torch.Tensor) -> Iterator[None]:
    """Let `model` compute one of the stages that it has, from what the stage before has computed of the same tokens.

    The first stage begins with the tokens. FSDP must know the whole model by then: see `Pipeline`.
    """
    put_back = _take_out(model, (stage,), stages, states)
    try:
        yield
    finally:
        for put in put_back:
            put()


def _take_out(model: Any, kept: Collection[int], stages: int, states: torch.Tensor | None) -> list[Callable[[], None]]:
    """Replace the modules of the stages that are not in `kept`. Returns what puts each of them back.

    `states`: what the previous stage has computed.
    """
    decoder, modules = model.get_decoder(), list(model.config.base_model_pp_plan)
    layers = getattr(decoder, _LAYERS)
    in_kept = {number for stage in kept for number in layers_of(stage, stages, len(layers))}
    put_back: list[Callable[[], None]] = []
    for number in set(range(len(layers))) - in_kept:
        put_back.append(partial(layers.__setitem__, number, layers[number]))
        layers[number] = Elsewhere()
    if 0 not in kept:
        put_back.append(partial(model.set_input_embeddings, model.get_input_embeddings()))
        model.set_input_embeddings(Received(None if states is None else states.detach()))
        layers[0] = Received(states)
    if stages - 1 not in kept:
        put_back.append(partial(model.set_output_embeddings, model.get_output_embeddings()))
        model.set_output_embeddings(Elsewhere())
        for name in modules[modules.index(_LAYERS) + 1 :]:
            put_back.append(partial(setattr, decoder, name, getattr(decoder, name)))
            setattr(decoder, name, Elsewhere())
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT calls its forward directly
        put_back.append(partial(setattr, bare, "forward", bare.forward))
        bare.forward = partial(_decoded, decoder)
    return put_back


def _decoded(decoder: nn.Module, *inputs: Any, logits_to_keep: Any = 0, **options: Any) -> CausalLMOutput:
    """What a stage that is not the last one returns: the states of all tokens, in place of logits."""
    return CausalLMOutput(logits=decoder(*inputs, **options).last_hidden_state)


def twin(model: Any, own: Collection[int], stages: int) -> nn.Parameter | None:
    """This worker's part of a tied embedding, if the first and the last stage, on different workers, each have one."""
    if not model.config.get_text_config().tie_word_embeddings:
        return None
    if 0 in own:
        weight = model.get_input_embeddings().weight
    elif stages - 1 in own:
        weight = model.get_output_embeddings().weight
    else:
        return None
    return weight if weight.requires_grad else None
