//! The load generator: it drives any server of the etcd API, etcd or Tenure, identically, and measures what comes back.
//!
//! A run is a [`Workload`] under [`Settings`], and ends in a [`Report`]. It works on one thread, which it shares with
//! nothing else: on a small machine, what the generator costs is missing to the servers that it measures. It knows nothing
//! of how a cluster is started, and shows nothing: an [`Observer`] is told how far it is.

mod caller;
mod drive;
mod failure;
mod histogram;
mod keys;
mod observer;
mod pace;
mod recorder;
mod report;
mod settings;
mod target;
pub mod workload;

pub use caller::{Answers, Caller, Requests, framed};
pub use drive::own_cpu;
pub use failure::{Code, Error, Failure};
pub use histogram::{Latencies, Summary, millis};
pub use keys::{Keys, Order};
pub use observer::{Observer, Progress, Silent};
pub use pace::Amount;
pub use report::{Part, Report, Second};
pub use settings::Settings;
pub use workload::{Workload, run, run_on_thread};
