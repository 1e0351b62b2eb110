// Carries out compatibility scenarios with the etcd3 package of npm.
//
// It reads one request a line from standard input (a scenario's name, the revision it begins at, endpoints and steps) and
// prints one line for each step; tests/scenarios/README.md describes both. It knows nothing of what is right: the test
// that starts it compares what a real etcd and tenured answered.
'use strict';

const readline = require('node:readline');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

// The longest that one step may take: far more than any needs, so that a hang becomes a failure.
const STEP_PATIENCE_MS = 30_000;
// How often a condition that no watch can tell is looked at.
const POLL_MS = 10;
// The longest value that an answer shows whole.
const LONGEST_SHOWN = 64;
// Shorter lease ids are chosen by scenarios and could be part of any text.
const ID_DIGITS_MIN = 10;

// The client's Isolation.Serializable, which exists in TypeScript alone.
const SERIALIZABLE = 1;

const TARGETS = { key: 'Key', version: 'Version', create: 'Create', mod: 'Mod', value: 'Value', lease: 'Lease' };
const ORDERS = { none: 'None', ascend: 'Ascend', descend: 'Descend' };
const COMPARISONS = { '=': '==', '!=': '!=', '>': '>', '<': '<' };

/** The feature of a step that this client does not have. */
class Skipped extends Error {}

/** A step's fields, each taken once: what is left at the end is what this client cannot express. */
class Fields {
  constructor(fields, run) {
    this.left = { ...fields };
    this.run = run;
    this.kind = this.take('do');
  }

  has(name) {
    return name in this.left;
  }

  take(name, otherwise) {
    const value = this.left[name];
    delete this.left[name];
    return value === undefined ? otherwise : value;
  }

  bytes(name) {
    return toBytes(this.take(name));
  }

  revision(name) {
    return this.run.revisionAt(this.take(name));
  }

  /** The range that the step names, in the client's form; undefined for a single key. */
  range() {
    if (this.take('prefix')) return { prefix: this.bytes('key') };
    if (this.take('from_key')) return { start: this.bytes('key'), end: Buffer.from([0]) };
    if (this.has('range_end')) return { start: this.bytes('key'), end: this.bytes('range_end') };
    return undefined;
  }

  finish() {
    for (const name of Object.keys(this.left)) throw new Skipped(`${this.kind}.${name}`);
  }
}

function toBytes(text) {
  return text.startsWith('hex:') ? Buffer.from(text.slice(4), 'hex') : Buffer.from(text);
}

const delay = ms => new Promise(resolve => setTimeout(resolve, ms));

/** A watch with what came from it and was not asked for yet. */
class Watch {
  constructor(watcher) {
    this.watcher = watcher;
    this.events = [];
    this.created = false;
    this.error = undefined;
    this.wake = () => {};
    const came = change => value => {
      change(value);
      this.wake();
    };
    watcher.on('connected', came(() => (this.created = true)));
    watcher.on('data', came(data => this.events.push(...data.events)));
    watcher.on('error', came(error => (this.error = error)));
  }

  async until(enough) {
    while (!enough()) await new Promise(resolve => (this.wake = resolve));
  }
}

/** One scenario under way. */
class Run {
  constructor({ base, endpoints }) {
    this.base = BigInt(base);
    this.endpoints = endpoints;
    this.clients = new Map();
    this.ids = new Map();
    this.leases = new Map();
    this.watches = new Map();
    this.locks = new Map();
    this.campaigns = new Map();
    this.observers = new Map();
    this.tasks = new Map();
    this.skipped = new Map();
    this.closed = false;
  }

  close() {
    this.closed = true;
    for (const lease of this.leases.values()) lease.release();
    for (const campaign of this.campaigns.values()) campaign.lease.release();
    for (const client of this.clients.values()) client.close();
  }

