package tenure;

import com.google.gson.JsonObject;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Maintenance;
import io.etcd.jetcd.cluster.Member;
import io.etcd.jetcd.maintenance.HashKVResponse;
import io.etcd.jetcd.maintenance.StatusResponse;
import java.util.List;

/** What clients ask of members themselves: shown is what must be alike although the clusters are not. */
final class MaintenanceSteps {
    private final Run run;

    MaintenanceSteps(Run run) {
        this.run = run;
    }

    JsonObject perform(Client client, String endpoint, Fields fields) throws Exception {
        Maintenance maintenance = client.getMaintenanceClient();
        JsonObject shown = new JsonObject();
        switch (fields.kind()) {
            case "status" -> {
                fields.finish();
                StatusResponse answer = Run.wait(maintenance.statusMember(endpoint));
                shown.addProperty("leader", answer.getLeader() != 0);
                shown.addProperty("term", answer.getRaftTerm() > 0);
                shown.addProperty("index",
                    answer.getRaftIndex() > 0 && answer.getRaftAppliedIndex() <= answer.getRaftIndex());
                shown.addProperty("size", answer.getDbSize() > 0);
                shown.addProperty("learner", answer.isLearner());
                shown.addProperty("errors", answer.getErrorList().size());
                shown.addProperty("api", answer.getVersion().substring(0, 3));
                shown.add("revision", run.names.header(answer));
            }
            case "members" -> {
                fields.finish();
                List<Member> members = Run.wait(client.getClusterClient().listMember()).getMembers();
                shown.addProperty("complete", !members.isEmpty() && members.stream().allMatch(one ->
                    one.getId() != 0 && !one.getName().isEmpty()
                        && one.getPeerURIs().size() == 1 && one.getClientURIs().size() == 1));
            }
            case "alarms" -> {
                fields.finish();
                shown.addProperty("alarms", Run.wait(maintenance.listAlarms()).getAlarms().size());
            }
            case "hash_kv" -> {
                long revision = run.names.at(fields.take("revision"));
                fields.finish();
                HashKVResponse answer = Run.wait(maintenance.hashKV(endpoint, revision));
                shown.add("revision", run.names.header(answer));
                shown.addProperty("hash", answer.getHash() != 0);
            }
            default -> {
                fields.finish();
                Run.wait(maintenance.defragmentMember(endpoint));
            }
        }
        return shown;
    }
}
