{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of what is not in the release's namespace: two releases must not share it. */}}
{{- define "operator.outsideName" -}}
{{- printf "%s-%s" .Release.Namespace (include "operator.fullname" .) -}}
{{- end -}}

{{/* The NetworkPolicies of Deployments admit pods with this name label as the operator's. */}}
{{- define "operator.selector" -}}
app.kubernetes.io/name: llamadeploy-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.labels" -}}
{{- with .Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: llamadeploy
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "operator.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "operator.fullname" .) -}}
{{- end -}}

{{- define "operator.leaseNamespace" -}}
{{- .Values.settings.leaseNamespace | default .Release.Namespace -}}
{{- end -}}

{{/* Without the prefix, which the operator puts in front of its images itself. */}}
{{- define "operator.image" -}}
{{- $tag := .Values.image.tag -}}
{{- if not (or $tag .Values.image.digest) -}}{{- $tag = .Chart.AppVersion -}}{{- end -}}
{{- .Values.image.repository -}}
{{- with $tag -}}:{{ . }}{{- end -}}
{{- with .Values.image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{/* The settings as the operator's environment: {"LLAMADEPLOY_OPERATOR_X": "text"}, as YAML. */}}
{{- define "operator.environment" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $_ := set $settings "namespaces" .Values.namespaces -}}
{{- $_ := set $settings "imagePrefix" .Values.imagePrefix -}}
{{- $_ := set $settings "leaseNamespace" (include "operator.leaseNamespace" .) -}}
{{- $_ := set $settings "leaseName" (.Values.settings.leaseName | default (include "operator.fullname" .)) -}}
{{- $_ := set $settings "runtimeImage" (.Values.settings.runtimeImage | default (include "operator.image" .)) -}}
{{- if .Values.caBundle.configMap -}}
{{- $_ := set $settings "caBundleFile" "/etc/llamadeploy/ca/ca.crt" -}}
{{- end -}}
{{- $environment := dict -}}
{{- range $name, $value := $settings -}}
{{- $text := ternary (join " " $value) (toString $value) (kindIs "slice" $value) -}}
{{- if and $text (not (kindIs "invalid" $value)) -}}
{{- $_ := set $environment (printf "LLAMADEPLOY_OPERATOR_%s" (snakecase $name | upper)) $text -}}
{{- end -}}
{{- end -}}
{{- toYaml $environment -}}
{{- end -}}
