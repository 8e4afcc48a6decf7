// Runs Kafka's command line tools one after the other in one process; its lines are described in ../README.md.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.utils.Exit;

public class ToolShell {
    static final ObjectMapper JSON = new ObjectMapper();

    static class Exited extends RuntimeException {
        final int code;

        Exited(int code) {
            super(null, null, false, false);
            this.code = code;
        }
    }

    /** What a real process would have ended with: some tools catch all that is thrown and exit once more. */
    static Exited first;
    static ByteArrayOutputStream said;
    static ByteArrayOutputStream complained;

    static void exit(int code, String message) {
        if (first == null) {
            first = new Exited(code);
            System.setOut(new PrintStream(OutputStream.nullOutputStream()));
            System.setErr(new PrintStream(OutputStream.nullOutputStream()));
        }
        throw first;
    }

    static int run(String tool, String[] arguments) throws Exception {
        try {
            Class.forName(tool).getMethod("main", String[].class).invoke(null, (Object) arguments);
            return first == null ? 0 : first.code;
        } catch (InvocationTargetException thrown) {
            if (first != null) return first.code;
            System.err.println(thrown.getCause());
            return 1;
        }
    }

    public static void main(String[] ignored) throws Exception {
        Exit.setExitProcedure(ToolShell::exit);
        Exit.setHaltProcedure(ToolShell::exit);
        Exit.setShutdownHookAdder((name, hook) -> { });
        PrintStream out = System.out;
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode wanted = JSON.readTree(line);
            String[] arguments = JSON.convertValue(wanted.get("arguments"), String[].class);
            first = null;
            said = new ByteArrayOutputStream();
            complained = new ByteArrayOutputStream();
            System.setOut(new PrintStream(said, true));
            System.setErr(new PrintStream(complained, true));
            int code = run(wanted.get("tool").asText(), arguments);
            out.println(JSON.createObjectNode().put("code", code)
                .put("out", said.toString(StandardCharsets.UTF_8)).put("err", complained.toString(StandardCharsets.UTF_8)));
        }
    }
}
