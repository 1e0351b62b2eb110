//! Rules about the source tree itself, each one a test: what clippy and rustfmt do not see.
//!
//! It reads files and runs `git ls-files`, nothing else, and depends on the standard library alone, so that it also works
//! while the rest of the workspace does not compile. Files that git does not know yet are checked too: a mistake shows
//! before it is committed. It does not judge code; functions over 70 lines and the like are clippy's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 800;

/// The workspace's inner dependencies, exactly; docs/ARCHITECTURE.md says why. A new edge is a decision: make it here.
const CRATE_EDGES: &[(&str, &[&str])] = &[
    ("tenure-bench", &["tenure-proto"]),
    ("tenure-core", &[]),
    ("tenure-costs", &["tenure-core", "tenure-http2", "tenure-proto", "tenure-server", "tenure-storage"]),
    ("tenure-faults", &[]),
    ("tenure-http2", &[]),
    ("tenure-storage", &["tenure-core", "tenure-faults"]),
    ("tenure-rocks", &["tenure-core", "tenure-storage"]),
    ("tenure-proto", &[]),
    ("tenure-raft", &["tenure-core", "tenure-faults", "tenure-proto", "tenure-storage"]),
    (
        "tenure-server",
        &["tenure-core", "tenure-faults", "tenure-http2", "tenure-proto", "tenure-raft", "tenure-storage"],
    ),
    ("tenured", &["tenure-rocks", "tenure-server"]),
    ("tenure-client", &["tenure-proto"]),
    ("tenurectl", &["tenure-bench", "tenure-client", "tenure-proto"]),
    ("tenure-demo", &["tenure-proto"]),
    ("tenure-examples", &["tenure-client"]),
    ("tenure-history", &[]),
    ("tenure-workload", &["tenure-history", "tenure-proto"]),
    (
        "tenure-sim",
        &["tenure-core", "tenure-history", "tenure-raft", "tenure-server", "tenure-storage", "tenure-workload"],
    ),
    ("tenure-tests", &["tenure-bench", "tenure-client", "tenure-history", "tenure-proto", "tenure-workload"]),
];

/// Crates whose own tests start real servers by the harness of `tenure-tests`, which uses nothing of them.
const HARNESS_USERS: &[&str] = &["tenurectl", "tenure-examples"];

/// Crates whose own tests talk to real members within their process: they know nothing of them but what any client knows.
const SERVED_IN_TESTS: (&[&str], &[&str]) = (&["tenure-client"], &["tenure-server", "tenure-storage"]);

/// What a crate may take from outside the workspace, where that is the crate's reason to exist.
const OUTSIDE_ONLY: &[(&str, &[&str])] = &[
    ("tenure-core", &["bytes", "crc32fast", "thiserror"]),
    ("tenure-storage", &["bytes", "crc32fast", "thiserror"]),
    ("tenure-http2", &["bytes", "http", "http-body", "thiserror", "tokio", "tracing"]),
    ("tenure-proto", &["bytes", "prost", "tonic", "tonic-prost"]),
    ("tenure-history", &["bytes", "serde", "serde_json", "thiserror"]),
];

/// Crates that a single crate of ours may name, tests included.
const NAMED_BY_ONE: &[(&str, &str)] = &[
    ("rocksdb", "tenure-rocks"),
    ("openraft", "tenure-raft"),
    ("ratatui", "tenure-demo"),
    ("crossterm", "tenure-demo"),
];

/// The one crate with lints of its own, the workspace's but for unsafe code, and the one file that needs that.
const LINTS_OF_ITS_OWN: (&str, &str) = ("tenure-sim", "crates/tenure-sim/src/entropy.rs");

/// What a member has one of. The simulator runs what `tenured` runs: a second one, however simple, would prove nothing.
const ONLY_ONE: &[&str] = &[
    "impl RaftLogStorage<Config> for",
    "impl RaftStateMachine<Config> for",
    "impl RaftNetworkFactory<Config> for",
    "fn apply_run(",
    "fn lessor_loop(",
    "fn match_loop(",
    "OpenRaft::build(",
    "RaftNode::start(",
];

/// Crates that link RocksDB, and so stay out of every debug build.
const RELEASE_ONLY: &[&str] = &["tenured", "tenure-rocks"];

#[test]
fn every_rust_file_opens_with_a_header() {
    check(rust_files(), |_, text| match text.lines().next() {
        Some(first) if first.starts_with("//!") && first.len() > "//! ".len() => vec![],
        _ => vec!["does not open with a `//!` line that says what the file owns".into()],
    });
}

