{{/* The name of the application: the chart's, unless overridden. */}}
{{- define "vllm-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{/*
The name all object names begin with. Cut at 44 characters: the longest ending this chart adds is 16 long ("-leader-election"),
and Kubernetes allows 63.
*/}}
{{- define "vllm-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "vllm-operator.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The labels that the Deployment, Service, NetworkPolicy and PodDisruptionBudget find the pods by.
A Deployment's selector cannot be changed, so an upgrade that adds or removes a label here fails for everybody. Never change it.
*/}}
{{- define "vllm-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vllm-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of every object. The chart's own win over commonLabels, so that a selector never loses its pods. */}}
{{- define "vllm-operator.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63)
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "vllm-operator"
-}}
{{- $labels := merge (include "vllm-operator.selectorLabels" . | fromYaml) $own (deepCopy .Values.commonLabels) -}}
{{- toYaml $labels -}}
{{- end -}}

{{/* The labels of the operator's pods. */}}
{{- define "vllm-operator.podLabels" -}}
{{- $labels := merge (include "vllm-operator.labels" . | fromYaml) (deepCopy .Values.podLabels) -}}
{{- toYaml $labels -}}
{{- end -}}

{{- define "vllm-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "vllm-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false, so serviceAccount.name must name a ServiceAccount that exists" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The reference of the operator's image: repository@digest, or repository:tag. */}}
{{- define "vllm-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/*
What the schema of the values cannot say: what concerns two values at once, and forms for which its message would be a long regular
expression.
*/}}
{{- define "vllm-operator.validate" -}}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$" .Values.image.repository) -}}
{{- fail (printf "image.repository is %q: write [REGISTRY/]NAME in lower case, without https:// and without a tag (that is image.tag), e.g. registry.example.com/platform/vllm-operator." .Values.image.repository) -}}
{{- end -}}
{{- if not (regexMatch "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?)?$" .Values.defaultGateway) -}}
{{- fail (printf "defaultGateway is %q: write NAMESPACE/NAME or NAMESPACE/NAME/SECTION (the name of a listener), e.g. gateways/inference." .Values.defaultGateway) -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection.enabled) -}}
{{- fail (printf "replicas is %d but leaderElection.enabled is false: the replicas would work against each other. Set replicas to 1 or leaderElection.enabled to true." (int .Values.replicas)) -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.service.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled is true but metrics.service.enabled is false: a ServiceMonitor finds the operator through that Service. Set both to true." -}}
{{- end -}}
{{- if and .Values.networkPolicy.restrictEgress (not .Values.networkPolicy.enabled) -}}
{{- fail "networkPolicy.restrictEgress is true but networkPolicy.enabled is false, so nothing would be restricted. Set both to true." -}}
{{- end -}}
{{- if and .Values.networkPolicy.extraEgress (not .Values.networkPolicy.restrictEgress) -}}
{{- fail "networkPolicy.extraEgress is set but networkPolicy.restrictEgress is false: outgoing traffic is not restricted, so there is nothing to add to. Set restrictEgress to true or drop extraEgress." -}}
{{- end -}}
{{- end -}}
