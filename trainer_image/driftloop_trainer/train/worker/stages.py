"""Cut a model into the stages of a pipeline. A stage is the whole model without the modules of the other stages.

So a stage runs transformers' own forward pass, its parameters have the names that they have in the whole model, and
checkpoints and exported models do not depend on the number of stages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

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
    """Stands for the embeddings: it returns what the previous stage has computed of the same tokens."""

    states: torch.Tensor | None = None

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """The states that were received."""
        assert self.states is not None
        return self.states


@contextmanager
def received(model: Any, states: torch.Tensor) -> Iterator[None]:
    """Let a stage that has no embeddings continue with `states` when its model is called with tokens."""
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, Received):
        embeddings.states = states
    yield
    if isinstance(embeddings, Received):
        embeddings.states = None


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


def keep_stage(model: Any, stage: int, stages: int) -> None:
    """Leave in `model` the modules of one stage, by the plan in transformers' configuration.

    The first stage has what is before the layers (the embeddings), the last one has what is after them (the final norm
    and the output layer). Tied embeddings are a parameter of the first stage and another one of the last stage.
    """
    decoder, modules = model.get_decoder(), list(model.config.base_model_pp_plan)
    layers = getattr(decoder, _LAYERS)
    for number in set(range(len(layers))).difference(layers_of(stage, stages, len(layers))):
        layers[number] = Elsewhere()
    if stage > 0:
        model.set_input_embeddings(Received())
    if stage < stages - 1:
        model.set_output_embeddings(Elsewhere())
        for name in modules[modules.index(_LAYERS) + 1 :]:
            setattr(decoder, name, Elsewhere())


def twin(model: Any, stage: int, stages: int) -> nn.Parameter | None:
    """This stage's part of a tied embedding, if the first and the last stage each have one."""
    if not model.config.get_text_config().tie_word_embeddings:
        return None
    if stage == 0:
        weight = model.get_input_embeddings().weight
    elif stage == stages - 1:
        weight = model.get_output_embeddings().weight
    else:
        return None
    return weight if weight.requires_grad else None
