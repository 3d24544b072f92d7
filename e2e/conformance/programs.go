// Package conformance names the programs that a conformance run is made of, so that go.mod keeps their versions.
package conformance

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo/build"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost/netexec"
)
