"""The FineTuneJob of a retraining. Pure."""

from driftloop.api.base import API_VERSION
from driftloop.api.modelversion import Trigger
from driftloop.controller.kinds.inferenceservice.retraining.history import Basis
from driftloop.controller.kinds.inferenceservice.retraining.triggers import RetrainingTrigger
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import SERVICE, TRIGGER
from driftloop.controller.vocabulary.naming import owner_reference
from driftloop.controller.vocabulary.plan import Obj


def finetune_job(basis: Basis, name: str, trigger: RetrainingTrigger) -> Obj:
    """The job from the template of the service, which owns it. The version that it creates has no owner."""
    observed, template = basis.observed, basis.spec.job_template
    recorded = Trigger(
        kind=trigger.kind,
        service=observed.name,
        alert=trigger.alert.alertname if trigger.alert else None,
        started=timestamp(trigger.started),
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
                TRIGGER: recorded.model_dump_json(by_alias=True, exclude_none=True),
            },
            "ownerReferences": [owner_reference(observed.service)],
        },
        "spec": template.spec.dump(),
    }
