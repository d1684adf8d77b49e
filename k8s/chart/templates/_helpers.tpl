{{/* The release's name. Objects have it, or it and a suffix: so two releases in one namespace do not meet. */}}
{{- define "tollgate.name" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]{0,39}$" .Release.Name) -}}
{{- fail (printf "release name %q: write at most 40 of a-z, 0-9 and -, first a letter, so that Services can be named after it" .Release.Name) -}}
{{- end -}}
{{- if regexMatch "-(usage-worker|console|publisher|filter|gitlab|triton(-.*)?|default-deny|egress|metrics|test|migration)$" .Release.Name -}}
{{- fail (printf "release name %q: objects of another release could have it, write another ending" .Release.Name) -}}
{{- end -}}
{{- .Release.Name -}}
{{- end }}

{{/* Of one of the images of the values. */}}
{{- define "tollgate.image" -}}
{{- with .image -}}
{{- if .registry }}{{ .registry }}/{{ end }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.root.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{/* Selectors cannot change in an upgrade: nothing that depends on values or versions is in them. `app` is what
     `tollgate policy render istio` selects by. */}}
{{- define "tollgate.selector" -}}
app: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "tollgate.labels" -}}
{{ include "tollgate.selector" . }}
app.kubernetes.io/name: tollgate
app.kubernetes.io/part-of: tollgate
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{/* What all pods have. The service links of Kubernetes would look like settings. */}}
{{- define "tollgate.pod" -}}
serviceAccountName: {{ .name }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tollgate.spread" -}}
topologySpreadConstraints:
{{- range $key, $when := dict "kubernetes.io/hostname" "ScheduleAnyway" "topology.kubernetes.io/zone" "ScheduleAnyway" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels: {{- include "tollgate.selector" $ | nindent 8 }}
{{- end }}
{{- end }}

{{/* The sidecar is there before the program, and as many seconds as that drains: by itself it would end after 5. */}}
{{- define "tollgate.sidecar" -}}
proxy.istio.io/config: |
  {holdApplicationUntilProxyStarts: true, terminationDrainDuration: {{ . }}s}
{{- end }}

{{- define "tollgate.container" -}}
image: {{ include "tollgate.image" (dict "image" .Values.image "root" .) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{ include "tollgate.contained" . }}
{{- end }}

{{- define "tollgate.contained" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "tollgate.env" -}}
- name: TOLLGATE_DATABASE_URL
  valueFrom: {secretKeyRef: {{ .root.Values.database.secret | toJson }}}
- name: TOLLGATE_REDIS_URL
  valueFrom: {secretKeyRef: {{ .root.Values.redis.secret | toJson }}}
- {name: TOLLGATE_REDIS_SHARDS, value: {{ .root.Values.redis.shards | quote }}}
- name: TOLLGATE_REPLICA
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- range $key, $value := .settings }}
- {name: {{ $key | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* A directory, never subPath: Kubernetes swaps `..data`, and a new policy comes into force. */}}
{{- define "tollgate.policy.env" -}}
- {name: TOLLGATE_POLICY, value: /etc/tollgate/policy}
{{- if .Values.policy.candidateConfigMap }}
- {name: TOLLGATE_CANDIDATE_POLICY, value: /etc/tollgate/candidate}
{{- end }}
{{- range $key, $value := .Values.policy.env }}
{{- if hasPrefix "TOLLGATE_" $key }}
{{- fail (printf "policy.env.%s: settings of Tollgate are written in authorizer.settings" $key) }}
{{- end }}
- {name: {{ $key | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "tollgate.policy.mounts" -}}
- {name: policy, mountPath: /etc/tollgate/policy, readOnly: true}
{{- if .Values.policy.candidateConfigMap }}
- {name: candidate, mountPath: /etc/tollgate/candidate, readOnly: true}
{{- end }}
{{- end }}

{{- define "tollgate.policy.volumes" -}}
- name: policy
  configMap: {name: {{ .Values.policy.existingConfigMap | default (printf "%s-policy" (include "tollgate.name" .)) | quote }}}
{{- with .Values.policy.candidateConfigMap }}
- name: candidate
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* Certificates of your own authorities, for URLs such as ...?sslmode=verify-full&sslrootcert=/etc/tollgate/ca/ca.crt. */}}
{{- define "tollgate.ca.mount" -}}
{{- if .Values.caConfigMap }}
- {name: ca, mountPath: /etc/tollgate/ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "tollgate.ca.volume" -}}
{{- with .Values.caConfigMap }}
- name: ca
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "tollgate.triton.namespace" -}}
namespace: {{ .Values.triton.namespace | default .Release.Namespace | quote }}
{{- end }}

{{- define "tollgate.triton.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if .gpus }}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict "nvidia.com/gpu" .gpus)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Accounts, disruption budgets: name and namespace of each component. */}}
{{- define "tollgate.components" -}}
{{- $name := include "tollgate.name" . -}}
- {name: {{ $name }}, namespace: {{ .Release.Namespace | quote }}}
- {name: {{ $name }}-usage-worker, namespace: {{ .Release.Namespace | quote }}}
{{- if .Values.console.enabled }}
- {name: {{ $name }}-console, namespace: {{ .Release.Namespace | quote }}}
{{- end }}
{{- range $part := list "publisher" "filter" "gitlab" }}
{{- if (index $.Values $part).enabled }}
- {name: {{ $name }}-{{ $part }}, namespace: {{ $.Release.Namespace | quote }}}
{{- end }}
{{- end }}
{{- if .Values.triton.enabled }}
- {name: {{ $name }}-triton, namespace: {{ .Values.triton.namespace | default .Release.Namespace | quote }}}
{{- end }}
{{- end }}

{{/* What the notes say of the provider. Helm ends with the name of this template and the cause if the user may not read
     the ConfigMap: so the name says what to do. */}}
{{- define "tollgate.provider (if you may not read it: --set mesh.configMap=)" -}}
{{- $place := splitList "/" .Values.mesh.configMap -}}
{{- $service := printf "%s.%s.svc." (include "tollgate.name" .) .Release.Namespace -}}
{{- $mesh := dig "data" "mesh" "" (lookup "v1" "ConfigMap" (first $place) (last $place)) -}}
{{- $found := "" -}}
{{- range dig "extensionProviders" list ($mesh | fromYaml) -}}
{{- if hasPrefix $service (dig "envoyExtAuthzGrpc" "service" "" .) -}}{{- $found = .name -}}{{- end -}}
{{- end -}}
{{- if $found -}}
It is there: {{ .Values.mesh.configMap }} names {{ $found }}.
{{- else if $mesh -}}
IT IS MISSING in {{ .Values.mesh.configMap }}: the gateway will refuse every request. Run:
   helm -n {{ first $place }} upgrade istiod istio/istiod --version YOUR_ISTIO --reuse-values --values istio/istiod/meshconfig-tollgate.yaml
   {{- with dig "extensionProviders" list ($mesh | fromYaml) }}
   First add the providers that are there, because Helm replaces lists: {{ range . }}{{ .name }} {{ end }}
   {{- end }}
{{- else -}}
There is no ConfigMap {{ .Values.mesh.configMap }} in this cluster, so whether it is there is not known: install Istio, or
   name the ConfigMap of its revision in mesh.configMap (istio-system/istio-REVISION).
{{- end -}}
{{- end }}