  /** The session's own client: a talks to the first endpoint, b to the second, all to all of them. */
  client(session) {
    if (!this.clients.has(session)) {
      const at = session.charCodeAt(0) - 'a'.charCodeAt(0);
      const hosts = session === 'all' ? this.endpoints : [this.endpoints[at % this.endpoints.length]];
      this.clients.set(session, new Etcd3({ hosts }));
    }
    return this.clients.get(session);
  }

  // What the scenario's words mean here, and the other way round. The client has 64-bit numbers as text.

  revisionAt(value) {
    return typeof value === 'string' ? String(this.base + BigInt(value)) : value;
  }

  leaseId(value) {
    if (typeof value !== 'string') return String(value);
    if (!this.ids.has(value)) throw new Error(`no lease is named ${value}`);
    return this.ids.get(value);
  }

  leaseName(id) {
    for (const [name, known] of this.ids) if (known === id) return name;
    return id === '0' ? 0 : '?';
  }

  revision(text) {
    const number = BigInt(text);
    if (number <= 0n) return Number(number);
    const distance = number - this.base;
    return distance < 0n ? String(distance) : `+${distance}`;
  }

  text(bytes) {
    if (bytes.length > LONGEST_SHOWN) {
      return `<${bytes.length} bytes, sum ${bytes.reduce((sum, byte) => sum + byte, 0)}>`;
    }
    if (!bytes.every(byte => byte >= 0x20 && byte <= 0x7e)) return 'hex:' + bytes.toString('hex');
    return this.named(bytes.toString());
  }

  /** A text with leases' names in place of their ids. */
  named(text) {
    for (const [name, id] of this.ids) {
      // This client's own recipes write ids in decimal.
      for (const digits of [id, BigInt(id).toString(16)]) {
        if (digits.length >= ID_DIGITS_MIN) text = text.replaceAll(digits, `<${name}>`);
      }
    }
    return text;
  }

  kv(kv) {
    if (!kv || !kv.key) return null;
    return {
      key: this.text(kv.key),
      value: this.text(kv.value),
      create: this.revision(kv.create_revision),
      mod: this.revision(kv.mod_revision),
      version: Number(kv.version),
      lease: this.leaseName(kv.lease),
    };
  }

  range(answer) {
    return {
      revision: this.header(answer),
      count: Number(answer.count),
      more: answer.more,
      kvs: answer.kvs.map(kv => this.kv(kv)),
    };
  }

  header(answer) {
    return answer.header ? this.revision(answer.header.revision) : null;
  }

  async perform(step) {
    const fields = new Fields(step, this);
    for (const reference of ['watch', 'what', 'lock', 'campaign', 'observer', 'lease']) {
      const skipped = this.skipped.get(fields.left[reference]);
      if (skipped) throw new Skipped(skipped);
    }
    try {
      const method = steps[fields.kind];
      if (!method) throw new Skipped(fields.kind);
      const client = this.client(fields.take('session', 'a'));
      return await method(this, client, fields);
    } catch (error) {
      if (error instanceof Skipped && step.as) this.skipped.set(step.as, error.message);
      throw error;
    }
  }
}

/** A put without the value of whether it shows the pair before. */
function putBuilder(run, client, fields) {
  let builder = client.put(fields.bytes('key'));
  if (fields.has('lease')) builder = builder.lease(run.leaseId(fields.take('lease')));
  if (fields.take('ignore_lease')) builder = builder.ignoreLease();
  return builder;
}

/** A read of one key or of many, with every option that its builder has. */
function getBuilder(fields, client) {
  const range = fields.range();
  let builder = range ? client.getAll().inRange(range) : client.get(fields.bytes('key'));
  if (range) {
    if (fields.has('limit')) builder = builder.limit(fields.take('limit'));
    if (fields.has('sort')) {
      const [target, order] = fields.take('sort');
      builder = builder.sort(TARGETS[target], ORDERS[order]);
    }
  }
  if (fields.has('revision')) builder = builder.revision(fields.revision('revision'));
  if (fields.take('serializable')) builder = builder.serializable(true);
  if (fields.has('min_mod')) builder = builder.minModRevision(fields.revision('min_mod'));
  if (fields.has('max_mod')) builder = builder.maxModRevision(fields.revision('max_mod'));
  if (fields.has('min_create')) builder = builder.minCreateRevision(fields.revision('min_create'));
  if (fields.has('max_create')) builder = builder.maxCreateRevision(fields.revision('max_create'));
  return builder;
}

