"""Carries out compatibility scenarios with the etcd3 package of PyPI.

It reads one request a line from standard input (a scenario's name, the revision it begins at, endpoints and steps) and
prints one line for each step; tests/scenarios/README.md describes both. It knows nothing of what is right: the test that
starts it compares what a real etcd and tenured answered.
"""

import json
import queue
import sys
import threading
import time
import traceback
from urllib.parse import urlparse

import etcd3
import etcd3.exceptions
import etcd3.utils
import grpc

# The longest that one step may take: far more than any needs, so that a hang becomes a failure.
STEP_PATIENCE_SECS = 30
# How often a condition that no watch can tell is looked at.
POLL_SECS = 0.01
# The longest value that an answer shows whole.
LONGEST_SHOWN = 64
# Shorter lease ids are chosen by scenarios and could be part of any text.
ID_DIGITS_MIN = 10

COMPARISONS = {
    "=": lambda subject, to: subject == to,
    "!=": lambda subject, to: subject != to,
    ">": lambda subject, to: subject > to,
    "<": lambda subject, to: subject < to,
}


class Skipped(Exception):
    """The feature of a step that this client does not have."""


class Fields:
    """A step's fields, each taken once: what is left at the end is what this client cannot express."""

    def __init__(self, fields, run):
        self.left = dict(fields)
        self.run = run
        self.kind = self.left.pop("do", "test")

    def take(self, name, default=None):
        return self.left.pop(name, default)

    def bytes(self, name):
        return to_bytes(self.left.pop(name))

    def revision(self, name):
        return self.run.revision_at(self.left.pop(name))

    def lease(self):
        return self.run.lease_id(self.left.pop("lease", 0))

    def range_end(self):
        """The end of the range that the step names, if it names one; the key must be still there."""
        if self.take("prefix"):
            return etcd3.utils.increment_last_byte(to_bytes(self.left["key"]))
        if self.take("from_key"):
            return b"\0"
        return self.bytes("range_end") if "range_end" in self.left else None

    def finish(self):
        for name in self.left:
            raise Skipped(f"{self.kind}.{name}")


def to_bytes(text):
    return bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()


class Watch:
    """A watch with what came from it and was not asked for yet."""

    def __init__(self):
        self.id = None
        self.came = queue.Queue()
        self.events = []
        self.ended = None

    def next(self, deadline):
        try:
            came = self.came.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            raise RuntimeError(f"the watch is silent after {len(self.events)} events") from None
        self.take(came)

    def take(self, came):
        if isinstance(came, Exception):
            self.ended = came
        else:
            self.events.extend(came.events)


class Task:
    """A step in the background."""

    def __init__(self, work):
        self.result = None
        self.error = None
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work):
        try:
            self.result = work()
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def join(self):
        self.thread.join(STEP_PATIENCE_SECS)
        if self.thread.is_alive():
            raise RuntimeError("the step in the background does not end")
        if self.error:
            raise self.error
        return self.result