#[test]
fn no_rust_file_is_longer_than_the_wall() {
    check(rust_files(), |_, text| match text.lines().count() {
        lines if lines > FILE_LINES_MAX => vec![format!("has {lines} lines, {FILE_LINES_MAX} is the wall")],
        _ => vec![],
    });
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimplem", "ented!"),
        concat!("db", "g!"),
        concat!("#[", "ignore"),
    ];
    check(text_files(), |_, text| {
        lines_with(text, |line| marks.iter().find(|mark| contains_word(line, mark)).map(|mark| format!("has {mark}")))
    });
}

#[test]
fn no_unwrap_outside_tests() {
    let call = concat!(".unwr", "ap()");
    let sources = rust_files().into_iter().filter(|path| {
        let path = path.to_string_lossy();
        path.starts_with("crates/") && path.contains("/src/") && !path.contains("tests")
    });
    check(sources.collect(), |_, text| {
        // Test modules close their file, so what precedes the first one is all there is to look at.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
        lines_with(code, |line| {
            let code = line.split("//").next().unwrap_or(line);
            code.contains(call).then(|| format!("has {call}"))
        })
    });
}

#[test]
fn no_path_of_a_machine_is_in_the_tree() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("fa", "rm")];
    check(text_files(), |_, text| {
        lines_with(text, |line| paths.iter().find(|path| contains_word(line, path)).map(|path| format!("has {path}")))
    });
}

#[test]
fn text_files_end_with_one_newline_and_no_line_ends_in_blanks() {
    check(text_files(), |path, text| {
        let mut found = lines_with(text, |line| (line != line.trim_end()).then(|| "ends in blanks".into()));
        if path.extension().is_some_and(|ending| ending == "rs") {
            found.extend(lines_with(text, |line| line.contains('\t').then(|| "has a tab".into())));
        }
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            found.push("does not end with exactly one newline".into());
        }
        found
    });
}

#[test]
fn crates_depend_on_each_other_as_the_design_says() {
    let found: BTreeMap<_, _> =
        manifests().into_iter().map(|(name, manifest)| (name, inner(&manifest.normal))).collect();
    let allowed: BTreeMap<_, _> = CRATE_EDGES
        .iter()
        .map(|(name, edges)| (name.to_string(), edges.iter().map(ToString::to_string).collect::<BTreeSet<_>>()))
        .collect();
    assert_eq!(found, allowed, "left: the manifests, right: CRATE_EDGES");
}

#[test]
fn a_crates_own_tests_see_nothing_above_it() {
    // A crate whose tests used a crate above it could not be compiled, or understood, alone.
    let allowed: BTreeMap<_, _> = CRATE_EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, manifest) in manifests() {
        for used in inner(&manifest.dev) {
            // A crate names itself there to switch on what it offers to other crates' tests.
            let is_itself = used == name;
            let is_below = allowed.get(name.as_str()).is_some_and(|edges| edges.contains(&used.as_str()));
            let is_harness = used == "tenure-tests" && HARNESS_USERS.contains(&name.as_str());
            let is_served = SERVED_IN_TESTS.0.contains(&name.as_str()) && SERVED_IN_TESTS.1.contains(&used.as_str());
            if !is_itself && !is_below && !is_harness && !is_served {
                wrong.push(format!("{name} has {used} in dev-dependencies"));
            }
        }
    }
    none(&wrong);
}

#[test]
fn crates_take_from_outside_only_what_they_may() {
    let manifests = manifests();
    let mut wrong = Vec::new();
    for (name, allowed) in OUTSIDE_ONLY {
        let used = &manifests[*name].normal;
        for other in used.iter().filter(|used| !used.starts_with("tenure") && !allowed.contains(&used.as_str())) {
            wrong.push(format!("{name} may not depend on {other}"));
        }
    }
    for (outside, owner) in NAMED_BY_ONE {
        for (name, manifest) in manifests.iter().filter(|(name, _)| name != owner) {
            if manifest.normal.contains(*outside) || manifest.dev.contains(*outside) {
                wrong.push(format!("{name} names {outside}; only {owner} may"));
            }
        }
    }
    none(&wrong);
}

