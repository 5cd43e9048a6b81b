{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* Every template of this file takes the root context, or a dict with it as `root`. */ -}}

{{- define "kernelspan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* The beginning of every name; cut so that the longest ending (-operator-secrets) stays within a label's 63. */ -}}
{{- define "kernelspan.fullname" -}}
{{- $name := include "kernelspan.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* {root, component}: what selects a component's pods; never changes, for a selector cannot. */ -}}
{{- define "kernelspan.selector" -}}
app.kubernetes.io/name: {{ include "kernelspan.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* {root, component}: the labels of an object. */ -}}
{{- define "kernelspan.labels" -}}
{{ include "kernelspan.selector" . }}
app.kubernetes.io/part-of: kernelspan
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* {root, component}: the labels of a pod: without the chart's version, or an upgrade of the chart alone restarts all. */ -}}
{{- define "kernelspan.podLabels" -}}
{{ include "kernelspan.selector" . }}
app.kubernetes.io/part-of: kernelspan
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* {root, image}: its reference, by digest where there is one. */ -}}
{{- define "kernelspan.image" -}}
{{- $at := printf ":%s" (default .root.Chart.AppVersion .image.tag) -}}
{{- if .image.digest }}{{ $at = printf "@%s" .image.digest }}{{ end -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}{{ $at }}
{{- end -}}

{{- /* The port of host:port. */ -}}
{{- define "kernelspan.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{- define "kernelspan.operatorAccount" -}}
{{ include "kernelspan.fullname" . }}-operator
{{- end -}}

{{- define "kernelspan.agentAccount" -}}
{{ include "kernelspan.fullname" . }}-agent
{{- end -}}

{{- define "kernelspan.authority" -}}
{{ include "kernelspan.fullname" . }}-ca
{{- end -}}

{{- /* What the operator's certificate says, and agents dial: the name without the cluster's domain, which may be any. */ -}}
{{- define "kernelspan.operatorHost" -}}
{{ include "kernelspan.fullname" . }}-operator.{{ .Release.Namespace }}.svc
{{- end -}}

{{- /* Where spans go; empty: nowhere. */ -}}
{{- define "kernelspan.otlpEndpoint" -}}
{{- if .Values.otlp.endpoint -}}
{{ .Values.otlp.endpoint }}
{{- else if .Values.jaeger.enabled -}}
http://{{ include "kernelspan.fullname" . }}-collector.{{ .Release.Namespace }}.svc:4317
{{- end -}}
{{- end -}}

{{- /* What the agent may: one place for the DaemonSet and OpenShift's constraints, as a JSON list. */ -}}
{{- define "kernelspan.capabilities" -}}
{{- $list := .Values.agent.sysAdmin | ternary (list "SYS_ADMIN") (list "BPF" "PERFMON") -}}
{{- concat $list (list "SYS_PTRACE" "DAC_READ_SEARCH") .Values.agent.extraCapabilities | uniq | toJson -}}
{{- end -}}

{{- /* The pod's security of everything but the agents: Pod Security "restricted". */ -}}
{{- define "kernelspan.restrictedPod" -}}
runAsNonRoot: true
{{- if not .Values.openshift.enabled }}
runAsUser: {{ .Values.operator.runAsUser }}
runAsGroup: {{ .Values.operator.runAsUser }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "kernelspan.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* What the pods of Jaeger and the collector have in common. */ -}}
{{- define "kernelspan.ownPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "kernelspan.restrictedPod" . | nindent 2 }}
{{- with .Values.jaeger.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.jaeger.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where spans go and how, as OpenTelemetry's exporters read it; with `tlsSecret`, mount it at /etc/kernelspan/otlp. */ -}}
{{- define "kernelspan.otlpEnv" -}}
{{- with include "kernelspan.otlpEndpoint" . }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ quote . }}}
{{- end }}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .Values.otlp.protocol }}}
- {name: OTEL_EXPORTER_OTLP_COMPRESSION, value: {{ .Values.otlp.compression }}}
{{- with .Values.otlp.headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: headers}}
{{- end }}
{{- if .Values.otlp.tlsSecret }}
- {name: OTEL_EXPORTER_OTLP_CERTIFICATE, value: /etc/kernelspan/otlp/ca.crt}
{{- if .Values.otlp.clientCertificate }}
- {name: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, value: /etc/kernelspan/otlp/tls.crt}
- {name: OTEL_EXPORTER_OTLP_CLIENT_KEY, value: /etc/kernelspan/otlp/tls.key}
{{- end }}
{{- end }}
{{- with .Values.otlp.resourceAttributes }}
{{- $pairs := list }}
{{- range $key, $value := . }}
{{- /* As in a URL, where a space is %20: the specification's own words for this variable. */ -}}
{{- $pairs = append $pairs (printf "%s=%s" $key (urlquery $value | replace "+" "%20")) }}
{{- end }}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: {{ join "," $pairs | quote }}}
{{- end }}
{{- end -}}

{{- /* {root, who}: the option, or why it cannot be. */ -}}
{{- define "kernelspan.selfTraces" -}}
{{- if not (include "kernelspan.otlpEndpoint" .root) }}
{{- fail (printf "%s.selfTraces needs a place for the traces: set otlp.endpoint or jaeger.enabled" .who) }}
{{- end -}}
{{- if and (eq .who "operator") (ne .root.Values.otlp.protocol "grpc") }}
{{- fail "operator.selfTraces speaks gRPC alone: set otlp.protocol to grpc, or operator.selfTraces to false" }}
{{- end -}}
--self-traces
{{- end -}}
