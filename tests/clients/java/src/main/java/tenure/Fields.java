package tenure;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import io.etcd.jetcd.ByteSequence;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;

/** A step's fields, each taken once: what is left at the end is what this client cannot express. */
final class Fields {
    static final ByteSequence ZERO = ByteSequence.from(new byte[] {0});

    private final JsonObject left;
    private final String kind;

    Fields(JsonObject step) {
        left = step.deepCopy();
        kind = has("do") ? text("do") : "txn.if";
    }

    String kind() {
        return kind;
    }

    boolean has(String name) {
        return left.has(name);
    }

    JsonElement take(String name) {
        return left.remove(name);
    }

    String peek(String name) {
        return left.get(name) instanceof JsonPrimitive value && value.isString() ? value.getAsString() : null;
    }

    String text(String name) {
        return take(name).getAsString();
    }

    String text(String name, String otherwise) {
        return has(name) ? text(name) : otherwise;
    }

    long number(String name) {
        return take(name).getAsLong();
    }

    boolean flag(String name) {
        JsonElement value = take(name);
        return value != null && value.getAsBoolean();
    }

    ByteSequence bytes(String name) {
        return bytes(take(name));
    }

    /** A key or value: text, or bytes written as hex:… */
    static ByteSequence bytes(JsonElement value) {
        String text = value.getAsString();
        return ByteSequence.from(text.startsWith("hex:")
            ? HexFormat.of().parseHex(text.substring(4))
            : text.getBytes(StandardCharsets.UTF_8));
    }

    List<JsonObject> objects(String name) {
        List<JsonObject> all = new ArrayList<>();
        for (JsonElement one : (JsonArray) take(name)) {
            all.add(one.getAsJsonObject());
        }
        return all;
    }

    void finish() {
        for (String name : left.keySet()) {
            throw new Skipped(kind + "." + name);
        }
    }
}
