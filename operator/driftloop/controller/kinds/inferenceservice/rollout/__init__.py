"""From the revision that serves to the one that should: canary, promotion, rollback. Pure.

One Service selects the pods of every revision, so each arm's share of the traffic is its share of Ready pods.

- No traffic without a stable revision: the first one becomes stable as soon as a pod is Ready (`first`).
- The candidate comes beside stable, which keeps all its pods until the analysis is passed (`canary`).
- Then stable gives up a pod for each candidate pod that is Ready: in all there never are fewer than spec.replicas,
  and a cluster with room for one pod more can roll out.
- When all candidate pods are Ready the roles change, and the old revision's pods drain (`sweep`).
- A candidate that is worse, or not Ready in time, is scaled to 0 and kept as the memory of its failure; one whose
  engine the cluster has not started yet waits.

Roles and times lie on the Deployments, the status only repeats them.
"""
