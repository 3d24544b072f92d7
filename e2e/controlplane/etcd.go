package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// runEtcd serves one etcd member until SIGTERM or SIGINT and returns the process's exit code. Clients are served over
// mutual TLS: only a certificate signed by the given CA gets in. The peer listener exists because etcd wants one; a
// single member never speaks on it, and it is bound to loopback.
func runEtcd(args []string) int {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	dir := flags.String("data-dir", "", "directory of the data; kept across runs")
	listen := flags.String("listen-client-url", "https://127.0.0.1:2379", "address to serve clients on")
	peer := flags.String("listen-peer-url", "http://127.0.0.1:2380", "address of the unused peer listener")
	cert := flags.String("cert-file", "", "server certificate (PEM)")
	key := flags.String("key-file", "", "server key (PEM)")
	ca := flags.String("trusted-ca-file", "", "CA that signs client certificates (PEM)")
	unsafeNoFsync := flags.Bool("unsafe-no-fsync", false, "do not fsync: faster, and data may be lost with the machine")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	client, err := url.Parse(*listen)
	if err != nil {
		fmt.Fprintf(os.Stderr, "etcd: --listen-client-url: %v\n", err)
		return 2
	}
	peerURL, err := url.Parse(*peer)
	if err != nil {
		fmt.Fprintf(os.Stderr, "etcd: --listen-peer-url: %v\n", err)
		return 2
	}

	cfg := embed.NewConfig()
	cfg.Dir = *dir
	cfg.UnsafeNoFsync = *unsafeNoFsync
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.LogLevel = "warn"
	// Left at zero, every request counts as slow and is logged.
	cfg.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = *cert, *key
	cfg.ClientTLSInfo.TrustedCAFile = *ca
	cfg.ClientTLSInfo.ClientCertAuth = *ca != ""

	server, err := embed.StartEtcd(cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "etcd: %v\n", err)
		return 1
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		server.Close()
		return 0
	case err := <-server.Err():
		fmt.Fprintf(os.Stderr, "etcd: %v\n", err)
		return 1
	}
}
