"""When a new version is trained. Pure.

Retrain iff something asks for it (`asks`: a recorded alert that the operator's own evidence bears out, an alarm that no
job answers, or the age of the version) and nothing is in the way (`obstacles`: one in flight, the breaker, budget and
cooldown, too few corrections, an approval that is missing).

The job's name is a hash of service, stable version and ordinal, and the ordinal is the first whose job does not exist:
any number of deliveries, replicas and restarts makes one job. The jobs and versions tell the history when the status
was lost, and the status tells it when jobs were deleted (`history`). While the alarm is off an alert is answered by any
job created after it began: two Alertmanagers, or two Prometheus replicas with start times of their own, ask once.
"""