class Run:
    """One scenario under way."""

    def __init__(self, request):
        self.base = request["base"]
        self.endpoints = request["endpoints"]
        self.clients = {}
        self.leases = {}
        self.watches = {}
        self.locks = {}
        self.tasks = {}
        self.skipped = {}
        self.closed = threading.Event()

    def close(self):
        self.closed.set()
        for client in self.clients.values():
            client.close()

    def client(self, session):
        """The session's own client: a talks to the first endpoint, b to the second."""
        if session not in self.clients:
            if len(session) > 1:
                raise Skipped("several endpoints")
            url = urlparse(self.endpoints[(ord(session) - ord("a")) % len(self.endpoints)])
            self.clients[session] = etcd3.client(host=url.hostname, port=url.port, timeout=STEP_PATIENCE_SECS)
        return self.clients[session]

    # What the scenario's words mean here, and the other way round.

    def revision_at(self, value):
        return self.base + int(value) if isinstance(value, str) else value

    def lease_id(self, value):
        return self.leases[value] if isinstance(value, str) else value

    def lease_name(self, number):
        names = [name for name, known in self.leases.items() if known == number]
        return names[0] if names else (0 if number == 0 else "?")

    def revision(self, number):
        return number if number <= 0 else f"{number - self.base:+d}"

    def header(self, header):
        return self.revision(header.revision)

    def text(self, given):
        if len(given) > LONGEST_SHOWN:
            return f"<{len(given)} bytes, sum {sum(given)}>"
        if not all(0x20 <= byte <= 0x7E for byte in given):
            return "hex:" + given.hex()
        text = given.decode()
        for name, number in self.leases.items():
            digits = f"{number:x}"
            if len(digits) >= ID_DIGITS_MIN:
                text = text.replace(digits, f"<{name}>")
        return text

    def kv(self, given):
        if not given.key:
            return None
        return {
            "key": self.text(given.key),
            "value": self.text(given.value),
            "create": self.revision(given.create_revision),
            "mod": self.revision(given.mod_revision),
            "version": given.version,
            "lease": self.lease_name(given.lease),
        }

    def kvs(self, given):
        return [self.kv(one) for one in given]

    # Steps, by name.

    def perform(self, step):
        fields = Fields(step, self)
        for reference in ("watch", "what", "lock", "campaign", "observer", "lease"):
            if fields.left.get(reference) in self.skipped:
                raise Skipped(self.skipped[fields.left[reference]])
        method = getattr(self, "do_" + fields.kind, None)
        try:
            if method is None:
                raise Skipped(fields.kind)
            client = self.client(fields.take("session", "a"))
            return method(client, fields)
        except Skipped as skipped:
            if "as" in step:
                self.skipped[step["as"]] = str(skipped)
            raise

    def do_put(self, client, fields):
        key, value, lease = fields.bytes("key"), fields.bytes("value"), fields.lease()
        prev_kv = fields.take("prev_kv", False)
        fields.finish()
        given = client.put(key, value, lease=lease, prev_kv=prev_kv)
        return {"revision": self.header(given.header), "prev_kv": self.kv(given.prev_kv)}

    def do_get(self, client, fields):
        options = {"serializable": fields.take("serializable", False)}
        range_end = fields.range_end()
        if range_end is not None:
            options["keys_only"] = fields.take("keys_only", False)
            target, order = fields.take("sort", ["key", None])
            options.update(sort_order=order, sort_target=target)
        key = fields.bytes("key")
        fields.finish()
        if range_end is None:
            given = client.get_response(key, **options)
        else:
            given = client.get_range_response(key, range_end, **options)
        return {
            "revision": self.header(given.header),
            "count": given.count,
            "more": given.more,
            "kvs": self.kvs(given.kvs),
        }

    def do_delete(self, client, fields):
        if fields.take("prefix"):
            key = fields.bytes("key")
            if fields.left:
                raise Skipped("delete.prefix with options")
            given = client.delete_prefix(key)
        else:
            key, prev_kv = fields.bytes("key"), fields.take("prev_kv", False)
            fields.finish()
            given = client.delete(key, prev_kv=prev_kv, return_response=True)
        return self.deleted(given)

    def deleted(self, given):
        return {
            "revision": self.header(given.header),
            "deleted": given.deleted,
            "prev_kvs": self.kvs(given.prev_kvs),
        }

    def do_txn(self, client, fields):
        tests, then, otherwise = self.branches(client, fields)
        succeeded, responses = client.transaction(compare=tests, success=then, failure=otherwise)
        return {"succeeded": succeeded, "responses": [self.response(one) for one in responses]}

    def branches(self, client, fields):
        tests = [self.test(client, one) for one in fields.take("if")]
        then = [self.operation(client, one) for one in fields.take("then")]
        otherwise = [self.operation(client, one) for one in fields.take("else")]
        fields.finish()
        return tests, then, otherwise

    def operation(self, client, step):
        make, fields = client.transactions, Fields(step, self)
        kind, fields.kind = fields.kind, "txn." + fields.kind
        if kind == "txn":
            operation = make.txn(*self.branches(client, fields))
        elif kind == "put":
            value, lease = fields.bytes("value"), fields.lease()
            operation = make.put(fields.bytes("key"), value, lease=lease, prev_kv=fields.take("prev_kv", False))
        elif kind == "get":
            range_end = fields.range_end()
            operation = make.get(fields.bytes("key"), range_end=range_end)
        else:
            range_end, prev_kv = fields.range_end(), fields.take("prev_kv", False)
            operation = make.delete(fields.bytes("key"), range_end=range_end, prev_kv=prev_kv)
        fields.finish()
        return operation

    def test(self, client, step):
        fields = Fields(step, self)
        target, comparison, to = fields.take("target"), fields.take("is"), fields.take("to")
        if not hasattr(client.transactions, target):
            raise Skipped(f"txn.if.{target}")
        range_end = fields.range_end()
        subject = getattr(client.transactions, target)(fields.bytes("key"), range_end)
        fields.finish()
        to = to_bytes(to) if target == "value" else self.revision_at(to)
        return COMPARISONS[comparison](subject, to)

    def response(self, given):
        if isinstance(given, list):
            # The client shows a range as pairs of a value and what else it knows of the key.
            kvs = [
                {
                    "key": self.text(more.key),
                    "value": self.text(value),
                    "create": self.revision(more.create_revision),
                    "mod": self.revision(more.mod_revision),
                    "version": more.version,
                    "lease": self.lease_name(more.lease_id),
                }
                for value, more in given
            ]
            return {"get": {"kvs": kvs}}
        kind = given.WhichOneof("response")
        if kind == "response_put":
            return {"put": {"prev_kv": self.kv(given.response_put.prev_kv)}}
        if kind == "response_range":
            return {"get": {"kvs": self.kvs(given.response_range.kvs)}}
        if kind == "response_delete_range":
            return {"delete": self.deleted(given.response_delete_range)}
        inner = given.response_txn
        return {"txn": {"succeeded": inner.succeeded, "responses": [self.response(one) for one in inner.responses]}}

    def do_compact(self, client, fields):
        revision, physical = fields.revision("revision"), fields.take("physical", False)
        fields.finish()
        client.compact(revision, physical=physical)
        return {}

    def do_grant(self, client, fields):
        name, ttl, number = fields.take("as"), fields.take("ttl"), fields.take("id")
        fields.finish()
        lease = client.lease(ttl, lease_id=number)
        self.leases[name] = lease.id
        return {"lease": self.lease_name(lease.id), "ttl": lease.ttl}

    def do_keep_alive(self, client, fields):
        lease = fields.lease()
        fields.finish()
        (given,) = client.refresh_lease(lease)
        return {"ttl": given.TTL, "revision": self.header(given.header)}

    def do_keep_alive_rounds(self, client, fields):
        """This client leaves the rhythm to its user: a third of the TTL, until the scenario ends."""
        lease, rounds = fields.lease(), fields.take("rounds")
        fields.finish()

        def once():
            (given,) = client.refresh_lease(lease)
            self.closed.wait(given.TTL / 3)
            return given.TTL

        for _ in range(rounds):
            ttl = once()

        def go_on():
            while not self.closed.is_set() and once() > 0:
                pass

        threading.Thread(target=go_on, daemon=True).start()
        return {"ttl": ttl}

    def do_time_to_live(self, client, fields):
        lease, keys = fields.lease(), fields.take("keys")
        fields.finish()
        given = client.get_lease_info(lease)
        # How many seconds are left depends on when one asks.
        answer = {"ttl": "alive" if given.TTL > 0 else given.TTL, "granted": given.grantedTTL}
        if keys:
            answer["keys"] = sorted(self.text(key) for key in given.keys)
        return answer

    def do_revoke(self, client, fields):
        lease = fields.lease()
        fields.finish()
        client.revoke_lease(lease)
        return {}

    def do_watch(self, client, fields):
        name, options = fields.take("as"), {"range_end": fields.range_end()}
        key = fields.bytes("key")
        if "revision" in fields.left:
            options["start_revision"] = fields.revision("revision")
        options["prev_kv"] = fields.take("prev_kv", False)
        options["progress_notify"] = fields.take("progress_notify", False)
        fields.finish()
        watch = Watch()
        watch.id = client.add_watch_callback(key, watch.came.put, **options)
        watch.client = client
        self.watches[name] = watch
        return {}

    def do_events(self, _client, fields):
        watch, count = self.watches[fields.take("watch")], fields.take("count")
        fields.finish()
        deadline = time.monotonic() + STEP_PATIENCE_SECS
        while len(watch.events) < count:
            watch.next(deadline)
        taken, watch.events = watch.events[:count], watch.events[count:]
        return {"events": self.events(taken)}

    def do_cancel(self, _client, fields):
        watch = self.watches[fields.take("watch")]
        fields.finish()
        watch.client.cancel_watch(watch.id)
        while not watch.came.empty():
            watch.take(watch.came.get())
        return {"left": self.events(watch.events)}

    def do_watch_end(self, _client, fields):
        watch = self.watches[fields.take("watch")]
        fields.finish()
        deadline = time.monotonic() + STEP_PATIENCE_SECS
        while watch.ended is None:
            watch.next(deadline)
        if not isinstance(watch.ended, etcd3.exceptions.RevisionCompactedError):
            raise watch.ended
        return {"compact_revision": self.revision(watch.ended.compacted_revision), "left": self.events(watch.events)}

    def events(self, given):
        shown = []
        for event in given:
            kind = "delete" if isinstance(event, etcd3.events.DeleteEvent) else "put"
            # The client's own events give the pair before as attributes that begin with prev_.
            shown.append({"type": kind, "kv": self.kv(event), "prev_kv": self.kv(Previous(event))})
        return shown

    def do_lock(self, client, fields):
        name, lock = fields.take("as"), client.lock(fields.take("name"), ttl=fields.take("ttl"))
        background = fields.take("background")
        fields.finish()
        self.locks[name] = lock

        def acquire():
            if not lock.acquire(timeout=STEP_PATIENCE_SECS):
                raise RuntimeError("the lock was not had in time")
            self.leases[name] = lock.lease.id
            return {"key": self.text(lock.key.encode())}

        if not background:
            return acquire()
        self.tasks[name] = Task(acquire)
        return {}

    def do_try_lock(self, client, fields):
        name, lock = fields.take("as"), client.lock(fields.take("name"), ttl=fields.take("ttl"))
        fields.finish()
        self.locks[name] = lock
        return {"locked": lock.acquire(timeout=0)}

    def do_lock_queue(self, _client, fields):
        """This client's recipe has one key and no queue; who waits is who watches that key."""
        fields.take("name")
        waiters = fields.take("count") - 1
        fields.finish()
        deadline = time.monotonic() + STEP_PATIENCE_SECS
        # pylint: disable=protected-access
        while sum(len(client.watcher._callbacks) for client in self.clients.values()) != waiters:
            if time.monotonic() > deadline:
                raise RuntimeError("nobody waits for the lock")
            time.sleep(POLL_SECS)
        return {}

    def do_unlock(self, _client, fields):
        lock = self.locks[fields.take("lock")]
        fields.finish()
        return {"released": lock.release()}

    def do_pending(self, _client, fields):
        task = self.tasks[fields.take("what")]
        fields.finish()
        return {"pending": task.thread.is_alive()}

    def do_join(self, _client, fields):
        task = self.tasks[fields.take("what")]
        fields.finish()
        return task.join()

    def do_status(self, client, fields):
        fields.finish()
        given = client.status()
        return {
            "leader": given.leader is not None,
            "term": given.raft_term > 0,
            "index": given.raft_index > 0,
            "size": given.db_size > 0,
            "api": given.version[:3],
        }

    def do_members(self, client, fields):
        fields.finish()
        members = list(client.members)
        complete = [one.id and one.name and one.peer_urls and one.client_urls for one in members]
        return {"complete": bool(members) and all(complete)}

    def do_alarms(self, client, fields):
        fields.finish()
        return {"alarms": len(list(client.list_alarms()))}

    def do_defragment(self, client, fields):
        fields.finish()
        client.defragment()
        return {}


