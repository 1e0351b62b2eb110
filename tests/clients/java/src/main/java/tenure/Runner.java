package tenure;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import io.etcd.jetcd.common.exception.EtcdException;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * Carries out compatibility scenarios with jetcd.
 *
 * <p>It reads one request a line from standard input (a scenario's name, the revision it begins at, endpoints and steps) and
 * prints one line for each step; tests/scenarios/README.md describes both. It knows nothing of what is right: the test that
 * starts it compares what a real etcd and tenured answered.
 */
public final class Runner {
    private static final Gson GSON = new GsonBuilder().serializeNulls().create();

    private Runner() {
    }

    public static void main(String[] arguments) throws IOException {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            carryOut(GSON.fromJson(line, JsonObject.class));
        }
        // The client's own threads are not daemons.
        System.exit(0);
    }

    private static void carryOut(JsonObject request) {
        List<String> endpoints = new ArrayList<>();
        request.getAsJsonArray("endpoints").forEach(endpoint -> endpoints.add(endpoint.getAsString()));
        try (Run run = new Run(request.get("base").getAsLong(), endpoints)) {
            int at = 0;
            for (JsonElement step : request.getAsJsonArray("steps")) {
                JsonObject line = line(run, step.getAsJsonObject());
                line.addProperty("step", at++);
                System.out.println(GSON.toJson(line));
                if (line.has("unimplemented")) {
                    break;
                }
            }
        }
        JsonObject done = new JsonObject();
        done.add("done", request.get("scenario"));
        System.out.println(GSON.toJson(done));
    }

    /** What a step prints. */
    private static JsonObject line(Run run, JsonObject step) {
        JsonObject line = new JsonObject();
        try {
            line.add("answer", run.perform(step));
        } catch (Skipped skipped) {
            line.addProperty("skip", skipped.getMessage());
        } catch (Exception error) {
            refused(line, error);
        }
        return line;
    }

    private static void refused(JsonObject line, Exception error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof StatusRuntimeException found) {
                refused(line, found.getStatus().getCode().name(), found.getStatus().getDescription());
                return;
            }
            if (cause instanceof StatusException found) {
                refused(line, found.getStatus().getCode().name(), found.getStatus().getDescription());
                return;
            }
            if (cause instanceof EtcdException known) {
                refused(line, known.getErrorCode().name(), known.getMessage());
                return;
            }
            if (cause.getClass().getPackageName().startsWith("io.etcd.jetcd")) {
                refused(line, "Client", cause.getClass().getSimpleName());
                return;
            }
        }
        StringWriter trace = new StringWriter();
        error.printStackTrace(new PrintWriter(trace));
        line.addProperty("fault", trace.toString());
    }

    private static void refused(JsonObject line, String code, String text) {
        if (code.equals(Status.Code.UNIMPLEMENTED.name())) {
            line.addProperty("unimplemented", String.valueOf(text));
            return;
        }
        JsonObject error = new JsonObject();
        error.addProperty("code", code);
        error.addProperty("text", String.valueOf(text));
        line.add("error", error);
    }
}
