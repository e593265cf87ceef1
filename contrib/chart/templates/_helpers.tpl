{{- define "docker-registry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "docker-registry.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "docker-registry.selector" -}}
app: {{ include "docker-registry.name" . }}
release: {{ .Release.Name }}
{{- end -}}

{{- define "docker-registry.labels" -}}
{{ include "docker-registry.selector" . }}
chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
heritage: {{ .Release.Service }}
app.kubernetes.io/name: {{ include "docker-registry.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "docker-registry.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "docker-registry.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "docker-registry.secret" -}}
{{ include "docker-registry.fullname" . }}-secret
{{- end -}}

{{/* Keys of the chart's own secret. */}}
{{- define "docker-registry.secretData" -}}
{{- with .Values.secrets.htpasswd }}
htpasswd: {{ . | b64enc }}
{{- end }}
{{- if and .Values.proxy.enabled .Values.proxy.username (not .Values.proxy.secretRef) }}
proxyUsername: {{ .Values.proxy.username | b64enc }}
proxyPassword: {{ required "proxy.password is missing" .Values.proxy.password | b64enc }}
{{- end }}
{{- if eq .Values.storage "s3" }}
{{- with .Values.secrets.s3 }}
{{- if and .accessKey .secretKey (not .secretRef) }}
s3AccessKey: {{ .accessKey | b64enc }}
s3SecretKey: {{ .secretKey | b64enc }}
{{- end }}
{{- end }}
{{- else if eq .Values.storage "azure" }}
{{- with .Values.secrets.azure }}
azureAccountName: {{ required "secrets.azure.accountName is missing" .accountName | b64enc }}
azureAccountKey: {{ required "secrets.azure.accountKey is missing" .accountKey | b64enc }}
azureContainer: {{ required "secrets.azure.container is missing" .container | b64enc }}
{{- end }}
{{- else if eq .Values.storage "swift" }}
{{- with .Values.secrets.swift }}
swiftUsername: {{ required "secrets.swift.username is missing" .username | b64enc }}
swiftPassword: {{ required "secrets.swift.password is missing" .password | b64enc }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "docker-registry.fromSecret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{/* Variables that override keys of the configuration file of registry:2 and registry:3. */}}
{{- define "docker-registry.overrides" -}}
{{- $secret := include "docker-registry.secret" . -}}
{{- if .Values.secrets.htpasswd }}
- name: REGISTRY_AUTH
  value: htpasswd
- name: REGISTRY_AUTH_HTPASSWD_REALM
  value: Registry Realm
- name: REGISTRY_AUTH_HTPASSWD_PATH
  value: /auth/htpasswd
{{- end }}
{{- if .Values.tlsSecretName }}
- name: REGISTRY_HTTP_TLS_CERTIFICATE
  value: /etc/ssl/docker/tls.crt
- name: REGISTRY_HTTP_TLS_KEY
  value: /etc/ssl/docker/tls.key
{{- end }}
{{- if .Values.metrics.enabled }}
- name: REGISTRY_HTTP_DEBUG_ADDR
  value: {{ printf ":%v" .Values.metrics.port | quote }}
- name: REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED
  value: "true"
{{- end }}
{{- if .Values.proxy.enabled }}
- name: REGISTRY_PROXY_REMOTEURL
  value: {{ required "proxy.remoteurl is missing" .Values.proxy.remoteurl | quote }}
{{- if or .Values.proxy.username .Values.proxy.secretRef }}
{{- $from := default $secret .Values.proxy.secretRef }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_PROXY_USERNAME" "secret" $from "key" "proxyUsername") }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_PROXY_PASSWORD" "secret" $from "key" "proxyPassword") }}
{{- end }}
{{- end }}
{{- if .Values.persistence.deleteEnabled }}
- name: REGISTRY_STORAGE_DELETE_ENABLED
  value: "true"
{{- end }}
{{- if eq .Values.storage "filesystem" }}
- name: REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY
  value: /var/lib/registry
{{- else if eq .Values.storage "s3" }}
- name: REGISTRY_STORAGE_S3_REGION
  value: {{ required "s3.region is missing" .Values.s3.region | quote }}
- name: REGISTRY_STORAGE_S3_BUCKET
  value: {{ required "s3.bucket is missing" .Values.s3.bucket | quote }}
{{- range $value, $key := dict "regionEndpoint" "REGIONENDPOINT" "rootdirectory" "ROOTDIRECTORY" "encrypt" "ENCRYPT" "secure" "SECURE" "forcepathstyle" "FORCEPATHSTYLE" "skipverify" "SKIPVERIFY" }}
{{- if hasKey $.Values.s3 $value }}
- name: REGISTRY_STORAGE_S3_{{ $key }}
  value: {{ get $.Values.s3 $value | quote }}
{{- end }}
{{- end }}
{{- with .Values.secrets.s3 }}
{{- if or .secretRef (and .accessKey .secretKey) }}
{{- $from := default $secret .secretRef }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_S3_ACCESSKEY" "secret" $from "key" "s3AccessKey") }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_S3_SECRETKEY" "secret" $from "key" "s3SecretKey") }}
{{- end }}
{{- end }}
{{- else if eq .Values.storage "azure" }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_AZURE_ACCOUNTNAME" "secret" $secret "key" "azureAccountName") }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_AZURE_ACCOUNTKEY" "secret" $secret "key" "azureAccountKey") }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_AZURE_CONTAINER" "secret" $secret "key" "azureContainer") }}
{{- else if eq .Values.storage "swift" }}
- name: REGISTRY_STORAGE_SWIFT_AUTHURL
  value: {{ required "swift.authurl is missing" .Values.swift.authurl | quote }}
- name: REGISTRY_STORAGE_SWIFT_CONTAINER
  value: {{ required "swift.container is missing" .Values.swift.container | quote }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_SWIFT_USERNAME" "secret" $secret "key" "swiftUsername") }}
{{ include "docker-registry.fromSecret" (dict "name" "REGISTRY_STORAGE_SWIFT_PASSWORD" "secret" $secret "key" "swiftPassword") }}
{{- end }}
{{- end -}}

{{/* Stops an installation whose values this version cannot honour. */}}
{{- define "docker-registry.refusals" -}}
{{- if .Values.garbageCollect.enabled -}}
{{- fail "garbageCollect.enabled: this version of docker-registry does not collect garbage (docs/deleting.md); set it to false" -}}
{{- end -}}
{{- if not .Values.configData.version -}}
{{- if or .Values.secrets.htpasswd .Values.tlsSecretName .Values.metrics.enabled .Values.proxy.enabled (ne .Values.storage "filesystem") -}}
{{- fail "configData without `version` is a file of this registry: set auth.htpasswd, tls, metrics_address, mirroring and storage in it, and leave secrets.htpasswd, tlsSecretName, metrics.enabled, proxy.enabled and storage at their defaults" -}}
{{- end -}}
{{- end -}}
{{- end -}}
