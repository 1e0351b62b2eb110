package tenure;

import com.google.gson.JsonObject;
import io.etcd.jetcd.Client;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** One scenario under way. */
final class Run implements AutoCloseable {
    /** The longest that one step may take: far more than any needs, so that a hang becomes a failure. */
    static final long STEP_PATIENCE_SECS = 30;

    final Names names;
    private final List<String> endpoints;
    private final Map<String, Client> clients = new HashMap<>();
    private final Map<String, String> skipped = new HashMap<>();
    final Map<String, CompletableFuture<JsonObject>> tasks = new HashMap<>();
    private final KvSteps kv = new KvSteps(this);
    private final LeaseSteps lease = new LeaseSteps(this);
    private final WatchSteps watch = new WatchSteps(this);
    private final ConcurrencySteps concurrency = new ConcurrencySteps(this);
    private final MaintenanceSteps maintenance = new MaintenanceSteps(this);

    Run(long base, List<String> endpoints) {
        this.names = new Names(base);
        this.endpoints = endpoints;
    }

    @Override
    public void close() {
        clients.values().forEach(Client::close);
    }

    JsonObject perform(JsonObject step) throws Exception {
        Fields fields = new Fields(step);
        for (String reference : List.of("watch", "what", "lock", "campaign", "observer", "lease")) {
            String name = fields.peek(reference);
            if (name != null && skipped.containsKey(name)) {
                throw new Skipped(skipped.get(name));
            }
        }
        try {
            String session = fields.text("session", "a");
            return perform(session, client(session), fields);
        } catch (Skipped missing) {
            if (step.has("as")) {
                skipped.put(step.get("as").getAsString(), missing.getMessage());
            }
            throw missing;
        }
    }

    private JsonObject perform(String session, Client client, Fields fields) throws Exception {
        return switch (fields.kind()) {
            case "put", "get", "delete", "txn", "compact" -> kv.perform(client, fields);
            case "grant", "keep_alive", "keep_alive_rounds", "time_to_live", "revoke" -> lease.perform(client, fields);
            case "watch", "events", "progress", "cancel", "watch_end" -> watch.perform(client, fields);
            case "lock", "unlock", "lock_queue", "election_queue" -> concurrency.lock(client, fields);
            case "campaign", "proclaim", "leader", "observe", "observed", "resign" -> concurrency.election(client, fields);
            case "status", "members", "alarms", "hash_kv", "defragment" ->
                maintenance.perform(client, endpoint(session), fields);
            case "pending" -> {
                JsonObject shown = new JsonObject();
                shown.addProperty("pending", !tasks.get(fields.text("what")).isDone());
                fields.finish();
                yield shown;
            }
            case "join" -> {
                CompletableFuture<JsonObject> task = tasks.get(fields.text("what"));
                fields.finish();
                yield wait(task);
            }
            default -> throw new Skipped(fields.kind());
        };
    }

    /** What the step says is done while later steps go on. */
    JsonObject later(boolean background, String name, CompletableFuture<JsonObject> task) throws Exception {
        if (!background) {
            return wait(task);
        }
        tasks.put(name, task);
        return new JsonObject();
    }

    static <T> T wait(Future<T> future) throws Exception {
        return future.get(STEP_PATIENCE_SECS, TimeUnit.SECONDS);
    }

    private String endpoint(String session) {
        return endpoints.get((session.charAt(0) - 'a') % endpoints.size());
    }

    /** The named session's own client: a talks to the first endpoint, b to the second, all to all of them. */
    private Client client(String session) {
        return clients.computeIfAbsent(session, name -> Client.builder()
            .endpoints(name.length() == 1 ? new String[] {endpoint(name)} : endpoints.toArray(String[]::new))
            .build());
    }
}
