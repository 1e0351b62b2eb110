package tenure;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.kv.DeleteResponse;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.PutResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.CompactOption;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.PutOption;
import java.util.List;
import java.util.Map;

/** Steps of the KV service. */
final class KvSteps {
    private static final Map<String, GetOption.SortTarget> TARGETS = Map.of(
        "key", GetOption.SortTarget.KEY,
        "version", GetOption.SortTarget.VERSION,
        "create", GetOption.SortTarget.CREATE,
        "mod", GetOption.SortTarget.MOD,
        "value", GetOption.SortTarget.VALUE);
    private static final Map<String, GetOption.SortOrder> ORDERS = Map.of(
        "none", GetOption.SortOrder.NONE,
        "ascend", GetOption.SortOrder.ASCEND,
        "descend", GetOption.SortOrder.DESCEND);
    private static final Map<String, Cmp.Op> COMPARISONS = Map.of(
        "=", Cmp.Op.EQUAL,
        "!=", Cmp.Op.NOT_EQUAL,
        ">", Cmp.Op.GREATER,
        "<", Cmp.Op.LESS);

    private final Run run;

    KvSteps(Run run) {
        this.run = run;
    }

    JsonObject perform(Client client, Fields fields) throws Exception {
        KV kv = client.getKVClient();
        switch (fields.kind()) {
            case "put": {
                PutOption option = putOption(fields);
                ByteSequence key = fields.bytes("key");
                ByteSequence value = fields.bytes("value");
                fields.finish();
                return put(Run.wait(kv.put(key, value, option)));
            }
            case "get": {
                GetOption option = getOption(fields);
                ByteSequence key = fields.bytes("key");
                fields.finish();
                return get(Run.wait(kv.get(key, option)));
            }
            case "delete": {
                DeleteOption option = deleteOption(fields);
                ByteSequence key = fields.bytes("key");
                fields.finish();
                return delete(Run.wait(kv.delete(key, option)));
            }
            case "txn": {
                Cmp[] tests = tests(fields);
                Op[] then = operations(fields.objects("then"));
                Op[] otherwise = operations(fields.objects("else"));
                fields.finish();
                return txn(Run.wait(kv.txn().If(tests).Then(then).Else(otherwise).commit()));
            }
            default: {
                long revision = run.names.at(fields.take("revision"));
                CompactOption option = CompactOption.builder().withCompactPhysical(fields.flag("physical")).build();
                fields.finish();
                JsonObject shown = new JsonObject();
                shown.add("revision", run.names.header(Run.wait(kv.compact(revision, option))));
                return shown;
            }
        }
    }

    private PutOption putOption(Fields fields) {
        PutOption.Builder option = PutOption.builder();
        if (fields.has("lease")) {
            option.withLeaseId(run.names.leaseId(fields.take("lease")));
        }
        if (fields.flag("prev_kv")) {
            option.withPrevKV();
        }
        return option.build();
    }

    private GetOption getOption(Fields fields) {
        GetOption.Builder option = GetOption.builder()
            .isPrefix(fields.flag("prefix"))
            .withSerializable(fields.flag("serializable"))
            .withKeysOnly(fields.flag("keys_only"))
            .withCountOnly(fields.flag("count_only"));
        if (fields.flag("from_key")) {
            option.withRange(Fields.ZERO);
        }
        if (fields.has("range_end")) {
            option.withRange(fields.bytes("range_end"));
        }
        if (fields.has("limit")) {
            option.withLimit(fields.number("limit"));
        }
        if (fields.has("sort")) {
            JsonArray sort = fields.take("sort").getAsJsonArray();
            option.withSortField(TARGETS.get(sort.get(0).getAsString()));
            option.withSortOrder(ORDERS.get(sort.get(1).getAsString()));
        }
        if (fields.has("revision")) {
            option.withRevision(run.names.at(fields.take("revision")));
        }
        if (fields.has("min_mod")) {
            option.withMinModRevision(run.names.at(fields.take("min_mod")));
        }
        if (fields.has("max_mod")) {
            option.withMaxModRevision(run.names.at(fields.take("max_mod")));
        }
        if (fields.has("min_create")) {
            option.withMinCreateRevision(run.names.at(fields.take("min_create")));
        }
        if (fields.has("max_create")) {
            option.withMaxCreateRevision(run.names.at(fields.take("max_create")));
        }
        return option.build();
    }