#[test]
fn the_tests_that_documents_name_are_there() {
    // A test's name is a sentence, so nothing else in a document looks like one but a metric.
    const SENTENCE_MIN: usize = 25;
    const METRICS: [&str; 2] = ["tenure_", "process_"];
    let code: Vec<String> = rust_files().iter().map(read).collect();
    let is_name = |word: &str| {
        word.len() >= SENTENCE_MIN
            && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
            && !METRICS.iter().any(|prefix| word.starts_with(prefix))
    };
    let mut wrong = Vec::new();
    let mut found = 0;
    for path in tracked().into_iter().filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let text = read(&path);
        let quoted = text.split('`').skip(1).step_by(2);
        for name in quoted.filter_map(|quoted| quoted.rsplit("::").next()).filter(|word| is_name(word)) {
            found += 1;
            let declared = [format!("fn {name}("), format!("    {name}: ")];
            if !code.iter().any(|code| declared.iter().any(|declared| code.contains(declared))) {
                wrong.push(format!("{}: there is no {name}", path.display()));
            }
        }
    }
    none(&wrong);
    assert!(found > 0, "no document names a test");
}

#[test]
fn crates_that_link_rocksdb_are_no_default_members() {
    let workspace = read("Cargo.toml");
    let list = between(&workspace, "default-members = [", "]");
    for name in RELEASE_ONLY {
        assert!(workspace.contains(&format!("\"crates/{name}\"")), "{name} is no member of the workspace");
        assert!(!list.contains(&format!("\"crates/{name}\"")), "{name} is a default member");
    }
    let makefile = read("Makefile");
    let wanted: String = RELEASE_ONLY.iter().map(|name| format!(" -p {name}")).collect();
    assert!(makefile.contains(&format!("RELEASE_PACKAGES :={wanted}\n")), "the Makefile builds another set in release");
}

#[test]
fn every_crate_takes_the_workspaces_lints_version_and_licence() {
    let mut wrong = Vec::new();
    for (name, manifest) in manifests() {
        if name == LINTS_OF_ITS_OWN.0 {
            continue;
        }
        for line in ["[lints]\nworkspace = true\n", "version.workspace = true\n", "license.workspace = true\n"] {
            if !manifest.text.contains(line) {
                wrong.push(format!("{name} lacks {line:?}"));
            }
        }
    }
    none(&wrong);
}

#[test]
fn one_file_alone_has_unsafe_code() {
    let (name, file) = LINTS_OF_ITS_OWN;
    let workspace = read("Cargo.toml");
    let own = read(format!("crates/{name}/Cargo.toml"));
    assert!(workspace.contains("\nunsafe_code = \"forbid\"\n") && own.contains("\nunsafe_code = \"deny\"\n"));
    let mark = concat!("uns", "afe");
    let wrong: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| path.starts_with(format!("crates/{name}")) && !path.ends_with(Path::new(file)))
        .filter(|path| read(path).contains(mark))
        .map(|path| path.display().to_string())
        .collect();
    none(&wrong);
}

#[test]
fn a_member_has_one_of_each_of_its_parts() {
    let is_source = |path: &PathBuf| path.starts_with("crates") && !path.to_string_lossy().contains("/tests");
    let sources = rust_files().into_iter().filter(is_source);
    let texts: Vec<String> = sources.map(read).collect();
    let wrong: Vec<_> = ONLY_ONE
        .iter()
        .map(|part| (part, texts.iter().map(|text| text.matches(part).count()).sum::<usize>()))
        .filter(|(_, count)| *count != 1)
        .map(|(part, count)| format!("`{part}` is there {count} times"))
        .collect();
    none(&wrong);
}

#[test]
fn the_state_machine_is_no_std() {
    assert!(read("crates/tenure-core/src/lib.rs").contains("\n#![no_std]\n"));
}

#[test]
fn dependencies_come_from_the_registry_alone() {
    let wrong: Vec<_> = read("Cargo.lock")
        .lines()
        .filter_map(|line| line.strip_prefix("source = \""))
        .filter(|source| !source.starts_with("registry+"))
        .map(ToString::to_string)
        .collect();
    none(&wrong);
}

#[test]
fn lock_files_leave_the_place_to_fetch_from_to_the_machine() {
    let lock = read("tests/clients/node/package-lock.json");
    assert!(lock.contains("\"integrity\""), "the packages are not where this test looks for them");
    let wrong: Vec<_> = ["\"resolved\"", "://registry"].iter().filter(|mark| lock.contains(**mark)).collect();
    assert!(wrong.is_empty(), "package-lock.json names where its packages came from: {wrong:?}");
}

