//! `restart`: how long a server takes from its start until it serves.

use std::rc::Rc;
use std::time::Duration;

use tenure_proto::etcdserverpb as pb;
use tokio::time::{Instant, sleep};

use super::RANGE;
use super::trigger::Trigger;
use crate::caller::Caller;
use crate::drive::own_cpu;
use crate::failure::{Error, Failure};
use crate::histogram::{Latencies, millis, rounded};
use crate::observer::Observer;
use crate::report::Report;
use crate::settings::Settings;
use crate::target::within;

/// How often it is asked.
const POLL: Duration = Duration::from_millis(2);
/// A server that is starting may take a connection and let it lie.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Restart {
    /// Starts the server that serves at the first endpoint. A command may go on running: it is not ended.
    pub trigger: Trigger,
    /// The key that is read. It need not exist.
    pub key: String,
}

impl Restart {
    pub(crate) async fn run(&self, settings: &Settings, observer: Rc<dyn Observer>) -> Result<Report, Error> {
        settings.check()?;
        let Some(endpoint) = settings.endpoints.first() else {
            return Err(Error::Settings("a run needs an endpoint".to_owned()));
        };
        observer.stage("starting the server");
        observer.begun();
        let (cpu, started) = (own_cpu(), Instant::now());
        // It is dropped, and runs on.
        let _server = self.trigger.pull()?;
        let serial = self.time_until(endpoint, true, settings.patience);
        let linear = self.time_until(endpoint, false, settings.patience);
        let waited = tokio::try_join!(serial, linear);
        let elapsed = started.elapsed();
        observer.ended();
        let mut report = Report {
            workload: "restart",
            endpoints: vec![endpoint.clone()],
            clients: 1,
            connections: 1,
            seconds: rounded(elapsed.as_secs_f64()),
            generator_cpu_us: rounded(own_cpu().saturating_sub(cpu).as_secs_f64() * 1e6),
            ..Report::default()
        };
        match waited {
            Ok((serializable, linearizable)) => {
                let mut latencies = Latencies::new();
                latencies.record(linearizable);
                (report.operations, report.latency) = (1, latencies.summary());
                report.figures.insert("serializable_ms", millis(serializable));
                report.figures.insert("serving_ms", millis(linearizable));
            }
            Err(failure) => {
                observer.first_failure(&failure);
                report.failed = 1;
                report.errors.insert(failure.code.to_string(), 1);
                report.first_error = Some(failure.to_string());
            }
        }
        Ok(report)
    }

    /// From now until a read is answered.
    async fn time_until(&self, endpoint: &str, serializable: bool, patience: Duration) -> Result<Duration, Failure> {
        let started = Instant::now();
        let key = self.key.clone().into();
        let request = pb::RangeRequest { key, serializable, ..pb::RangeRequest::default() };
        loop {
            let asked = async {
                let caller = Caller::connect(endpoint).await?;
                caller.call::<pb::RangeResponse>(RANGE, &request).await
            };
            match within(ANSWER_PATIENCE, asked).await {
                Ok(_) => return Ok(started.elapsed()),
                Err(failure) if started.elapsed() > patience => return Err(failure),
                Err(_) => sleep(POLL).await,
            }
        }
    }
}
