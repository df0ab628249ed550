"""The files of a model folder, and the document of a version that is an adapter alone."""

from pydantic import Field

from driftloop.api.base import ApiModel
from driftloop.contract.manifest import ManifestEntry

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"  # the weights, in several files or in one
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as PEFT names them
ADAPTER_BASE = "adapter_base.json"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_BASE)
MAX_ADAPTERS = 4  # on a whole model; the version that is trained from the last one is merged


class AdaptedWeight(ApiModel):
    """A weight to which an adapter adds a product. `module`: in the model, as it begins the names in the adapter."""

    module: str
    transposed: bool = False  # the weight is (inputs, outputs)


class AdapterBase(ApiModel):
    """What an adapter was trained on, in ADAPTER_BASE beside it. It can't be merged onto anything else.

    Names of weights are those in the base's files.
    """

    version: int = 1
    uri: str  # where the base was
    files: list[ManifestEntry]  # of the base, that are read when the adapter is merged: the base's content
    dtype: str  # of the merged weights, such as bfloat16
    scaling: float  # of the products
    weights: dict[str, AdaptedWeight]
    in_4_bits: list[str] = Field([], alias="in4Bits")  # weights that are rounded before the adapter is added
