-- Healthy when the version exists. Progressing for hours while training: don't put jobs into sync waves.
local health = {}
local status = obj.status or {}
-- A status of an older spec says nothing about this spec. Without this check health changes back and forth at each sync.
if status.observedGeneration == nil or status.observedGeneration < obj.metadata.generation then
  health.status = "Progressing"
  health.message = "the operator has not observed this spec yet"
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  if condition.status == "True" or condition.type == "Ready" then
    conditions[condition.type] = condition
  end
end
local ready = conditions.Ready or { status = "Unknown", message = "there is no condition Ready yet" }

if conditions.Stalled then
  health.status = "Degraded"
  health.message = conditions.Stalled.message
  return health
end
-- A suspended job waits for a person, and does not block a sync wave.
if ready.reason == "Suspended" then
  health.status = "Suspended"
  health.message = ready.message
  return health
end
if ready.status == "True" then
  health.status = "Healthy"
else
  health.status = "Progressing"
end
health.message = ready.message
return health
