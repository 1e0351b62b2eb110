//! `txn`: a transaction from stdin.

use std::io::{self, IsTerminal as _};

use bytes::Bytes;
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::{request_op, response_op};

use super::keys::{Deleted, Found, Written, delete_request, put_request, range_request};
use super::txn_text::Script;
use super::view::revision;
use super::{Session, read_input};
use crate::arguments::TxnOperation;
use crate::failure::Failure;
use crate::ids::Revision;
use crate::output::Report;
use crate::text::Style;

pub(super) async fn run(session: &Session) -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        session
            .output
            .note("conditions, then what to do if all hold, then if not; an empty line ends each, Ctrl-D all:");
    }
    let text = read_input("stdin", io::stdin().lock())?;
    let text =
        std::str::from_utf8(&text).map_err(|_| Failure::Usage("the transaction is not UTF-8 text".to_owned()))?;
    let script = Script::read(text).map_err(Failure::Usage)?;
    // The lines' own quotes have been read already.
    let style = Style { unescape: false, ..session.output.style };
    let requests = |operations: &[TxnOperation]| -> Result<Vec<pb::RequestOp>, Failure> {
        operations.iter().map(|operation| request(operation, style).map_err(Failure::Usage)).collect()
    };
    let request = pb::TxnRequest {
        compare: script.compares.clone(),
        success: requests(&script.success)?,
        failure: requests(&script.failure)?,
    };
    let answer = session.client.txn(request).await?;
    session.output.show(&Done::new(&script, style, &answer))
}

fn request(operation: &TxnOperation, style: Style) -> Result<pb::RequestOp, String> {
    let request = match operation {
        TxnOperation::Get(args) if args.raw => return Err("a transaction's results are not raw".to_owned()),
        TxnOperation::Get(args) => request_op::Request::RequestRange(range_request(args, style)?),
        TxnOperation::Put(args) => {
            if args.file.is_some() {
                return Err("a transaction takes no values from files".to_owned());
            }
            let value = args.value.as_ref().map_or(Ok(Bytes::new()), |value| style.read(value))?;
            request_op::Request::RequestPut(put_request(args, style, value)?)
        }
        TxnOperation::Del(args) => request_op::Request::RequestDeleteRange(delete_request(args, style)?),
    };
    Ok(pb::RequestOp { request: Some(request) })
}

/// What the transaction did.
#[derive(Debug, Serialize)]
struct Done {
    revision: Revision,
    succeeded: bool,
    responses: Vec<Part>,
}

/// What one operation did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Get(Found),
    Put(Written),
    Del(Deleted),
}

impl Done {
    fn new(script: &Script, style: Style, answer: &pb::TxnResponse) -> Done {
        let operations = if answer.succeeded { &script.success } else { &script.failure };
        let answers = answer.responses.iter().filter_map(|response| response.response.as_ref());
        let parts = operations.iter().zip(answers).filter_map(|(operation, answer)| match (operation, answer) {
            (TxnOperation::Get(args), response_op::Response::ResponseRange(found)) => {
                Some(Part::Get(Found::new(args, style, found)))
            }
            (_, response_op::Response::ResponsePut(written)) => Some(Part::Put(Written::new(style, written))),
            (_, response_op::Response::ResponseDeleteRange(deleted)) => Some(Part::Del(Deleted::new(style, deleted))),
            _ => None,
        });
        Done { revision: revision(answer.header.as_ref()), succeeded: answer.succeeded, responses: parts.collect() }
    }
}

impl Report for Done {
    fn human(&self) -> String {
        let verdict = if self.succeeded { "the conditions hold" } else { "the conditions do not hold" };
        let mut text = format!("{verdict} (revision {})\n", self.revision);
        for part in &self.responses {
            text.push_str(&match part {
                Part::Get(found) => format!("\nget\n{}", found.human()),
                Part::Put(written) => format!("\nput: written\n{}", written.part()),
                Part::Del(deleted) => format!("\ndel: deleted {}", deleted.part()),
            });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    fn answer(succeeded: bool) -> pb::TxnResponse {
        let kv = tenure_proto::mvccpb::KeyValue {
            key: "k".into(),
            value: "v".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            lease: 0,
        };
        let range = pb::RangeResponse { kvs: vec![kv], count: 1, ..pb::RangeResponse::default() };
        let header = Some(pb::ResponseHeader { revision: 4, ..pb::ResponseHeader::default() });
        let responses = [
            response_op::Response::ResponsePut(pb::PutResponse::default()),
            response_op::Response::ResponseRange(range),
            response_op::Response::ResponseDeleteRange(pb::DeleteRangeResponse { deleted: 2, ..Default::default() }),
        ];
        let responses = responses.map(|response| pb::ResponseOp { response: Some(response) });
        pb::TxnResponse { header, succeeded, responses: responses.into() }
    }

    #[test]
    fn each_operation_tells_what_it_did() {
        let script = Script::read("\nput a b\nget k\ndel a z\n").expect("a script");
        let done = Done::new(&script, Style::default(), &answer(true));
        assert_eq!(human(&done), "the conditions hold (revision 4)\n\nput: written\n\nget\nv\n\ndel: deleted 2 keys\n");
        let with_revisions = concat!(
            r#"{"revision":4,"succeeded":true,"responses":[{"put":{"revision":0}},{"get":{"revision":0,"count":1,"#,
            r#""more":false,"kvs":[{"key":"k","value":"v","create_revision":2,"mod_revision":3,"version":2}]}},"#,
            r#"{"del":{"revision":0,"deleted":2,"prev_kvs":[]}}]}"#,
            "\n"
        );
        assert_eq!(json(&done), with_revisions);
    }

    #[test]
    fn when_the_conditions_fail_the_other_operations_are_shown() {
        let script =
            Script::read("ver(\"k\") = \"0\"\n\nput a b\n\nput a c\nget k --keys-only\ndel a z\n").expect("a script");
        let done = Done::new(&script, Style::default(), &answer(false));
        assert_eq!(
            human(&done),
            "the conditions do not hold (revision 4)\n\nput: written\n\nget\nk\n\ndel: deleted 2 keys\n"
        );
    }
}
