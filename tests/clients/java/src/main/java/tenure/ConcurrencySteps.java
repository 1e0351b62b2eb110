package tenure;

import com.google.gson.JsonObject;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.election.LeaderKey;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.options.GetOption;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Locks and elections: this client asks the server's lock and election services. */
final class ConcurrencySteps {
    /** How often a condition that no watch can tell is looked at. */
    private static final long POLL_MS = 10;

    private final Run run;
    private final Map<String, ByteSequence> locks = new ConcurrentHashMap<>();
    private final Map<String, LeaderKey> leaders = new ConcurrentHashMap<>();
    private final Map<String, BlockingQueue<ByteSequence>> observers = new ConcurrentHashMap<>();

    ConcurrencySteps(Run run) {
        this.run = run;
    }

    JsonObject lock(Client client, Fields fields) throws Exception {
        switch (fields.kind()) {
            case "lock": {
                String name = fields.text("as");
                ByteSequence wanted = fields.bytes("name");
                long lease = lease(client, name, fields.number("ttl"));
                boolean background = fields.flag("background");
                fields.finish();
                CompletableFuture<JsonObject> locked = client.getLockClient().lock(wanted, lease).thenApply(answer -> {
                    locks.put(name, answer.getKey());
                    JsonObject shown = new JsonObject();
                    shown.addProperty("key", run.names.text(answer.getKey()));
                    return shown;
                });
                return run.later(background, name, locked);
            }
            case "unlock": {
                ByteSequence key = locks.get(fields.text("lock"));
                fields.finish();
                Run.wait(client.getLockClient().unlock(key));
                return new JsonObject();
            }
            default:
                return queue(client, fields);
        }
    }

    private JsonObject queue(Client client, Fields fields) throws Exception {
        ByteSequence prefix = bytes(fields.text("name") + "/");
        long count = fields.number("count");
        fields.finish();
        GetOption option = GetOption.builder().isPrefix(true).withCountOnly(true).build();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(Run.STEP_PATIENCE_SECS);
        while (Run.wait(client.getKVClient().get(prefix, option)).getCount() != count) {
            if (System.nanoTime() > deadline) {
                throw new TimeoutException("there are not " + count + " in the queue");
            }
            TimeUnit.MILLISECONDS.sleep(POLL_MS);
        }
        JsonObject shown = new JsonObject();
        shown.addProperty("count", count);
        return shown;
    }

    /** A lease for a lock or a campaign, under the step's name. */
    private long lease(Client client, String name, long ttl) throws Exception {
        long id = Run.wait(client.getLeaseClient().grant(ttl)).getID();
        run.names.learn(name, id);
        return id;
    }

    private static ByteSequence bytes(String text) {
        return ByteSequence.from(text, StandardCharsets.UTF_8);
    }

    JsonObject election(Client client, Fields fields) throws Exception {
        Election elections = client.getElectionClient();
        JsonObject shown = new JsonObject();
        switch (fields.kind()) {
            case "campaign" -> {
                return campaign(client, fields);
            }
            case "leader" -> {
                ByteSequence name = fields.bytes("name");
                fields.finish();
                shown.add("kv", run.names.kv(Run.wait(elections.leader(name)).getKv()));
            }
            case "observe" -> {
                BlockingQueue<ByteSequence> values = new LinkedBlockingQueue<>();
                observers.put(fields.text("as"), values);
                ByteSequence name = fields.bytes("name");
                fields.finish();
                elections.observe(name, new Election.Listener() {
                    @Override
                    public void onNext(LeaderResponse response) {
                        values.add(response.getKv().getValue());
                    }

                    @Override
                    public void onError(Throwable error) {
                        // Whoever waits for a value runs into its deadline.
                    }

                    @Override
                    public void onCompleted() {
                    }
                });
            }
            case "observed" -> {
                BlockingQueue<ByteSequence> values = observers.get(fields.text("observer"));
                String wanted = fields.text("value");
                fields.finish();
                ByteSequence value;
                do {
                    value = values.poll(Run.STEP_PATIENCE_SECS, TimeUnit.SECONDS);
                } while (value != null && !value.equals(bytes(wanted)));
                if (value == null) {
                    throw new TimeoutException(wanted + " was not observed");
                }
                shown.addProperty("value", wanted);
            }
            case "proclaim" -> {
                LeaderKey leader = leaders.get(fields.text("campaign"));
                ByteSequence value = fields.bytes("value");
                fields.finish();
                Run.wait(elections.proclaim(leader, value));
            }
            default -> {
                LeaderKey leader = leaders.get(fields.text("campaign"));
                fields.finish();
                Run.wait(elections.resign(leader));
            }
        }
        return shown;
    }

    private JsonObject campaign(Client client, Fields fields) throws Exception {
        String name = fields.text("as");
        ByteSequence wanted = fields.bytes("name");
        ByteSequence value = fields.bytes("value");
        long lease = lease(client, name, fields.number("ttl"));
        boolean background = fields.flag("background");
        fields.finish();
        CompletableFuture<JsonObject> elected =
            client.getElectionClient().campaign(wanted, lease, value).thenApply(answer -> {
                LeaderKey leader = answer.getLeader();
                leaders.put(name, leader);
                JsonObject shown = new JsonObject();
                shown.addProperty("key", run.names.text(leader.getKey()));
                shown.add("created", run.names.revision(leader.getRevision()));
                shown.add("lease", run.names.leaseName(leader.getLease()));
                return shown;
            });
        return run.later(background, name, elected);
    }
}