#[test]
fn scripts_are_executable_and_explain_themselves() {
    let mut wrong = Vec::new();
    for path in tracked().into_iter().filter(|path| path.starts_with("cluster-scripts")) {
        let file = root().join(&path);
        let name = path.display();
        if !run(Command::new("bash").arg("-n").arg(&file)).0 {
            wrong.push(format!("{name} is not valid bash"));
        }
        if path.ends_with("lib.sh") {
            continue;
        }
        let mode = fs::metadata(&file).expect("a script").permissions().mode();
        if mode & 0o111 != 0o111 {
            wrong.push(format!("{name} is not executable"));
        }
        let (ok, help) = run(Command::new("bash").arg(&file).arg("--help"));
        if !ok || !help.starts_with(&format!("Usage: {name}")) {
            wrong.push(format!("{name} --help does not explain it: {help:?}"));
        }
        if !read("docs/OPERATIONS.md").contains(&format!("`{}`", path.file_name().expect("a name").to_string_lossy())) {
            wrong.push(format!("docs/OPERATIONS.md does not mention {name}"));
        }
    }
    none(&wrong);
}

#[test]
fn make_help_lists_every_target() {
    let makefile = read("Makefile");
    let rules: Vec<_> = makefile
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()) && line.contains(':'))
        .filter(|line| !line.contains(":="))
        .collect();
    assert!(rules.iter().any(|rule| rule.starts_with("check:")), "the rules are not where this test looks for them");
    let wrong: Vec<_> = rules
        .iter()
        .filter(|rule| {
            let target = rule.split(':').next().unwrap_or(rule);
            !rule.contains(" ## ") || !makefile.contains(&format!(".PHONY: {target}\n"))
        })
        .map(|rule| format!("Makefile: `{rule}` has no `## help` or no .PHONY line"))
        .collect();
    none(&wrong);
}

#[test]
fn the_gate_runs_the_command_that_the_readme_names() {
    let gate = read(".ci/run");
    assert!(gate.contains(" make test\n"), ".ci/run does not run `make test`");
    assert!(read("README.md").contains("make test"), "README.md does not name `make test`");
}

#[test]
fn the_changelog_begins_with_this_version() {
    let changelog = read("CHANGELOG.md");
    let workspace = read("Cargo.toml");
    let version = between(between(&workspace, "[workspace.package]", "edition"), "version = \"", "\"");
    assert!(changelog.starts_with("# Changelog\n"), "CHANGELOG.md opens with its title");
    let entries: Vec<_> = changelog.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(!entries.is_empty(), "CHANGELOG.md has no entry");
    for entry in &entries {
        let date = entry.split_once(" - ").map(|(_, date)| date);
        let is_date =
            |date: &str| date.len() == "2026-01-31".len() && date.bytes().filter(|byte| *byte == b'-').count() == 2;
        assert!(date.is_some_and(|date| date == "unreleased" || is_date(date)), "`## {entry}` has no date");
    }
    assert!(entries[0].starts_with(&format!("{version} - ")), "the first entry is {:?}, not {version}", entries[0]);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = tracked().into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    check(documents.collect(), |path, text| {
        let folder = root().join(path).parent().expect("a folder").to_path_buf();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets
            .filter(|target| !target.contains("://") && !target.starts_with('#'))
            .filter(|target| !folder.join(target.split('#').next().unwrap_or(target)).exists())
            .map(|target| format!("links to {target}, which is not there"))
            .collect()
    });
}

#[test]
fn the_architecture_names_every_crate() {
    let architecture = read("docs/ARCHITECTURE.md");
    let wrong: Vec<_> = manifests()
        .into_keys()
        .filter(|name| name != "tenure-tests" && !architecture.contains(&format!("| `{name}` |")))
        .map(|name| format!("docs/ARCHITECTURE.md has no row for {name}"))
        .collect();
    none(&wrong);
}

#[test]
fn every_flag_that_does_something_is_documented() {
    let table: String = read("crates/tenure-server/src/config/table.rs").split_whitespace().collect();
    let operations = read("docs/OPERATIONS.md");
    let names: BTreeSet<_> = ["used(\"", "used_switch(\""]
        .iter()
        .flat_map(|call| table.split(call).skip(1).filter_map(|rest| rest.split('"').next()))
        .collect();
    assert!(names.contains("data-dir"), "the flags are not where this test looks for them");
    let wrong: Vec<_> = names
        .into_iter()
        .filter(|name| !operations.contains(&format!("`--{name}`")))
        .map(|name| format!("docs/OPERATIONS.md does not explain --{name}"))
        .collect();
    none(&wrong);
}

