"""What a pod says of its requests, on METRICS_PORT: serving pods, and the door that holds requests while none runs."""

from pydantic import Field

from driftloop.api.base import ApiModel


class Activity(ApiModel):
    """Requests that need the engine, so without lists of models, and without those that were refused for their key."""

    running: int = Field(ge=0)  # requests whose answer has not ended
    held: int = Field(0, ge=0)  # those among them that wait for a serving pod; only at the door
    # Since the last one began or ended. Before the first one a serving pod counts from its start, and a door has None.
    idle_seconds: float | None = Field(None, ge=0)
