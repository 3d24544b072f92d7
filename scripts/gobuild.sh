#!/usr/bin/env bash
# gobuild.sh PROGRAM VERSION OUTPUT: builds one Go program with the version stamped in that its releases carry.
set -euo pipefail
program=$1 version=$2 output=$(realpath -m "$3")
mkdir -p "$(dirname "$output")"
IFS=. read -r major minor _ <<<"$version"

case $program in
controlplane)
  flags="-s -w -X k8s.io/client-go/pkg/version.gitVersion=v$version"
  for pair in gitVersion=v$version gitMajor=$major gitMinor=$minor gitTreeState=clean; do
    flags="$flags -X k8s.io/component-base/version.$pair"
  done
  cd "$(dirname "$0")/../e2e/controlplane"
  go build -trimpath -ldflags "$flags" -o "$output" .
  ;;
agnhost | e2e.test | ginkgo | coredns)
  cd "$(dirname "$0")/../e2e/conformance"
  case $program in
  agnhost) go build -trimpath -ldflags "-s -w" -o "$output" k8s.io/kubernetes/test/images/agnhost ;;
  e2e.test) go test -c -vet=off -trimpath -ldflags "-s -w" -o "$output" k8s.io/kubernetes/test/e2e ;;
  ginkgo) go build -trimpath -ldflags "-s -w" -o "$output" github.com/onsi/ginkgo/v2/ginkgo ;;
  coredns) go build -trimpath -ldflags "-s -w" -o "$output" ./coredns ;;
  esac
  ;;
helm)
  # Without these two, helm takes the cluster that it renders for to be Kubernetes 1.20.
  chartutil=helm.sh/helm/v3/pkg/chartutil
  flags="-s -w -X $chartutil.k8sVersionMajor=1 -X $chartutil.k8sVersionMinor=36"
  GOBIN=$(dirname "$output") go install -trimpath -ldflags "$flags" "helm.sh/helm/v3/cmd/helm@v$version"
  touch "$output"
  ;;
aws-cloud-controller-manager)
  # The module has a go.mod without replacements, so it builds by itself, outside of ours.
  flags="-s -w -X k8s.io/component-base/version.gitVersion=v$version"
  GOBIN=$(dirname "$output") go install -trimpath -ldflags "$flags" \
    "k8s.io/cloud-provider-aws/cmd/aws-cloud-controller-manager@v$version"
  touch "$output"
  ;;
*)
  echo "gobuild.sh: unknown program $program" >&2
  exit 2
  ;;
esac
