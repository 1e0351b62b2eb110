#!/usr/bin/env python3
"""Load, delete or verify records through the PyPI client etcd3; tests/compat_real_input.rs drives it.

The input has one JSON object per line with "key" and "value". `verify` reads everything under the prefix in a single
answer, at a revision if one is given, and compares it with the file byte for byte. The last line printed is a JSON
object with counts and seconds. etcd3 0.12 cannot be asked for an old revision, so that read uses its generated stub.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import etcd3
from etcd3 import etcdrpc, utils

THREADS = 16
ANSWER_BYTES_MAX = 1 << 30


def connect(endpoint):
    host, port = endpoint.rsplit(":", 1)
    options = [("grpc.max_receive_message_length", ANSWER_BYTES_MAX)]
    return etcd3.client(host=host, port=int(port), timeout=120, grpc_options=options)


def records(path):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield record["key"].encode(), record["value"].encode()


def on_all(endpoints, items, action):
    """Runs the action for every item, on a few threads with a client each; the first failure ends it."""
    slices = [items[at::THREADS] for at in range(THREADS)]

    def work(at):
        client = connect(endpoints[at % len(endpoints)])
        for item in slices[at]:
            action(client, item)
        client.close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return len(items)


def delete(client, item):
    if not client.delete(item[0]):
        raise RuntimeError(f"{item[0]} was not there to be deleted")


def read_prefix(client, prefix, revision):
    if revision == 0:
        return {meta.key: value for value, meta in client.get_prefix(prefix)}
    end = utils.increment_last_byte(utils.to_bytes(prefix))
    request = etcdrpc.RangeRequest(key=utils.to_bytes(prefix), range_end=end, revision=revision)
    return {kv.key: kv.value for kv in client.kvstub.Range(request, 120).kvs}


def verify(endpoint, prefix, expected, revision):
    stored = read_prefix(connect(endpoint), prefix, revision)
    wrong = [key for key, value in expected.items() if stored.get(key) != value]
    surplus = [key for key in stored if key not in expected]
    if wrong or surplus:
        sys.exit(f"{len(wrong)} keys missing or different, {len(surplus)} surplus: {(wrong + surplus)[:5]}")
    return len(stored)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["load", "delete", "verify"])
    parser.add_argument("--endpoints", required=True, help="HOST:PORT,...")
    parser.add_argument("--file", required=True)
    parser.add_argument("--prefix", default="debian/")
    parser.add_argument("--revision", type=int, default=0)
    args = parser.parse_args()
    endpoints = args.endpoints.split(",")
    items = list(records(args.file))
    started = time.monotonic()
    if args.action == "load":
        count = on_all(endpoints, items, lambda client, item: client.put(*item))
    elif args.action == "delete":
        count = on_all(endpoints, items, delete)
    else:
        count = verify(endpoints[0], args.prefix, dict(items), args.revision)
    print(json.dumps({"count": count, "seconds": round(time.monotonic() - started, 2)}))


if __name__ == "__main__":
    main()
