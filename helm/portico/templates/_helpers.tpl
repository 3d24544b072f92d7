{{- define "portico.name" -}}
{{ .Values.fullnameOverride | default .Release.Name }}-{{ .component }}
{{- end }}

{{- define "portico.serviceAccount" -}}
{{- $account := (index .Values .component).serviceAccount -}}
{{- if $account.create -}}
{{ $account.name | default (include "portico.name" .) }}
{{- else -}}
{{ required (printf "%s.serviceAccount.name: name the ServiceAccount that exists, since create is false" .component) $account.name }}
{{- end }}
{{- end }}

{{- define "portico.selector" -}}
app.kubernetes.io/name: portico
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "portico.labels" -}}
{{ include "portico.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "portico.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "portico.apiEnv" -}}
{{- with .Values.kubernetesApi.host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ $.Values.kubernetesApi.port | quote }}}
{{- end }}
{{- end }}

{{/* nf_tables and conntrack of the node's network namespace need NET_ADMIN, and nothing else is needed. */}}
{{- define "portico.nodeproxySecurity" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL], add: [NET_ADMIN]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The port of the node proxy's metrics; nothing where only the node itself reaches them. */}}
{{- define "portico.metricsPort" -}}
{{- if not (regexMatch `^(127\.|localhost:|\[::1\])` .Values.nodeproxy.metricsBindAddress) -}}
{{ splitList ":" .Values.nodeproxy.metricsBindAddress | last }}
{{- end }}
{{- end }}
