//! Server reflection, as a tool that knows nothing of etcd uses it.

use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;

use crate::support::{cluster, run};

/// Services that must be told of; more may be.
const SERVED: [&str; 10] = [
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
    "grpc.health.v1.Health",
    "tenure.v1.Leases",
    "tenure.v1.Locks",
    "v3electionpb.Election",
    "v3lockpb.Lock",
];

#[test]
fn what_is_served_is_told_and_described() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut client = ServerReflectionClient::new(servers[0].channel().await);
        let mut ask = async |question| {
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
            let mut answers = client.server_reflection_info(futures::stream::iter([request])).await?.into_inner();
            answers.message().await
        };
        let listed = ask(MessageRequest::ListServices(String::new())).await.expect("an answer");
        let Some(ServerReflectionResponse {
            message_response: Some(MessageResponse::ListServicesResponse(list)), ..
        }) = listed
        else {
            panic!("{listed:?}")
        };
        let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        for name in SERVED.into_iter().chain(["grpc.reflection.v1.ServerReflection"]) {
            assert!(names.iter().any(|served| served == name), "{name} is not in {names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with("tenure.peer")), "members talk elsewhere: {names:?}");
        for symbol in names.into_iter().chain(["mvccpb.KeyValue".to_owned(), "etcdserverpb.KV.RangeStream".to_owned()])
        {
            let described = ask(MessageRequest::FileContainingSymbol(symbol.clone())).await.expect("an answer");
            let Some(ServerReflectionResponse {
                message_response: Some(MessageResponse::FileDescriptorResponse(files)),
                ..
            }) = described
            else {
                panic!("{symbol}: {described:?}")
            };
            let name = symbol.rsplit('.').next().expect("a name").as_bytes();
            let is_in = |file: &Vec<u8>| file.windows(name.len()).any(|part| part == name);
            assert!(files.file_descriptor_proto.iter().any(is_in), "{symbol}");
        }
        let unknown = ask(MessageRequest::FileContainingSymbol("no.Such".to_owned())).await;
        assert_eq!(unknown.expect_err("unknown").code(), tonic::Code::NotFound);
    });
}

#[test]
fn the_old_version_of_the_protocol_is_served_too() {
    run(async {
        let servers = cluster(1, &[]).await;
        let mut client = AlphaClient::new(servers[0].channel().await);
        let question = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
        let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let answers = client.server_reflection_info(futures::stream::iter([request])).await.expect("an answer");
        let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
        let told = format!("{answer:?}");
        for name in SERVED.into_iter().chain(["grpc.reflection.v1alpha.ServerReflection"]) {
            assert!(told.contains(&format!("{name:?}")), "{name} is not in {told}");
        }
    });
}