function deleteBuilder(fields, client) {
  const range = fields.range();
  if (!range) return client.delete().key(fields.bytes('key'));
  return range.prefix ? client.delete().prefix(range.prefix) : client.delete().inRange(range);
}

function operation(run, client, step) {
  const fields = new Fields(step, run);
  fields.kind = `txn.${fields.kind}`;
  let made;
  if (step.do === 'put') {
    made = putBuilder(run, client, fields).value(fields.bytes('value'));
  } else if (step.do === 'get') {
    made = getBuilder(fields, client);
  } else if (step.do === 'delete') {
    made = deleteBuilder(fields, client);
  } else {
    throw new Skipped(fields.kind);
  }
  fields.finish();
  return made;
}

/** The key, column, comparison and operand of one test, in the client's words. */
function test(run, step) {
  const fields = new Fields({ do: 'txn.if', ...step }, run);
  const key = fields.bytes('key');
  const [target, is, to] = [fields.take('target'), fields.take('is'), fields.take('to')];
  fields.finish();
  const operands = { value: () => toBytes(to), lease: () => run.leaseId(to) };
  return [key, TARGETS[target], COMPARISONS[is], (operands[target] || (() => run.revisionAt(to)))()];
}

function response(run, given) {
  if (given.response === 'response_put') return { put: { prev_kv: run.kv(given.response_put.prev_kv) } };
  if (given.response === 'response_range') return { get: run.range(given.response_range) };
  return { delete: deleted(run, given.response_delete_range) };
}

function deleted(run, answer) {
  return {
    revision: run.header(answer),
    deleted: Number(answer.deleted),
    prev_kvs: answer.prev_kvs.map(kv => run.kv(kv)),
  };
}

/** How many seconds are left depends on when one asks. */
const remaining = ttl => (Number(ttl) > 0 ? 'alive' : Number(ttl));

function events(run, given) {
  return given.map(event => ({
    type: event.type.toLowerCase(),
    kv: run.kv(event.kv),
    prev_kv: run.kv(event.prev_kv),
  }));
}

async function until(condition) {
  while (!(await condition())) await delay(POLL_MS);
}

async function queue(client, prefix, count) {
  await until(async () => (await client.getAll().prefix(prefix).count()) === count);
  return { count };
}

