//! Golden bytes and laws of the entry codec.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn three_members() -> Membership {
    let peer = |n: u64| Peer { name: format!("n{n}"), peer_urls: vec![format!("http://h{n}:2380")] };
    Membership::new(
        vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
        BTreeMap::from([1, 2, 3].map(|n| (n, peer(n)))),
    )
    .unwrap()
}

#[test]
fn entries_and_votes_have_the_pinned_bytes() {
    let group = Entry { log_id: log_id(3, 258), payload: Payload::Normal(Proposal(Bytes::from_static(b"abc"))) };
    assert_eq!(hex(&encode_entry(&group)), concat!("0000000000000003", "0000000000000102", "01", "616263"));
    let blank = Entry { log_id: log_id(1, 0), payload: Payload::Blank };
    assert_eq!(hex(&encode_entry(&blank)), concat!("0000000000000001", "0000000000000000", "00"));
    assert_eq!(hex(&encode_vote(&Vote::new_committed(7, 9))), concat!("0000000000000007", "0000000000000009", "01"));
    assert_eq!(hex(&encode_vote(&Vote::new(7, 9))), concat!("0000000000000007", "0000000000000009", "00"));
    assert_eq!(hex(&encode_log_id(&log_id(2, 5))), concat!("0000000000000002", "0000000000000005"));
}

#[test]
fn memberships_have_the_pinned_bytes() {
    let peer = Peer { name: "n1".into(), peer_urls: vec!["u".into()] };
    let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, peer)])).unwrap();
    let golden = concat!(
        "0000000000000001", // one config
        "0000000000000001", // of one voter
        "0000000000000001", // node 1
        "0000000000000001", // one node
        "0000000000000001", // node 1
        "0000000000000002", // its name
        "6e31",
        "0000000000000001", // one URL
        "0000000000000001",
        "75",
    );
    assert_eq!(hex(&encode_membership(&membership)), golden);
    let stored = StoredMembership::new(Some(log_id(1, 2)), membership);
    assert_eq!(hex(&encode_stored_membership(&stored)), format!("0100000000000000010000000000000002{golden}"));
    let empty = StoredMembership::default();
    assert_eq!(hex(&encode_stored_membership(&empty)), format!("00{}", "00".repeat(16)));
    assert_eq!(decode_stored_membership(encode_stored_membership(&empty)).unwrap(), empty);
}

#[test]
fn a_group_is_decoded_without_copying_its_bytes() {
    let entry = Entry { log_id: log_id(1, 1), payload: Payload::Normal(Proposal(Bytes::from(vec![7; 4096]))) };
    let bytes = encode_entry(&entry);
    let decoded = decode_entry(bytes.clone()).unwrap();
    let Payload::Normal(Proposal(payload)) = decoded.payload else { panic!("not a group") };
    assert_eq!(payload.as_ptr(), bytes[ENTRY_HEADER_BYTES..].as_ptr());
}

#[test]
fn every_strict_prefix_of_a_membership_is_refused() {
    let stored = StoredMembership::new(Some(log_id(4, 40)), three_members());
    let bytes = encode_stored_membership(&stored);
    for end in 0..bytes.len() {
        assert!(decode_stored_membership(bytes.slice(..end)).is_err(), "{end} of {} bytes", bytes.len());
    }
    assert_eq!(decode_stored_membership(bytes).unwrap(), stored);
}

#[test]
fn what_is_not_canonical_is_refused() {
    let vote = encode_vote(&Vote::new(1, 2));
    let mut odd = vote;
    odd[16] = 2;
    assert_eq!(decode_vote(&odd), Err(CodecError::UnknownTag { what: "state of a vote", tag: 2 }));
    let long = [&vote[..], &[0]].concat();
    assert_eq!(decode_vote(&long), Err(CodecError::Trailing { what: "vote", count: 1 }));
    assert_eq!(decode_log_id(&[0; 15]), Err(CodecError::Truncated { what: "log id", missing: 1 }));

    let mut swapped = encode_membership(&three_members()).to_vec();
    (swapped[23], swapped[31]) = (swapped[31], swapped[23]);
    assert!(matches!(decode_membership(&swapped[..]), Err(CodecError::Invalid { .. })), "voters 2, 1");
    let blank = encode_entry(&Entry { log_id: log_id(1, 1), payload: Payload::Blank });
    assert!(decode_entry([&blank[..], b"x"].concat().into()).is_err(), "a blank entry carries nothing");
}

#[test]
fn huge_counts_neither_allocate_nor_panic() {
    for at in (0..encode_membership(&three_members()).len() - 8).step_by(8) {
        let mut bytes = encode_membership(&three_members()).to_vec();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_be_bytes());
        // Some of these hit an id instead of a count and may decode; none may do harm.
        drop(decode_membership(&bytes[..]));
    }
    assert!(decode_membership(&u64::MAX.to_be_bytes()[..]).is_err());
}

fn any_membership() -> impl Strategy<Value = Membership> {
    let peer = ("\\PC{0,12}", vec("\\PC{0,20}", 0..3)).prop_map(|(name, peer_urls)| Peer { name, peer_urls });
    (btree_map(any::<u64>(), peer, 1..6), vec(any::<u8>(), 0..3)).prop_map(|(nodes, picks)| {
        let ids: Vec<u64> = nodes.keys().copied().collect();
        let config = |pick: u8| -> BTreeSet<u64> {
            let voters = ids.iter().enumerate().filter(|(i, _)| pick >> i & 1 == 1).map(|(_, id)| *id);
            voters.chain([ids[usize::from(pick) % ids.len()]]).collect()
        };
        Membership::new(picks.into_iter().map(config).collect(), nodes).unwrap()
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(Payload::Blank),
        vec(any::<u8>(), 0..64).prop_map(|bytes| Payload::Normal(Proposal(bytes.into()))),
        any_membership().prop_map(Payload::Membership),
    ];
    (any::<u64>(), any::<u64>(), payload).prop_map(|(t, i, payload)| Entry { log_id: log_id(t, i), payload })
}

proptest! {
    #[test]
    fn entries_come_back_as_they_went(entry in any_entry()) {
        prop_assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
    }

    #[test]
    fn votes_come_back_as_they_went(term in any::<u64>(), node in any::<u64>(), committed in any::<bool>()) {
        let vote = Vote { leader_id: LeaderId { term, voted_for: node }, committed };
        prop_assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
    }

    #[test]
    fn stored_memberships_come_back_as_they_went(membership in any_membership(), at in any::<Option<(u64, u64)>>()) {
        let stored = StoredMembership::new(at.map(|(t, i)| log_id(t, i)), membership);
        prop_assert_eq!(decode_stored_membership(encode_stored_membership(&stored)).unwrap(), stored);
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(entry in any_entry(), at in any::<usize>(), flip in 1u8..) {
        let mut bytes = encode_entry(&entry).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(other) = decode_entry(bytes.clone().into()) {
            prop_assert_eq!(encode_entry(&other), bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..128)) {
        drop(decode_entry(bytes.clone().into()));
        drop(decode_vote(&bytes));
        drop(decode_log_id(&bytes));
        drop(decode_membership(&bytes[..]));
        drop(decode_stored_membership(&bytes[..]));
    }
}
