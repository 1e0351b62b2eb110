package tenure;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.common.exception.CompactedException;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import io.etcd.jetcd.watch.WatchResponse;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;

/** Steps of the Watch service. */
final class WatchSteps {
    private final Run run;
    private final Map<String, Seen> watches = new HashMap<>();

    WatchSteps(Run run) {
        this.run = run;
    }

    /** A watch with what came from it and was not asked for yet. */
    private static final class Seen implements Watch.Listener {
        private Watch.Watcher watcher;
        private boolean created;
        private Throwable error;
        private final List<WatchEvent> events = new ArrayList<>();
        private final List<Long> noted = new ArrayList<>();

        @Override
        public synchronized void onNext(WatchResponse response) {
            if (response.isCreatedNotify()) {
                created = true;
            } else if (response.isProgressNotify()) {
                noted.add(response.getHeader().getRevision());
            } else {
                events.addAll(response.getEvents());
            }
            notifyAll();
        }

        @Override
        public synchronized void onError(Throwable problem) {
            error = problem;
            notifyAll();
        }

        @Override
        public void onCompleted() {
            // The client says so after an error, and after its own close: both are known.
        }

        synchronized void until(BooleanSupplier enough) throws InterruptedException, TimeoutException {
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(Run.STEP_PATIENCE_SECS);
            while (!enough.getAsBoolean()) {
                long left = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime());
                if (left <= 0) {
                    throw new TimeoutException("the watch is silent after " + events.size() + " events");
                }
                wait(left);
            }
        }
    }

    JsonObject perform(Client client, Fields fields) throws Exception {
        if (fields.kind().equals("watch")) {
            return create(client, fields);
        }
        Seen seen = watches.get(fields.text("watch"));
        JsonObject shown = new JsonObject();
        switch (fields.kind()) {
            case "events" -> {
                int count = (int) fields.number("count");
                fields.finish();
                seen.until(() -> seen.events.size() >= count);
                synchronized (seen) {
                    List<WatchEvent> taken = seen.events.subList(0, count);
                    shown.add("events", events(taken));
                    taken.clear();
                }
            }
            case "progress" -> {
                fields.finish();
                seen.watcher.requestProgress();
                seen.until(() -> !seen.noted.isEmpty());
                synchronized (seen) {
                    shown.add("revision", run.names.revision(seen.noted.get(0)));
                    seen.noted.clear();
                }
            }
            case "cancel" -> {
                fields.finish();
                seen.watcher.close();
                synchronized (seen) {
                    shown.add("left", events(seen.events));
                }
            }
            default -> {
                fields.finish();
                seen.until(() -> seen.error != null);
                shown.addProperty("error", seen.error.getMessage());
                if (seen.error instanceof CompactedException compacted) {
                    shown.add("compact_revision", run.names.revision(compacted.getCompactedRevision()));
                }
                synchronized (seen) {
                    shown.add("left", events(seen.events));
                }
            }
        }
        return shown;
    }

    private JsonObject create(Client client, Fields fields) throws Exception {
        String name = fields.text("as");
        WatchOption.Builder option = WatchOption.builder()
            .withCreateNotify(true)
            .isPrefix(fields.flag("prefix"))
            .withPrevKV(fields.flag("prev_kv"))
            .withProgressNotify(fields.flag("progress_notify"));
        if (fields.flag("from_key")) {
            option.withRange(Fields.ZERO);
        }
        if (fields.has("range_end")) {
            option.withRange(fields.bytes("range_end"));
        }
        if (fields.has("revision")) {
            option.withRevision(run.names.at(fields.take("revision")));
        }
        if (fields.has("filters")) {
            for (JsonElement filter : fields.take("filters").getAsJsonArray()) {
                boolean puts = filter.getAsString().equals("noput");
                option.withNoPut(puts).withNoDelete(!puts);
            }
        }
        ByteSequence key = fields.bytes("key");
        fields.finish();
        Seen seen = new Seen();
        watches.put(name, seen);
        seen.watcher = client.getWatchClient().watch(key, option.build(), seen);
        seen.until(() -> seen.created || seen.error != null);
        // A watch may be created and ended at once: then its end is for a later step.
        if (!seen.created && seen.error instanceof Exception error) {
            throw error;
        }
        return new JsonObject();
    }

    private JsonArray events(List<WatchEvent> events) {
        JsonArray all = new JsonArray();
        for (WatchEvent event : events) {
            JsonObject shown = new JsonObject();
            shown.addProperty("type", event.getEventType().name().toLowerCase());
            shown.add("kv", run.names.kv(event.getKeyValue()));
            shown.add("prev_kv", run.names.kv(event.getPrevKV()));
            all.add(shown);
        }
        return all;
    }
}