const steps = {
  async put(run, client, fields) {
    let builder = putBuilder(run, client, fields);
    if (fields.take('ignore_value')) {
      if (fields.take('value') !== '') throw new Skipped('put.ignore_value with a value');
      fields.finish();
      return { revision: run.header(await builder.touch()) };
    }
    builder = builder.value(fields.bytes('value'));
    const previous = fields.take('prev_kv');
    fields.finish();
    if (!previous) return { revision: run.header(await builder.exec()) };
    const answer = await builder.getPrevious();
    return { revision: run.header(answer), prev_kv: run.kv(answer) };
  },

  async get(run, client, fields) {
    const many = fields.has('prefix') || fields.has('range_end') || fields.has('from_key');
    const builder = getBuilder(fields, client);
    const keysOnly = many && fields.take('keys_only');
    const countOnly = many && fields.take('count_only');
    fields.finish();
    if (keysOnly) return { kvs: (await builder.keyBuffers()).map(key => ({ key: run.text(key) })) };
    if (countOnly) return { count: await builder.count() };
    return run.range(await builder.exec());
  },

  async delete(run, client, fields) {
    const builder = deleteBuilder(fields, client);
    const previous = fields.take('prev_kv');
    fields.finish();
    if (previous) return { prev_kvs: (await builder.getPrevious()).map(kv => run.kv(kv)) };
    return deleted(run, await builder.exec());
  },

  async txn(run, client, fields) {
    const [tests, then, otherwise] = [fields.take('if'), fields.take('then'), fields.take('else')];
    fields.finish();
    if (tests.length === 0) throw new Skipped('txn without tests');
    const [first, ...others] = tests.map(one => test(run, one));
    let builder = client.if(...first);
    for (const one of others) builder = builder.and(...one);
    const answer = await builder
      .then(...then.map(one => operation(run, client, one)))
      .else(...otherwise.map(one => operation(run, client, one)))
      .commit();
    return {
      revision: run.header(answer),
      succeeded: answer.succeeded,
      responses: answer.responses.map(one => response(run, one)),
    };
  },

  async compact(run, client, fields) {
    const request = { revision: fields.revision('revision'), physical: fields.take('physical', false) };
    fields.finish();
    return { revision: run.header(await client.kv.compact(request)) };
  },

  async grant(run, client, fields) {
    const [name, TTL, ID] = [fields.take('as'), fields.take('ttl'), fields.take('id')];
    fields.finish();
    if (ID !== undefined) {
      const answer = await client.leaseClient.leaseGrant({ TTL, ID });
      run.ids.set(name, answer.ID);
      return { lease: run.leaseName(answer.ID), ttl: Number(answer.TTL), revision: run.header(answer) };
    }
    const lease = client.lease(TTL, { autoKeepAlive: false });
    // A lease that is lost says so by an event, too; the steps ask for themselves.
    lease.on('lost', () => {});
    run.ids.set(name, await lease.grant());
    run.leases.set(name, lease);
    return { lease: name };
  },

  async keep_alive(run, client, fields) {
    const lease = run.leases.get(fields.take('lease'));
    fields.finish();
    if (!lease) throw new Skipped('keep_alive of a bare id');
    const answer = await lease.keepaliveOnce();
    return { ttl: Number(answer.TTL), revision: run.header(answer) };
  },

  /** Starts the client's own keeping alive, which goes on until the scenario ends. */
  async keep_alive_rounds(run, client, fields) {
    const [lease, rounds] = [run.leases.get(fields.take('lease')), fields.take('rounds')];
    fields.finish();
    let [seen, ttl] = [0, undefined];
    await new Promise((resolve, reject) => {
      lease.on('keepaliveSucceeded', answer => {
        ttl = Number(answer.TTL);
        if (++seen >= rounds) resolve();
      });
      lease.on('lost', reject);
      lease.keepalive();
    });
    return { ttl };
  },

  async time_to_live(run, client, fields) {
    const request = { ID: run.leaseId(fields.take('lease')), keys: fields.take('keys') };
    fields.finish();
    const answer = await client.leaseClient.leaseTimeToLive(request);
    return {
      ttl: remaining(answer.TTL),
      granted: Number(answer.grantedTTL),
      keys: answer.keys.map(key => run.text(key)).sort(),
    };
  },

  async revoke(run, client, fields) {
    const named = fields.take('lease');
    fields.finish();
    const lease = run.leases.get(named);
    if (lease && lease.pool === client.pool) {
      await lease.revoke();
      return {};
    }
    return { revision: run.header(await client.leaseClient.leaseRevoke({ ID: run.leaseId(named) })) };
  },

  async leases(run, client, fields) {
    fields.finish();
    const answer = await client.leaseClient.leaseLeases();
    return { leases: answer.leases.map(lease => run.leaseName(lease.ID)).sort() };
  },

  async watch(run, client, fields) {
    const name = fields.take('as');
    const range = fields.range();
    let builder = range ? client.watch().inRange(range) : client.watch().key(fields.bytes('key'));
    if (fields.has('revision')) builder = builder.startRevision(fields.revision('revision'));
    if (fields.take('prev_kv')) builder = builder.withPreviousKV();
    // The client asks for it always.
    fields.take('progress_notify');
    for (const filter of fields.take('filters', [])) builder = builder.only(filter === 'noput' ? 'delete' : 'put');
    fields.finish();
    const watch = new Watch(builder.watcher());
    await watch.until(() => watch.created || watch.error);
    // A watch may be created and ended at once: then its end is for a later step.
    if (!watch.created) throw watch.error;
    run.watches.set(name, watch);
    return {};
  },

  async events(run, client, fields) {
    const [watch, count] = [run.watches.get(fields.take('watch')), fields.take('count')];
    fields.finish();
    await watch.until(() => watch.events.length >= count);
    return { events: events(run, watch.events.splice(0, count)) };
  },

  async cancel(run, client, fields) {
    const watch = run.watches.get(fields.take('watch'));
    fields.finish();
    await watch.watcher.cancel();
    return { left: events(run, watch.events) };
  },

  async watch_end(run, client, fields) {
    const watch = run.watches.get(fields.take('watch'));
    fields.finish();
    await watch.until(() => watch.error);
    return { error: `${watch.error.constructor.name}: ${watch.error.message}`, left: events(run, watch.events) };
  },

  async lock(run, client, fields) {
    if (fields.take('background')) throw new Skipped('lock.background');
    const name = fields.take('as');
    const lock = client.lock(fields.take('name')).ttl(fields.take('ttl'));
    fields.finish();
    await lock.acquire();
    run.locks.set(name, lock);
    run.ids.set(name, await lock.leaseId());
    return {};
  },

  async try_lock(run, client, fields) {
    try {
      await steps.lock(run, client, fields);
      return { locked: true };
    } catch (error) {
      if (error instanceof EtcdLockFailedError) return { locked: false };
      throw error;
    }
  },

  async unlock(run, client, fields) {
    const lock = run.locks.get(fields.take('lock'));
    fields.finish();
    await lock.release();
    return {};
  },

  async campaign(run, client, fields) {
    const name = fields.take('as');
    const election = client.election(fields.take('name'), fields.take('ttl'));
    const campaign = election.campaign(fields.take('value'));
    const background = fields.take('background');
    fields.finish();
    run.campaigns.set(name, campaign);
    // Losing the lease is an error event as well, and must not end the runner.
    campaign.on('error', () => {});
    const elected = campaign.wait();
    run.ids.set(name, await campaign.lease.grant());
    const task = elected.then(async () => ({ key: run.text(Buffer.from(await campaign.getCampaignKey())) }));
    if (!background) return task;
    run.tasks.set(name, new Task(task));
    return {};
  },

  async election_queue(run, client, fields) {
    const [name, count] = [fields.take('name'), fields.take('count')];
    fields.finish();
    return queue(client, `election/${name}/`, count);
  },

  async proclaim(run, client, fields) {
    const [campaign, value] = [run.campaigns.get(fields.take('campaign')), fields.take('value')];
    fields.finish();
    await campaign.proclaim(value);
    return {};
  },

  async resign(run, client, fields) {
    const campaign = run.campaigns.get(fields.take('campaign'));
    fields.finish();
    await campaign.resign();
    return {};
  },

  async leader(run, client, fields) {
    const election = client.election(fields.take('name'));
    fields.finish();
    const leader = await election.leader();
    return { kv: leader === undefined ? null : { value: leader } };
  },

  async observe(run, client, fields) {
    const name = fields.take('as');
    const election = client.election(fields.take('name'));
    fields.finish();
    run.observers.set(name, await election.observe());
    return {};
  },

  async observed(run, client, fields) {
    const [observer, value] = [run.observers.get(fields.take('observer')), fields.take('value')];
    fields.finish();
    await until(() => observer.leader() === value);
    return { value };
  },

  async pending(run, client, fields) {
    const task = run.tasks.get(fields.take('what'));
    fields.finish();
    return { pending: !task.ended };
  },

  async join(run, client, fields) {
    const task = run.tasks.get(fields.take('what'));
    fields.finish();
    return task.promise;
  },

  /** Moves money between accounts in concurrent transactions of two clients; the sum must stay. */
  async stm(run, client, fields) {
    const [accounts, initial] = [fields.take('accounts'), fields.take('initial')];
    const [workers, transfers] = [fields.take('workers'), fields.take('transfers')];
    fields.finish();
    for (const account of accounts) await client.put(account).value(initial);
    const work = async at => {
      const mine = run.client(at % 2 === 0 ? 'a' : 'b');
      for (let turn = 0; turn < transfers; turn++) {
        const [from, to] = [accounts[(at + turn) % accounts.length], accounts[(at + turn + 1) % accounts.length]];
        // The default level also wants everything written to be no younger than the oldest key read, and so never
        // commits a change of two keys of different age.
        await mine.stm({ retries: 1000, isolation: SERIALIZABLE }).transact(async tx => {
          const [have, other] = [await tx.get(from).number(), await tx.get(to).number()];
          await tx.put(from).value(have - 1);
          await tx.put(to).value(other + 1);
        });
      }
    };
    await Promise.all(Array.from({ length: workers }, (_, at) => work(at)));
    const answer = await client.getAll().prefix(accounts[0].slice(0, -1)).exec();
    const sum = of => answer.kvs.reduce((total, kv) => total + Number(of(kv)), 0);
    return { sum: sum(kv => kv.value.toString()), versions: sum(kv => kv.version) };
  },

  async status(run, client, fields) {
    fields.finish();
    const answer = await client.maintenance.status();
    return {
      leader: answer.leader !== '0',
      term: Number(answer.raftTerm) > 0,
      index: Number(answer.raftIndex) > 0,
      size: Number(answer.dbSize) > 0,
      api: answer.version.slice(0, 3),
      revision: run.header(answer),
    };
  },

  async alarms(run, client, fields) {
    fields.finish();
    return { alarms: (await client.maintenance.alarm({ action: 'GET' })).alarms.length };
  },

  async defragment(run, client, fields) {
    fields.finish();
    await client.maintenance.defragment();
    return {};
  },
};

