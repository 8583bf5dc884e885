{{/* Prefix of all names: at most 30 characters, because KubeRay allows 41 for a RayService and 50 for its Service. */}}
{{- define "samserve.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- end }}

{{/* Ports of all parts. Those of samserve's services are the defaults of samserve.infra.settings. */}}
{{- define "samserve.ports" -}}
embedding: 8500
embeddingHttp: 8502
decoder: 8501
gateway: 8503
edge: 8504
identity: 8505
metrics: 9464
tritonHttp: 8000
tritonGrpc: 8001
tritonMetrics: 8002
redis: 6379
rayDashboard: 8265
rayAgent: 52365
rayMetrics: 8080
haproxyMetrics: 9101
{{- end }}

{{/* Labels that select the pods of a part. Arguments: the root and the part. They must not change with an upgrade. They
     exclude app.kubernetes.io/name, which KubeRay sets on Ray's pods. */}}
{{- define "samserve.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: samserve
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of pods. They must not change with the chart's version, or every pod would be replaced. */}}
{{- define "samserve.podLabels" -}}
{{ include "samserve.selector" . }}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
{{- include "samserve.extraLabels" . }}
{{- end }}

{{- define "samserve.labels" -}}
{{- $root := index . 0 -}}
{{ include "samserve.selector" . }}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "samserve.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- with $root.Values.images -}}
{{- if .registry }}{{ .registry }}/{{ end }}samserve-{{ $name -}}
{{- $digest := index .digests $name -}}
{{- if $digest }}@{{ $digest }}{{ else }}:{{ .tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Common part of all pods: a service account without a token, no privileges, and the part's placement. Arguments: the
     root and the part. */}}
{{- define "samserve.pod" -}}
{{- $root := index . 0 -}}
{{- $values := get $root.Values (index . 1) -}}
serviceAccountName: {{ include "samserve.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- range $field, $id := $root.Values.userIds }}
  {{- if not (kindIs "invalid" $id) }}
  {{ $field }}: {{ int64 $id }}
  {{- end }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $values $field }}
{{ $field }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Spreads the pods of a part over zones and nodes. Arguments: the root and the part. */}}
{{- define "samserve.spread" -}}
{{- range $index, $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
{{- if $index }}
{{ end -}}
- topologyKey: {{ $key }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{ include "samserve.selector" $ | nindent 6 }}
{{- end }}
{{- end }}

{{- define "samserve.serviceAccount" -}}
{{- $account := (get (index . 0).Values (index . 1)).serviceAccount -}}
{{- $account.name | default (ternary (printf "%s-%s" (include "samserve.fullname" (index . 0)) (index . 1)) "default" $account.create) }}
{{- end }}

{{/* Your annotations of a part's pods. Arguments: the root and the part. */}}
{{- define "samserve.podAnnotations" -}}
{{- with (get (index . 0).Values (index . 1)).podAnnotations }}
annotations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Your labels of a part's pods; the chart's own come first. Arguments: the root and the part. */}}
{{- define "samserve.extraLabels" -}}
{{- with (get (index . 0).Values (index . 1)).podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "samserve.extraVolumes" -}}
{{- with (get (index . 0).Values (index . 1)).extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "samserve.extraVolumeMounts" -}}
{{- with (get (index . 0).Values (index . 1)).extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "samserve.restricted" -}}
securityContext:
  runAsNonRoot: true
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* Name of the Secret that the chart generates. */}}
{{- define "samserve.secret" -}}
{{ include "samserve.fullname" . }}-cache
{{- end }}

{{/* Name of the Secret with the bundled Redis's password. */}}
{{- define "samserve.passwordSecret" -}}
{{- .Values.redis.passwordSecret | default (include "samserve.secret" .) }}
{{- end }}

{{/* REDIS_URL with the password, and the secret that authenticates entries, both from Secrets. Not REDIS_PASSWORD, which
     Ray uses for its own Redis. */}}
{{- define "samserve.redisEnv" -}}
{{- $port := (include "samserve.ports" . | fromYaml).redis -}}
{{- $host := printf "%s-redis:%v" (include "samserve.fullname" .) $port -}}
{{- with .Values.redis }}
{{- if not .bundled }}
- name: REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ .external.existingSecret }}, key: {{ .external.urlKey }} } }
{{- else }}
- name: CACHE_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "samserve.passwordSecret" $ }}, key: password } }
- name: REDIS_URL
  value: redis://:$(CACHE_PASSWORD)@{{ $host }}/0
{{- end }}
{{- end }}
- name: SAMSERVE_CACHE_SECRET
  valueFrom: { secretKeyRef: { name: {{ .Values.redis.entrySecret | default (include "samserve.secret" .) }}, key: entrySecret } }
{{- end }}

{{/* Traces are off without an endpoint. */}}
{{- define "samserve.tracingEnv" -}}
{{- with .Values.tracing.endpoint }}
- { name: SAMSERVE_OTLP_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- end }}

{{/* SAMSERVE_MODELS: NAME or NAME:VARIANT, separated by commas. The first is the default. */}}
{{- define "samserve.models" -}}
{{- $models := list -}}
{{- range .Values.models }}
{{- $models = append $models (ternary (printf "%s:%s" .name .variant) .name (not (empty .variant))) }}
{{- end }}
{{- join "," $models }}
{{- end }}

