// A resource that checks fencing tokens, and two holders of a lock, of whom the first was away for too long.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// resource is what the lock protects. It remembers the highest token that it saw, and refuses any that is lower.
type resource struct {
	highest int64
	value   string
}

func (r *resource) write(token int64, value string) string {
	if token < r.highest {
		return fmt.Sprintf("refused, %d was seen", r.highest)
	}
	r.highest, r.value = token, value
	return "written"
}

// lock waits for the lock. Its token is the create revision of the mutex's key.
func lock(ctx context.Context, client *clientv3.Client, name string) (*concurrency.Session, int64) {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
	must(err)
	mutex := concurrency.NewMutex(session, name)
	must(mutex.Lock(ctx))
	key, err := client.Get(ctx, mutex.Key())
	must(err)
	if len(key.Kvs) == 0 {
		log.Fatal("the lock was lost at once")
	}
	return session, key.Kvs[0].CreateRevision
}

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:]})
	must(err)
	ctx, shared := context.Background(), &resource{}

	session, first := lock(ctx, client, "example")
	fmt.Printf("token %d: %s\n", first, shared.write(first, "by the first"))
	must(session.Close()) // The first one is away, and its lease ends.
	session, second := lock(ctx, client, "example")
	fmt.Printf("token %d: %s\n", second, shared.write(second, "by the second"))
	// The first one comes back, and believes that it holds the lock.
	fmt.Printf("token %d: %s\n", first, shared.write(first, "by the first"))
	fmt.Printf("the resource was written %s\n", shared.value)
	must(session.Close())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
