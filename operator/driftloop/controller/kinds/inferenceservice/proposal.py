"""The version that a service would roll out if its pin in Git allowed it. Pure."""

from dataclasses import replace

import yaml

from driftloop.api.base import API_VERSION
from driftloop.api.inferenceservice import InferenceService, Proposal
from driftloop.controller.kinds.inferenceservice.selection import newest
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason


def proposal(situation: Situation) -> Proposal | None:
    """The newest version that could replace the pinned one, and the manifest that pins it. None if there is none.

    Without a pin a service has proposals only with `approval: git`, because it takes them itself otherwise.
    """
    observed = situation.observed
    model = observed.spec.model
    if model.version is None and observed.spec.approval != "git":
        return None
    unpinned = observed.spec.model_copy(update={"model": model.model_copy(update={"version": None})})
    chosen = newest(replace(situation, observed=replace(observed, spec=unpinned))).version
    serving = situation.stable.version if situation.stable else None
    if chosen is None or chosen.name in (model.version, serving):
        return None
    message = f"{chosen.name} could replace {serving or 'nothing'}"
    if chosen.summary:
        message += f": {chosen.summary}"
    return Proposal(version=chosen.name, message=message[:512], manifest=_manifest(situation, chosen.name))


def proposed(situation: Situation, found: Proposal | None) -> tuple[Event, ...]:
    """The Event about a proposal that the status does not have yet."""
    known = situation.observed.status.proposal
    if found is None or (known and known.version == found.version):
        return ()
    message = f"{found.message}. Commit spec.model.version: {found.version}, or use driftloop propose"
    return (Event("Normal", Reason.VERSION_PROPOSED, message),)


def _manifest(situation: Situation, version: str) -> str:
    """The fields to commit, as YAML. It is no whole service: the rest of the manifest in Git stays as it is."""
    observed = situation.observed
    document = {
        "apiVersion": API_VERSION,
        "kind": InferenceService.KIND,
        "metadata": {"name": observed.name, "namespace": observed.namespace},
        "spec": {"model": {"family": observed.spec.model.family, "version": version}},
    }
    return yaml.safe_dump(document, sort_keys=False)