    private static DeleteOption deleteOption(Fields fields) {
        DeleteOption.Builder option = DeleteOption.builder()
            .isPrefix(fields.flag("prefix"))
            .withPrevKV(fields.flag("prev_kv"));
        if (fields.flag("from_key")) {
            option.withRange(Fields.ZERO);
        }
        if (fields.has("range_end")) {
            option.withRange(fields.bytes("range_end"));
        }
        return option.build();
    }

    private Cmp[] tests(Fields fields) {
        return fields.objects("if").stream().map(this::test).toArray(Cmp[]::new);
    }

    private Cmp test(JsonObject step) {
        Fields fields = new Fields(step);
        ByteSequence key = fields.bytes("key");
        Cmp.Op comparison = COMPARISONS.get(fields.text("is"));
        String target = fields.text("target");
        JsonElement to = fields.take("to");
        fields.finish();
        return new Cmp(key, comparison, switch (target) {
            case "version" -> CmpTarget.version(run.names.at(to));
            case "create" -> CmpTarget.createRevision(run.names.at(to));
            case "mod" -> CmpTarget.modRevision(run.names.at(to));
            case "value" -> CmpTarget.value(Fields.bytes(to));
            default -> throw new Skipped("txn.if." + target);
        });
    }

    private Op[] operations(List<JsonObject> steps) {
        return steps.stream().map(this::operation).toArray(Op[]::new);
    }

    private Op operation(JsonObject step) {
        Fields fields = new Fields(step);
        Op made;
        switch (fields.kind()) {
            case "put": {
                PutOption option = putOption(fields);
                made = Op.put(fields.bytes("key"), fields.bytes("value"), option);
                break;
            }
            case "get": {
                GetOption option = getOption(fields);
                made = Op.get(fields.bytes("key"), option);
                break;
            }
            case "delete": {
                DeleteOption option = deleteOption(fields);
                made = Op.delete(fields.bytes("key"), option);
                break;
            }
            default: {
                Cmp[] tests = tests(fields);
                made = Op.txn(tests, operations(fields.objects("then")), operations(fields.objects("else")));
            }
        }
        fields.finish();
        return made;
    }

    private JsonObject put(PutResponse answer) {
        JsonObject shown = new JsonObject();
        shown.add("revision", run.names.header(answer));
        shown.add("prev_kv", answer.hasPrevKv() ? run.names.kv(answer.getPrevKv()) : null);
        return shown;
    }

    private JsonObject get(GetResponse answer) {
        JsonObject shown = new JsonObject();
        shown.add("revision", run.names.header(answer));
        shown.addProperty("count", answer.getCount());
        shown.addProperty("more", answer.isMore());
        shown.add("kvs", run.names.kvs(answer.getKvs()));
        return shown;
    }

    private JsonObject delete(DeleteResponse answer) {
        JsonObject shown = new JsonObject();
        shown.add("revision", run.names.header(answer));
        shown.addProperty("deleted", answer.getDeleted());
        shown.add("prev_kvs", run.names.kvs(answer.getPrevKvs()));
        return shown;
    }

    /** The client sorts a transaction's answers by kind. */
    private JsonObject txn(TxnResponse answer) {
        JsonObject shown = new JsonObject();
        shown.add("revision", run.names.header(answer));
        shown.addProperty("succeeded", answer.isSucceeded());
        JsonArray puts = new JsonArray();
        answer.getPutResponses().forEach(one -> puts.add(put(one)));
        shown.add("puts", puts);
        JsonArray gets = new JsonArray();
        answer.getGetResponses().forEach(one -> gets.add(get(one)));
        shown.add("gets", gets);
        JsonArray deletes = new JsonArray();
        answer.getDeleteResponses().forEach(one -> deletes.add(delete(one)));
        shown.add("deletes", deletes);
        JsonArray txns = new JsonArray();
        answer.getTxnResponses().forEach(one -> txns.add(txn(one)));
        shown.add("txns", txns);
        return shown;
    }
}