class Previous:
    """The pair before an event, with the names that a pair has."""

    def __init__(self, event):
        self.event = event

    def __getattr__(self, name):
        return getattr(self.event, "prev_" + name)


def refusal(error):
    """The status that the server sent, however deep the client hid it."""
    while error is not None:
        if isinstance(error, grpc.RpcError):
            return error
        error = error.__cause__ or error.__context__
    return None


def line(run, step):
    """What a step prints, and whether the steps after it can be carried out."""
    try:
        return {"answer": run.perform(step)}, True
    except Skipped as skipped:
        return {"skip": str(skipped)}, True
    except Exception as error:  # pylint: disable=broad-except
        status = refusal(error)
        if status is None:
            return {"fault": traceback.format_exc()}, True
        if status.code() == grpc.StatusCode.UNIMPLEMENTED:
            return {"unimplemented": status.details()}, False
        code = f"{type(error).__name__} {status.code().name}" if status is not error else status.code().name
        return {"error": {"code": code, "text": status.details()}}, True


def main():
    for request in sys.stdin:
        request = json.loads(request)
        run = Run(request)
        for at, step in enumerate(request.get("steps", [])):
            printed, goes_on = line(run, step)
            print(json.dumps({"step": at, **printed}), flush=True)
            if not goes_on:
                break
        run.close()
        print(json.dumps({"done": request["scenario"]}), flush=True)


if __name__ == "__main__":
    main()
