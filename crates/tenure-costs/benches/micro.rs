//! Times every piece: `make microbench`. What pieces allocate is counted elsewhere, by tests/budgets.rs.

use divan::Bencher;
use divan::counter::ItemsCount;
use tenure_costs::{Piece, pieces};

fn main() {
    divan::main();
}

/// The figures are of a run, which is `operations` of them; the last column says how many are done in a second.
#[divan::bench(args = pieces())]
fn run(bencher: Bencher<'_, '_>, piece: Piece) {
    bencher.counter(ItemsCount::new(piece.operations)).with_inputs(piece.prepare).bench_local_refs(|run| run());
}
