"""When a new version is trained. Pure.

A retraining starts if there is a trigger and no obstacle. Triggers (`triggers`) are a recorded alert that the
operator's own evidence confirms, an alarm that no job has answered, or the age of the version. Obstacles (`obstacles`)
are a retraining in progress, the circuit breaker, budget and cooldown, too few corrections, or a missing approval.

The job's name is a hash of service, stable version and ordinal. The ordinal is the first one whose job does not exist,
so any number of deliveries, replicas and restarts creates one job. The history is read from jobs and versions, in case
the status was lost, and from the status, in case jobs were deleted (`history`). While there is no alarm, any job that
was created after an alert began answers this alert. So two Alertmanagers, or two Prometheus replicas that report
different start times, trigger only one retraining.
"""
