//! Who this data directory is, and whom it has met: the file `raft/identity`.
//!
//! The file stamps the directory with cluster, member, founding members and incarnation (a random number made with the
//! directory), and keeps the incarnation of every peer that this member dealt with. A member that restarts takes who it
//! is from here: its flags may be out of date. It lies beside the log, because the two may only be
//! kept or lost together. It is replaced as a whole, synced before the new name is: a crash leaves the old or the new.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rand::TryRng;
use tenure_core::{ClusterId, MemberId};

use crate::error::NodeError;
use crate::runtime::ThreadRng;
use crate::types::Peer;

const FILE: &str = "identity";
const HEADER: &str = "tenure-identity 1";

/// Peers remembered at most: members of any cluster that anybody runs, many times over.
const PEERS_MAX: usize = 1024;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    own: Own,
    peers: Mutex<Peers>,
}

/// Who a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The members that the cluster began with, this one included.
    pub members: Vec<(MemberId, Peer)>,
}

impl Founding {
    /// What the data directory says, if anything was ever started in it.
    pub fn stored(data_dir: &Path) -> Result<Option<Founding>, NodeError> {
        Ok(read(&raft_dir(data_dir).join(FILE))?.map(|(own, _)| own.founding))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    founding: Founding,
    incarnation: u64,
}

/// The part of the data directory that holds log and identity: kept or lost as one.
pub(crate) fn raft_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}

