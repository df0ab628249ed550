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

{{- /* Arguments: the root context and an image's name. */ -}}
{{- define "driftloop.image" -}}
{{- $root := index . 0 }}{{ $image := index $root.Values.images (index . 1) }}
{{- $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The port of a URL: what it says, else its scheme's. */ -}}
{{- define "driftloop.urlPort" -}}
{{- $url := urlParse . }}{{ $port := regexFind ":[0-9]+$" $url.host }}
{{- if $port }}{{ trimPrefix ":" $port }}{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end }}
{{- end }}

{{- /* What the operator may do in a namespace that it watches. Each line is a verb some code path uses. */ -}}
{{- define "driftloop.rules" -}}
# Retraining creates jobs and training creates versions; nobody's spec is ever written, and no version deleted.
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
  verbs: [get, list, watch, create, delete] # Kueue and others own fields of a Job: it is never changed
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch] # the pod of a lost node is marked Failed, as the pod garbage collector does
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create] # Ray's token, a service's signing key: written once, never read
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
