"""From the revision that serves to the one that should serve: canary, promotion, rollback. Pure.

One Service selects the pods of all revisions, so the traffic share of each arm is its share of the Ready pods. With a
Gateway in the spec the shares are weights of an HTTPRoute, which rise in steps (`steps`, `weighted`).

- If no revision is stable, the first candidate becomes stable as soon as one of its pods is Ready (`first`).
- Otherwise the candidate starts beside stable, which keeps all its pods until the analysis has passed (`canary`).
- Then stable gives up one pod for each Ready candidate pod. There are never fewer pods than spec.replicas in total,
  and room for one more pod is enough for a rollout.
- When all candidate pods are Ready, the roles change, and the pods of the old revision drain (`sweep`).
- A candidate that is worse, or not Ready in time, is scaled to 0, and its Deployment is kept as the record of the
  failure. A candidate whose engine has not started yet waits for the cluster.
- A person may pause, resume, promote or abort the candidate (`orders`).

Roles, times and obeyed commands are recorded on the Deployments; the status only repeats them.
"""
