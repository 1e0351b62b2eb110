package tenure;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.lease.LeaseGrantResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.lease.LeaseTimeToLiveResponse;
import io.etcd.jetcd.options.LeaseOption;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicLong;

/** Steps of the Lease service. */
final class LeaseSteps {
    private final Run run;

    LeaseSteps(Run run) {
        this.run = run;
    }

    JsonObject perform(Client client, Fields fields) throws Exception {
        Lease leases = client.getLeaseClient();
        JsonObject shown = new JsonObject();
        if (fields.kind().equals("grant")) {
            String name = fields.text("as");
            long ttl = fields.number("ttl");
            fields.finish();
            LeaseGrantResponse answer = Run.wait(leases.grant(ttl));
            run.names.learn(name, answer.getID());
            shown.add("lease", run.names.leaseName(answer.getID()));
            shown.addProperty("ttl", answer.getTTL());
            shown.add("revision", run.names.header(answer));
            return shown;
        }
        long id = run.names.leaseId(fields.take("lease"));
        switch (fields.kind()) {
            case "keep_alive" -> {
                fields.finish();
                LeaseKeepAliveResponse answer = Run.wait(leases.keepAliveOnce(id));
                shown.addProperty("ttl", answer.getTTL());
                shown.add("revision", run.names.header(answer));
            }
            case "keep_alive_rounds" -> {
                long rounds = fields.number("rounds");
                fields.finish();
                shown.addProperty("ttl", rounds(leases, id, rounds));
            }
            case "time_to_live" -> {
                LeaseOption.Builder option = LeaseOption.builder();
                if (fields.flag("keys")) {
                    option.withAttachedKeys();
                }
                fields.finish();
                LeaseTimeToLiveResponse answer = Run.wait(leases.timeToLive(id, option.build()));
                // How many seconds are left depends on when one asks.
                long ttl = answer.getTTL();
                shown.add("ttl", ttl > 0 ? new JsonPrimitive("alive") : new JsonPrimitive(ttl));
                shown.addProperty("granted", answer.getGrantedTTL());
                JsonArray keys = new JsonArray();
                answer.getKeys().stream().map(run.names::text).sorted().forEach(keys::add);
                shown.add("keys", keys);
            }
            default -> {
                fields.finish();
                shown.add("revision", run.names.header(Run.wait(leases.revoke(id))));
            }
        }
        return shown;
    }

    /** Starts the client's own keeping alive, which goes on until the scenario ends, and waits for some of its answers. */
    private static long rounds(Lease leases, long id, long rounds) throws Exception {
        CompletableFuture<Long> enough = new CompletableFuture<>();
        AtomicLong seen = new AtomicLong();
        leases.keepAlive(id, new StreamObserver<>() {
            @Override
            public void onNext(LeaseKeepAliveResponse answer) {
                if (seen.incrementAndGet() == rounds) {
                    enough.complete(answer.getTTL());
                }
            }

            @Override
            public void onError(Throwable error) {
                enough.completeExceptionally(error);
            }

            @Override
            public void onCompleted() {
                enough.completeExceptionally(new IllegalStateException("keeping alive ended"));
            }
        });
        return Run.wait(enough);
    }
}
