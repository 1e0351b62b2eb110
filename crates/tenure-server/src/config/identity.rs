//! The ids of a new cluster and its members, from nothing but the flags that all members share.
//!
//! Three empty nodes must agree on who is who before they have spoken, so the ids are hashes: a member's of its sorted
//! peer URLs and the cluster token, the cluster's of the sorted member ids. The function is etcd's own (SHA-1, first
//! eight bytes, big-endian; server/etcdserver/api/membership), so that a cluster that moves over keeps the ids which
//! its operators know. SHA-1's weakness does not matter: nobody gains by forging an id that is public anyway.
//!
//! Ids of members added later are not made here: those are drawn when they are added.

use sha1::{Digest as _, Sha1};
use tenure_core::{ClusterId, MemberId};

use super::urls::Url;

/// The id of a founding member.
pub fn member_id(peer_urls: &[Url], cluster_token: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(cluster_token);
    MemberId(first_eight_bytes(&hash.finalize()))
}

/// The id of a cluster, from the ids of its founding members.
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.0.to_be_bytes());
    }
    ClusterId(first_eight_bytes(&hash.finalize()))
}

fn first_eight_bytes(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<Url> {
        list.iter().map(|text| Url::parse(text).unwrap()).collect()
    }

    /// The ids that etcd's documentation and logs show for its default flags: every reader has seen 8e9e05c52164694d.
    #[test]
    fn a_lone_member_with_the_default_flags_of_etcd_has_the_id_that_etcd_gives_it() {
        let member = member_id(&urls(&["http://localhost:2380"]), "etcd-cluster");
        assert_eq!(format!("{:x}", member.0), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member]).0), "cdf818194e3a8c32");
    }

    /// The three-member example of etcd's documentation (its Procfile).
    #[test]
    fn three_members_have_the_ids_that_etcd_gives_them() {
        let ids: Vec<MemberId> = ["http://127.0.0.1:12380", "http://127.0.0.1:22380", "http://127.0.0.1:32380"]
            .map(|url| member_id(&urls(&[url]), "etcd-cluster-1"))
            .to_vec();
        let hex: Vec<String> = ids.iter().map(|id| format!("{:x}", id.0)).collect();
        assert_eq!(hex, ["8211f1d0f64f3269", "91bc3c398fb3c146", "fd422379fda50e48"]);
        assert_eq!(format!("{:x}", cluster_id(&ids).0), "ef37ad9dc622a7c4");
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter_and_everything_else_does() {
        let one = member_id(&urls(&["http://a:1", "http://b:2"]), "t");
        assert_eq!(one, member_id(&urls(&["http://b:2", "http://a:1"]), "t"));
        assert_ne!(one, member_id(&urls(&["http://a:1", "http://b:2"]), "u"));
        assert_ne!(one, member_id(&urls(&["http://a:1", "http://b:3"]), "t"));
        let (a, b) = (MemberId(1), MemberId(2));
        assert_eq!(cluster_id(&[a, b]), cluster_id(&[b, a]));
        assert_ne!(cluster_id(&[a, b]), cluster_id(&[a]));
    }
}
