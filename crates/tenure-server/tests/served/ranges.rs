//! RangeStream on the wire.

use prost::Message;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{cluster, run};

async fn pieces(kv: &mut KvClient<Channel>, request: pb::RangeRequest) -> Result<Vec<pb::RangeResponse>, Status> {
    let mut stream = kv.range_stream(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(message) = stream.message().await? {
        pieces.push(message.range_response.expect("every message has a piece"));
    }
    Ok(pieces)
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

#[test]
fn merged_messages_are_the_answer_of_range() {
    run(async {
        let servers = cluster(1, &["--max-request-bytes=4000"]).await;
        let mut kv = servers[0].kv().await;
        for number in 0..200 {
            let value = "v".repeat(number);
            kv.put(pb::PutRequest { key: format!("k{number:03}").into(), value: value.into(), ..Default::default() })
                .await
                .expect("a put");
        }
        let requests = [
            everything(),
            pb::RangeRequest { limit: 77, ..everything() },
            pb::RangeRequest { revision: 100, ..everything() },
            pb::RangeRequest { keys_only: true, sort_order: SortOrder::Ascend.into(), ..everything() },
            pb::RangeRequest { count_only: true, ..everything() },
            pb::RangeRequest { key: "nothing".into(), ..Default::default() },
        ];
        for request in requests {
            let whole = kv.range(request.clone()).await.expect("an answer").into_inner();
            let pieces = pieces(&mut kv, request.clone()).await.expect("pieces");
            let (last, before) = pieces.split_last().expect("at least one");
            let said_early = |piece: &pb::RangeResponse| piece.header.is_some() || piece.more || piece.count != 0;
            assert!(last.header.is_some() && !before.iter().any(said_early));
            assert!(before.iter().all(|piece| !piece.kvs.is_empty() && piece.encoded_len() < 4000 + 300));
            assert_eq!(request.count_only || last.count < 10, before.is_empty());
            // Messages that are written one after the other merge when they are read as one.
            let bytes: Vec<u8> = pieces.iter().flat_map(Message::encode_to_vec).collect();
            assert_eq!(pb::RangeResponse::decode(&bytes[..]), Ok(whole), "{request:?}");
        }
        assert_eq!(pieces(&mut kv, everything()).await.expect("pieces")[0].kvs.len(), 10);
    });
}

#[test]
fn what_cannot_be_streamed_is_refused_as_by_etcd() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut kv = servers[0].kv().await;
        let sorted = pb::RangeRequest { sort_order: SortOrder::Descend.into(), ..everything() };
        let by_value = pb::RangeRequest { sort_target: SortTarget::Value.into(), ..everything() };
        let filtered = pb::RangeRequest { min_mod_revision: 1, ..everything() };
        let future = pb::RangeRequest { revision: 1000, ..everything() };
        let cases = [
            (sorted, Code::Unimplemented, "RangeStream does not support custom sort orders"),
            (by_value, Code::Unimplemented, "RangeStream does not support custom sort orders"),
            (filtered, Code::Unimplemented, "RangeStream does not support revision filters"),
            (pb::RangeRequest::default(), Code::InvalidArgument, "etcdserver: key is not provided"),
            (future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        ];
        for (request, code, text) in cases {
            let refused = pieces(&mut kv, request.clone()).await.expect_err("refused");
            assert_eq!((refused.code(), refused.message()), (code, text), "{request:?}");
        }
    });
}
