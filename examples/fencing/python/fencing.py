"""A resource that checks fencing tokens, and two holders of a lock, of whom the first was away for too long."""

import sys

import etcd3


class Resource:
    """What the lock protects. It remembers the highest token that it saw, and refuses any that is lower."""

    highest, value = 0, None

    def write(self, token, value):
        if token < self.highest:
            return f"refused, {self.highest} was seen"
        self.highest, self.value = token, value
        return "written"


def lock(etcd, name):
    """Waits until its key is the oldest under the name: etcd's recipe. The token is the key's create revision."""
    lease = etcd.lease(10)
    key = f"{name}/{lease.id:x}"
    etcd.put(key, "", lease)
    token = etcd.get(key)[1].create_revision
    while older := [meta for _, meta in etcd.get_prefix(f"{name}/") if meta.create_revision < token]:
        latest = max(older, key=lambda meta: meta.create_revision)
        changes, stop = etcd.watch(latest.key, start_revision=latest.mod_revision + 1)
        next(changes)
        stop()
    meta = etcd.get(key)[1]
    assert meta and meta.create_revision == token, "the lock was lost while it was waited for"
    return lease, token


host, port = sys.argv[1].removeprefix("http://").rsplit(":", 1)
etcd, shared = etcd3.client(host, int(port)), Resource()

lease, first = lock(etcd, "example")
print(f"token {first}: {shared.write(first, 'by the first')}")
lease.revoke()  # The first one is away, and its lease ends.
lease, second = lock(etcd, "example")
print(f"token {second}: {shared.write(second, 'by the second')}")
# The first one comes back, and believes that it holds the lock.
print(f"token {first}: {shared.write(first, 'by the first')}")
print(f"the resource was written {shared.value}")
lease.revoke()
