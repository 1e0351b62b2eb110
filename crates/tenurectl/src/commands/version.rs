//! `version`: this program's, and those of the servers that answer.

use futures::future::join_all;
use serde::Serialize;

use super::Session;
use super::status::whom_to_ask;
use crate::arguments::ClusterArgs;
use crate::failure::Failure;
use crate::output::Report;
use crate::table::Table;

pub(super) async fn run(session: &Session, whom: ClusterArgs) -> Result<(), Failure> {
    let (client, _) = whom_to_ask(session, whom).await;
    let asked = client.endpoints().cloned().enumerate().map(async |(at, endpoint)| {
        let version = client.version_at(at).await;
        Server { endpoint: endpoint.to_string(), tenure: version.tenure, etcd_api: version.etcd }
    });
    let servers = join_all(asked).await;
    session.output.show(&Versions { tenurectl: env!("CARGO_PKG_VERSION"), servers })
}

#[derive(Debug, Serialize)]
struct Versions {
    tenurectl: &'static str,
    servers: Vec<Server>,
}

#[derive(Debug, Serialize)]
struct Server {
    endpoint: String,
    tenure: Option<String>,
    etcd_api: Option<String>,
}

impl Report for Versions {
    fn human(&self) -> String {
        let mut table = Table::new(&["ENDPOINT", "TENURE", "ETCD API"]);
        for server in &self.servers {
            let told = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
            table.row([server.endpoint.clone(), told(&server.tenure), told(&server.etcd_api)]);
        }
        format!("tenurectl {}\n\n{}", self.tenurectl, table.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    #[test]
    fn versions_are_a_table() {
        let some = |text: &str| Some(text.to_owned());
        let servers = vec![
            Server { endpoint: "n1:2379".into(), tenure: some("0.1.0"), etcd_api: some("3.7.1") },
            Server { endpoint: "n2:2379".into(), tenure: None, etcd_api: None },
        ];
        let versions = Versions { tenurectl: "0.1.0", servers };
        assert_eq!(
            human(&versions),
            "tenurectl 0.1.0\n\n\
             ENDPOINT  TENURE  ETCD API\n\
             n1:2379   0.1.0   3.7.1\n\
             n2:2379   -       -\n"
        );
        let expected = concat!(
            r#"{"tenurectl":"0.1.0","servers":[{"endpoint":"n1:2379","tenure":"0.1.0","etcd_api":"3.7.1"},"#,
            r#"{"endpoint":"n2:2379","tenure":null,"etcd_api":null}]}"#,
            "\n"
        );
        assert_eq!(json(&versions), expected);
    }
}