{{/* Not empty if an engine is built for the model. Arguments: the root and the model. */}}
{{- define "samserve.engine" -}}
{{- $values := (index . 0).Values -}}
{{- if and $values.triton.gpu.enabled $values.triton.engine.build (not (index . 1).variant) }}yes{{ end }}
{{- end }}

{{- define "samserve.claim" -}}
{{- .Values.store.existingClaim | default (printf "%s-store" (include "samserve.fullname" .)) }}
{{- end }}

{{/* Refuses a setting that repeats a variable of the chart, since server-side apply rejects two of one name. Arguments: the
     settings' value, the settings and the chart's variables as YAML. */}}
{{- define "samserve.checkSettings" -}}
{{- $value := index . 0 -}}
{{- $settings := index . 1 -}}
{{- range index . 2 | fromYamlArray }}
{{- if hasKey $settings .name }}
{{- fail (printf "%s.%s: the chart sets this variable itself; use the chart's value for it" $value .name) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses combinations of values that cannot work, each with its own message. */}}
{{- define "samserve.check" -}}
{{- include "samserve.checkSettings" (list "decoder.settings" .Values.decoder.settings (include "samserve.decoderEnv" .)) }}
{{- include "samserve.checkSettings" (list "embedding.settings" .Values.embedding.settings (include "samserve.embeddingEnv" .)) }}
{{- include "samserve.checkSettings" (list "gateway.settings" .Values.gateway.settings (include "samserve.gatewayEnv" .)) }}
{{- include "samserve.checkSettings" (list "edge.settings" .Values.edge.settings (include "samserve.edgeEnv" .)) }}
{{- include "samserve.checkEdge" . }}
{{- include "samserve.checkSettings" (list "gateway.secretSettings" .Values.gateway.secretSettings (include "samserve.gatewayEnv" .)) }}
{{- range $variable, $_ := .Values.gateway.secretSettings }}
{{- if hasKey $.Values.gateway.settings $variable }}
{{- fail (printf "gateway.secretSettings.%s: gateway.settings has this variable too; name it once" $variable) }}
{{- end }}
{{- end }}
{{- $store := .Values.store.enabled -}}
{{- $names := list -}}
{{- range $index, $model := .Values.models }}
{{- if has .name $names }}
{{- fail (printf "models[%d].name: duplicate model %s; requests could not tell its variants apart" $index .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- if and .pull (not $store) }}
{{- fail (printf "models[%d].pull: %s needs the store; set store.enabled" $index .name) }}
{{- end }}
{{- if and .url (not .pull) }}
{{- fail (printf "models[%d].url: %s is not downloaded; set models[%d].pull" $index .name $index) }}
{{- end }}
{{- if and (hasPrefix "cpu-" .variant) (not $store) }}
{{- fail (printf "models[%d].variant: %s of %s needs the store; set store.enabled" $index .variant .name) }}
{{- end }}
{{- if and (include "samserve.engine" (list $ .)) (not $store) }}
{{- fail (printf "triton.engine.build: the engine of %s needs the store; set store.enabled" .name) }}
{{- end }}
{{- end }}
{{- with .Values.triton }}
{{- if and .gpu.enabled (not .engine.build) }}
{{- range $index, $model := $.Values.models }}
{{- if not .variant }}
{{- fail (printf "models[%d].variant: name an engine while triton.engine.build is off; otherwise the GPU of triton.gpu is unused" $index) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.triton.autoscaling }}
{{- if gt (int .min) (int .max) }}{{ fail "triton.autoscaling.min: must not exceed triton.autoscaling.max" }}{{ end }}
{{- end }}
{{- with .Values.decoder.autoscaling }}
{{- if gt (int .min) (int .max) }}{{ fail "decoder.autoscaling.min: must not exceed decoder.autoscaling.max" }}{{ end }}
{{- end }}
{{- with .Values.gateway }}
{{- if gt (int .autoscaling.min) (int .autoscaling.max) }}{{ fail "gateway.autoscaling.min: must not exceed gateway.autoscaling.max" }}{{ end }}
{{- if le (int .drainSeconds) (max .callTimeoutSeconds .sweepTimeoutSeconds | int) }}
{{- fail "gateway.drainSeconds: must exceed gateway.callTimeoutSeconds and gateway.sweepTimeoutSeconds, or shutdown would cut off the longest request" }}
{{- end }}
{{- range $way := list "ingress" "httpRoute" }}
{{- if and (get $.Values.gateway $way).enabled (not $.Values.gateway.enabled) }}
{{- fail (printf "gateway.%s.enabled: there is no gateway to reach; set gateway.enabled" $way) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.embedding }}
{{- if gt (int .workers.min) (int .workers.max) }}{{ fail "embedding.workers.min: must not exceed embedding.workers.max" }}{{ end }}
{{- if gt (int .replicas.min) (int .replicas.max) }}{{ fail "embedding.replicas.min: must not exceed embedding.replicas.max" }}{{ end }}
{{- end }}
{{- with .Values.decoder }}
{{- if le (int .drainSeconds) (int .embedTimeoutSeconds) }}
{{- fail "decoder.drainSeconds: must exceed decoder.embedTimeoutSeconds, or shutdown would cut off the longest call" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The secret by which the services know the edge, if it asks for keys. */}}
{{- define "samserve.edgeSecretEnv" -}}
{{- with .Values.edge.keys }}
{{- if .enabled }}
- name: SAMSERVE_EDGE_SECRET
  valueFrom: { secretKeyRef: { name: {{ .secret }}, key: edge } }
{{- end }}
{{- end }}
{{- end }}
