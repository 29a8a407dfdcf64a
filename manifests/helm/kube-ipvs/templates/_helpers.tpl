{{- define "kube-ipvs.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Port of an address to bind: (list ADDRESS DEFAULT). */ -}}
{{- define "kube-ipvs.port" -}}
{{- $address := index . 0 | toString -}}
{{- if regexMatch "^(\\[.*\\]|[^:]*):[0-9]+$" $address -}}
{{ regexFind "[0-9]+$" $address }}
{{- else -}}
{{ index . 1 }}
{{- end -}}
{{- end }}

{{- /* Host of an address to bind, for a probe; empty where the address is every one. */ -}}
{{- define "kube-ipvs.host" -}}
{{- $address := toString . -}}
{{- if regexMatch "^(\\[.*\\]|[^:]*):[0-9]+$" $address -}}
{{- $address = regexReplaceAll ":[0-9]+$" $address "" -}}
{{- end -}}
{{- $host := $address | trimPrefix "[" | trimSuffix "]" -}}
{{- if not (has $host (list "" "0.0.0.0" "::")) -}}
{{ $host }}
{{- end -}}
{{- end }}
