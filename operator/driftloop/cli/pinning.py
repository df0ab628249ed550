"""Pins a version in the manifest of an InferenceService, and leaves the rest of the text as it is. Pure."""

import json
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from driftloop.api.inferenceservice import InferenceService
from driftloop.cli.manifests import BadInput


def pinned(text: str, service: str | None, version: str, source: str) -> str:
    """The text with spec.model.version set. Raises BadInput if it has not exactly one such service."""
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if isinstance(node, MappingNode)]
    except yaml.YAMLError as error:
        raise BadInput(f"{source}: not YAML: {error}") from error
    services = [node for node in nodes if _is_service(node, service)]
    if len(services) != 1:
        wanted = f"InferenceService {service}" if service else "InferenceService"
        raise BadInput(f"{source}: has {len(services)} objects {wanted}, but must have exactly one: set --service")
    result = _with_version(text, _model_of(services[0], source), version)
    if not _is_pinned(text, result, version):
        raise BadInput(f"{source}: spec.model can't be changed in place: write it as a block of lines")
    return result


def _is_service(node: MappingNode, name: str | None) -> bool:
    kind, metadata = _value(node, "kind"), _value(node, "metadata")
    own = _value(metadata, "name")
    is_named = name is None or (isinstance(own, ScalarNode) and own.value == name)
    return isinstance(kind, ScalarNode) and kind.value == InferenceService.KIND and is_named


def _model_of(service: MappingNode, source: str) -> MappingNode:
    model = _value(_value(service, "spec"), "model")
    if not isinstance(model, MappingNode) or not model.value:
        raise BadInput(f"{source}: spec.model: is missing. Add it, with the family of the service")
    return model


def _with_version(text: str, model: MappingNode, version: str) -> str:
    """The text with the version in place of the old one, or behind the last field of spec.model."""
    old = _value(model, "version")
    if old is not None:
        return text[: old.start_mark.index] + version + text[old.end_mark.index :]
    last: Node = model.value[-1][1]
    end = last.end_mark.index
    if model.flow_style:
        return f"{text[:end]}, version: {version}{text[end:]}"
    indent = " " * model.value[0][0].start_mark.column
    line_end = text.find("\n", end)
    head, tail = (text, "") if line_end < 0 else (text[:line_end], text[line_end:])
    return f"{head}\n{indent}version: {version}{tail}"


def _is_pinned(before: str, after: str, version: str) -> bool:
    """Whether the documents differ in the pin alone."""
    try:
        old, new = _documents(before), _documents(after)
    except yaml.YAMLError:
        return False
    changed = [(one, other) for one, other in zip(old, new, strict=False) if one != other]
    pins = [other["spec"]["model"].pop("version", None) for _, other in changed]
    for one, _ in changed:
        one["spec"]["model"].pop("version", None)
    return old == new and pins in ([], [version])


def _documents(text: str) -> list[Any]:
    """The documents, with a copy for each alias, so that a change of what others share shows."""
    return [json.loads(json.dumps(document, default=str)) for document in yaml.safe_load_all(text)]


def _value(node: Node | None, name: str) -> Node | None:
    """The value of a field of a mapping."""
    return next((value for key, value in _entries(node) if key.value == name), None)


def _entries(node: Node | None) -> Iterator[tuple[Any, Node]]:
    if isinstance(node, MappingNode):
        yield from node.value
