#!/usr/bin/env bash
# Renders the chart as the README and the cluster on this machine use it, and refuses wrong values.
set -euo pipefail
cd "$(dirname "$0")/.."
render() { target/tools/helm template portico helm/portico --namespace portico-system "$@"; }

version=$(scripts/version.sh)
for key in "version: $version" "appVersion: \"$version\""; do
  grep -qx "$key" helm/portico/Chart.yaml || { echo "chart: Chart.yaml lacks $key, the version of Cargo.toml" >&2; exit 1; }
done

render >/dev/null
render --set kubernetesApi.host=10.0.0.1 --set nodeproxy.clusterCIDR=10.244.0.0/16 >/dev/null
local=(--set operator.provider=local --set operator.local.endpoint=http://10.0.0.2:9440 --set operator.local.tokenSecret.name=portico-lb)
render "${local[@]}" >/dev/null
aws=(--set operator.provider=aws --set operator.aws.region=eu-west-1 --set operator.aws.vpcId=vpc-0123456789abcdef0)
render "${aws[@]}" >/dev/null
render "${aws[@]}" --set-json 'operator.extraEnv=[{"name":"AWS_PROFILE","value":"portico"}]' | grep -q 'name: AWS_PROFILE'
gce=(--set operator.provider=gce --set operator.gce.project=shop-1 --set operator.gce.region=europe-west1)
render "${gce[@]}" >/dev/null

render --set operator.readOnly=true --set nodeproxy.enabled=false | grep -E 'verbs:.*(patch|create|update|delete)|--lease-name' && {
  echo "chart: a read-only operator may write" >&2
  exit 1
}
render | grep -q -- '--remove-startup-taint' && { echo "chart: nodes are changed unasked" >&2; exit 1; }
taint=(--set nodeproxy.removeStartupTaint=true --set operator.enabled=false)
render "${taint[@]}" | grep -q 'resources: \[nodes\], verbs: \[get, patch\]'
render "${taint[@]}" | grep -q 'kind: ValidatingAdmissionPolicyBinding' || { echo "chart: a node may change all nodes" >&2; exit 1; }
render --set operator.enabled=false | grep -q 'kind: ValidatingAdmissionPolicy' && { echo "chart: a policy is made unasked" >&2; exit 1; }
render --set nodeproxy.conntrack.manage=false | grep -q '/proc/sys' && { echo "chart: settings are mounted unasked" >&2; exit 1; }
render --set nodeproxy.dataplane=userspace --set 'nodeproxy.nodePortAddresses=primary\,localhost' | grep -q -- '--dataplane=userspace'
render | grep -qE -- '--pod-(bridge-interface|interface-name-prefix)' && { echo "chart: interfaces are named unasked" >&2; exit 1; }
render --set nodeproxy.detectLocalMode=BridgeInterface --set nodeproxy.podBridgeInterface=cni0 | grep -q -- '--pod-bridge-interface=cni0'
prefix=(--set nodeproxy.detectLocalMode=InterfaceNamePrefix)
render "${prefix[@]}" --set nodeproxy.podInterfaceNamePrefix=veth | grep -q -- '--pod-interface-name-prefix=veth'
render --set nodeproxy.cleanup=true | grep -q -- '- --stay' || { echo "chart: nodeproxy.cleanup cleans nothing" >&2; exit 1; }
render | grep -qE -- '- --(cleanup|stay)' && { echo "chart: rules are removed unasked" >&2; exit 1; }
digest=sha256:$(printf 'a%.0s' {1..64})
render --set operator.image.digest="$digest" | grep -q "portico-operator:.*@$digest"
render --set nodeproxy.priorityClassName= --set operator.priorityClassName= | grep -q priorityClassName && { echo "chart: a priority class unasked" >&2; exit 1; }
render --set nodeproxy.podAnnotations.a=b --set operator.podLabels.team=edge --set-json 'nodeproxy.tolerations=[]' >/dev/null
render --set operator.drift=report --set operator.auditInterval=30m --set operator.orphans.limit=0 >/dev/null
render --include-crds | grep -q 'kind: LoadBalancerClassParameters' || {
  echo "chart: the CRD is missing" >&2
  exit 1
}

render --kube-version 1.36.0 | grep -q 'kind: ValidatingAdmissionPolicyBinding' || { echo "chart: no admission policies" >&2; exit 1; }
render --set operator.admission.enabled=false | grep -q 'ValidatingAdmissionPolicy' && { echo "chart: policies unasked" >&2; exit 1; }
render | grep -q 'kind: NetworkPolicy'
render | grep -q -- '--default-class' && { echo "chart: Services without a class are taken unasked" >&2; exit 1; }

# The keys that every workload's chart has: nothing of the account, the roles or the volumes is the chart's own where it is said so.
render --set fullnameOverride=lb | grep -E '^  name: portico' && { echo "chart: a name is not overridden" >&2; exit 1; }
render --set commonLabels.team=net | awk '/^kind:/{kinds++} /^    team: net$/{labels++} END {exit kinds != labels}' || {
  echo "chart: an object is without the common labels" >&2
  exit 1
}
render --set rbac.create=false | grep -E 'kind: (Cluster)?Role(Binding)?$' && { echo "chart: roles are made unasked" >&2; exit 1; }
for part in operator nodeproxy; do
  account=(--set "$part.serviceAccount.create=false" --set "$part.serviceAccount.name=mine")
  render "${account[@]}" | grep -q 'serviceAccountName: mine'
  render "${account[@]}" | grep -E "serviceaccount:portico-system:portico-$part|kind: ServiceAccount, name: portico-$part" && {
    echo "chart: an account of another name has $part's rights" >&2
    exit 1
  }
  render --set-json "$part.serviceAccount.annotations={\"a\":\"b\"}" | grep -A1 'annotations:' | grep -q 'a: b'
  extra=(--set-json "$part={\"extraEnv\":[{\"name\":\"TZ\",\"value\":\"UTC\"}],\"extraVolumes\":[{\"name\":\"ca\",\"configMap\":{\"name\":\"ca\"}}],\"extraVolumeMounts\":[{\"name\":\"ca\",\"mountPath\":\"/ca\"}]}")
  render "${extra[@]}" --set "$part.dnsPolicy=Default" | grep -cE 'name: TZ$|mountPath: /ca$|name: ca$|dnsPolicy: Default$' | grep -qx 6
done

# Monitoring: what Prometheus' operator and Grafana take, of metrics that exist, and each only where it is asked for.
render | grep -E 'kind: (ServiceMonitor|PodMonitor|PrometheusRule|ResourceQuota)$|name: portico-(dashboard|.*-metrics)' && { echo "chart: monitoring unasked" >&2; exit 1; }
open=(--set nodeproxy.metricsBindAddress=0.0.0.0:10249)
count() { # PATTERN NUMBER VALUES…: so many lines of what is rendered match
  local pattern=$1 number=$2 found
  shift 2
  found=$(render "$@" | grep -cE "$pattern" || true)
  [ "$found" = "$number" ] || { echo "chart: $found lines match $pattern, not $number, with $*" >&2; exit 1; }
}
count 'kind: PodMonitor$' 2 "${open[@]}" --set monitoring.podMonitor.enabled=true
count 'kind: PodMonitor$' 1 --set nodeproxy.enabled=false --set monitoring.podMonitor.enabled=true
count 'kind: ServiceMonitor$' 2 "${open[@]}" --set monitoring.serviceMonitor.enabled=true
count 'clusterIP: None$' 2 "${open[@]}" --set monitoring.services.enabled=true
count 'team: net$' 1 --set monitoring.rules.enabled=true --set monitoring.rules.labels.team=net
count 'portico.json: ' 1 --set monitoring.dashboard.enabled=true
count 'kind: ResourceQuota$' 1 --set priorityQuota.enabled=true
# prometheus-client adds the endings of counters and histograms.
grep -ohE '(portico_operator|portico_nodeproxy|kubeproxy)_[a-z_]+' helm/portico/files/* | sort -u | while read -r metric; do
  name=$(sed -E 's/^(portico_operator|portico_nodeproxy|kubeproxy)_//; s/_(total|bucket|sum|count)$//' <<<"$metric")
  grep -rqF "\"$name\"" operator/src/metrics* nodeproxy/src/metrics* || {
    echo "chart: nobody has metric $metric, which files/ of the chart names" >&2
    exit 1
  }
done

# Every object of each example, by Kubernetes' own schemas of the oldest version and of the one that tests run.
for example in helm/portico/examples/*.yaml; do
  for kubernetes in 1.33 1.36; do
    objects=$(render --include-crds --kube-version "$kubernetes.0" --values "$example")
    report=$(target/tools/validate/bin/kubernetes-validate --kubernetes-version "$kubernetes" --strict --quiet <(echo "$objects") 2>&1) ||
      { echo "chart: $example is not valid in Kubernetes $kubernetes:" >&2; echo "$report" >&2; exit 1; }
    grep WARN <<<"$report" | grep -vE 'kind (PodMonitor|PrometheusRule|ServiceMonitor) with api version monitoring.coreos.com/v1' && {
      echo "chart: $example has objects that Kubernetes $kubernetes does not know" >&2
      exit 1
    }
  done
done

refused() {
  if render "$@" >/dev/null 2>&1; then
    echo "chart: accepted wrong values: $*" >&2
    exit 1
  fi
}
refused "${taint[@]}" --kube-version 1.29.0 # without the policy
refused --set monitoring.podMonitor.enabled=true # the node proxy's metrics are on loopback
refused "${open[@]}" --set monitoring.podMonitor.enabled=true --set monitoring.serviceMonitor.enabled=true
refused --set monitoring.interval=often
refused --set priorityQuota.pods=0
refused --set operator.logLevel=loud
refused --set operator.provider=azure
refused --set operator.provider=local # without endpoint and token
refused --set operator.provider=aws # without region and VPC
refused "${aws[@]}" --set operator.aws.vpcId=mine
refused "${aws[@]}" --set-json 'operator.extraEnv=[{"value":"of no name"}]'
refused --set operator.provider=gce   # without project and region
refused --set operator.gce.region=here
refused --set nodeproxy.clusterCIDR=ten
refused --set nodeproxy.detectLocalMode=bridge
refused --set nodeproxy.detectLocalMode=BridgeInterface # without the bridge
refused --set nodeproxy.podBridgeInterface=cni0         # without the mode
refused "${prefix[@]}"                                  # without the prefix
refused "${prefix[@]}" --set nodeproxy.podInterfaceNamePrefix=veth --set nodeproxy.podBridgeInterface=cni0
refused "${prefix[@]}" --set nodeproxy.podInterfaceNamePrefix='veth*'
refused "${prefix[@]}" --set nodeproxy.podInterfaceNamePrefix=sixteen-bytes-ab
refused --set nodeproxy.dataplane=iptables
refused --set nodeproxy.nodePortAddresses=localhost,eth0
refused --set operator.drift=ignore
refused --set operator.auditInterval=often
refused --set operator.nodes.removalShare=101
refused --set operator.orphans.limit=-1
refused --set nodeproxy.conntrack.udpTimeout=soon
refused --set nodeproxy.typo=1
refused --set nodeproxy.image.digest=latest
refused --set operator.serviceAccount.create=false # without the name of one that exists
refused --set nodeproxy.serviceAccount.create=false
refused --set fullnameOverride=Load_Balancer
refused --set rbac.make=false
refused --set commonLabels.of.parts=two
refused --set-json 'nodeproxy.extraEnv=[{"value":"of no name"}]'
refused --set-json 'operator.extraVolumes=[{"emptyDir":{}}]'
refused --set-json 'operator.extraVolumeMounts=[{"name":"ca"}]'
refused --set nodeproxy.dnsPolicy=Never
refused --set operator.podAnnotations.a.b=c
refused --set 'operator.admission.protectedCIDRs={everywhere}'
refused --set 'operator.admission.restrictedAnnotations={no quotes'"'"'}'
