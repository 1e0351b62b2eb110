//! Files that nobody vouches for: what is not exactly what was saved is refused, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tar::{EntryType, Header};
use tenure_core::state::StateRead;
use tenure_core::{ClusterId, LogIndex, MemberId, Revision, Term};
use tenure_storage::engine::EngineFactory;
use tenure_storage::mem_engines::MemEngines;
use tenure_storage::store::{Applied, StateStore};

use super::about::ABOUT_FILE;
use super::archive::{END_BYTES, entry_bytes, header, padding, state_entry};
use super::*;
use crate::identity::Founding;
use crate::types::Peer;

const FOUNDER: MemberId = MemberId(0xa);

fn about() -> About {
    About {
        cluster: ClusterId(1),
        member: MemberId(2),
        index: LogIndex(5),
        term: Term(3),
        revision: Revision(9),
        compacted: Revision(-1),
        confirmed: true,
    }
}

/// A plain file of an archive.
fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, content.len() as u64).expect("a header");
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::try_from(padding(content.len() as u64)).expect("small"), 0);
    assert_eq!(bytes.len() as u64, entry_bytes(content.len() as u64));
    bytes
}

/// An entry as no backup has it.
fn entry(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path("state/x").expect("a path");
    header.set_size(0);
    header.set_entry_type(EntryType::Regular);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Entries and their end, with a hash that is right.
fn sealed(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + usize::try_from(END_BYTES).expect("small"), 0);
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// A state as a member that applied five entries has it, in an archive that says `about`.
fn saved(about: &About, dir: &Path) -> Vec<u8> {
    let engine = MemEngines::default().open(&dir.join("engine")).expect("an engine");
    let mut store = StateStore::open(engine).expect("a store");
    let mut run = store.begin();
    tenure_core::state::StateWrite::meta_mut(&mut run).revision = Revision(9);
    run.commit(Applied { index: LogIndex(5), term: Term(3), membership: bytes::Bytes::new() }).expect("committed");
    let checkpoint = dir.join("checkpoint");
    store.checkpoint(&checkpoint).expect("a checkpoint");
    let mut entries = vec![file(ABOUT_FILE, about.render().as_bytes())];
    for found in std::fs::read_dir(checkpoint).expect("listed") {
        let found = found.expect("listed");
        let content = std::fs::read(found.path()).expect("read");
        entries.push(file(&state_entry(&found.file_name().into_string().expect("plain")), &content));
    }
    sealed(&entries)
}

struct Scene {
    dir: tempfile::TempDir,
    engines: Arc<dyn EngineFactory>,
}

impl Scene {
    fn new() -> Scene {
        Scene { dir: tempfile::tempdir().expect("a directory"), engines: Arc::new(MemEngines::default()) }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn restore(&self, content: &[u8], change: impl FnOnce(&mut Restore)) -> Result<Restored, RestoreError> {
        let file = self.dir.path().join("backup");
        std::fs::write(&file, content).expect("written");
        let peer = Peer { name: "n1".to_owned(), peer_urls: vec!["http://h:1".to_owned()] };
        let founding = Founding { cluster: ClusterId(7), member: FOUNDER, members: vec![(FOUNDER, peer)] };
        let data_dir = self.data_dir();
        std::fs::create_dir_all(&data_dir).expect("a data directory");
        let mut options = Restore { file, skip_hash_check: false, data_dir, founding, bump_revision: None };
        change(&mut options);
        restore(&options, &self.engines)
    }

    /// What is refused leaves nothing that could be taken for a member.
    fn refused(&self, content: &[u8], skip_hash_check: bool) -> String {
        let error = self.restore(content, |options| options.skip_hash_check = skip_hash_check).expect_err("refused");
        let left = std::fs::read_dir(self.data_dir()).expect("listed").count();
        assert_eq!(left, 0, "{error}");
        error.to_string()
    }
}

#[test]
fn a_backup_becomes_a_member_of_the_new_cluster_at_the_state_of_the_old_one() {
    let scene = Scene::new();
    let content = saved(&about(), scene.dir.path());
    let restored = scene.restore(&content, |_| {}).expect("restored");
    assert_eq!((restored.about, restored.revision), (about(), Revision(9)));
    let founding = Founding::stored(&scene.data_dir()).expect("readable").expect("an identity");
    assert_eq!((founding.cluster, founding.member), (ClusterId(7), FOUNDER));
    let engine = scene.engines.open(&scene.data_dir().join("state/1")).expect("an engine");
    let store = StateStore::open(engine).expect("a store");
    assert_eq!((store.applied().index, store.applied().term), (LogIndex(5), Term(3)));
    assert_eq!(store.view().meta().revision, Revision(9));
    let again = scene.restore(&content, |_| {});
    assert!(matches!(again, Err(RestoreError::NotEmpty(_))), "{again:?}");
}

#[test]
fn a_bump_moves_the_revision_and_compacts_all_before() {
    let scene = Scene::new();
    let bumped = scene.restore(&saved(&about(), scene.dir.path()), |options| options.bump_revision = Some(1000));
    assert_eq!(bumped.expect("restored").revision, Revision(1009));
    let engine = scene.engines.open(&scene.data_dir().join("state/1")).expect("an engine");
    let store = StateStore::open(engine).expect("a store");
    assert_eq!((store.view().meta().revision, store.view().meta().compacted), (Revision(1009), Revision(1009)));
    let scene = Scene::new();
    let content = saved(&about(), scene.dir.path());
    let overflowing = scene.restore(&content, |options| options.bump_revision = Some(i64::MAX.unsigned_abs() - 9));
    assert!(overflowing.expect_err("refused").to_string().contains("overflow"));
}

#[test]
fn any_flipped_byte_and_any_cut_is_found_out() {
    let scene = Scene::new();
    let whole = saved(&about(), scene.dir.path());
    for at in (0..whole.len()).step_by(37).chain([whole.len() - 1]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        let text = scene.refused(&flipped, false);
        assert!(text.contains("is damaged: expected sha256 "), "byte {at}: {text}");
    }
    for length in (0..whole.len()).step_by(41).chain([whole.len() - 1, whole.len() - 32, whole.len() - 512]) {
        let text = scene.refused(&whole[..length], false);
        assert!(text.contains("snapshot missing hash") || text.contains("is damaged"), "cut at {length}: {text}");
        // Without the hash it is found out later, but it is.
        if length < whole.len() - 32 - usize::try_from(END_BYTES).expect("small") {
            scene.refused(&whole[..length], true);
        }
    }
    let without_hash = &whole[..whole.len() - 32];
    scene.restore(without_hash, |options| options.skip_hash_check = true).expect("allowed");
}

#[test]
fn hostile_entries_are_refused_with_a_hash_that_is_right() {
    let first = file(ABOUT_FILE, about().render().as_bytes());
    let raw_name = |name: &'static [u8]| {
        entry(|header| header.as_old_mut().name[..name.len() + 1].copy_from_slice(&[name, b"\0"].concat()))
    };
    let cases: Vec<Vec<Vec<u8>>> = vec![
        vec![first.clone(), raw_name(b"/etc/passwd")],
        vec![first.clone(), raw_name(b"state/../x")],
        vec![first.clone(), raw_name(b"state/a/b")],
        vec![first.clone(), raw_name(b"state/..")],
        vec![first.clone(), raw_name(b"state/.hidden")],
        vec![first.clone(), raw_name(b"elsewhere")],
        vec![first.clone(), raw_name(b"state/\xff")],
        vec![
            first.clone(),
            entry(|header| {
                header.set_entry_type(EntryType::Symlink);
                header.set_link_name("/etc/passwd").expect("a link");
            }),
        ],
        vec![first.clone(), entry(|header| header.set_entry_type(EntryType::Link))],
        vec![first.clone(), entry(|header| header.set_entry_type(EntryType::Directory))],
        vec![first.clone(), entry(|header| header.set_entry_type(EntryType::GNUSparse))],
        vec![first.clone(), entry(|header| header.set_entry_type(EntryType::GNULongName))],
        vec![first.clone(), entry(|header| header.set_entry_type(EntryType::XHeader))],
        vec![first.clone(), entry(|header| header.set_entry_type(EntryType::Fifo))],
        // Far more than there is.
        vec![first.clone(), entry(|header| header.set_size(u64::MAX))],
        vec![first.clone(), entry(|header| header.set_size(1 << 40))],
        vec![first.clone(), file("state/x", b"1"), file("state/x", b"2")],
        vec![first.clone()],
        vec![first, file(ABOUT_FILE, about().render().as_bytes())],
    ];
    let scene = Scene::new();
    for entries in cases {
        let text = scene.refused(&sealed(&entries), false);
        assert!(text.contains("an entry that does not belong there") || text.contains("cannot write"), "{text}");
    }
    let mut too_long = about().render();
    too_long.push_str(&"x".repeat(5000));
    for entries in [
        vec![],
        vec![file("state/x", b"1")],
        vec![file(ABOUT_FILE, b"nonsense")],
        vec![file(ABOUT_FILE, too_long.as_bytes())],
        vec![vec![7; 512]],
    ] {
        assert!(scene.refused(&sealed(&entries), false).contains("not a snapshot of Tenure"));
    }
}

#[test]
fn a_state_that_is_not_the_one_it_is_said_to_be_is_refused() {
    for lie in [
        About { index: LogIndex(6), ..about() },
        About { term: Term(4), ..about() },
        About { revision: Revision(10), ..about() },
    ] {
        let scene = Scene::new();
        let text = scene.refused(&saved(&lie, scene.dir.path()), false);
        assert!(text.contains("but its state is"), "{text}");
    }
    let scene = Scene::new();
    let first = file(ABOUT_FILE, about().render().as_bytes());
    let text = scene.refused(&sealed(&[first, file("state/tables", b"no tables")]), false);
    assert!(text.contains("its state cannot be used"), "{text}");
}