impl Identity {
    /// Refuses a directory that was made for somebody else. Nothing is changed.
    pub(crate) fn check(data_dir: &Path, founding: &Founding) -> Result<(), NodeError> {
        match Founding::stored(data_dir)? {
            Some(stored) if (stored.cluster, stored.member) != (founding.cluster, founding.member) => {
                Err(NodeError::Identity(foreign(data_dir, &stored, founding)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Reads the file, or makes it in a directory that has none. Without the log beside it, whoever it was that voted
    /// is gone: what is here now is another incarnation.
    pub(crate) fn open(data_dir: &Path, founding: &Founding, has_log: bool) -> Result<Identity, NodeError> {
        Identity::check(data_dir, founding)?;
        let dir = raft_dir(data_dir);
        let path = dir.join(FILE);
        let io = |error| NodeError::Io(format!("identity file {}", path.display()), error);
        if let Some((mut own, peers)) = read(&path)? {
            if !has_log {
                own.incarnation = new_incarnation();
            }
            let identity = Identity { path: path.clone(), own, peers: Mutex::new(peers) };
            if !has_log {
                let peers = identity.peers().clone();
                identity.write(&peers).map_err(io)?;
            }
            return Ok(identity);
        }
        fs::create_dir_all(&dir).map_err(io)?;
        File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        let own = Own { founding: founding.clone(), incarnation: new_incarnation() };
        let identity = Identity { path: path.clone(), own, peers: Mutex::default() };
        identity.write(&BTreeMap::new()).map_err(io)?;
        Ok(identity)
    }

    /// The number that tells this directory from any that the member had before.
    pub(crate) fn incarnation(&self) -> u64 {
        self.own.incarnation
    }

    /// The incarnation of a peer that this member dealt with.
    pub(crate) fn remembered(&self, peer: u64) -> Option<u64> {
        self.peers().get(&peer).copied()
    }

    /// Writes down a peer's incarnation before it is dealt with. An error if another one is known.
    pub(crate) fn remember(&self, peer: u64, incarnation: u64) -> io::Result<()> {
        let known = self.meet(peer, incarnation, true)?;
        if known == incarnation {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "member {peer:x} came back with another data directory: its log and votes are lost. Remove it from the \
             cluster and add it as a new member"
        )))
    }

    /// Notes a peer and returns the incarnation that counts as known. What a member without data knows binds nobody,
    /// so it takes the new one instead.
    pub(crate) fn meet(&self, peer: u64, incarnation: u64, has_data: bool) -> io::Result<u64> {
        let mut peers = self.peers();
        match peers.get(&peer) {
            Some(known) if *known == incarnation || has_data => return Ok(*known),
            Some(_) | None => {}
        }
        if peers.len() >= PEERS_MAX {
            return Err(io::Error::other("too many peers were met"));
        }
        let mut changed = peers.clone();
        changed.insert(peer, incarnation);
        self.write(&changed)?;
        *peers = changed;
        Ok(incarnation)
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, u64>> {
        self.peers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, peers: &BTreeMap<u64, u64>) -> io::Result<()> {
        let text = render(&self.own, peers);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(dir)?.sync_all()
    }
}

fn new_incarnation() -> u64 {
    let Ok(number) = ThreadRng.try_next_u64();
    // 0 means "none" on the wire.
    number.max(1)
}

/// What to say of a directory that was made for somebody else.
pub(crate) fn foreign(data_dir: &Path, stored: &Founding, given: &Founding) -> String {
    format!(
        "data directory {} belongs to member {:x} of cluster {:x}, but the flags describe member {:x} of cluster {:x}: \
         check --data-dir, --name, --initial-cluster, --initial-advertise-peer-urls and --initial-cluster-token",
        data_dir.display(),
        stored.member.0,
        stored.cluster.0,
        given.member.0,
        given.cluster.0
    )
}

/// Incarnations of peers by member.
type Peers = BTreeMap<u64, u64>;

fn read(path: &Path) -> Result<Option<(Own, Peers)>, NodeError> {
    match fs::read(path) {
        Ok(bytes) => {
            let parsed = std::str::from_utf8(&bytes).ok().and_then(parse);
            parsed.map(Some).ok_or_else(|| {
                NodeError::Identity(format!("identity file {} is damaged: replace this member", path.display()))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NodeError::Io(format!("identity file {}", path.display()), error)),
    }
}

fn render(own: &Own, peers: &Peers) -> String {
    let founding = &own.founding;
    let mut text = format!(
        "{HEADER}\ncluster {:016x}\nmember {:016x}\nincarnation {:016x}\n",
        founding.cluster.0, founding.member.0, own.incarnation
    );
    for (id, peer) in &founding.members {
        text += &format!("founder {:016x} {} {}\n", id.0, peer.peer_urls.join(","), peer.name);
    }
    for (peer, incarnation) in peers {
        text += &format!("peer {peer:016x} {incarnation:016x}\n");
    }
    let checksum = crc32fast::hash(text.as_bytes());
    text += &format!("checksum {checksum:08x}\n");
    text
}

fn parse(text: &str) -> Option<(Own, Peers)> {
    let body_len = text.rfind("checksum ")?;
    let (body, checksum) = text.split_at(body_len);
    let expected = format!("checksum {:08x}\n", crc32fast::hash(body.as_bytes()));
    if checksum != expected {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let mut field = |name: &str| hex(lines.next()?.strip_prefix(name)?.strip_prefix(' ')?);
    let (cluster, member) = (ClusterId(field("cluster")?), MemberId(field("member")?));
    let incarnation = field("incarnation")?;
    let mut founding = Founding { cluster, member, members: Vec::new() };
    let mut peers = BTreeMap::new();
    for line in lines {
        if let Some(founder) = line.strip_prefix("founder ") {
            let (id, rest) = founder.split_once(' ')?;
            let (urls, name) = rest.split_once(' ')?;
            let peer = Peer { name: name.to_owned(), peer_urls: urls.split(',').map(str::to_owned).collect() };
            founding.members.push((MemberId(hex(id)?), peer));
        } else {
            let (peer, incarnation) = line.strip_prefix("peer ")?.split_once(' ')?;
            peers.insert(hex(peer)?, hex(incarnation)?);
        }
    }
    Some((Own { founding, incarnation }, peers))
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding(cluster: u64, member: u64) -> Founding {
        let peer = |name: &str| Peer { name: name.into(), peer_urls: vec!["http://h:1".into(), "http://h:2".into()] };
        let members = vec![(MemberId(0xa), peer("first one")), (MemberId(0xb), peer("b"))];
        Founding { cluster: ClusterId(cluster), member: MemberId(member), members }
    }

    fn open(dir: &Path) -> Result<Identity, NodeError> {
        Identity::open(dir, &founding(0xc1, 0xa), true)
    }

    #[test]
    fn without_its_log_a_directory_is_another_incarnation_that_knows_the_same_peers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = open(dir.path()).expect("fresh");
        first.remember(0xb, 77).expect("remember");
        let second = Identity::open(dir.path(), &founding(0xc1, 0xa), false).expect("without a log");
        assert_ne!(second.incarnation(), first.incarnation());
        assert_eq!(second.remembered(0xb), Some(77));
        let third = open(dir.path()).expect("with the new log");
        assert_eq!(third.incarnation(), second.incarnation());
    }

    #[test]
    fn what_was_written_down_is_there_after_reopening() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = open(dir.path()).expect("fresh");
        first.remember(0xb, 77).expect("remember");
        let second = open(dir.path()).expect("reopened");
        assert_eq!(second.incarnation(), first.incarnation());
        assert_eq!(second.remembered(0xb), Some(77));
        assert_eq!(second.remembered(0xc), None);
    }

    #[test]
    fn another_member_or_cluster_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        open(dir.path()).expect("fresh");
        assert!(matches!(Identity::open(dir.path(), &founding(0xc1, 0xb), true), Err(NodeError::Identity(_))));
        assert!(matches!(Identity::open(dir.path(), &founding(0xc2, 0xa), true), Err(NodeError::Identity(_))));
        assert_eq!(Founding::stored(dir.path()).expect("readable"), Some(founding(0xc1, 0xa)));
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let own = Own { founding: founding(1, 0xb), incarnation: 3 };
        let text = render(&own, &BTreeMap::from([(4, 5)]));
        assert_eq!(parse(&text), Some((own, BTreeMap::from([(4, 5)]))));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let damaged = String::from_utf8(bytes).expect("still ASCII");
            assert_eq!(parse(&damaged), None, "byte {at}");
        }
        for len in 0..text.len() {
            assert_eq!(parse(&text[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn a_peer_that_comes_back_as_another_is_refused_by_who_holds_data() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let identity = open(dir.path()).expect("fresh");
        identity.remember(0xb, 77).expect("first meeting");
        assert!(identity.remember(0xb, 78).is_err());
        assert_eq!(identity.meet(0xb, 78, true).expect("asks"), 77);
        assert_eq!(identity.meet(0xb, 78, false).expect("holds nothing"), 78);
    }
}
