//! The load generator at tenured: every workload once, tiny. `make bench-smoke` runs it.

use tenure_tests::bench::smoke;
use tenure_tests::binaries::Program;
use tenure_tests::scenario;

#[test]
fn every_workload_of_the_benchmark_runs() {
    scenario::run("process_bench", "every_workload_of_the_benchmark_runs", |scenario| async move {
        smoke::every_workload(Program::Tenured, &scenario.home).await
    });
}