/** A step in the background. */
class Task {
  constructor(promise) {
    this.ended = false;
    this.promise = promise.finally(() => (this.ended = true));
    // Whoever joins gets the error; before that it is nobody's.
    this.promise.catch(() => {});
  }
}

/** What a step prints, and whether the steps after it can be carried out. */
async function line(run, step) {
  let timer;
  try {
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('the step hangs')), STEP_PATIENCE_MS);
    });
    return [{ answer: await Promise.race([run.perform(step), late]) }, true];
  } catch (error) {
    if (error instanceof Skipped) return [{ skip: error.message }, true];
    // The client keeps gRPC's code and text in its own error's text alone.
    const status = /(\d+) ([A-Z_]+): (.*)/s.exec(error.message);
    if (status && status[2] === 'UNIMPLEMENTED') return [{ unimplemented: error.message }, false];
    const refused = status || /etcd/i.test(error.constructor.name);
    if (!refused && !error.message.includes('Watcher canceled')) return [{ fault: error.stack }, true];
    return [{ error: { code: error.constructor.name, text: run.named(error.message) } }, true];
  } finally {
    clearTimeout(timer);
  }
}

async function main() {
  for await (const text of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(text);
    const run = new Run(request);
    for (const [at, step] of request.steps.entries()) {
      const [printed, goesOn] = await line(run, step);
      console.log(JSON.stringify({ step: at, ...printed }));
      if (!goesOn) break;
    }
    run.close();
    console.log(JSON.stringify({ done: request.scenario }));
  }
  process.exit(0);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
