// Program etcd is a real etcd server, built from etcd's own packages at the version that go.mod pins: one member, started
// with etcd's flags, exactly as the test harness starts tenured.
//
// It leaves out what a server in tests does not need of etcd's own program: configuration files, settings from the
// environment, discovery and the proxies.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/pkg/v3/flags"
	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run() error {
	config := embed.NewConfig()
	set := flag.NewFlagSet("etcd", flag.ExitOnError)
	config.AddFlags(set)
	set.StringVar(&config.ClusterState, "initial-cluster-state", config.ClusterState, "new or existing")
	printVersion := set.Bool("version", false, "print etcd's version and end")
	if err := set.Parse(os.Args[1:]); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("what is %q?", set.Arg(0))
	}
	if *printVersion {
		fmt.Println("etcd Version:", version.Version)
		return nil
	}
	// These flags are kept in forms of their own until somebody asks.
	config.ListenClientUrls = flags.UniqueURLsFromFlag(set, "listen-client-urls")
	config.AdvertiseClientUrls = flags.UniqueURLsFromFlag(set, "advertise-client-urls")
	config.ListenPeerUrls = flags.UniqueURLsFromFlag(set, "listen-peer-urls")
	config.AdvertisePeerUrls = flags.UniqueURLsFromFlag(set, "initial-advertise-peer-urls")
	config.ListenMetricsUrls = flags.UniqueURLsFromFlag(set, "listen-metrics-urls")
	config.MaxConcurrentStreams = flags.Uint32FromFlag(set, "max-concurrent-streams")
	config.LogOutputs = flags.UniqueStringsFromFlag(set, "log-outputs")
	return serve(config)
}

func serve(config *embed.Config) error {
	// Before the start: a signal that comes during it must not leave a data directory half made.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case err := <-server.Err():
		return err
	case <-server.Server.StopNotify():
		return errors.New("the server stopped by itself")
	case <-signals:
		return nil
	}
}
