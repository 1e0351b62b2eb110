package tenure;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Response;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** Translates between a scenario's words and what one server made of them, so that two servers' answers can be compared. */
final class Names {
    /** The longest value that an answer shows whole. */
    private static final int LONGEST_SHOWN = 64;
    /** Shorter ids are chosen by scenarios and could be part of any text. */
    private static final int ID_DIGITS_MIN = 10;

    private final long base;
    private final Map<String, Long> leases = new ConcurrentHashMap<>();

    Names(long base) {
        this.base = base;
    }

    void learn(String name, long id) {
        leases.put(name, id);
    }

    long leaseId(JsonElement value) {
        if (!(value instanceof JsonPrimitive lease && lease.isString())) {
            return value.getAsLong();
        }
        Long id = leases.get(lease.getAsString());
        if (id == null) {
            throw new IllegalArgumentException("no lease is named " + value);
        }
        return id;
    }

    JsonElement leaseName(long id) {
        for (Map.Entry<String, Long> known : leases.entrySet()) {
            if (known.getValue() == id) {
                return new JsonPrimitive(known.getKey());
            }
        }
        return id == 0 ? new JsonPrimitive(0) : new JsonPrimitive("?");
    }

    /** A revision as a scenario writes it: a number as it is, or "+N" from the scenario's first revision on. */
    long at(JsonElement value) {
        boolean relative = value instanceof JsonPrimitive revision && revision.isString();
        return relative ? base + Long.parseLong(value.getAsString()) : value.getAsLong();
    }

    /** Counted from the scenario's first revision, with a sign; zero and less stay as they are. */
    JsonElement revision(long revision) {
        return revision <= 0
            ? new JsonPrimitive(revision)
            : new JsonPrimitive("%+d".formatted(revision - base));
    }

    JsonElement header(Response response) {
        return revision(response.getHeader().getRevision());
    }

    /** Bytes as text if they are, with leases' ids replaced by their names; long ones by length and sum. */
    String text(ByteSequence sequence) {
        byte[] bytes = sequence.getBytes();
        long sum = 0;
        boolean printable = true;
        for (byte one : bytes) {
            sum += Byte.toUnsignedInt(one);
            printable = printable && one >= 0x20 && one <= 0x7e;
        }
        if (bytes.length > LONGEST_SHOWN) {
            return "<%d bytes, sum %d>".formatted(bytes.length, sum);
        }
        if (!printable) {
            return "hex:" + HexFormat.of().formatHex(bytes);
        }
        String text = new String(bytes, StandardCharsets.US_ASCII);
        for (Map.Entry<String, Long> lease : leases.entrySet()) {
            String digits = Long.toHexString(lease.getValue());
            if (digits.length() >= ID_DIGITS_MIN) {
                text = text.replace(digits, "<" + lease.getKey() + ">");
            }
        }
        return text;
    }

    JsonElement kv(KeyValue kv) {
        if (kv == null || kv.getKey().isEmpty()) {
            return JsonNull.INSTANCE;
        }
        JsonObject shown = new JsonObject();
        shown.addProperty("key", text(kv.getKey()));
        shown.addProperty("value", text(kv.getValue()));
        shown.add("create", revision(kv.getCreateRevision()));
        shown.add("mod", revision(kv.getModRevision()));
        shown.addProperty("version", kv.getVersion());
        shown.add("lease", leaseName(kv.getLease()));
        return shown;
    }

    JsonArray kvs(List<KeyValue> kvs) {
        JsonArray shown = new JsonArray();
        kvs.forEach(kv -> shown.add(kv(kv)));
        return shown;
    }
}
