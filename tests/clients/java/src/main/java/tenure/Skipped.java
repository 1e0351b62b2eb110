package tenure;

/** The feature of a step that this client does not have. */
final class Skipped extends RuntimeException {
    private static final long serialVersionUID = 1L;

    Skipped(String feature) {
        super(feature);
    }
}
