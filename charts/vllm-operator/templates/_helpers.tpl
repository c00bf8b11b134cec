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

{{/* The labels of every object (the gateway's have another name: see below). The chart's own win over commonLabels, so that a selector never loses its pods. */}}
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
The labels that the gateway's pods are found by. Not the operator's with one more: the operator's selector would then match these pods.
As above: never change it.
*/}}
{{- define "vllm-operator.gatewaySelectorLabels" -}}
app.kubernetes.io/name: {{ include "vllm-operator.name" . }}-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels of the gateway's objects. */}}
{{- define "vllm-operator.gatewayLabels" -}}
{{- $labels := merge (include "vllm-operator.gatewaySelectorLabels" . | fromYaml) (include "vllm-operator.labels" . | fromYaml) -}}
{{- toYaml $labels -}}
{{- end -}}

{{/* The labels of the gateway's pods. */}}
{{- define "vllm-operator.gatewayPodLabels" -}}
{{- $labels := merge (include "vllm-operator.gatewayLabels" . | fromYaml) (deepCopy .Values.gateway.podLabels) -}}
{{- toYaml $labels -}}
{{- end -}}

{{- define "vllm-operator.gatewayServiceAccountName" -}}
{{- if .Values.gateway.serviceAccount.create -}}
{{- default (printf "%s-gateway" (include "vllm-operator.fullname" .)) .Values.gateway.serviceAccount.name -}}
{{- else -}}
{{- required "gateway.serviceAccount.create is false, so gateway.serviceAccount.name must name a ServiceAccount that exists" .Values.gateway.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The reference of Envoy's image. */}}
{{- define "vllm-operator.envoyImage" -}}
{{- with .Values.gateway.envoy.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository .tag -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where all models answer, from inside the cluster. */}}
{{- define "vllm-operator.gatewayUrl" -}}
{{- printf "http://%s-gateway.%s.svc.%s" (include "vllm-operator.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- if ne (int .Values.gateway.service.port) 80 -}}
{{- printf ":%d" (int .Values.gateway.service.port) -}}
{{- end -}}
{{- end -}}

{{/* How the operator finds the gateway's pods. */}}
{{- define "vllm-operator.gatewayPods" -}}
{{- $labels := list -}}
{{- range $label, $value := include "vllm-operator.gatewaySelectorLabels" . | fromYaml -}}
{{- $labels = append $labels (printf "%s=%v" $label $value) -}}
{{- end -}}
{{- printf "%s/%s" .Release.Namespace (join "," $labels) -}}
{{- end -}}

{{/* Who may reach the pods of models, as JSON: the pods of the gateway and of the operator, and whom the values name. */}}
{{- define "vllm-operator.modelPeers" -}}
{{- $namespace := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $peers := list -}}
{{- range $labels := list "vllm-operator.gatewaySelectorLabels" "vllm-operator.selectorLabels" -}}
{{- $pods := dict "matchLabels" (include $labels $ | fromYaml) -}}
{{- $peers = append $peers (dict "namespaceSelector" $namespace "podSelector" $pods) -}}
{{- end -}}
{{- concat $peers .Values.gateway.modelNetworkPolicy.from | toJson -}}
{{- end -}}

{{/* A quantity in Ki, Mi or Gi as a number of KiB. */}}
{{- define "vllm-operator.kibibytes" -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get (dict "K" 1 "M" 1024 "G" 1048576) (regexFind "[KMG]" .)) -}}
{{- end -}}

{{/* What a registry and repository look like. */}}
{{- define "vllm-operator.repositoryPattern" -}}
^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$
{{- end -}}

{{/*
What the schema of the values cannot say: what concerns two values at once, and forms for which its message would be a long regular
expression.
*/}}
{{- define "vllm-operator.validate" -}}
{{- $repository := include "vllm-operator.repositoryPattern" . -}}
{{- if not (regexMatch $repository .Values.image.repository) -}}
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
{{- include "vllm-operator.validateGateway" . -}}
{{- end -}}

{{/* The same for the gateway. */}}
{{- define "vllm-operator.validateGateway" -}}
{{- $gateway := .Values.gateway -}}
{{- if and (not $gateway.enabled) $gateway.route.parentRefs -}}
{{- fail "gateway.route.parentRefs is set but gateway.enabled is false, so there is nothing that a route could lead to. Set gateway.enabled to true or drop parentRefs." -}}
{{- end -}}
{{- if and $gateway.route.hostnames (not $gateway.route.parentRefs) -}}
{{- fail "gateway.route.hostnames is set but gateway.route.parentRefs is empty, so no route is made. Name the Gateway in parentRefs or drop hostnames." -}}
{{- end -}}
{{- if and $gateway.dashboard.enabled (not $gateway.enabled) -}}
{{- fail "gateway.dashboard.enabled is true but gateway.enabled is false, so there is nothing to show. Set both to true." -}}
{{- end -}}
{{- if $gateway.enabled -}}
{{- $repository := include "vllm-operator.repositoryPattern" . -}}
{{- if not (regexMatch $repository $gateway.envoy.image.repository) -}}
{{- fail (printf "gateway.envoy.image.repository is %q: write [REGISTRY/]NAME in lower case, without https:// and without a tag (that is gateway.envoy.image.tag), e.g. registry.example.com/mirror/envoy." $gateway.envoy.image.repository) -}}
{{- end -}}
{{- if and $gateway.networkPolicyFrom (not .Values.networkPolicy.enabled) -}}
{{- fail "gateway.networkPolicyFrom is set but networkPolicy.enabled is false, so nothing would be restricted. Set networkPolicy.enabled to true or drop networkPolicyFrom." -}}
{{- end -}}
{{- if and $gateway.modelNetworkPolicy.from (not $gateway.modelNetworkPolicy.enabled) -}}
{{- fail "gateway.modelNetworkPolicy.from is set but gateway.modelNetworkPolicy.enabled is false, so everybody may reach the models' pods. Set enabled to true or drop from." -}}
{{- end -}}
{{- if eq (include "vllm-operator.gatewayServiceAccountName" .) (include "vllm-operator.serviceAccountName" .) -}}
{{- fail (printf "gateway.serviceAccount.name and serviceAccount.name are both %q: the gateway and the operator would have each other's rights. Give the gateway a ServiceAccount of its own." (include "vllm-operator.serviceAccountName" .)) -}}
{{- end -}}
{{- $body := include "vllm-operator.kibibytes" $gateway.largestBody | int64 -}}
{{- if ge $body (mul 4 1048576) -}}
{{- fail (printf "gateway.largestBody is %s: Envoy takes less than 4Gi." $gateway.largestBody) -}}
{{- end -}}
{{- $limits := ($gateway.envoy.resources | default dict).limits | default dict -}}
{{- $memory := $limits.memory | default "" | toString -}}
{{- /* Quantities in other units are not worked out here. */ -}}
{{- if regexMatch "^[0-9]+[KMG]i$" $memory -}}
{{- if lt (include "vllm-operator.kibibytes" $memory | int64) (mul 3 $body) -}}
{{- fail (printf "gateway.largestBody is %s but gateway.envoy.resources.limits.memory is %s: one request of that size takes about three times as much, and Envoy would be killed. Raise the limit or lower largestBody." $gateway.largestBody $memory) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
