{{- define "driftloop.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "driftloop.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "driftloop.labels" -}}
{{ include "driftloop.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: driftloop
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "driftloop.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "driftloop.fullname" .) }}
{{- end }}

{{- define "driftloop.webhookSecret" -}}
{{ .Values.webhook.existingSecret | default (printf "%s-webhook" (include "driftloop.fullname" .)) }}
{{- end }}

{{- /* Arguments: the root context and the name of an image. */ -}}
{{- define "driftloop.image" -}}
{{- $root := index . 0 }}{{ $image := index $root.Values.images (index . 1) }}
{{- $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The image of vLLM; empty without a repository. It has its own versions, so no tag is the default. */ -}}
{{- define "driftloop.vllmImage" -}}
{{- $image := .Values.images.vllm }}
{{- if $image.repository }}
{{- if not (or $image.tag $image.digest) }}{{ fail "images.vllm: set tag or digest" }}{{ end }}
{{- include "driftloop.image" (list . "vllm") }}
{{- end }}
{{- end }}

{{- /* The port of a URL, or the default port of its scheme. */ -}}
{{- define "driftloop.urlPort" -}}
{{- $url := urlParse . }}{{ $port := regexFind ":[0-9]+$" $url.host }}
{{- if $port }}{{ trimPrefix ":" $port }}{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end }}
{{- end }}

{{- /* Rights of the operator in a watched namespace. It uses each of these verbs. */ -}}
{{- define "driftloop.rules" -}}
# Retraining creates jobs, and training creates versions. The operator never writes a spec or deletes a version.
- apiGroups: [driftloop.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch, create]
- apiGroups: [driftloop.dev]
  resources: [modelversions]
  verbs: [get, list, watch, create, patch] # patch: the label driftloop.dev/in-use
- apiGroups: [driftloop.dev]
  resources: [inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [driftloop.dev]
  resources: [finetunejobs/status, modelversions/status, inferenceservices/status]
  verbs: [get, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete, patch] # only annotations are patched: Kueue and others own fields of a Job
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete] # only of a replica over several pods: its workers, and a leader without them
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch] # sets the phase of a pod on a lost node to Failed, as the pod garbage collector does
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, create, patch, delete] # only of services with spec.gateway
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create] # Ray's token and a service's signing key: written once, never read
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