#[test]
fn the_metrics_served_are_the_metrics_documented() {
    let code = read("crates/tenure-server/src/http/metrics.rs");
    let document = read("docs/OPERATIONS.md");
    let served: BTreeSet<_> = code.split('"').filter(|text| is_metric(text)).collect();
    let documented: BTreeSet<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| is_metric(name))
        .collect();
    assert!(served.contains("tenure_revision"), "the metrics are not where this test looks for them");
    assert_eq!(served, documented, "left: what /metrics serves, right: docs/OPERATIONS.md");
}

fn is_metric(text: &str) -> bool {
    text.starts_with("tenure_") && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
}

/// One crate's manifest, as far as these tests need it.
struct Manifest {
    text: String,
    /// Names under `[dependencies]` and `[build-dependencies]`.
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

fn manifests() -> BTreeMap<String, Manifest> {
    let paths = tracked().into_iter().filter(|path| path.ends_with("Cargo.toml") && path.components().count() > 1);
    let all: BTreeMap<_, _> = paths
        .map(|path| {
            let text = read(&path);
            (between(&text, "name = \"", "\"").to_string(), manifest(text))
        })
        .collect();
    assert!(all.contains_key("tenure-core"), "the manifests are not where this test looks for them");
    all
}

fn manifest(text: String) -> Manifest {
    let mut parsed = Manifest { text, normal: BTreeSet::new(), dev: BTreeSet::new() };
    let mut section = String::new();
    for line in parsed.text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_string();
            continue;
        }
        let Some((key, _)) = line.split_once('=').filter(|_| section.ends_with("dependencies")) else { continue };
        let name = key.trim().split('.').next().unwrap_or(key).to_string();
        if section.ends_with("dev-dependencies") { &mut parsed.dev } else { &mut parsed.normal }.insert(name);
    }
    parsed
}

fn inner(names: &BTreeSet<String>) -> BTreeSet<String> {
    names.iter().filter(|name| name.starts_with("tenure")).cloned().collect()
}

/// The repository, whose `tests` folder is this package.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
}

/// Every file that git tracks or would add, relative to the root.
fn tracked() -> Vec<PathBuf> {
    let (ok, list) =
        run(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()));
    assert!(ok, "git ls-files failed: {list}");
    let files: BTreeSet<_> = list.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect();
    assert!(files.contains(Path::new("Cargo.toml")), "git lists no Cargo.toml");
    files.into_iter().collect()
}

fn rust_files() -> Vec<PathBuf> {
    tracked()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs") && !is_generated(path))
        .collect()
}

/// Everything that people write: no lock file, licence, generated code or binary data.
fn text_files() -> Vec<PathBuf> {
    let skipped = ["Cargo.lock", "go.sum", "package-lock.json", "LICENSE"];
    tracked()
        .into_iter()
        .filter(|path| !skipped.iter().any(|name| path.ends_with(name)) && !is_generated(path))
        .filter(|path| fs::read(root().join(path)).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok()))
        .collect()
}

fn is_generated(path: &Path) -> bool {
    path.starts_with("crates/tenure-proto/src/generated")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path.as_ref()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let rest = text.split_once(from).unwrap_or_else(|| panic!("{from:?} is not there")).1;
    rest.split_once(to).unwrap_or_else(|| panic!("{to:?} does not follow {from:?}")).0
}

/// The findings of `find` in a text, each with its line number.
fn lines_with(text: &str, find: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let numbered = text.lines().enumerate();
    numbered.filter_map(|(index, line)| find(line).map(|found| format!("line {} {found}", index + 1))).collect()
}

/// Whether `word` stands in the line with no letter or digit on a side where it has one itself.
fn contains_word(line: &str, word: &str) -> bool {
    let both = |one: Option<char>, other: Option<char>| {
        [one, other].iter().all(|side| side.is_some_and(char::is_alphanumeric))
    };
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !both(before, word.chars().next()) && !both(word.chars().next_back(), after)
    })
}

/// Fails with every finding of `find` in the files, one a line.
fn check(files: Vec<PathBuf>, find: impl Fn(&Path, &str) -> Vec<String>) {
    assert!(!files.is_empty(), "there is nothing to check");
    let mut wrong = Vec::new();
    for path in files {
        let text = read(&path);
        wrong.extend(find(&path, &text).into_iter().map(|found| format!("{}: {found}", path.display())));
    }
    none(&wrong);
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
