{{/* Name of the chart, for labels. */}}
{{- define "persona-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Stem of all names. Leaves room for the longest suffix, -master-key, and a Deployment's own. */}}
{{- define "persona-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 41 | trimSuffix "-" }}
{{- end }}

{{/* Labels that tell a component's pods: dict "root" $ "component" "gateway". */}}
{{- define "persona-operator.selector" -}}
app.kubernetes.io/name: {{ include "persona-operator.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "persona-operator.labels" -}}
{{ include "persona-operator.selector" . }}
app.kubernetes.io/part-of: persona-operator
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{/* Reference of an image: dict "image" .Values.image "default" .Chart.AppVersion. */}}
{{- define "persona-operator.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}
{{- else }}{{ .image.repository }}:{{ .image.tag | default .default }}
{{- end }}
{{- end }}

{{- define "persona-operator.operatorImage" -}}
{{- include "persona-operator.image" (dict "image" .Values.image "default" .Chart.AppVersion) }}
{{- end }}

{{- define "persona-operator.queueUrl" -}}
{{- if .Values.redis.enabled -}}
{{- if or .Values.queue.url .Values.queue.adminPassword.secretName }}
{{- fail "queue.url and queue.adminPassword are for a Redis of your own: set redis.enabled to false, or remove them" }}
{{- end -}}
redis://{{ include "persona-operator.fullname" . }}-redis.{{ .Release.Namespace }}.svc:6379
{{- else -}}
{{- .Values.queue.url | required "set queue.url to a Redis, like redis://redis.data:6379, or redis.enabled to true" }}
{{- end }}
{{- end }}

{{- define "persona-operator.masterKeySecret" -}}
{{- default (printf "%s-master-key" (include "persona-operator.fullname" .)) .Values.masterKey.existingSecret }}
{{- end }}

{{- define "persona-operator.apiKeysSecret" -}}
{{- default (printf "%s-api-keys" (include "persona-operator.fullname" .)) .Values.apiKeys.existingSecret }}
{{- end }}

{{/* A value of a Secret of this release that is there already, else a new random one:
     dict "root" $ "secret" name "key" key "length" 40. */}}
{{- define "persona-operator.kept" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .secret }}
{{- $data := default dict (default dict $secret).data }}
{{- with get $data .key }}{{ . | b64dec }}{{ else }}{{ randAlphaNum (int .length) }}{{ end }}
{{- end }}

{{/* What Pod Security "restricted" asks of every container. */}}
{{- define "persona-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Fields of a pod that every component has: dict "root" $ "component" "gateway" "values" .Values.gateway. */}}
{{- define "persona-operator.placement" -}}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Replicas apart where there are nodes for it. */}}
{{- define "persona-operator.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "persona-operator.selector" . | nindent 8 }}
{{- end }}

{{/* Annotations of a pod with metrics: dict "root" $ "values" .Values.gateway "port" 9090. */}}
{{- define "persona-operator.podAnnotations" -}}
{{- $ours := dict }}
{{- if and .root.Values.metrics.annotations .port }}
{{- $ours = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .port) "prometheus.io/path" "/metrics" }}
{{- end }}
{{- with mergeOverwrite $ours .values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment that controller and gateway share. */}}
{{- define "persona-operator.env" -}}
- {name: PERSONA_LOG, value: {{ .Values.logs.filter | quote }}}
- {name: PERSONA_LOG_FORMAT, value: {{ .Values.logs.format | quote }}}
- {name: PERSONA_QUEUE_URL, value: {{ include "persona-operator.queueUrl" . | quote }}}
- {name: PERSONA_QUEUE_PREFIX, value: {{ .Values.queue.prefix | quote }}}
- {name: PERSONA_MASTER_KEY_FILE, value: /var/run/persona/master-key/key}
{{- end }}

{{/* Names the namespace that Roles go to. */}}
{{- define "persona-operator.role" -}}
{{- ternary "Role" "ClusterRole" (ne .Values.watchNamespace "") }}
{{- end }}
