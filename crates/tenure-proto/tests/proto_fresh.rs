//! Generates `src/generated/` from `proto/`, and proves that what is committed is what would be generated.
//!
//! The generator is this test and not a build script, so that nobody who builds Tenure compiles it, and it sits beside
//! the generated code, below everything that uses it, so that it still runs when a changed message breaks the server.
//! `make proto` runs it with `UPDATE_GOLDENFILES=1`, which writes instead of comparing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

const UPDATE: &str = "UPDATE_GOLDENFILES";
const DESCRIPTORS: &str = "descriptors.bin";

type Files = BTreeMap<String, Vec<u8>>;

#[test]
fn generated_code_is_what_the_proto_files_say() {
    let committed_dir = crate_dir().join("src/generated");
    let fresh = generate();
    if std::env::var_os(UPDATE).is_some() {
        write(&committed_dir, &fresh);
    }
    let committed = read(&committed_dir);
    let stale: Vec<_> =
        fresh.keys().chain(committed.keys()).filter(|name| fresh.get(*name) != committed.get(*name)).collect();
    assert!(stale.is_empty(), "src/generated is stale in {stale:?}; run `make proto`");
}

#[test]
fn committed_descriptors_can_be_decoded() {
    let set = prost_set(tenure_proto::FILE_DESCRIPTOR_SET);
    let packages: Vec<_> = set.file.iter().map(|file| file.package()).collect();
    let of_etcd = ["etcdserverpb", "mvccpb", "authpb", "v3lockpb", "v3electionpb"];
    for package in of_etcd.into_iter().chain(["grpc.health.v1", "tenure.peer.v1", "tenure.v1"]) {
        assert!(packages.contains(&package), "{package} is missing from {packages:?}");
    }
}

fn prost_set(bytes: &[u8]) -> tonic_prost_build::FileDescriptorSet {
    tonic_prost_build::FileDescriptorSet::decode(bytes).expect("descriptors decode")
}

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything that belongs into `src/generated/`, by file name.
fn generate() -> Files {
    let root = crate_dir().join("../../proto");
    let protos = proto_files(&root);
    let out = tempfile::tempdir().expect("a temporary directory");
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(compile(&root, &protos, true))
        .expect("the generator runs");
    let mut files = read(out.path());
    files.insert(DESCRIPTORS.into(), compile(&root, &protos, false).encode_to_vec());
    files
}

/// Comments become doc comments in the code; the descriptors that reflection serves do without.
fn compile(root: &Path, protos: &[PathBuf], comments: bool) -> tonic_prost_build::FileDescriptorSet {
    let mut compiler = protox::Compiler::new([root]).expect("proto/ is a directory");
    compiler.include_imports(true).include_source_info(comments);
    compiler.open_files(protos).unwrap_or_else(|error| panic!("{error:?}"));
    compiler.file_descriptor_set()
}

/// All `.proto` files below a directory, in a fixed order.
fn proto_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("proto/ can be read") {
        let path = entry.expect("an entry of proto/").path();
        if path.is_dir() {
            found.extend(proto_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).expect("the directory can be read");
    let paths = entries.map(|entry| entry.expect("a directory entry").path());
    paths.map(|path| (name_of(&path), fs::read(&path).expect("a generated file"))).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a file name").to_string_lossy().into_owned()
}

/// Makes the directory hold exactly these files.
fn write(dir: &Path, files: &Files) {
    for name in read(dir).keys().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(dir.join(name)).expect("a stale file goes");
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).expect("a generated file is written");
    }
}
