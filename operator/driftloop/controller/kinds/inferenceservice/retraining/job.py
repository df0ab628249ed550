"""The FineTuneJob of a retraining. Pure."""

from driftloop.api.base import API_VERSION
from driftloop.api.modelversion import Trigger
from driftloop.controller.kinds.inferenceservice.retraining.asks import Ask
from driftloop.controller.kinds.inferenceservice.retraining.history import Basis
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import SERVICE, TRIGGER
from driftloop.controller.vocabulary.naming import owner_reference
from driftloop.controller.vocabulary.plan import Obj


def finetune_job(basis: Basis, name: str, ask: Ask) -> Obj:
    """The job, from the template. It belongs to the service; its version will belong to nobody."""
    observed, template = basis.observed, basis.spec.job_template
    trigger = Trigger(
        kind=ask.kind,
        service=observed.name,
        alert=ask.alert.alertname if ask.alert else None,
        started=timestamp(ask.started),
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {
            "name": name,
            "namespace": observed.namespace,
            "labels": {**template.metadata.labels, SERVICE: observed.name},
            "annotations": {
                **template.metadata.annotations,
                TRIGGER: trigger.model_dump_json(by_alias=True, exclude_none=True),
            },
            "ownerReferences": [owner_reference(observed.service)],
        },
        "spec": template.spec.dump(),
    }
