//! The load generator at etcd: the same workloads as at tenured.

use tenure_tests::bench::smoke;
use tenure_tests::binaries::Program;
use tenure_tests::scenario;

#[test]
fn every_workload_of_the_benchmark_runs() {
    scenario::run("compat_bench", "every_workload_of_the_benchmark_runs", |scenario| async move {
        smoke::every_workload(Program::Etcd, &scenario.home).await
    });
}
